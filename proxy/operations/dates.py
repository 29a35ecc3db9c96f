"""Moments as people type them: a date, an ISO-8601 time, or an age. Without an offset they are by the ledger's clock."""

import re
from datetime import UTC, date, datetime, timedelta, timezone

from proxy.core.days import Zone

_AGO = re.compile(r"([0-9]{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_MILLISECOND = timedelta(milliseconds=1)
_LATEST_MS = 253_000_000_000_000
"""In the year 9987: `iso` can write it in any zone."""
_SPAN_MAX = timedelta(days=36_500)


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


def parse_end(text: str, now_ms: int, zone: Zone) -> int | None:
    """Return when something ends, in unix milliseconds: ``90d`` from now, the end of the day ``2027-01-31``, a time; None: ``never``.

    Raises:
        ValueError: none of these, or over already.
    """
    if text in ("never", "none"):
        return None
    if _AGO.fullmatch(text):
        end_ms = now_ms + parse_span(text)
    else:
        try:
            day = date.fromisoformat(text)
        except ValueError:
            day = None
        try:
            end_ms = parse_moment(text, now_ms, zone)
        except ValueError:
            raise ValueError(
                f"{text!r} is no date (2027-01-31), no time (2027-01-31T12:00+08:00), no span (90d, 12h), nor never"
            ) from None
        if day is not None:
            end_ms = zone.begins_ms(zone.day(end_ms) + 1)
    if end_ms > _LATEST_MS:
        raise ValueError(f"{text!r} is out of range: say never")
    if end_ms <= now_ms:
        raise ValueError(f"{text!r} is over already: name a day or a time to come")
    return end_ms


def parse_span(text: str) -> int:
    """Return the milliseconds of ``24h``, ``30m``, ``7d``, or ``0``. Raises: ValueError."""
    if text == "0":
        return 0
    if (found := _AGO.fullmatch(text)) is None:
        raise ValueError(f"{text!r} is no span of time, such as 24h, 30m or 7d")
    span = timedelta(**{_UNITS[found[2]]: int(found[1])})
    if span > _SPAN_MAX:
        raise ValueError(f"{text!r} is more than a hundred years")
    return span // _MILLISECOND
