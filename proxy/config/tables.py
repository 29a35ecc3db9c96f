"""The configuration file's tables as written, and the reader for all of them: key by key, so that every fault is found at once.

A fault is a line `KEY: reason`, with the key as an operator would search for it: ``models[3] "doubao-x".price.input``.
"""

import difflib
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from proxy.config.quoting import told_key
from proxy.core.catalog import CONTEXT_TOKENS_UNKNOWN, Dialect
from proxy.core.days import CHINA, Zone
from proxy.core.retention import REQUEST_DAYS_MAX
from proxy.core.shown_text import shown

T = TypeVar("T", bound=msgspec.Struct)

VARIABLE_PREFIX = "LLM_PROXY_"
"""Prefix of the environment variables that stand for keys (`environment`)."""
WORKERS_MAX = 64
"""Processes of one `serve`: as each has a configuration, a pool of connections and a share of each limit, more are no help."""

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Grace = Annotated[float, Meta(ge=0, le=86_400)]
Rate = Annotated[float, Meta(gt=0, le=100_000)]
Tokens = Annotated[int, Meta(ge=0, le=100_000_000)]
BytesOfToken = Annotated[float, Meta(ge=0.25, le=64)]
Text = Annotated[str, Meta(min_length=1, max_length=4096)]
Amount = str | int
"""A price in yuan: text or a whole number. Floats are excluded, because money is exact."""

_TYPE_WORDS = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "str | null": "a string",
    "bool": "true or false",
    "array": "an array",
    "array | null": "an array",
    "object": "a table",
    "int | str": 'a string such as "0.8", or an integer',
    "float | int": "a number",
}

_PHRASES = (
    (" of length >= ", " with a length of at least "),
    (" of length <= ", " with a length of at most "),
    (" >= ", " of at least "),
    (" <= ", " of at most "),
    (" > ", " over "),
    ("Expected", "must be"),
    (", got ", ", not "),
)


class ConfigError(Exception):
    """The configuration cannot be used. Its text has one line a fault: ``FILE: KEY: reason``, or ``VARIABLE: reason``."""

    def __init__(self, path: Path | None, faults: Sequence[str]) -> None:
        """Args: path: None if the whole configuration is in the environment, and each fault names its variable."""
        named = path is None
        told = (fault if named or fault.startswith(VARIABLE_PREFIX) else f"{path}: {fault}" for fault in faults)
        super().__init__("\n".join(map(shown, told)))
        self.path = path
        self.faults = tuple(faults)


class Faults(list[str]):
    """The faults found so far, each named by what the operator must change: the file's key, or the variable that overrides it."""

    def __init__(self, name_of: Callable[[str], str] = str) -> None:
        super().__init__()
        self.name_of = name_of

    def add(self, key: str, reason: str) -> None:
        self.append(f"{self.name_of(key)}: {reason}")


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file: its fields are the keys, their defaults the file's."""


class ServerTable(Table, frozen=True, kw_only=True):
    listen: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=16)] = ("127.0.0.1:8080",)
    auth: Literal["keys", "none"] = "keys"
    socket_mode: Literal["auto", "0600", "0660", "0666"] = "auto"
    drain_seconds: Grace = 60
    body_bytes_max: Annotated[int, Meta(ge=1024, le=1_073_741_824)] = 67_108_864
    body_seconds: Seconds = 60
    keepalive_seconds: Seconds = 75
    stall_seconds: Seconds = 60
    heartbeat_seconds: Grace = 15
    early_head_seconds: Grace = 0
    trusted_proxies: Annotated[tuple[Text, ...], Meta(max_length=64)] = ()
    workers: Annotated[int, Meta(ge=1, le=WORKERS_MAX)] = 1
    docs: bool = True


class StoreTable(Table, frozen=True, kw_only=True):
    url: Text = "sqlite:llm-proxy.db"
    password: Text | None = None


class AdminTable(Table, frozen=True, kw_only=True):
    listen: Text = "unix:admin.sock"
    metrics_listen: Text | None = None


class UpstreamTable(Table, frozen=True, kw_only=True):
    base_url: Text
    dialect: Dialect = "ark"
    api_key: Text | None = None
    api_keys: dict[str, Text] = {}
    asks_usage: bool = True
    proxy: Text | None = None
    proxy_auth: Text | None = None
    connect_seconds: Seconds = 10
    first_byte_seconds: Seconds = 600
    idle_seconds: Seconds = 300
    requests_per_second: Rate = 20.0
    list_requests_per_second: Rate = 1.0
    health: dict[str, Any] = {}


class HealthTable(Table, frozen=True, kw_only=True):
    failures: int | float = 5
    rest_seconds: tuple[Seconds, Seconds] = (5, 60)


class BillingConfig(Table, frozen=True, kw_only=True):
    """Charging of calls that do not simply finish. The file's table and the program's value are the same."""

    disconnect: Literal["drain", "cancel"] = "drain"
    unknown_usage: Literal["estimate", "free"] = "estimate"
    video_tokens: Literal["formula", "usage"] = "formula"
    drain_after_seconds: Grace = 120
    """Longest time that an upstream is read on after its client left, to learn the usage."""
    drains_max: Annotated[int, Meta(ge=0, le=1_000_000)] = 200
    """Most drains at once; further calls are charged by `unknown_usage` at once."""
    abandoned_per_minute: Annotated[int, Meta(ge=0, le=1_000_000)] = 60
    """Most calls of an account a minute whose client left before the upstream told their usage; 0: no limit."""
    context_tokens_unknown: Annotated[int, Meta(ge=1, le=100_000_000)] = CONTEXT_TOKENS_UNKNOWN
    """Tokens held for what only a model's context bounds, where the model's table does not name its context."""
    time_zone: Annotated[str, Meta(max_length=64)] = str(CHINA)
    """Offset from UTC by whose clock days and months begin: of daily sums, of limits, and of dates that are typed or shown."""

    @property
    def zone(self) -> Zone:
        """Return `time_zone`, which was checked when the configuration was read."""
        return Zone.parse(self.time_zone)


