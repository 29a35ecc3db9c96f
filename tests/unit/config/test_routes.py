"""Routes, keys and health in the configuration: what they become, and each wrong form with its key's name."""

from pathlib import Path

import pytest

from proxy.cli.config_view import describe
from proxy.config import ConfigError, Secret, load
from proxy.config.changes import Change, changes
from proxy.core.catalog import Route
from proxy.core.health import HealthPolicy

UPSTREAMS = """
[upstreams.ark]
base_url = "https://ark.example/api/v3"
api_keys = { main = "env:K1", spare = "env:K2" }
{ark}
[upstreams.sg]
base_url = "https://sg.example/api/v3"
api_key = "env:K1"
{sg}
[upstreams.deep]
base_url = "https://deep.example/v1"
dialect = "openai"
api_key = "env:K1"
asks_usage = false
"""
MODEL = """
[[models]]
id = "m"
kind = "{kind}"
{way}
price = {price}
"""
PRICES = {"chat": '{ input = "1", output = "2" }', "image": '{ image = "1" }', "video": '{ silent = "1" }'}
WAYS = """routes = [
    { upstream = "ark", model = "seed-a", weight = 3 },
    { upstream = "sg" },
    { upstream = "deep", model = "deepseek-chat", tier = 2 },
]"""
ENV = {"K1": "key-1", "K2": "key-2"}


def written(directory: Path, *, ark: str = "", sg: str = "", way: str = WAYS, kind: str = "chat") -> Path:
    path = directory / "config.toml"
    text = UPSTREAMS.replace("{ark}", ark).replace("{sg}", sg) + MODEL.format(kind=kind, way=way, price=PRICES[kind])
    path.write_text(text)
    return path


def faults_of(path: Path, env: dict[str, str] = ENV) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, env)
    return list(caught.value.faults)


def test_routes_keys_and_health_are_read(tmp_path: Path) -> None:
    config = load(written(tmp_path, ark="[upstreams.ark.health]\nfailures = 0.5\nrest_seconds = [1, 30]"), ENV)

    model, ark, deep = config.catalog["m"], config.upstreams["ark"], config.upstreams["deep"]
    assert model.routes == (
        Route("ark", "seed-a", weight=3),
        Route("sg", "m"),
        Route("deep", "deepseek-chat", tier=2, dialect="openai", asks_usage=False),
    )
    assert (model.upstream, model.upstream_model, model.dialect) == ("ark", "seed-a", "ark")
    assert dict(ark.api_keys) == {"main": Secret("key-1"), "spare": Secret("key-2")}
    assert (ark.health, deep.health) == (HealthPolicy(0.5, (1, 30)), HealthPolicy())
    assert (dict(deep.api_keys), deep.dialect, deep.asks_usage) == ({"default": Secret("key-1")}, "openai", False)
    by = model.by(model.routes[2])
    assert (by.upstream, by.upstream_model, by.dialect, by.asks_usage, by.routes) == (
        *("deep", "deepseek-chat", "openai", False),
        model.routes,
    )


def test_upstream_and_upstream_model_are_one_route(tmp_path: Path) -> None:
    config = load(written(tmp_path, way='upstream = "sg"\nupstream_model = "x"'), ENV)

    assert config.catalog["m"].routes == (Route("sg", "x"),)


def test_check_config_shows_routes_and_keys_without_secrets(tmp_path: Path) -> None:
    shown = describe(load(written(tmp_path), ENV))

    assert shown["upstreams"][0]["api_keys"] == ["main: set", "spare: set"]
    assert shown["upstreams"][2] == {
        "name": "deep",
        "base_url": "https://deep.example/v1",
        "dialect": "openai",
        "api_keys": ["default: set"],
        "asks_usage": False,
        "failures": 5,
        "rest_seconds": [5, 60],
        "proxy": "none",
    }
    assert shown["models"][0]["routes"][0] == "ark/seed-a weight 3 tier 1"
    assert "key-1" not in str(shown)


AT = 'models[0] "m".routes'


