"""Comparison of two configurations: the keys that differ, and those of them that a running gateway can take over.

A key that is not named here as live needs a restart. So a new key that is read only at the start is never reported as in force.
"""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs

from proxy.config import Config, UpstreamConfig
from proxy.config.upstreams import DEFAULT_KEY
from proxy.config.values import Secret
from proxy.config.words import in_words
from proxy.core.catalog import Model
from proxy.core.health import HealthPolicy

_LIVE = ("upstreams", "videos", "log", "retention", "catalog")
"""Fields of `Config` that a reload swaps."""
_LIVE_KEYS: Mapping[str, frozenset[str]] = {
    "server": frozenset(
        {
            "drain_seconds",
            "body_bytes_max",
            "body_seconds",
            "keepalive_seconds",
            "stall_seconds",
            "heartbeat_seconds",
            "early_head_seconds",
            "trusted_proxies",
        }
    ),
    "billing": frozenset(
        {
            "disconnect",
            "unknown_usage",
            "video_tokens",
            "drain_after_seconds",
            "drains_max",
            "abandoned_per_minute",
            "context_tokens_unknown",
        }
    ),
}
"""Live keys of tables that are live in part."""
_NOT_KEYS = ("path", "variables")
_NOT_TOLD = ("id", "name", "context_tokens_assumed", "prompt_limit_tokens")
"""Fields of a value that are no keys of its table: `billing.context_tokens_unknown` in each model, and what follows from other keys."""
_IN_FILE = {
    "catalog": "models",
    "videos.poll_first_seconds": "videos.poll_seconds[0]",
    "videos.poll_longest_seconds": "videos.poll_seconds[1]",
}
"""Program's name → key in the file, where the two differ."""


@dataclass(frozen=True, slots=True)
class Change:
    """One key that differs, or an upstream or a model that is only on one side."""

    key: str
    before: object
    """Value in words; None: absent. Of a secret neither side is shown."""
    after: object
    is_live: bool
    """True if a running gateway can take it over."""

    def view(self) -> dict[str, object]:
        return {"key": self.key, "before": self.before, "after": self.after}


class NotReloadedError(Exception):
    """The reload was refused and nothing has changed; the text has one line a fault."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """Changes that a reload made, or would make."""

    path: Path | None
    live: tuple[Change, ...]
    """Changes in force now, or after the reload."""
    restart: tuple[Change, ...]
    """Changes not taken over: these need a restart."""

    def view(self) -> dict[str, Any]:
        return {
            "file": None if self.path is None else str(self.path),
            "changed": [change.view() for change in self.live],
            "needs_restart": [change.view() for change in self.restart],
        }


def changes(running: Config, wanted: Config) -> list[Change]:
    """Return the differences, table by table."""
    found: list[Change] = []
    for name in _tables():
        before, after, is_live = getattr(running, name), getattr(wanted, name), name in _LIVE
        if isinstance(before, Mapping):
            found += _between_named(name, before, after, is_live=is_live)
        else:
            found += _between(name, before, after, live=_LIVE_KEYS.get(name, is_live))
    return found


def adopted(running: Config, wanted: Config) -> Config:
    """Return the configuration after a reload: the live keys of ``wanted``, and the rest as it runs."""
    sections = {}
    for name in _tables():
        before, after = getattr(running, name), getattr(wanted, name)
        if name in _LIVE:
            sections[name] = after
        elif name in _LIVE_KEYS:
            live = {key: getattr(after, key) for key in _LIVE_KEYS[name]}
            sections[name] = structs.replace(before, **live) if isinstance(before, msgspec.Struct) else replace(before, **live)
    return replace(running, variables=wanted.variables, **sections)


def _tables() -> list[str]:
    return [field.name for field in fields(Config) if field.name not in _NOT_KEYS]


def _between(key: str, before: object, after: object, *, live: Container[str] | bool) -> Iterator[Change]:
    """Compare two tables key by key; ``live``: the keys that can be taken over, or True if all can."""
    parts, others = _parts(before), _parts(after)
    if isinstance(before, Model) and isinstance(after, Model):
        is_one = len(before.routes) == len(after.routes) == 1 and before.routes[0].weight == after.routes[0].weight
        told_as_routes = ("routes",) if is_one else ("upstream", "upstream_model")
        for name in ("dialect", "asks_usage", "estimated_by", "first_fields", *told_as_routes):
            del parts[name]  # they follow from the upstream's table, or are told as routes
    for name, part in parts.items():
        if part != others[name]:
            at, is_live = f"{key}.{name}", live if isinstance(live, bool) else name in live
            if name == "routes":
                yield from _between_routes(_in_file(at), part, others[name], is_live=is_live)
            elif name == "api_keys":
                yield from _between_keys(key, part, others[name], is_live=is_live)
            elif isinstance(part, HealthPolicy):
                yield from _between(at, part, others[name], live=live)
            else:
                yield Change(_in_file(at), *_shown(at, part, others[name]), is_live)


def _between_routes(key: str, before: object, after: object, *, is_live: bool) -> Iterator[Change]:
    """Compare a model's routes, each by its upstream and its model there."""
    assert isinstance(before, tuple)
    assert isinstance(after, tuple)
    sides = [{route.name: f"weight {route.weight}, tier {route.tier}" for route in routes} for routes in (before, after)]
    for name in dict.fromkeys((*sides[0], *sides[1])):
        if sides[0].get(name) != sides[1].get(name):
            yield Change(f'{key}."{name}"', sides[0].get(name), sides[1].get(name), is_live)
    if sides[0].keys() == sides[1].keys() and list(sides[0]) != list(sides[1]):
        yield Change(f"{key} (their order)", list(sides[0]), list(sides[1]), is_live)


