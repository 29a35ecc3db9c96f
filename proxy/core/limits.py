"""Limits of keys and accounts, as values. Amounts are nano-yuan, times unix milliseconds."""

from enum import StrEnum
from typing import TypeVar

from msgspec import UNSET, Struct, UnsetType

from proxy.core.money import Nanos

T = TypeVar("T")


class Period(StrEnum):
    """Period of a money limit, by the clock of the ledger's time zone."""

    DAY = "day"
    MONTH = "month"
    TOTAL = "total"


class SpendLimits(Struct, frozen=True):
    """The most that may be spent and held of each period's requests; None: no limit."""

    day: Nanos | None = None
    month: Nanos | None = None
    total: Nanos | None = None

    def __bool__(self) -> bool:
        return not (self.day is None and self.month is None and self.total is None)


NO_SPEND_LIMITS = SpendLimits()


class Limits(Struct, frozen=True):
    """What one account, or one key with all of its secrets, may do. None and empty: no limit."""

    expires_at_ms: int | None = None
    paused_at_ms: int | None = None
    """When a key was paused, or an account suspended."""
    models: tuple[str, ...] = ()
    """Shell patterns of model ids; case counts."""
    networks: tuple[str, ...] = ()
    """Networks that may call, in CIDR notation."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None
    spend: SpendLimits = NO_SPEND_LIMITS


NO_LIMITS = Limits()


class LimitsChange(Struct, frozen=True):
    """Change of `Limits`, field by field: `UNSET` leaves one as it is, None or an empty tuple takes it away.

    Each period's money is a field of its own, so that a new daily limit never takes the monthly one away unasked.
    """

    expires_at_ms: int | UnsetType | None = UNSET
    paused_at_ms: int | UnsetType | None = UNSET
    models: tuple[str, ...] | UnsetType = UNSET
    networks: tuple[str, ...] | UnsetType = UNSET
    requests_per_minute: int | UnsetType | None = UNSET
    tokens_per_minute: int | UnsetType | None = UNSET
    concurrent: int | UnsetType | None = UNSET
    day_nanos: Nanos | UnsetType | None = UNSET
    month_nanos: Nanos | UnsetType | None = UNSET
    total_nanos: Nanos | UnsetType | None = UNSET

    @property
    def limits_money(self) -> bool:
        """Return whether it sets a money limit, rather than taking some away or leaving them."""
        return any(isinstance(limit, int) for limit in (self.day_nanos, self.month_nanos, self.total_nanos))

    def of(self, limits: Limits) -> Limits:
        """Return the limits as they are after the change. What is paused already keeps the time since when it is."""
        paused_at_ms = _or(self.paused_at_ms, limits.paused_at_ms)
        if paused_at_ms is not None and limits.paused_at_ms is not None:
            paused_at_ms = limits.paused_at_ms
        return Limits(
            expires_at_ms=_or(self.expires_at_ms, limits.expires_at_ms),
            paused_at_ms=paused_at_ms,
            models=_or(self.models, limits.models),
            networks=_or(self.networks, limits.networks),
            requests_per_minute=_or(self.requests_per_minute, limits.requests_per_minute),
            tokens_per_minute=_or(self.tokens_per_minute, limits.tokens_per_minute),
            concurrent=_or(self.concurrent, limits.concurrent),
            spend=SpendLimits(
                day=_or(self.day_nanos, limits.spend.day),
                month=_or(self.month_nanos, limits.spend.month),
                total=_or(self.total_nanos, limits.spend.total),
            ),
        )


def _or(changed: T | UnsetType, before: T) -> T:
    return before if isinstance(changed, UnsetType) else changed
