"""Comparison of two configurations: every changed key is applied or listed for a restart, and no secret is shown."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy.config import Config, Source, load
from proxy.config.changes import Change, adopted, changes
from proxy.config.tables import SECTIONS

FILE = """
[server]
{server}
[store]
{store}
[admin]
{admin}
[billing]
{billing}
[videos]
{videos}
[log]
{log}
[retention]
{retention}
[upstreams.ark]
{ark}
[[models]]
{chat}
[[models]]
{video}
{more}
"""
ARK = 'base_url = "https://a.example"\napi_key = "env:KEY"'
CHAT = 'id = "a.b/c"\nkind = "chat"\nprice = { input = "0.8", output = "2" }\n'
VIDEO = 'id = "v"\nkind = "video"\nupstream = "ark"\nprice = { silent = "8" }\n'
OTHER = '[upstreams.b]\nbase_url = "https://b.example"\napi_key = "env:KEY"\n'


def config(directory: Path, key: str = "canary-1", **tables: str) -> Config:
    path = directory / "config.toml"
    empty = dict.fromkeys((*SECTIONS, "more"), "")
    path.write_text(FILE.format(**{**empty, "ark": ARK, "chat": CHAT + 'upstream = "ark"', "video": VIDEO, **tables}))
    return load(path, {"KEY": key})


OTHER_VALUES: dict[str, tuple[str, Any, Any]] = {
    "server.listen": ('["127.0.0.1:9"]', ["127.0.0.1:8080"], ["127.0.0.1:9"]),
    "server.auth": ('"none"', "keys", "none"),
    "server.socket_mode": ('"0600"', "0666", "0600"),
    "server.drain_seconds": ("1", 60, 1),
    "server.body_bytes_max": ("2048", 67_108_864, 2048),
    "server.body_seconds": ("1", 60, 1),
    "server.keepalive_seconds": ("1", 75, 1),
    "server.stall_seconds": ("1", 60, 1),
    "server.heartbeat_seconds": ("1", 15, 1),
    "server.early_head_seconds": ("1", 0, 1),
    "server.trusted_proxies": ('["10.0.0.1", "unix"]', [], ["10.0.0.1/32", "unix"]),
    "server.workers": ("2", 1, 2),
    "server.docs": ("false", True, False),
    "store.url": ('"sqlite:b.db"', "sqlite:{directory}/llm-proxy.db", "sqlite:{directory}/b.db"),
    "admin.listen": ('"off"', "unix:{directory}/admin.sock", "off"),
    "admin.metrics_listen": ('"127.0.0.1:7"', "off", "127.0.0.1:7"),
    "billing.disconnect": ('"cancel"', "drain", "cancel"),
    "billing.unknown_usage": ('"free"', "estimate", "free"),
    "billing.video_tokens": ('"usage"', "formula", "usage"),
    "billing.drain_after_seconds": ("1", 120, 1),
    "billing.drains_max": ("1", 200, 1),
    "billing.abandoned_per_minute": ("1", 60, 1),
    "billing.context_tokens_unknown": ("1", 262_144, 1),
    "billing.time_zone": ('"+00:00"', "+08:00", "+00:00"),
    "videos.poll_seconds": ("[3, 16]", 15, 16),
    "log.level": ('"error"', "info", "error"),
    "retention.request_days": ("90", 0, 90),
}
NEED_A_RESTART = {
    "server.listen", "server.auth", "server.socket_mode", "server.workers", "server.docs",
    "store.url", "admin.listen", "admin.metrics_listen", "billing.time_zone",
}  # fmt: skip
FOLLOWS = {"server.auth": ["server.socket_mode"]}
"""For a key, the keys whose default is derived from it."""
BESIDE: dict[str, dict[str, str]] = {"server.workers": {"store": 'url = "postgresql://h/d"'}}
"""For a key, what another value of it needs."""


def all_keys() -> list[str]:
    """Return all keys but one that stands beside a database's URL alone: `test_store_url.py` has it."""
    found = [f"{name}.{key}" for name, table in SECTIONS.items() for key in table.__struct_fields__]
    return [key for key in found if key != "store.password"]


@pytest.mark.parametrize("key", all_keys())
def test_each_key_that_differs_is_taken_over_or_named_as_needing_a_restart(tmp_path: Path, key: str) -> None:
    value, before, after = OTHER_VALUES[key]
    section, name = key.split(".")
    beside = BESIDE.get(key, {})
    running, wanted = config(tmp_path, **beside), config(tmp_path, **{section: f"{name} = {value}"}, **beside)

    change, *others = found = changes(running, wanted)

    assert [other.key for other in others] == FOLLOWS.get(key, [])
    told = (change.key.removesuffix("[1]"), change.before, change.after)
    assert told == (key, *(side.format(directory=tmp_path) if isinstance(side, str) else side for side in (before, after)))
    assert change.is_live == (key not in NEED_A_RESTART)
    taken = adopted(running, wanted)
    assert changes(running, taken) == (found if change.is_live else [])
    assert changes(taken, wanted) == ([] if change.is_live else found)


