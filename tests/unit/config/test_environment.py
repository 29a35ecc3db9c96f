"""Configuration from the environment: how values are parsed, which source wins, and the message of each fault."""

import string
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import Config, ConfigError, Secret, TcpAddress, UnixAddress, load
from proxy.config.environment import overlay, stands_for_keys
from proxy.config.tables import SECTIONS, UpstreamTable

ARK = {"LLM_PROXY_UPSTREAMS__ARK__BASE_URL": "https://ark.example/api/v3", "LLM_PROXY_UPSTREAMS__ARK__API_KEY": "ark-canary-1234"}
MODELS = {"LLM_PROXY_MODELS": '[{"id": "m", "kind": "chat", "price": {"input": "0.8", "output": 2}}]'}
SHORTEST = ARK | MODELS
FILE = """
[server]
listen = ["127.0.0.1:9000"]
drain_seconds = 7
[upstreams.Ark-EU]
base_url = "https://ark.example/api/v3"
api_key = "env:ARK_API_KEY"
[[models]]
id = "m"
kind = "chat"
price = { input = 1, output = 1 }
"""


def configured(**variables: str) -> Config:
    """Return the configuration of the shortest valid environment plus these variables."""
    return load(None, SHORTEST | {f"LLM_PROXY_{name}": value for name, value in variables.items()})


def faults_of(path: Path | None, env: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, env)
    return str(caught.value).splitlines()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(FILE)
    return path


def test_without_a_file_the_environment_is_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    config = load(None, SHORTEST | {"LLM_PROXY_STORE__URL": "sqlite:data/books.db"})

    assert config.path is None
    assert config.server.listen == (TcpAddress("127.0.0.1", 8080),)
    assert (config.store.path, config.admin.listen) == (tmp_path / "data/books.db", UnixAddress(tmp_path / "data/admin.sock"))
    assert config.upstreams["ark"].api_key == Secret("ark-canary-1234")
    # ¥0.8 a million tokens = 800 nano-yuan a token
    assert config.catalog["m"].price.tiers[0].input == 800  # type: ignore[union-attr]
    assert set(config.variables) == {*SHORTEST, "LLM_PROXY_STORE__URL"}


def test_the_environment_stands_over_the_file_key_by_key(file: Path) -> None:
    config = load(file, {"ARK_API_KEY": "k", "LLM_PROXY_SERVER__LISTEN": "0.0.0.0:8080", "LLM_PROXY_CONFIG": "/else.toml"})

    assert config.server.listen == (TcpAddress("0.0.0.0", 8080),)
    assert config.server.drain_seconds == 7
    assert config.variables == ("LLM_PROXY_SERVER__LISTEN",)


def test_an_upstream_of_the_file_is_meant_whatever_its_capitals_and_hyphens(file: Path) -> None:
    config = load(file, {"LLM_PROXY_UPSTREAMS__ARK_EU__API_KEY": "other", "LLM_PROXY_UPSTREAMS__ARK_EU__IDLE_SECONDS": "9"})

    assert list(config.upstreams) == ["Ark-EU"]
    assert (config.upstreams["Ark-EU"].api_key, config.upstreams["Ark-EU"].idle_seconds) == (Secret("other"), 9)


