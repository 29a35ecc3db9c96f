"""Limits as operators type them, and what they change. Every option is text; ``none`` takes a limit away."""

import ipaddress
import re
from collections.abc import Callable
from typing import Annotated, ClassVar, TypeVar

from msgspec import UNSET, Meta, UnsetType

from proxy.core.days import UTC, Zone
from proxy.core.limits import LimitsChange, Period
from proxy.core.money import Nanos, parse_yuan
from proxy.core.shown_text import first_unseen
from proxy.operations.dates import parse_end
from proxy.operations.operation import Answer, Operation, Operator
from proxy.operations.parameters import ParameterError

NONE = "none"
COUNT_MAX = 10**12
LIST_MAX = 100
"""Patterns or networks of one key: each request is compared with all of them."""
Option = Annotated[str, Meta(max_length=4_000)]

_FIELDS = {Period.DAY: "day_nanos", Period.MONTH: "month_nanos", Period.TOTAL: "total_nanos"}
T = TypeVar("T")
_PERIODS = ", ".join(Period)
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


class LimitedOperation(Operation, frozen=True, kw_only=True):
    """An operation that sets limits. What is None stays as it is."""

    changes: ClassVar = True
    expires: Option | None = None
    models: Option | None = None
    networks: Option | None = None
    rpm: Option | None = None
    tpm: Option | None = None
    concurrent: Option | None = None
    spend: Option | None = None
    per: Option | None = None
    """Period of the amount in `spend`, where that names none."""

    def __post_init__(self) -> None:
        self.change(0, UTC)

    @property
    def is_empty(self) -> bool:
        """Return whether no limit is named."""
        options = (self.expires, self.models, self.networks, self.rpm, self.tpm, self.concurrent, self.spend)
        return all(option is None for option in options)

    def change(self, now_ms: int, zone: Zone) -> LimitsChange:
        """Return what the options change. Raises: ValueError, which names the option and says what is right."""
        if self.spend is None and self.per is not None:
            raise ValueError("per: is the period of spend, which is missing")
        money = _option("spend", self.spend, lambda text: _spend(text, self.per))
        return LimitsChange(
            expires_at_ms=_option("expires", self.expires, lambda text: parse_end(text, now_ms, zone)),
            models=_option("models", self.models, _patterns),
            networks=_option("networks", self.networks, _networks),
            requests_per_minute=_option("rpm", self.rpm, _count),
            tokens_per_minute=_option("tpm", self.tpm, _count),
            concurrent=_option("concurrent", self.concurrent, _count),
            **({} if isinstance(money, UnsetType) else {_FIELDS[period]: limit for period, limit in money.items()}),
        )

    def change_now(self, operator: Operator) -> LimitsChange:
        """Return `change` by the operator's clock. Raises: ParameterError: what was to come when it was typed is over."""
        try:
            return self.change(operator.clock.now_ms(), operator.zone)
        except ValueError as error:
            raise ParameterError(str(error)) from None


class Limiting(Operation, frozen=True, kw_only=True):
    """An operation that changes limits of whatever a subclass with its name says."""

    changes: ClassVar = True

    async def set_limits(self, operator: Operator, change: LimitsChange) -> Answer:
        """Change the limits and return what has them, as it is shown."""
        raise NotImplementedError


class Pausing(Limiting, frozen=True, kw_only=True):
    """Refuses all calls of an account or a key until it is resumed."""

    async def run(self, operator: Operator) -> Answer:
        return await self.set_limits(operator, LimitsChange(paused_at_ms=operator.clock.now_ms()))


class Resuming(Limiting, frozen=True, kw_only=True):
    """Lets it call again."""

    async def run(self, operator: Operator) -> Answer:
        return await self.set_limits(operator, LimitsChange(paused_at_ms=None))


def _option(name: str, text: str | None, parse: Callable[[str], T]) -> T | UnsetType:
    try:
        return UNSET if text is None else parse(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _count(text: str) -> int | None:
    if text == NONE:
        return None
    if not re.fullmatch(r"[0-9]{1,13}", text) or not 0 < int(text) <= COUNT_MAX:
        raise ValueError(f"must be a whole number from 1 on, or none, not {text!r}")
    return int(text)


def _patterns(text: str) -> tuple[str, ...]:
    if text in ("", NONE):
        return ()
    patterns = tuple(pattern.strip() for pattern in text.split(","))
    if any(not pattern or first_unseen(pattern) is not None or " " in pattern for pattern in patterns) or len(patterns) > LIST_MAX:
        raise ValueError(f"must be up to {LIST_MAX} names of models with commas between them, * and ? for any letters, or none")
    return tuple(dict.fromkeys(patterns))


def _networks(text: str) -> tuple[str, ...]:
    if text == NONE:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > LIST_MAX:
        raise ValueError(f"must be {LIST_MAX} networks at most")
    return tuple(dict.fromkeys(_network(part) for part in parts))


def _network(text: str) -> str:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        try:
            meant = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise ValueError(f"{text!r} is no network such as 10.0.0.0/8 or 2001:db8::/32, nor none") from None
        raise ValueError(f"{error}: {meant} would be the network around it") from None
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):  # its addresses are compared as IPv4
        return f"{network.network_address.ipv4_mapped}/{network.prefixlen - _MAPPED.prefixlen}"
    return str(network)


def _spend(text: str, per: str | None) -> dict[Period, Nanos | None]:
    """Return the limits of ``5/day,50/month``, or of ``50`` with ``per``; ``none`` takes all away, ``none/day`` one."""
    if text == NONE and per is None:
        return dict.fromkeys(Period)
    found: dict[Period, Nanos | None] = {}
    for part in text.split(","):
        amount, slash, period = (piece.strip() for piece in part.partition("/"))
        if slash and per is not None:
            raise ValueError(f"{part.strip()!r} names its period: leave --per out")
        period = period if slash else per or ""
        if period not in set(Period):
            raise ValueError(f"an amount is for a period ({_PERIODS}), such as 5/day or 5/day,50/month, not {part.strip()!r}")
        if Period(period) in found:
            raise ValueError(f"there are two amounts a {period}")
        found[Period(period)] = None if amount == NONE else parse_yuan(amount)
        if (limit := found[Period(period)]) is not None and limit <= 0:
            raise ValueError(f"must be above 0, not {amount}: nothing could pass; to stop a key, pause it")
    return found
