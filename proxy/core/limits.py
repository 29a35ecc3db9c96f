"""Limits of keys and accounts, as values. Amounts are nano-yuan, times unix milliseconds."""

from enum import StrEnum

from msgspec import Struct

from proxy.core.money import Nanos


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
