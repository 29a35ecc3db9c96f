"""How long requests are kept, and what is left of one that is not: whole UTC days, in unix milliseconds. Pure."""

from dataclasses import dataclass

from proxy.core.money import Nanos

DAY_MS = 86_400_000

REQUEST_DAYS_MIN = 8
"""Ark remembers a video task for seven days, and for six hours more a lost submit is looked for among those that are known: no task
younger than that may be forgotten. An idempotency key lives for one day."""

REQUEST_DAYS_MAX = 36_500


@dataclass(frozen=True, slots=True)
class FoldedRequest:
    """What the ledger knows of a request that is part of a daily sum now."""

    id: str
    account_id: int
    account: str
    day_ms: int
    """The beginning of its UTC day."""
    hold_nanos: Nanos
    charge_nanos: Nanos


def keep_from_ms(now_ms: int, days: int) -> int:
    """Return the beginning of the oldest UTC day that is kept: of ``days`` whole days and the one that goes on.

    Raises: ValueError: fewer than `REQUEST_DAYS_MIN`.
    """
    if days < REQUEST_DAYS_MIN:
        raise ValueError(f"at least {REQUEST_DAYS_MIN} days are kept: a video may still be asked for after a week, not {days}")
    return (now_ms // DAY_MS - days) * DAY_MS