def test_a_relative_path_of_a_variable_is_taken_from_the_directory_of_the_file(file: Path) -> None:
    (file.parent / "key").write_text("from-a-file\n")

    config = load(file, {"LLM_PROXY_UPSTREAMS__ARK_EU__API_KEY": "file:key"})

    assert config.upstreams["Ark-EU"].api_key == Secret("from-a-file")


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("0.0.0.0:80", ["0.0.0.0:80"]),
        ("127.0.0.1:1, [::1]:2 ,unix:/run/s", ["127.0.0.1:1", "[::1]:2", "unix:/run/s"]),
        ('["127.0.0.1:1", "systemd"]', ["127.0.0.1:1", "systemd"]),
        ("['127.0.0.1:1']", ["127.0.0.1:1"]),
        (' ["127.0.0.1:1",\n "127.0.0.1:2"] ', ["127.0.0.1:1", "127.0.0.1:2"]),
    ],
)
def test_an_array_of_texts_is_one_of_toml_or_json_or_parted_by_commas(text: str, addresses: list[str]) -> None:
    assert [str(address) for address in configured(SERVER__LISTEN=text).server.listen] == addresses


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("SERVER__BODY_BYTES_MAX", "67_108_865", 67_108_865),
        ("SERVER__DRAIN_SECONDS", "0", 0.0),
        ("SERVER__DRAIN_SECONDS", " 1.5 ", 1.5),
        ("SERVER__AUTH", "none", "none"),
        ("SERVER__AUTH", '"none"', "none"),  # as an --env-file leaves it
        ("BILLING__DISCONNECT", "cancel", "cancel"),
        ("BILLING__DRAINS_MAX", "0x10", 16),
        ("LOG__LEVEL", "debug", "debug"),
        ("SERVER__SOCKET_MODE", "0600", 0o600),
        ("ADMIN__METRICS_LISTEN", "127.0.0.1:9100", TcpAddress("127.0.0.1", 9100)),
        ("ADMIN__METRICS_LISTEN", '"[::1]:9100"', TcpAddress("::1", 9100)),
        ("VIDEOS__POLL_SECONDS", "[1, 2]", None),
        ("VIDEOS__POLL_SECONDS", "1, 2.0", None),
    ],
)
def test_a_value_is_read_as_its_key_takes_it(name: str, text: str, value: object) -> None:
    config = configured(**{name: text})

    section, key = name.lower().split("__")
    if value is None:
        assert (config.videos.poll_first_seconds, config.videos.poll_longest_seconds) == (1, 2)
    else:
        assert getattr(getattr(config, section), key) == value


@pytest.mark.parametrize("name", ["LLM_PROXY_SERVER__LISTEN", "LLM_PROXY_UPSTREAMS__ARK__IDLE_SECONDS", "LLM_PROXY_WHAT__EVER"])
@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_variable_is_one_that_is_not_set(name: str, empty: str) -> None:
    config = load(None, SHORTEST | {name: empty})

    assert config.server.listen == (TcpAddress("127.0.0.1", 8080),)
    assert name not in config.variables
    assert not stands_for_keys({name: empty})


def test_models_and_upstreams_can_be_given_whole_and_a_key_stands_over_its_table() -> None:
    table = '{a = {base_url = "https://a.example", api_key = "env:K"}, b = {base_url = "https://b.example", api_key = "env:K"}}'
    models = "[{id = 'm', kind = 'image', upstream = 'b', price = {image = '0.18'}}]"

    env = {"K": "k", "LLM_PROXY_UPSTREAMS": table, "LLM_PROXY_UPSTREAMS__A__IDLE_SECONDS": "4", "LLM_PROXY_MODELS": models}
    config = load(None, env)

    assert (config.upstreams["a"].idle_seconds, config.upstreams["b"].idle_seconds) == (4, 300)
    assert config.catalog["m"].upstream == "b"


@pytest.mark.parametrize("reference", ["env:KEY", "file:key", "credential:key"])
def test_a_key_is_itself_or_says_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_text("k-1")

    env = SHORTEST | {"LLM_PROXY_UPSTREAMS__ARK__API_KEY": reference, "KEY": "k-1", "CREDENTIALS_DIRECTORY": str(tmp_path)}

    assert load(None, env).upstreams["ark"].api_key == Secret("k-1")


