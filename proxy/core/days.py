"""Days and months of the ledger: whole days since 1970-01-01 at a fixed offset from UTC (``billing.time_zone``). Pure."""

import re
from datetime import date, timedelta

from msgspec import Struct

from proxy.core.limits import Period

DAY_MS = 86_400_000
_MINUTE_MS = 60_000
_EPOCH = date(1970, 1, 1)
_OFFSET = re.compile(r"([+-])([0-9]{2}):([0-9]{2})")
_OFFSET_MINUTES_MAX = 14 * 60
"""The clocks of the world lie between UTC-12 and UTC+14 (IANA time zone database)."""


class Zone(Struct, frozen=True):
    """A fixed offset from UTC. China has one for the whole country, and none that changes with the season."""

    minutes: int
    """Minutes east of UTC."""

    @classmethod
    def parse(cls, text: str) -> "Zone":
        """Return the zone of ``+08:00``. Raises: ValueError."""
        found = _OFFSET.fullmatch(text)
        minutes = 60 * int(found[2]) + int(found[3]) if found else 0
        if found is None or int(found[3]) > 59 or minutes > _OFFSET_MINUTES_MAX:
            raise ValueError(f'must be an offset from UTC such as "+08:00", up to 14 hours, not "{text}"')
        return cls(-minutes if found[1] == "-" else minutes)

    def __str__(self) -> str:
        hours, minutes = divmod(abs(self.minutes), 60)
        return f"{'-' if self.minutes < 0 else '+'}{hours:02}:{minutes:02}"

    def day(self, at_ms: int) -> int:
        """Return the day of a moment."""
        return (at_ms + self.minutes * _MINUTE_MS) // DAY_MS

    def begins_ms(self, day: int) -> int:
        """Return the first moment of a day."""
        return day * DAY_MS - self.minutes * _MINUTE_MS

    def ends_ms(self, period: Period, at_ms: int) -> int | None:
        """Return the first moment after the period that ``at_ms`` lies in; None: it never ends."""
        match period:
            case Period.DAY:
                return self.begins_ms(self.day(at_ms) + 1)
            case Period.MONTH:
                return self.begins_ms(month_of(self.day(at_ms))[1])
            case Period.TOTAL:
                return None


def month_of(day: int) -> tuple[int, int]:
    """Return the first day of a day's month, and the first of the next."""
    first = date_of(day).replace(day=1)
    following = (first + timedelta(days=31)).replace(day=1)
    return (first - _EPOCH).days, (following - _EPOCH).days


def date_of(day: int) -> date:
    """Return the calendar's date of a day."""
    return _EPOCH + timedelta(days=day)


UTC = Zone(0)
CHINA = Zone(480)
"""China's time, UTC+8: the default."""
