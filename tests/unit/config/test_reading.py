"""The configuration file: its parsed values, and the message of each fault."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from proxy.config import ConfigError, Secret, SystemdAddress, TcpAddress, UnixAddress, load, tables
from proxy.config.values import read_beginning
from proxy.core.catalog import ChatPrice, ChatTier, ImagePrice, Kind, VideoPrice, VideoRate

EXAMPLE = Path(__file__).parents[3] / "config.example.toml"
ENV = {"ARK_API_KEY": "ark-canary-1234"}

UPSTREAM = """
[upstreams.ark]
base_url = "https://ark.example/api/v3/"
api_key = "env:ARK_API_KEY"
"""
CHAT = """
[[models]]
id = "chat-1"
kind = "chat"
price = { input = "0.8", output = "2.0", cached_input = "0.16" }
"""
TIER = "{ up_to = 9, input = 1, output = 1 }"


def write(directory: Path, text: str) -> Path:
    path = directory / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def faults_of(directory: Path, text: str, env: dict[str, str] | None = None) -> tuple[str, ...]:
    path = write(directory, text)
    with pytest.raises(ConfigError) as caught:
        load(path, ENV if env is None else env)
    assert str(caught.value).splitlines() == [f"{path}: {fault}" for fault in caught.value.faults]
    return caught.value.faults


def one_model(**keys: str) -> str:
    """Return a file with one model; the values of ``keys`` are TOML."""
    merged = {"id": '"m"', "kind": '"chat"', "price": '{ input = "1", output = "1" }'} | keys
    return UPSTREAM + "[[models]]\n" + "\n".join(f"{key} = {value}" for key, value in merged.items())


def test_a_short_file_gets_the_documented_defaults(tmp_path: Path) -> None:
    config = load(write(tmp_path, UPSTREAM + CHAT), ENV)

    server, ark, billing = config.server, config.upstreams["ark"], config.billing
    assert (server.listen, server.auth) == ((TcpAddress("127.0.0.1", 8080),), "keys")
    assert (server.socket_mode, server.drain_seconds, server.body_bytes_max) == (0o666, 60, 67_108_864)
    assert (server.body_seconds, server.keepalive_seconds, server.stall_seconds) == (60, 75, 60)
    assert config.store.path == tmp_path / "llm-proxy.db"
    assert config.admin.listen == UnixAddress(tmp_path / "admin.sock")
    assert (ark.base_url, ark.api_key) == ("https://ark.example/api/v3", Secret("ark-canary-1234"))
    assert (ark.connect_seconds, ark.first_byte_seconds, ark.idle_seconds) == (10, 600, 300)
    assert (ark.requests_per_second, ark.list_requests_per_second) == (20, 1)
    assert (billing.disconnect, billing.unknown_usage, billing.video_tokens) == ("drain", "estimate", "formula")
    assert (billing.drain_after_seconds, billing.drains_max) == (120, 200)
    assert (config.videos.poll_first_seconds, config.videos.poll_longest_seconds) == (3, 15)


def test_an_upstream_may_name_a_proxy_and_where_its_credential_is(tmp_path: Path) -> None:
    text = UPSTREAM + 'proxy = "http://proxy.example:3128/"\nproxy_auth = "env:PROXY_AUTH"\n' + CHAT

    ark = load(write(tmp_path, text), ENV | {"PROXY_AUTH": "user:canary"}).upstreams["ark"]
    without_secrets = load(tmp_path / "config.toml", {}, require_secrets=False).upstreams["ark"]

    assert (ark.proxy, ark.proxy_auth) == ("http://proxy.example:3128", Secret("user:canary"))
    assert (without_secrets.proxy, bool(without_secrets.proxy_auth)) == ("http://proxy.example:3128", False)
    assert "canary" not in repr(ark)


NO_PROXY = 'upstreams.ark.proxy: must be "http://HOST:PORT", and no more'


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ('proxy = "https://proxy:3128"', NO_PROXY),
        ('proxy = "socks5://proxy:1080"', NO_PROXY),
        ('proxy = "proxy:3128"', NO_PROXY),
        ('proxy = "http://proxy"', NO_PROXY),
        ('proxy = "http://proxy:0"', NO_PROXY),
        ('proxy = "http://proxy:3128/path"', NO_PROXY),
        ('proxy = "http://proxy:3128?x"', NO_PROXY),
        ('proxy = "http://u:canary@proxy:3128"', "upstreams.ark.proxy: must not carry a user or a password: they belong to proxy_auth"),
        (
            'proxy = "http://proxy:99999"',
            "upstreams.ark.proxy: is no URL: its port must be a number up to 65535, and brackets are for an IPv6 address",
        ),
        ('proxy = "http://pro xy:3128"', "upstreams.ark.proxy: must be a URL of printable ASCII characters"),
        ("proxy = 3128", "upstreams.ark.proxy: must be a string, not an integer"),
        ('proxy_auth = "env:PROXY_AUTH"', "upstreams.ark.proxy_auth: is for a proxy, and there is none: name it by proxy"),
        (
            'proxy = "http://proxy:3128"\nproxy_auth = "env:NO_COLON"',
            "upstreams.ark.proxy_auth: leads to something that is not USER:PASSWORD",
        ),
    ],
)
def test_a_proxy_that_cannot_be_one_is_refused_and_no_password_is_quoted(tmp_path: Path, lines: str, fault: str) -> None:
    faults = faults_of(tmp_path, UPSTREAM + lines + "\n" + CHAT, ENV | {"PROXY_AUTH": "user:canary", "NO_COLON": "canary"})

    assert faults == (fault,)
    assert "canary" not in fault


def test_a_model_gets_its_upstream_its_own_id_and_a_price_in_nano_yuan_a_token(tmp_path: Path) -> None:
    model = load(write(tmp_path, UPSTREAM + CHAT), ENV).catalog["chat-1"]

    assert (model.kind, model.upstream, model.upstream_model, model.enabled) == (Kind.CHAT, "ark", "chat-1", True)
    # ¥0.8 a million tokens = 0.8e9 nano-yuan / 1e6 = 800 nano-yuan a token
    assert model.price == ChatPrice((ChatTier(None, input=800, output=2000, cached_input=160),))  # type: ignore[arg-type]


def test_a_cached_token_costs_as_much_as_a_fresh_one_unless_it_has_a_price(tmp_path: Path) -> None:
    text = one_model(
        price='{ tiers = [ { up_to = 32768, input = "3.2", output = 16 }, { input = 4, output = "24", cached_input = "1" } ] }'
    )

    price = load(write(tmp_path, text), ENV).catalog["m"].price

    assert price == ChatPrice(
        (ChatTier(32768, input=3200, output=16000, cached_input=3200), ChatTier(None, input=4000, output=24000, cached_input=1000))  # type: ignore[arg-type]
    )


def test_the_price_of_an_image_is_nano_yuan(tmp_path: Path) -> None:
    text = one_model(kind='"image"', price='{ image = "0.18" }')

    assert load(write(tmp_path, text), ENV).catalog["m"].price == ImagePrice(180_000_000)  # type: ignore[arg-type]


def test_a_video_without_a_price_for_sound_costs_the_same_with_it(tmp_path: Path) -> None:
    text = one_model(kind='"video"', price='{ silent = 46, flex = "0.5", by_resolution = { "1080p" = { silent = 51, audio = 52 } } }')

    price = load(write(tmp_path, text), ENV).catalog["m"].price

    special = {"1080p": VideoRate(silent=51_000, audio=52_000)}  # type: ignore[arg-type]
    assert price == VideoPrice(VideoRate(silent=46_000, audio=46_000), special, 500)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:8080", TcpAddress("0.0.0.0", 8080)),
        ("[::1]:0", TcpAddress("::1", 0)),
        ("gateway.internal:443", TcpAddress("gateway.internal", 443)),
        ("unix:/run/llm-proxy/api.sock", UnixAddress(Path("/run/llm-proxy/api.sock"))),
        ("systemd", SystemdAddress()),
    ],
)
def test_each_form_of_address_is_understood_and_written_back(tmp_path: Path, text: str, address: object) -> None:
    config = load(write(tmp_path, f'server.listen = ["{text}"]\n' + UPSTREAM + CHAT), ENV)

    assert config.server.listen == (address,)
    assert str(config.server.listen[0]) == text


def test_the_admin_socket_stands_beside_the_store_not_beside_the_file(tmp_path: Path) -> None:
    config = load(write(tmp_path, 'store.url = "sqlite:data/books.db"\n' + UPSTREAM + CHAT), ENV)

    assert config.store.path == tmp_path / "data/books.db"
    assert config.admin.listen == UnixAddress(tmp_path / "data/admin.sock")


def test_the_admin_listener_can_be_left_out(tmp_path: Path) -> None:
    assert load(write(tmp_path, 'admin.listen = "off"\n' + UPSTREAM + CHAT), ENV).admin.listen is None


@pytest.mark.parametrize("text", ["127.0.0.1:9464", "[::1]:9464", "metrics.internal:0"])
def test_metrics_can_have_an_address_of_their_own(tmp_path: Path, text: str) -> None:
    admin = load(write(tmp_path, f'admin.metrics_listen = "{text}"\n' + UPSTREAM + CHAT), ENV).admin

    assert str(admin.metrics_listen) == text
    assert admin.listen == UnixAddress(tmp_path / "admin.sock")


def test_metrics_have_none_unless_it_is_named(tmp_path: Path) -> None:
    assert load(write(tmp_path, UPSTREAM + CHAT), ENV).admin.metrics_listen is None


def test_customers_are_not_to_read_the_metrics(tmp_path: Path) -> None:
    head = 'server.listen = ["127.0.0.1:1", "127.0.0.1:2"]\nadmin.metrics_listen = "127.0.0.1:2"\n'

    faults = faults_of(tmp_path, head + UPSTREAM + CHAT)

    assert faults == ("admin.metrics_listen: 127.0.0.1:2 is server.listen[1] too: customers are not to read it",)


@pytest.mark.parametrize("listen", ["unix:data/admin.sock", "unix:data/../data/./admin.sock", "unix:link/admin.sock"])
def test_the_operator_and_the_customers_have_no_door_in_common(tmp_path: Path, listen: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    head = f'store.url = "sqlite:data/books.db"\nserver.listen = ["127.0.0.1:1", "{listen}"]\n'

    faults = faults_of(tmp_path, head + UPSTREAM + CHAT)

    reason = "is server.listen[1] too: the operator's door is one of its own"
    assert faults == (f"admin.listen: unix:{tmp_path}/data/admin.sock {reason}",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("10.0.0.1/8", 'is an address within a network: write "10.0.0.0/8" for all of it; or "unix", for peers of unix sockets'),
        ("proxy.internal", 'must be a network such as "10.0.0.0/8"'),
    ],
)
def test_a_trusted_proxy_is_a_network_or_the_word_unix(tmp_path: Path, text: str, reason: str) -> None:
    config = load(write(tmp_path, 'server.trusted_proxies = ["10.0.0.0/8", "::1", "unix"]\n' + UPSTREAM + CHAT), ENV)
    (fault,) = faults_of(tmp_path, f'server.trusted_proxies = ["::1", "{text}"]\n' + UPSTREAM + CHAT)

    assert config.server.trusted_proxies == ("10.0.0.0/8", "::1/128", "unix")
    assert fault.startswith("server.trusted_proxies[1]: ")
    assert reason in fault


@pytest.mark.parametrize("url", ["sqlite:.", "sqlite:data", "sqlite:data/"])
def test_a_directory_is_no_store(tmp_path: Path, url: str) -> None:
    (tmp_path / "data").mkdir()

    (fault,) = faults_of(tmp_path, f'store.url = "{url}"\n' + UPSTREAM + CHAT)

    assert fault == f"store.url: {(tmp_path / url.removeprefix('sqlite:'))} is a directory: name a file in it"


@pytest.mark.parametrize("reference", ["file:secrets/ark", "credential:ark"])
def test_a_key_is_read_from_a_file_or_a_credential_without_its_line_break(tmp_path: Path, reference: str) -> None:
    directory = tmp_path / "secrets"
    directory.mkdir()
    (directory / "ark").write_text("ark-key\n")
    text = UPSTREAM.replace("env:ARK_API_KEY", reference) + CHAT

    config = load(write(tmp_path, text), {"CREDENTIALS_DIRECTORY": str(directory)})

    assert config.upstreams["ark"].api_key.reveal() == "ark-key"


def test_nothing_that_prints_a_configuration_shows_a_key(tmp_path: Path) -> None:
    config = load(write(tmp_path, UPSTREAM + CHAT), ENV)

    assert "canary" not in f"{config} {config!r} {config.upstreams['ark'].api_key}"


def test_commands_that_ask_no_upstream_do_without_its_key(tmp_path: Path) -> None:
    config = load(write(tmp_path, UPSTREAM + CHAT), {}, require_secrets=False)

    assert not config.upstreams["ark"].api_key


@pytest.mark.parametrize(
    ("head", "fault"),
    [
        ("typo = 1", "typo: unknown key (known here: server, store, admin, billing, videos, log, retention, upstreams, models)"),
        ('server.listn = ["x"]', "server.listn: unknown key (did you mean listen?)"),
        ("server = 3", "server: must be a table"),
        ('server.listen = "127.0.0.1:1"', "server.listen: must be an array, not a string"),
        ("server.listen = []", "server.listen: must be an array with a length of at least 1"),
        ('server.listen = [":80"]', 'server.listen[0]: names no host: write "0.0.0.0:80" or "[::]:80" to listen on every address'),
        ('server.listen = ["a:1", "a:1"]', "server.listen[1]: a:1 stands here twice"),
        (
            'server.listen = ["a:65536"]',
            'server.listen[0]: must be "HOST:PORT", "[IPV6]:PORT", "unix:PATH" or "systemd", not \'a:65536\'',
        ),
        ('server.auth = "open"', 'server.auth: must be "keys" or "none"'),
        ('server.socket_mode = "0777"', 'server.socket_mode: must be "auto" or "0600" or "0660" or "0666"'),
        ("server.socket_mode = 0o660", 'server.socket_mode: must be "auto" or "0600" or "0660" or "0666"'),
        ("server.drain_seconds = -1", "server.drain_seconds: must be a number of at least 0"),
        ("server.drain_seconds = nan", "server.drain_seconds: must be a number of at least 0"),
        ("server.body_seconds = inf", "server.body_seconds: must be a number of at most 86400"),
        ("server.body_seconds = 0", "server.body_seconds: must be a number over 0"),
        ("server.body_bytes_max = 1.5", "server.body_bytes_max: must be an integer, not a float"),
        ("server.keepalive_seconds = true", "server.keepalive_seconds: must be a number, not true or false"),
        ('billing.time_zone = "UTC"', 'billing.time_zone: must be an offset from UTC such as "+08:00", up to 14 hours, not "UTC"'),
        ('billing.time_zone = "+8:00"', 'billing.time_zone: must be an offset from UTC such as "+08:00", up to 14 hours, not "+8:00"'),
        (
            'billing.time_zone = "+14:01"',
            'billing.time_zone: must be an offset from UTC such as "+08:00", up to 14 hours, not "+14:01"',
        ),
        ("billing.time_zone = 8", "billing.time_zone: must be a string, not an integer"),
        ("retention.request_days = 7", "retention.request_days: must be 0 (for ever) or at least 8"),
        ("retention.request_days = -1", "retention.request_days: must be an integer of at least 0"),
        (
            'store.url = "mysql://db/x"',
            'store.url: the store \'mysql\' is not known: "sqlite:PATH" and "postgresql://USER@HOST/DATABASE" are',
        ),
        (
            'store.url = "postgresql://u:hunter2@db/x"',
            'store.url: must not carry a password: it belongs to store.password, as "env:NAME" or "file:PATH"',
        ),
        ('store.password = "env:ARK_API_KEY"', "store.password: is for a database server: a file has none"),
        (
            'store.url = "sqlite:///x.db"',
            'store.url: must be "sqlite:PATH" with the path of a file, relative to this file or absolute',
        ),
        ('admin.metrics_listen = "unix:m"', 'admin.metrics_listen: must be "HOST:PORT" or "[IPV6]:PORT", not \'unix:m\''),
        (
            'admin.metrics_listen = ":9464"',
            'admin.metrics_listen: names no host: write "0.0.0.0:9464" or "[::]:9464" to listen on every address',
        ),
        ("admin.metrics_listen = 9464", "admin.metrics_listen: must be a string, not an integer"),
        ('admin.listen = "127.0.0.1:9"', 'admin.listen: must be "unix:PATH", not \'127.0.0.1:9\', or "off"'),
        ('billing.disconnect = "x"', 'billing.disconnect: must be "drain" or "cancel"'),
        ("videos.poll_seconds = [3]", "videos.poll_seconds: must be an array of length 2, not 1"),
        ("videos.poll_seconds = [9, 3]", "videos.poll_seconds: the first interval must not be over the longest"),
        ('videos.poll_seconds = [3, "x"]', "videos.poll_seconds[1]: must be a number, not a string"),
    ],
)
def test_a_fault_names_the_key_and_the_reason(tmp_path: Path, head: str, fault: str) -> None:
    assert faults_of(tmp_path, head + "\n" + UPSTREAM + CHAT) == (fault,)


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"price": '{ input = 0.8, output = "1" }'}, '.price.input: must be a string such as "0.8", or an integer, not a float'),
        ({"price": '{ input = "0.0001", output = "1" }'}, ".price.input: more than 3 decimals: '0.0001'"),
        ({"price": '{ input = "-1", output = "1" }'}, ".price.input: a price cannot be negative: '-1'"),
        ({"price": '{ input = "NaN", output = "1" }'}, ".price.input: no decimal number of yuan: 'NaN'"),
        ({"price": '{ input = "1e3", output = "1" }'}, ".price.input: no decimal number of yuan: '1e3'"),
        ({"price": '{ input = "１", output = "1" }'}, ".price.input: no decimal number of yuan: '１'"),
        ({"price": '{ input = "1" }'}, ".price.output: missing"),
        ({"price": "{ input = 1, output = 1, cached_input = 2 }"}, ".price.cached_input: must not be dearer than input"),
        (
            {"price": '{ image = "1" }'},
            ".price: the price of a model of kind chat is { input, output, cached_input } or { tiers = [...] }",
        ),
        ({"kind": '"image"'}, ".price: the price of a model of kind image is { image }"),
        ({"price": "{ tiers = [ { up_to = 9, input = 1, output = 1 } ] }"}, ".price.tiers[0].up_to: the last tier has no end"),
        (
            {"price": f"{{ tiers = [{TIER}, {TIER}, {{ input = 1, output = 1 }}] }}"},
            ".price.tiers[1].up_to: must be over the tier before, which ends at 9",
        ),
        (
            {"price": "{ tiers = [ { input = 1, output = 1 }, { input = 1, output = 1 } ] }"},
            ".price.tiers[0].up_to: missing: only the last tier has no end",
        ),
        ({"price": "{ tiers = [ { input = 1, output = 1 } ], input = 1 }"}, ".price.input: stands inside the tiers, or there are none"),
        ({"kind": '"video"', "price": '{ silent = 1, flex = "1.5" }'}, ".price.flex: must be a factor over 0 and up to 1, not 1.5"),
        ({"kind": '"video"', "price": '{ silent = 1, flex = "0" }'}, ".price.flex: must be a factor over 0 and up to 1, not 0"),
        (
            {"kind": '"video"', "resolutions": '["720p"]', "price": '{ silent = 1, by_resolution = { "4k" = { silent = 1 } } }'},
            '.price.by_resolution."4k": is not among the model\'s resolutions: 720p',
        ),
        ({"kind": '"audio"'}, '.kind: must be "chat" or "image" or "video"'),
        ({"upstream": '"other"'}, ".upstream: no [upstreams.other] in this file"),
        ({"upstream_model": '"a b"'}, ".upstream_model: must have no blanks and no control characters"),
        ({"resolutions": '["720p"]'}, ".resolutions: has no meaning for a model of kind chat"),
        ({"output_tokens_max": "0"}, ".output_tokens_max: must be an integer of at least 1"),
        (
            {"context_tokens": "2", "upstream_context_tokens": "1"},
            ".upstream_context_tokens: must not be under context_tokens: no longer prompt could be sold",
        ),
        (
            {"kind": '"image"', "price": '{ image = "1" }', "request_defaults": "{ watermark = false }"},
            ".request_defaults: has no meaning for a model of kind image",
        ),
        (
            {"kind": '"video"', "price": "{ silent = 1 }", "request_defaults": "{ seed = 1 }"},
            ".request_defaults: has no meaning for a model of kind video",
        ),
        (
            {"request_defaults": "{ Stream = true }"},
            ".request_defaults.Stream: is never a default: it is the client's or the gateway's own",
        ),
        (
            {"request_defaults": "{ x = { y = [2026-01-01] } }"},
            ".request_defaults.x: cannot stand in JSON (a date, a time, or a number that is not finite)",
        ),
    ],
)
def test_a_fault_of_a_model_names_the_model(tmp_path: Path, keys: dict[str, str], fault: str) -> None:
    assert faults_of(tmp_path, one_model(**keys)) == ('models[0] "m"' + fault,)


@pytest.mark.parametrize("model_id", ["public", "a b", "a\\tb", "/a", "a\\u0007"])
def test_an_id_that_could_not_be_asked_for_is_refused(tmp_path: Path, model_id: str) -> None:
    faults = faults_of(tmp_path, one_model(id=f'"{model_id}"'))

    assert len(faults) == 1
    assert ".id: must " in faults[0]


def test_two_models_with_one_id_are_refused(tmp_path: Path) -> None:
    assert faults_of(tmp_path, UPSTREAM + CHAT + CHAT) == ('models[1] "chat-1".id: another model has this id',)


def test_a_model_says_its_upstream_where_there_are_two(tmp_path: Path) -> None:
    second = UPSTREAM.replace("upstreams.ark", "upstreams.other")

    faults = faults_of(tmp_path, UPSTREAM + second + CHAT)

    assert faults == ('models[0] "chat-1".upstream: missing: it can be left out only where there is one upstream',)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://ark",
        "https://",
        "ark.example/api",
        "https://a/?q=1",
        "https://a/#f",
        "https://u:p@a/",
        "https://a b/",
        "https://a:99999/",
    ],
)
def test_a_base_url_that_requests_cannot_be_appended_to_is_refused(tmp_path: Path, url: str) -> None:
    faults = faults_of(tmp_path, UPSTREAM.replace("https://ark.example/api/v3/", url) + CHAT)

    assert len(faults) == 1
    assert faults[0].startswith("upstreams.ark.base_url: ")


@pytest.mark.parametrize(
    ("reference", "env", "reason"),
    [
        ("canary", {}, "a secret does not stand in this file"),
        ("sk:canary", {}, "a secret does not stand in this file"),
        ("env:NOT_THERE", {}, "the environment variable NOT_THERE is not set"),
        ("env:EMPTY", {"EMPTY": ""}, "the environment variable EMPTY is empty"),
        ("env:ODD", {"ODD": "canary\nX: y"}, "the environment variable ODD holds something that is no key"),
        ("file:none", {}, "none cannot be read: No such file or directory"),
        ("credential:ark", {}, "CREDENTIALS_DIRECTORY is not set"),
        *(
            (f"{source}:{pasted}", {"CREDENTIALS_DIRECTORY": "/nowhere"}, reason)
            for pasted in ("0f3c9e1a-canary-4d2b", "sk_canaryCANARY123", "canary/+Zm9v=", "canary" + "x" * 11, "canary1234", "AKcanary")
            for source, reason in (
                ("env", "the environment variable that is named here is not set"),
                ("file", "the file that is named here cannot be read"),
                ("credential", "credential"),
            )
        ),
        ("credential:../x", {"CREDENTIALS_DIRECTORY": "/"}, "the name of a credential has no slashes"),
    ],
)
def test_a_secret_that_is_not_there_is_a_fault_that_never_quotes_one(
    tmp_path: Path, reference: str, env: dict[str, str], reason: str
) -> None:
    faults = faults_of(tmp_path, UPSTREAM.replace("env:ARK_API_KEY", reference) + CHAT, env)

    assert len(faults) == 1
    assert faults[0].startswith("upstreams.ark.api_key: ")
    assert reason in faults[0]
    assert "canary" not in faults[0]


@pytest.mark.parametrize("address", ["0.0.0.0:80", "10.0.0.1:80", "[::]:80", "gateway.internal:80", "systemd"])
def test_a_gateway_without_keys_listens_to_this_machine_only(tmp_path: Path, address: str) -> None:
    head = f'server = {{ auth = "none", listen = ["127.0.0.1:1", "localhost:2", "[::1]:3", "unix:x.sock", "{address}"] }}\n'

    faults = faults_of(tmp_path, head + UPSTREAM + CHAT)

    assert len(faults) == 1
    assert faults[0].startswith("server.listen[4]: with auth = ")


def test_all_faults_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    text = 'server.auth = 1\nbilling.x = 1\n[upstreams.ark]\nbase_url = "x"\n' + CHAT.replace('"0.8"', "0.8").replace('"2.0"', "2.5")

    keys = [fault.split(": ")[0] for fault in faults_of(tmp_path, text)]

    price = 'models[0] "chat-1".price'
    assert keys == ["server.auth", "upstreams.ark.base_url", "upstreams.ark.api_key", "billing.x", f"{price}.input", f"{price}.output"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a = [", "is no valid TOML: "),
        (b"a = 1\na = 2", "is no valid TOML: "),
        (b"a = " + b"1" * 5000, "is no valid TOML: "),
        (b"a = '\xff'", "is no valid TOML: "),
        (b"", "upstreams: at least one [upstreams.NAME] table is needed"),
    ],
)
def test_a_file_that_cannot_be_used_says_so_without_a_traceback(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=re.escape(f"{path}: {reason}")):
        load(path, ENV)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file or directory"):
        load(tmp_path / "none.toml", ENV)


def test_the_example_loads_as_it_stands_and_has_the_published_prices() -> None:
    config = load(EXAMPLE, ENV)

    prices = {model.id: model.price for model in config.catalog.values()}
    assert prices["doubao-pro-32k"] == ChatPrice((ChatTier(None, input=800, output=2000, cached_input=160),))  # type: ignore[arg-type]
    assert prices["doubao-seedream-5-0-260128"] == ImagePrice(180_000_000)  # type: ignore[arg-type]
    assert prices["doubao-seedance-1-5-pro-251215"] == VideoPrice(VideoRate(silent=8_000, audio=16_000), {}, 500)  # type: ignore[arg-type]
    assert config.catalog["doubao-seedance-2-0"].upstream_model == "doubao-seedance-2-0-260128"
    assert next(iter(config.catalog)) == "doubao-pro-32k"
    assert config.catalog["doubao-pro-32k"].reasoning_tokens_max == 131_072  # the upstream thinks if a customer asks for it


def test_the_example_shows_every_key() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    found = [table for table in vars(tables).values() if isinstance(table, type) and issubclass(table, tables.Table)]

    missing = [
        f"{table.__name__}.{field.encode_name}"
        for table in found
        for field in msgspec.structs.fields(table)
        if not re.search(rf"\b{field.encode_name} = ", text)
    ]

    assert len(found) > 10
    assert missing == []


def test_the_values_that_the_example_shows_are_the_defaults(tmp_path: Path) -> None:
    short = load(write(tmp_path, UPSTREAM.replace("ark.example/api/v3/", "ark.cn-beijing.volces.com/api/v3") + CHAT), ENV)

    example = load(EXAMPLE, ENV)

    assert example.server == short.server
    assert example.upstreams == short.upstreams
    assert (example.billing, example.videos) == (short.billing, short.videos)
    assert short.store.path is not None
    assert example.store.path == EXAMPLE.parent / short.store.path.name


def test_a_pipe_is_read_to_its_end_and_not_waited_for_without_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(read_beginning, pipe, 1_000_000)
        pipe.write_bytes(b"x" * 300_000)
        assert read.result() == b"x" * 300_000
    with pytest.raises(OSError, match="nobody wrote all of"):
        read_beginning(pipe, 100, pipe_seconds=0.05)
