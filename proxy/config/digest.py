"""A short digest of what gateways that share a ledger should have alike: models, prices, upstreams, and how they are billed.

What is a machine's own is left out (addresses, sockets, its way to the store, its log), and so is every secret: only whether one is
set counts.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from hashlib import sha256

import msgspec

from proxy.config.config import Config
from proxy.config.values import Secret

DIGITS = 12
_OWN = ("path", "variables", "store", "admin", "log")
"""Fields of `Config` that are a machine's own."""
_OWN_OF_SERVER = ("listen", "socket_mode", "trusted_proxies", "drain_seconds", "workers")


def digest(config: Config) -> str:
    """Return the digest, `DIGITS` hexadecimal digits. Gateways of different versions may differ in it with the same file."""
    told = {name: part for name, part in _parts(config) if name not in (*_OWN, "server")}
    told["server"] = {name: part for name, part in _parts(config.server) if name not in _OWN_OF_SERVER}
    return sha256(_written(told).encode()).hexdigest()[:DIGITS]


def _written(value: object) -> str:
    """Return a value in one way of writing. Raises: TypeError: there is none, so that nothing is left out unseen."""
    match value:
        case Secret():
            return "secret" if value else "no secret"
        case Enum():
            return repr(value.value)
        case None | bool() | int() | float() | str():
            return repr(value)
        case Mapping():
            return "{" + ",".join(f"{_written(name)}:{_written(part)}" for name, part in value.items()) + "}"
        case tuple() | list():
            return "[" + ",".join(map(_written, value)) + "]"
        case frozenset():
            return "[" + ",".join(sorted(map(_written, value))) + "]"
        case _ if is_dataclass(value) or isinstance(value, msgspec.Struct):
            return _written(dict(_parts(value)))
    raise TypeError(f"{type(value).__name__} has no part in the digest of a configuration")


def _parts(value: object) -> Iterator[tuple[str, object]]:
    names = value.__struct_fields__ if isinstance(value, msgspec.Struct) else [field.name for field in fields(value)]  # type: ignore[arg-type]
    return ((name, getattr(value, name)) for name in names)
