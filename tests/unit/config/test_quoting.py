"""Secrets pasted into a configuration, anywhere: no fault prints one, and what is no secret is still quoted."""

from pathlib import Path

import pytest

from proxy.config import ConfigError, load
from proxy.config.quoting import masked, told_key

SECRETS = {
    "a uuid": "0f3c9e1a-7b2d-4c55-9a01-5e8d7c6b4a39",
    "sk-": "sk-canarycanarycanary",
    "sk_": "sk_Vb7xQ2mN9pL4kR8tW3zY6cF1dH5jS0aG-eUiOxB_",
    "an Ark key": "ark-0f3c9e1a-7b2d-4c55-9a01-5e8d7c6b4a39-1a2b3",
    "base64": "TURJNVpqTmpNVEl4Wm1ReE5EZGhNR0kyWXpKaE5EQT0=",
    "letters": "QwErTyUiOpAsDfGhJkLzXcVb",
    "a token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
}
UPSTREAM = '[upstreams.ark]\nbase_url = "https://ark.example/api/v3"\napi_key = "env:ARK_API_KEY"\n'
MODEL = '[[models]]\nid = "m"\nkind = "chat"\nprice = { input = 1, output = 2 }\n'
FILM = '[[models]]\nid = "film"\nkind = "video"\n'
FULL = UPSTREAM + MODEL
PLACES = {
    "a word alone": "$\n" + FULL,
    "an unknown key": '"$" = "x"\n' + FULL,
    "an unknown table": '["$"]\nx = 1\n' + FULL,
    "a table twice": f'{FULL}["$"]\n["$"]\n',
    "a key twice": f'{FULL}["$"]\n"$" = 1\n"$" = 2\n',
    "a key of an inline table twice": f'{FULL}[server]\nauth = {{ "$" = 1, "$" = 2 }}\n',
    "an unknown section's value": 'api_key = "$"\n' + FULL,
    "an upstream": f'[upstreams]\n"$" = "x"\n{MODEL}',
    "an upstream's value": f'[upstreams]\napi_key = "$"\n{MODEL}',
    **{
        f"{key} of an upstream": UPSTREAM.replace('"https://ark.example/api/v3"', '"$"') + MODEL
        if key == "base_url"
        else f"{UPSTREAM}{line}\n{MODEL}"
        for key, line in {
            "base_url": "",
            "an unknown key": '"$" = 1',
            "a mistyped key": 'api_keyy = "$"',
            "proxy": 'proxy = "$"',
            "a proxy's password": 'proxy = "http://user:$@proxy:3128"',
            "a proxy's password with a slash": 'proxy = "http://user:$/+@proxy:3128"',
            "proxy_auth": 'proxy_auth = "$"',
            "proxy_auth by name": 'proxy = "http://proxy:3128"\nproxy_auth = "env:$"',
            "a number": 'connect_seconds = "$"',
        }.items()
    },
    **{
        f"api_key as {value}": UPSTREAM.replace('"env:ARK_API_KEY"', value) + MODEL
        for value in ('"$"', '"env:$"', '"file:$"', '"credential:$"', '"ENV:$"', '"Bearer $"', '["$"]', '{ "$" = 1 }')
    },
    **{
        f"{url} as a base_url": UPSTREAM.replace("https://ark.example/api/v3", url) + MODEL
        for url in ("https://u:$@h/api", "https://u:$/a@h/api", "https://[$]/api", "https://h/api?key=$", "https://h:$/api")
    },
    **{
        f"{key} in {section}": f"{FULL}[{section}]\n{key}\n"
        for section, key in (
            ("server", 'listen = ["$"]'),
            ("server", 'listen = ["$:8080"]\nauth = "$"'),
            ("server", 'listen = ["[$]:8080"]'),
            ("server", 'socket_mode = "$"'),
            ("server", '"$" = 1'),
            ("store", 'url = "$"'),
            ("store", 'url = "$:x"'),
            ("admin", 'listen = "$"'),
            ("admin", 'metrics_listen = "$"'),
            ("admin", 'metrics_listen = "$/x:80"'),
            ("billing", 'disconnect = "$"'),
            ("billing", 'drains_max = "$"'),
            ("log", 'level = "$"'),
            ("retention", 'request_days = "$"'),
            ("videos", 'poll_seconds = ["$", 1]'),
        )
    },
    **{
        f"{line} in a model": FULL + line + "\n"
        for line in (
            'upstream = "$"',
            '"$" = 1',
            'enabled = "$"',
            'request_defaults = { "$" = 1979-05-27 }',
            'request_defaults = "$"',
            'context_tokens = "$"',
        )
    },
    "kind": UPSTREAM + MODEL.replace('"chat"', '"$"'),
    **{
        f"price = {price}": UPSTREAM + MODEL.replace("{ input = 1, output = 2 }", price)
        for price in (
            '{ input = "$", output = 2 }',
            '{ input = 1, output = 2, "$" = 3 }',
            '{ "$" = 1 }',
            '"$"',
            '{ "$" = 1, tiers = [ { input = 1, output = 2 } ] }',
            '{ tiers = [ { input = 1, output = 2, "$" = 3 } ] }',
        )
    },
    **{
        f"{line} of a film": UPSTREAM + FILM + line + "\n"
        for line in (
            'price = { silent = 8, flex = "$" }',
            'price = { silent = 8, by_resolution = { "$" = 1 } }',
            'resolutions = ["$"]\nprice = { silent = 8 }',
            'resolutions = ["720p"]\nprice = { silent = 8, by_resolution = { "$" = { silent = 8 } } }',
        )
    },
}
VARIABLES = {
    "LLM_PROXY_UPSTREAMS__ARK__API_KEY": ("env:$", "file:$", "credential:$", '"$"', "$ $", "vault:$"),
    "LLM_PROXY_UPSTREAMS__ARK__API_KEYY": ("$",),
    "LLM_PROXY_UPSTREAMS__ARK__BASE_URL": ("$", "https://u:$@h"),
    "LLM_PROXY_UPSTREAMS__ARK__PROXY": ("http://u:$@h:1", "http://u:$/x@h:1"),
    "LLM_PROXY_UPSTREAMS__ARK__PROXY_AUTH": ("$", "env:$"),
    "LLM_PROXY_UPSTREAMS__ARK": ("$",),
    "LLM_PROXY_UPSTREAMS": ("$", '{ "$" = 1 }', '{"ark": {"$": 1}}'),
    "LLM_PROXY_MODELS": ("$", '[{"$": 1}]'),
    "LLM_PROXY_SERVER__LISTEN": ("$",),
    "LLM_PROXY_SERVER_LISTEN": ("$",),
    "LLM_PROXY_STORE__URL": ("$",),
}