LISTEN = "LLM_PROXY_SERVER__LISTEN"
FAULTS = [
    (LISTEN, "nowhere", f'{LISTEN}[0]: must be "HOST:PORT"'),
    ("LLM_PROXY_SERVER__DRAIN_SECONDS", "60s", "LLM_PROXY_SERVER__DRAIN_SECONDS: must be a number, not a string"),
    ("LLM_PROXY_SERVER__DRAIN_SECONDS", "-1", "LLM_PROXY_SERVER__DRAIN_SECONDS: must be a number of at least 0"),
    ("LLM_PROXY_SERVER__AUTH", "some", 'LLM_PROXY_SERVER__AUTH: must be "keys" or "none"'),
    ("LLM_PROXY_LOG__LEVEL", "loud", 'LLM_PROXY_LOG__LEVEL: must be "debug" or "info" or "warning" or "error"'),
    ("LLM_PROXY_VIDEOS__POLL_SECONDS", "9, 1", "LLM_PROXY_VIDEOS__POLL_SECONDS: the first interval must not be over the longest"),
    ("LLM_PROXY_SERVER__LISTENS", "x", "LLM_PROXY_SERVER__LISTENS: stands for no key (did you mean listen?)"),
    ("LLM_PROXY_SEVER__LISTEN", "x", "LLM_PROXY_SEVER__LISTEN: stands for no key (known: LLM_PROXY_SERVER__…, "),
    ("LLM_PROXY_SERVER__LISTEN__0", "x", "LLM_PROXY_SERVER__LISTEN__0: stands for no key (known: "),
    ("LLM_PROXY___", "x", "LLM_PROXY___: stands for no key (known: "),
    ("LLM_PROXY_Server__Listen", "x", "LLM_PROXY_Server__Listen: is written in capitals throughout"),
    (
        "LLM_PROXY_SERVER_LISTEN",
        "x",
        "LLM_PROXY_SERVER_LISTEN: write two underscores where the file has a dot: LLM_PROXY_SERVER__LISTEN",
    ),
    ("LLM_PROXY_UPSTREAMS__ARK__KEY", "x", "LLM_PROXY_UPSTREAMS__ARK__KEY: stands for no key (did you mean api_key?)"),
    ("LLM_PROXY_UPSTREAMS__ARK", "x", "LLM_PROXY_UPSTREAMS__ARK: stands for no key (known: "),
    ("LLM_PROXY_UPSTREAMS__ARK__BASE_URL", "ftp://x", 'LLM_PROXY_UPSTREAMS__ARK__BASE_URL: must begin with "https://"'),
    ("LLM_PROXY_UPSTREAMS__B__API_KEY", "x", "LLM_PROXY_UPSTREAMS__B__BASE_URL: missing"),
    ("LLM_PROXY_UPSTREAMS__ARK__API_KEY", "env:NONE", "LLM_PROXY_UPSTREAMS__ARK__API_KEY: the environment variable NONE is not set"),
    ("LLM_PROXY_UPSTREAMS__ARK__API_KEY", '"ark-canary-1234"', "LLM_PROXY_UPSTREAMS__ARK__API_KEY: is taken as it stands"),
    ("LLM_PROXY_UPSTREAMS__ARK__API_KEY", "evn:A", "LLM_PROXY_UPSTREAMS__ARK__API_KEY: a secret does not stand in this file"),
    ("LLM_PROXY_MODELS", "[", "LLM_PROXY_MODELS: is no value of TOML and none of JSON"),
    ("LLM_PROXY_MODELS", "[]\n[server]\nauth = 1", "LLM_PROXY_MODELS: is no value of TOML and none of JSON"),
    ("LLM_PROXY_MODELS", "[" * 5000, "LLM_PROXY_MODELS: is no value of TOML and none of JSON"),
    ("LLM_PROXY_MODELS", "[]", "LLM_PROXY_MODELS: at least one [[models]] table is needed"),
    ("LLM_PROXY_MODELS", '[{"id": "x", "kind": "chat"}]', 'LLM_PROXY_MODELS[0] "x".price: missing'),
    ("LLM_PROXY_MODELS__0__ID", "x", "LLM_PROXY_MODELS__0__ID: models are given all at once, as an array, by LLM_PROXY_MODELS"),
]


@pytest.mark.parametrize(("name", "text", "fault"), FAULTS)
def test_a_fault_names_the_variable(name: str, text: str, fault: str) -> None:
    told = faults_of(None, SHORTEST | {name: text})

    assert any(line.startswith(fault) for line in told), told
    assert all(line.startswith("LLM_PROXY_") for line in told)


def test_a_fault_of_the_file_names_the_file_and_one_of_the_environment_its_variable(file: Path) -> None:
    file.write_text(FILE.replace("input = 1", "input = 1.5"))

    told = faults_of(file, {"ARK_API_KEY": "k", LISTEN: "nowhere"})

    assert [line.partition(": ")[0] for line in told] == [f"{LISTEN}[0]", str(file)]


def test_two_upstreams_that_one_variable_could_mean_are_a_fault(file: Path) -> None:
    file.write_text(FILE + '[upstreams.ark_eu]\nbase_url = "https://x.example"\napi_key = "env:ARK_API_KEY"\n')

    told = faults_of(file, {"ARK_API_KEY": "k", "LLM_PROXY_UPSTREAMS__ARK_EU__IDLE_SECONDS": "1"})

    assert told[0] == "LLM_PROXY_UPSTREAMS__ARK_EU__IDLE_SECONDS: could be the upstream Ark-EU or ark_eu"


