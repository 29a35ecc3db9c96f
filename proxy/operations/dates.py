"""Moments as people type them: a date, an ISO-8601 time, or an age. Without an offset they are by the ledger's clock."""

import re
from datetime import UTC, datetime, timedelta, timezone

from proxy.core.days import Zone

_AGO = re.compile(r"([0-9]{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_MILLISECOND = timedelta(milliseconds=1)


def parse_moment(text: str, now_ms: int, zone: Zone) -> int:
    """Return unix milliseconds of ``2026-11-23`` (its first instant), ``2026-11-23T08:00:00+08:00``, or ``7d``, ``24h``, ``30m`` ago.

    Args: zone: whose clock counts where the text has no offset.

    Raises:
        ValueError: none of these, or before 1971.
    """
    if ago := _AGO.fullmatch(text):
        return max(0, now_ms - timedelta(**{_UNITS[ago[2]]: int(ago[1])}) // _MILLISECOND)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no date (2026-11-23), no time (2026-11-23T08:00:00Z) and no age (7d, 24h, 30m)") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone(timedelta(minutes=zone.minutes)))
    if not 1971 <= moment.year < 9999:  # years that `iso` can write, in any zone
        raise ValueError(f"{text!r} is out of range")
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // _MILLISECOND