def fault_of(path: Path | None, env: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as refused:
        load(path, {"ARK_API_KEY": "key", **env})
    return str(refused.value)


def pieces(secret: str) -> list[str]:
    return [secret[at : at + 8] for at in range(len(secret) - 7)]


def leaked(text: str, secret: str) -> list[str]:
    return [piece for piece in pieces(secret) if piece in text]


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_secret_that_is_pasted_into_the_file_is_not_printed(tmp_path: Path, place: str, secret: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(place.replace("$", secret))

    fault = fault_of(path, {})

    assert leaked(fault, secret) == [], fault


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in VARIABLES.items() for value in values])
def test_a_secret_that_is_pasted_into_a_variable_is_not_printed(tmp_path: Path, name: str, value: str, secret: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(FULL)

    fault = fault_of(path, {name: value.replace("$", secret)})

    assert leaked(fault, secret) == [], fault


@pytest.mark.parametrize(
    "text",
    [
        "'localhost:http'",
        "'0.0.0.0:99999'",
        "gateway-eu-central-1.example.com:x",
        "/etc/llm-proxy/admin.sock",
        "('upstreams', 'ark')",
        "'1,5'",
    ],
)
def test_what_is_no_secret_is_quoted(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("lisen", "lisen"),
        ("max_tokens2", "max_tokens2"),
        ("upstreamContextTokens", "upstreamContextTokens"),
        ("output-tokens-of-a-model", "output-tokens-of-a-model"),
        ("sk-live", "(a key that is not shown)"),
        ("0f3c9e1a-7b2d-4c55", "(a key that is not shown)"),
    ],
)
def test_an_unknown_key_is_named_if_it_reads_like_one(name: str, told: str) -> None:
    assert told_key(name, ("listen", "upstream_context_tokens")) == told


def test_a_key_with_an_escape_sequence_is_told_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('"a\\u001b[31m\\nb" = 1\n' + FULL)

    assert fault_of(path, {}).startswith(f"{path}: a\\x1b[31m\\nb: unknown key")