@pytest.mark.parametrize(
    ("line", "key", "before", "after"),
    [
        ("upstream_model = 'ep-1'", 'models."a.b/c".upstream_model', "a.b/c", "ep-1"),
        ("enabled = false", 'models."a.b/c".enabled', True, False),
        ("description = 'x'", 'models."a.b/c".description', "", "x"),
        ("output_tokens_max = 1", 'models."a.b/c".output_tokens_max', 4096, 1),
        ("request_defaults = { a = [1] }", 'models."a.b/c".request_defaults', {}, {"a": [1]}),
    ],
)
def test_a_key_of_a_model_is_named_by_its_id(tmp_path: Path, line: str, key: str, before: object, after: object) -> None:
    running, wanted = config(tmp_path), config(tmp_path, chat=CHAT + 'upstream = "ark"\n' + line)

    assert changes(running, wanted) == [Change(key, before, after, is_live=True)]


def test_prices_are_told_in_yuan(tmp_path: Path) -> None:
    wanted = config(tmp_path, chat=CHAT.replace("0.8", "0.9") + 'upstream = "ark"', video=VIDEO.replace('"8"', '"9"'))

    assert changes(config(tmp_path), wanted) == [
        Change('models."a.b/c".price', "0.8 in, 2 out, 0.8 cached /M", "0.9 in, 2 out, 0.9 cached /M", is_live=True),
        Change('models."v".price', "8 silent, 8 audio /M", "9 silent, 9 audio /M", is_live=True),
    ]


def test_models_and_upstreams_that_come_and_go_are_named(tmp_path: Path) -> None:
    running = config(tmp_path)
    wanted = config(tmp_path, chat='id = "n"\nkind = "image"\nupstream = "b"\nprice = { image = 1 }', more=OTHER)

    there = changes(running, wanted)

    assert there == [
        Change("upstreams.b", None, "https://b.example", is_live=True),
        Change('models."a.b/c"', "chat, 0.8 in, 2 out, 0.8 cached /M", None, is_live=True),
        Change('models."n"', None, "image, 1 an image", is_live=True),
    ]
    assert {(one.key, one.before, one.after) for one in changes(wanted, running)} == {(one.key, one.after, one.before) for one in there}


def test_another_order_of_the_models_is_a_change(tmp_path: Path) -> None:
    turned = config(tmp_path, chat=VIDEO, video=CHAT + 'upstream = "ark"')

    assert changes(config(tmp_path), turned) == [Change("models (their order)", ["a.b/c", "v"], ["v", "a.b/c"], is_live=True)]


def test_of_a_secret_only_that_it_changed_is_told(tmp_path: Path) -> None:
    running, wanted = config(tmp_path), config(tmp_path, key="canary-2")

    found = changes(running, wanted)

    assert [one.view() for one in found] == [{"key": "upstreams.ark.api_key", "before": "set", "after": "changed"}]
    assert "canary" not in repr(found)


def test_every_key_of_an_upstream_is_live(tmp_path: Path) -> None:
    lines = 'base_url = "https://c.example"\napi_key = "env:KEY"\nconnect_seconds = 1\nfirst_byte_seconds = 1\nidle_seconds = 1\n'
    lines += 'proxy = "http://p:1"\nproxy_auth = "env:KEY"\n'
    wanted = config(tmp_path, key="u:2", ark=lines + "requests_per_second = 1\nlist_requests_per_second = 2")

    found = changes(config(tmp_path), wanted)

    keys = ("base_url", "api_key", "connect_seconds", "first_byte_seconds", "idle_seconds", "requests_per_second")
    assert [one.key for one in found] == [f"upstreams.ark.{key}" for key in (*keys, "list_requests_per_second", "proxy", "proxy_auth")]
    assert all(one.is_live for one in found)
    assert [(one.before, one.after) for one in found[-2:]] == [(None, "http://p:1"), (None, "changed")]


def test_what_needs_a_restart_is_named_each_time_until_it_comes(tmp_path: Path) -> None:
    running = config(tmp_path)
    wanted = config(tmp_path, server='listen = ["127.0.0.1:9"]\ndrain_seconds = 1')

    once = adopted(running, wanted)

    assert once.server.drain_seconds == 1
    assert [one.key for one in changes(once, wanted)] == ["server.listen"]
    assert changes(once, running)[0].key == "server.drain_seconds"


def test_a_change_can_be_sent_as_json(tmp_path: Path) -> None:
    everything = dict.fromkeys(SECTIONS, "")
    for key, (value, *_) in OTHER_VALUES.items():
        section, name = key.split(".")
        if key not in BESIDE:
            everything[section] += f"{name} = {value}\n"

    found = changes(config(tmp_path), config(tmp_path, key="2", **everything))

    assert len(msgspec.json.encode([one.view() for one in found])) > 100
    assert len(found) == len(OTHER_VALUES) - len(BESIDE) + 1


def test_a_candidate_is_read_as_if_it_stood_in_the_place_of_the_file(tmp_path: Path) -> None:
    running = config(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    candidate = tmp_path / "elsewhere/config.toml"
    candidate.write_text((tmp_path / "config.toml").read_text())

    wanted = Source(running.path, {"KEY": "canary-1"}).read(candidate=candidate)

    assert changes(running, wanted) == []
