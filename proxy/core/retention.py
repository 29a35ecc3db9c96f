"""Retention of requests in whole days of the ledger's zone, and the rest of a folded request. Times are unix milliseconds. Pure."""

from dataclasses import dataclass

from proxy.core.days import Zone
from proxy.core.money import Nanos

DAY_MS = 86_400_000

REQUEST_DAYS_MIN = 8
"""Ark keeps a video task for seven days, and a lost submit is compared with the known tasks for six hours more: no younger task may be
deleted. An idempotency key lives for one day."""

REQUEST_DAYS_MAX = 36_500

_NOTHING = Nanos(0)


@dataclass(frozen=True, slots=True)
class FoldedRequest:
    """A request that is now part of a daily sum, as the ledger keeps it."""

    id: str
    account_id: int
    account: str
    day_ms: int
    """Start of its day."""
    hold_nanos: Nanos
    charge_nanos: Nanos
    refunded_nanos: Nanos = _NOTHING
    """What of the charge has been given back since."""


def keep_from_ms(now_ms: int, days: int, zone: Zone) -> int:
    """Return the start of the oldest day that is kept: ``days`` whole days before the current one.

    Raises: ValueError: fewer than `REQUEST_DAYS_MIN`.
    """
    if days < REQUEST_DAYS_MIN:
        raise ValueError(f"at least {REQUEST_DAYS_MIN} days are kept: a video may still be asked for after a week, not {days}")
    return zone.begins_ms(zone.day(now_ms) - days)