@pytest.mark.parametrize(
    ("way", "faults"),
    [
        ("routes = []", [f"{AT}: must be an array of at least one route {{ upstream, model, weight, tier }}"]),
        ("routes = 1", [f"{AT}: must be an array, not an integer"]),
        ("routes = [1]", [f"{AT}[0]: must be a table, not an integer"]),
        ('routes = [{ model = "x" }]', [f"{AT}[0].upstream: missing"]),
        ('routes = [{ upstream = "arc" }]', [f"{AT}[0].upstream: no [upstreams.arc] in this file"]),
        ('routes = [{ upstream = "ark", weigth = 1 }]', [f"{AT}[0].weigth: unknown key (did you mean weight?)"]),
        ('routes = [{ upstream = "ark", weight = 0 }]', [f"{AT}: every weight is 0: no route could be asked"]),
        ('routes = [{ upstream = "ark", weight = -1 }]', [f"{AT}[0].weight: must be an integer of at least 0"]),
        ('routes = [{ upstream = "ark", tier = 0 }]', [f"{AT}[0].tier: must be an integer of at least 1"]),
        ('routes = [{ upstream = "ark", tier = 2 }]', [f"{AT}[0].tier: there is no route of tier 1"]),
        (
            'routes = [{ upstream = "ark" }, { upstream = "sg", tier = 3 }]',
            [f"{AT}[1].tier: there is no route of tier 2"],
        ),
        ('routes = [{ upstream = "ark", model = "a b" }]', [f"{AT}[0].model: must have no blanks and no control characters"]),
        (
            'routes = [{ upstream = "ark" }, { upstream = "ark", model = "m" }]',
            [f"{AT}[1]: ark and m stand here twice: give one of them the weight of both"],
        ),
        (
            'upstream = "ark"\nupstream_model = "x"\nroutes = [{ upstream = "ark" }]',
            [
                'models[0] "m".upstream: stands beside routes: each route names its own',
                'models[0] "m".upstream_model: stands beside routes: each route names its own',
            ],
        ),
    ],
)
def test_a_wrong_route_is_refused_by_its_key(tmp_path: Path, way: str, faults: list[str]) -> None:
    assert faults_of(written(tmp_path, way=way)) == faults


@pytest.mark.parametrize("kind", ["image", "video"])
@pytest.mark.parametrize(
    ("way", "key"), [('upstream = "deep"', "upstream"), ('routes = [{ upstream = "sg" }, { upstream = "deep" }]', "routes[1].upstream")]
)
def test_what_speaks_only_chat_makes_no_pictures_or_videos(tmp_path: Path, kind: str, way: str, key: str) -> None:
    assert faults_of(written(tmp_path, way=way, kind=kind)) == [
        f'models[0] "m".{key}: deep has dialect = "openai", and makes no {kind}s'
    ]


@pytest.mark.parametrize(
    ("lines", "faults"),
    [
        (
            'api_key = "env:K1"',
            [
                "api_keys: stands beside api_key: name all keys here, or write the only one as api_key",
                "api_keys.main: leads to the same key as default",
            ],
        ),
        ('dialect = "azure"', ['dialect: must be "ark" or "openai"']),
        ("asks_usage = false", ['asks_usage: false is for an upstream with dialect = "openai": Ark always tells the usage']),
        (
            "health = { failures = 0 }",
            ["health.failures: must be a whole number of failures in a row, 1 to 1000, or a share over 0 and under 1, not 0"],
        ),
        (
            "health = { failures = 1.0 }",
            ["health.failures: must be a whole number of failures in a row, 1 to 1000, or a share over 0 and under 1, not 1.0"],
        ),
        (
            "health = { failures = nan }",
            ["health.failures: must be a whole number of failures in a row, 1 to 1000, or a share over 0 and under 1, not nan"],
        ),
        ("health = { rest_seconds = [9, 5] }", ["health.rest_seconds: the first rest must not be over the longest"]),
        ("health = { rest_seconds = [0, 5] }", ["health.rest_seconds[0]: must be a number over 0"]),
        ("health = { rest_second = 1 }", ["health.rest_second: unknown key (did you mean rest_seconds?)"]),
        ("health = 1", ["health: must be a table, not an integer"]),
    ],
)
def test_a_wrong_upstream_is_refused_by_its_key(tmp_path: Path, lines: str, faults: list[str]) -> None:
    assert faults_of(written(tmp_path, ark=lines)) == [f"upstreams.ark.{fault}" for fault in faults]


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ('{ main = "env:K1", Main = "env:K2" }', "upstreams.ark.api_keys.Main: two keys have this name"),
        ('{ "a b" = "env:K1" }', "upstreams.ark.api_keys.a b: the name of a key is made of letters, digits, - and _, at most 64"),
        ('{ main = "env:K1", spare = "env:K1" }', "upstreams.ark.api_keys.spare: leads to the same key as main"),
        ('{ main = "env:NONE" }', "upstreams.ark.api_keys.main: the environment variable NONE is not set"),
        ('{ main = "sk-canary" }', "upstreams.ark.api_keys.main: a secret does not stand in this file"),
        ("{}", "upstreams.ark.api_key: missing"),
        ('{ main = "env:K1", main = "env:K2" }', "is no valid TOML: "),
    ],
)
def test_wrong_keys_are_refused_by_their_names(tmp_path: Path, keys: str, fault: str) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text().replace('{ main = "env:K1", spare = "env:K2" }', keys))

    (found,) = faults_of(path)

    assert found.startswith(fault)
    assert "canary" not in found