class VideosTable(Table, frozen=True, kw_only=True):
    poll_seconds: tuple[Seconds, Seconds] = (3, 15)


class LogConfig(Table, frozen=True, kw_only=True):
    """Settings of the log. The file's table and the program's value are the same."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is written; requests are at info."""


class RetentionConfig(Table, frozen=True, kw_only=True):
    """Retention settings. The file's table and the program's value are the same."""

    request_days: Annotated[int, Meta(ge=0, le=REQUEST_DAYS_MAX)] = 0
    """Number of whole days that receipts and video tasks are kept; 0: for ever."""


class ModelTable(Table, frozen=True, kw_only=True):
    id: Annotated[str, Meta(min_length=1, max_length=128)]
    kind: Literal["chat", "image", "video"]
    price: dict[str, Any]
    upstream: Text | None = None
    upstream_model: Text | None = None
    routes: Annotated[tuple[dict[str, Any], ...], Meta(max_length=64)] | None = None
    owned_by: Text = "volcengine"
    description: Annotated[str, Meta(max_length=4096)] = ""
    created: Annotated[int, Meta(ge=0, le=253_402_300_799)] = 1_710_000_000
    enabled: bool = True
    context_tokens: Tokens = 0
    upstream_context_tokens: Tokens = 0
    output_tokens_max: Annotated[int, Meta(ge=1, le=100_000_000)] = 4096
    answer_tokens_max: Annotated[int, Meta(ge=1, le=100_000_000)] | None = None
    reasoning_tokens_max: Tokens | None = None
    image_tokens: Tokens | None = None
    bytes_per_token: tuple[BytesOfToken, BytesOfToken] | None = None
    request_defaults: dict[str, Any] = {}
    resolutions: tuple[Annotated[str, Meta(pattern="^[0-9]{1,5}[pk]$")], ...] = ()


class RouteTable(Table, frozen=True, kw_only=True):
    upstream: Text
    model: Text | None = None
    weight: Annotated[int, Meta(ge=0, le=1000)] = 1
    tier: Annotated[int, Meta(ge=1, le=64)] = 1


class ChatPriceTable(Table, frozen=True, kw_only=True):
    input: Amount
    output: Amount
    cached_input: Amount | None = None


class ChatTierTable(ChatPriceTable, frozen=True, kw_only=True):
    up_to: Annotated[int, Meta(ge=1, le=100_000_000)] | None = None


class ImagePriceTable(Table, frozen=True, kw_only=True):
    image: Amount


class VideoRateTable(Table, frozen=True, kw_only=True):
    silent: Amount
    audio: Amount | None = None


class VideoPriceTable(VideoRateTable, frozen=True, kw_only=True):
    flex: Amount | None = None
    by_resolution: dict[str, Any] = {}


SECTIONS: Mapping[str, type[Table]] = MappingProxyType(
    {
        "server": ServerTable,
        "store": StoreTable,
        "admin": AdminTable,
        "billing": BillingConfig,
        "videos": VideosTable,
        "log": LogConfig,
        "retention": RetentionConfig,
    }
)
"""Tables that occur once, by name; the others are upstreams and models."""


def read_table(table_type: type[T], value: object, key: str, faults: Faults) -> T | None:
    """Return the table, or None after adding each of its faults: unknown and missing keys, wrong types, values out of range."""
    if not isinstance(value, Mapping):
        faults.add(key, "must be a table")
        return None
    fields = {field.encode_name: field for field in msgspec.structs.fields(table_type)}
    known = len(faults)
    for name in value:
        if name not in fields:
            faults.add(join(key, told_key(name, fields)), f"unknown key{suggestion(name, fields)}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in value:
            values[field.name] = _read_value(field.type, value[name], join(key, name), faults)
        elif field.required:
            faults.add(join(key, name), "missing")
    return table_type(**values) if len(faults) == known else None


def join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def suggestion(name: str, known: Mapping[str, object]) -> str:
    """Return the end of a fault's text: the nearest known name, or all of them."""
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]}?)" if near else f" (known here: {', '.join(known)})"


def _read_value(value_type: object, value: object, key: str, faults: Faults) -> object:
    try:
        return msgspec.convert(value, type=value_type)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$")
        faults.add(key + place.removesuffix("`"), _in_words(reason, value_type))
        return None


def _in_words(reason: str, value_type: object) -> str:
    """Return msgspec's complaint in the words of the file."""
    if typing.get_origin(value_type) is Literal:
        return "must be " + " or ".join(f'"{choice}"' for choice in typing.get_args(value_type))
    if "matching regex" in reason:
        return 'must be a resolution such as "720p"'
    words = reason.replace(", got `float`", ", not a float")
    for name in sorted(_TYPE_WORDS, key=len, reverse=True):
        words = words.replace(f"`{name}`", _TYPE_WORDS[name])
    for before, after in _PHRASES:
        words = words.replace(before, after)
    return words.removesuffix(".0").removesuffix(" | null")
