"""Days and months at a fixed offset from UTC, against the standard library's calendar."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.days import CHINA, Zone, date_of, month_of
from proxy.core.limits import Period

_MINUTES = st.integers(-14 * 60, 14 * 60)
_MOMENTS = st.integers(0, 4_102_444_800_000)  # 2100


@given(_MINUTES, _MOMENTS)
def test_a_moment_lies_in_the_day_that_the_calendar_says(minutes: int, at_ms: int) -> None:
    zone = Zone(minutes)
    day = zone.day(at_ms)
    local = datetime.fromtimestamp(at_ms // 1000, timezone(timedelta(minutes=minutes)))
    assert date_of(day) == local.date()
    assert zone.begins_ms(day) <= at_ms < zone.begins_ms(day + 1)
    assert zone.ends_ms(Period.DAY, at_ms) == zone.begins_ms(day + 1)
    first, following = month_of(day)
    assert date_of(first) == local.date().replace(day=1)
    assert date_of(following).day == 1
    assert first <= day < following <= first + 31
    assert zone.ends_ms(Period.MONTH, at_ms) == zone.begins_ms(following)
    assert zone.ends_ms(Period.TOTAL, at_ms) is None


def test_a_day_in_china_begins_at_16_o_clock_utc() -> None:
    midnight = round(datetime(2026, 11, 30, 16, tzinfo=UTC).timestamp() * 1000)
    assert date_of(CHINA.day(midnight - 1)).isoformat() == "2026-11-30"
    assert date_of(CHINA.day(midnight)).isoformat() == "2026-12-01"
    assert CHINA.ends_ms(Period.MONTH, midnight - 1) == midnight


@pytest.mark.parametrize("text", ["+08:00", "-03:30", "+00:00", "+14:00", "-12:00"])
def test_an_offset_is_written_as_it_was_read(text: str) -> None:
    assert str(Zone.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "8", "+8", "+08", "08:00", "+08:60", "+14:01", "+99:00", "Asia/Shanghai", "UTC", "+08:00 ", "+０８:00"]
)
def test_what_is_no_offset_is_refused_with_what_is_right(text: str) -> None:
    with pytest.raises(ValueError, match=r'an offset from UTC such as "\+08:00"'):
        Zone.parse(text)