def test_a_key_in_the_environment_stands_in_no_fault() -> None:
    told = faults_of(None, SHORTEST | {"LLM_PROXY_UPSTREAMS__ARK__API_KEY": "ark canary 1234", LISTEN: "x"})

    assert "canary" not in "".join(told)


def test_what_kubernetes_sets_for_a_service_of_this_name_is_left_alone() -> None:
    theirs = {
        "LLM_PROXY_SERVICE_HOST": "10.0.0.1",
        "LLM_PROXY_SERVICE_PORT": "80",
        "LLM_PROXY_PORT": "tcp://10.0.0.1:80",
        "LLM_PROXY_PORT_80_TCP_ADDR": "10.0.0.1",
    }

    assert not stands_for_keys(theirs)
    assert load(None, SHORTEST | theirs) == load(None, SHORTEST)


def all_keys() -> list[tuple[str, str]]:
    return [(name, key) for name, table in SECTIONS.items() for key in table.__struct_fields__ if getattr(table(), key) is not None]


@pytest.mark.parametrize(("section", "key"), all_keys())
def test_every_key_of_every_table_has_its_variable(section: str, key: str) -> None:
    """Setting a variable to the key's default, as JSON, changes nothing."""
    default = orjson.loads(orjson.dumps(getattr(SECTIONS[section](), key)))
    text = default if isinstance(default, str) else orjson.dumps(default).decode()

    document: dict[str, Any] = {}
    _, faults = overlay(document, {f"LLM_PROXY_{section}__{key}".upper(): text}, is_all=True)

    assert faults == []
    assert document == {section: {key: default}}


@pytest.mark.parametrize("key", [key for key in UpstreamTable.__struct_fields__ if key not in ("api_key", "proxy_auth")])
def test_every_key_of_an_upstream_has_its_variable(key: str) -> None:
    document: dict[str, Any] = {}

    overlay(document, {f"LLM_PROXY_UPSTREAMS__ARK__{key.upper()}": "7"}, is_all=True)

    assert document == {"upstreams": {"ark": {key: "7" if key in ("base_url", "proxy", "dialect") else 7}}}


@pytest.mark.parametrize(
    ("text", "reference"),
    [("user:pass:word", "env:LLM_PROXY_UPSTREAMS__ARK__PROXY_AUTH"), ("env:AUTH", "env:AUTH"), ("file:auth", "file:auth")],
)
def test_a_variable_holds_the_credential_of_a_proxy_or_names_its_place(text: str, reference: str) -> None:
    document: dict[str, Any] = {}

    _, faults = overlay(document, {"LLM_PROXY_UPSTREAMS__ARK__PROXY_AUTH": text}, is_all=True)

    assert (document, faults) == ({"upstreams": {"ark": {"proxy_auth": reference}}}, [])


NAMES = st.text(string.ascii_letters + string.digits + "_-.", max_size=30).map(lambda text: f"LLM_PROXY_{text}")
KEYS = st.sampled_from([*(f"LLM_PROXY_{section}__{key}".upper() for section, key in all_keys()), *SHORTEST, "LLM_PROXY_UPSTREAMS"])


@given(st.dictionaries(st.one_of(NAMES, KEYS), st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=6))
def test_whatever_the_environment_holds_it_is_a_configuration_or_faults_that_name_variables(env: dict[str, str]) -> None:
    variables: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    try:
        variables = load(None, SHORTEST | env).variables
    except ConfigError as error:
        faults = error.faults

    assert {*variables} <= {*SHORTEST, *env}
    assert all(line.startswith("LLM_PROXY_") for line in faults)


JSON = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**53), 2**53), st.text(st.characters(exclude_categories=["Cs"]))),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
)


@given(st.lists(JSON, max_size=3))
def test_an_array_in_json_is_read_as_it_is_written(value: list[Any]) -> None:
    document: dict[str, Any] = {}

    _, faults = overlay(document, {"LLM_PROXY_MODELS": orjson.dumps(value).decode()}, is_all=True)

    assert (document, faults) == ({"models": value}, [])