def test_a_key_of_the_environment_is_one_of_the_files(tmp_path: Path) -> None:
    env = ENV | {
        "LLM_PROXY_UPSTREAMS__ARK__API_KEYS__THIRD": "key-3",
        "LLM_PROXY_UPSTREAMS__ARK__API_KEYS__SPARE": "env:K4",
        "LLM_PROXY_UPSTREAMS__ARK__HEALTH__FAILURES": "0.25",
        "K4": "key-4",
    }

    ark = load(written(tmp_path), env).upstreams["ark"]

    assert {name: key.reveal() for name, key in ark.api_keys.items()} == {"main": "key-1", "spare": "key-4", "third": "key-3"}
    assert ark.health.failures == 0.25


def test_keys_of_the_environment_alone_are_a_table_in_toml_or_json(tmp_path: Path) -> None:
    for text in ('{ main = "env:K1" }', '{"main": "env:K1"}'):
        path = written(tmp_path)
        env = ENV | {"LLM_PROXY_UPSTREAMS__ARK__API_KEYS": text}
        assert dict(load(path, env).upstreams["ark"].api_keys) == {"main": Secret("key-1")}


CHANGED = [
    (WAYS, WAYS.replace("weight = 3", "weight = 4"), [('routes."ark/seed-a"', "weight 3, tier 1", "weight 4, tier 1")]),
    (WAYS, WAYS.replace('    { upstream = "sg" },\n', ""), [('routes."sg/m"', "weight 1, tier 1", None)]),
    (
        WAYS,
        WAYS.replace("deepseek-chat", "v4"),
        [
            ('routes."deep/deepseek-chat"', "weight 1, tier 2", None),
            ('routes."deep/v4"', None, "weight 1, tier 2"),
        ],
    ),
    ('upstream = "sg"', 'upstream = "ark"', [("upstream", "sg", "ark")]),
]


@pytest.mark.parametrize(("before", "after", "told"), CHANGED)
def test_a_change_of_a_route_is_named(tmp_path: Path, before: str, after: str, told: list[tuple[str, object, object]]) -> None:
    running = load(written(tmp_path, way=before), ENV)
    wanted = load(written(tmp_path, way=after), ENV)

    assert changes(running, wanted) == [Change(f'models."m".{key}', was, now, is_live=True) for key, was, now in told]


def test_changes_of_keys_and_health_are_named_and_no_secret_is_shown(tmp_path: Path) -> None:
    running = load(written(tmp_path), ENV)
    path = written(tmp_path, ark="health = { failures = 3 }", sg='dialect = "openai"')
    path.write_text(path.read_text().replace('spare = "env:K2"', 'third = "env:K3"'))

    found = changes(running, load(path, {"K1": "key-9", "K3": "key-3"}))

    assert found == [
        Change("upstreams.ark.api_keys.main", "set", "changed", is_live=True),
        Change("upstreams.ark.api_keys.spare", "set", None, is_live=True),
        Change("upstreams.ark.api_keys.third", None, "set", is_live=True),
        Change("upstreams.ark.health.failures", 5, 3, is_live=True),
        Change("upstreams.sg.api_key", "set", "changed", is_live=True),
        Change("upstreams.sg.dialect", "ark", "openai", is_live=True),
        Change("upstreams.deep.api_key", "set", "changed", is_live=True),
    ]