def _between_keys(key: str, before: object, after: object, *, is_live: bool) -> Iterator[Change]:
    """Compare an upstream's keys by their names. The one that stands as ``api_key`` is called so."""
    assert isinstance(before, Mapping)
    assert isinstance(after, Mapping)
    for name in dict.fromkeys((*before, *after)):
        if before.get(name) != after.get(name):
            is_only = all(side.keys() <= {DEFAULT_KEY} for side in (before, after))
            at = f"{key}.api_key" if is_only else f"{key}.api_keys.{name}"
            shown = "set" if before.get(name) else None, ("changed" if before.get(name) else "set") if after.get(name) else None
            yield Change(at, *shown, is_live)
    if before.keys() == after.keys() and list(before) != list(after):
        yield Change(f"{key}.api_keys (their order)", list(before), list(after), is_live)


def _between_named(key: str, before: Mapping[str, Any], after: Mapping[str, Any], *, is_live: bool) -> Iterator[Change]:
    """Compare upstreams or models, each by its name."""
    for name in dict.fromkeys((*before, *after)):
        at = f'{key}."{name}"' if key == "catalog" else f"{key}.{name}"
        if name in before and name in after:
            yield from _between(at, before[name], after[name], live=is_live)
        else:
            yield Change(_in_file(at), _summary(before.get(name)), _summary(after.get(name)), is_live)
    if before.keys() == after.keys() and list(before) != list(after):
        yield Change(f"{_in_file(key)} (their order)", list(before), list(after), is_live)


def _parts(table: Any) -> dict[str, object]:
    names = table.__struct_fields__ if isinstance(table, msgspec.Struct) else [field.name for field in fields(table)]
    return {name: getattr(table, name) for name in names if name not in _NOT_TOLD}


def _shown(key: str, before: object, after: object) -> tuple[object, object]:
    if isinstance(before, Secret):
        return "set" if before else None, "changed" if after else None
    if key.startswith("admin."):  # None: there is no such listener
        return in_words(before) or "off", in_words(after) or "off"
    if key == "server.socket_mode":
        return f"{before:04o}", f"{after:04o}"
    return in_words(before), in_words(after)


def _summary(value: Any) -> str | None:
    """Return an upstream or a model in a few words."""
    if value is None:
        return None
    return value.base_url if isinstance(value, UpstreamConfig) else f"{value.kind}, {in_words(value.price)}"


def _in_file(key: str) -> str:
    """Return a key as the file has it."""
    return _IN_FILE.get(key, f"models{key.removeprefix('catalog')}" if key.startswith("catalog") else key)
