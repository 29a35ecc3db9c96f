"""How long requests are kept: whole UTC days, in unix milliseconds. Pure."""

DAY_MS = 86_400_000

REQUEST_DAYS_MIN = 8
"""Ark remembers a video task for seven days, and for six hours more a lost submit is looked for among those that are known: no task
younger than that may be forgotten. An idempotency key lives for one day."""

REQUEST_DAYS_MAX = 36_500


def keep_from_ms(now_ms: int, days: int) -> int:
    """Return the beginning of the oldest UTC day that is kept: of ``days`` whole days and the one that goes on.

    Raises: ValueError: fewer than `REQUEST_DAYS_MIN`.
    """
    if days < REQUEST_DAYS_MIN:
        raise ValueError(f"at least {REQUEST_DAYS_MIN} days are kept: a video may still be asked for after a week, not {days}")
    return (now_ms // DAY_MS - days) * DAY_MS
