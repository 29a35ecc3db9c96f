"""Parsing of times as people type them."""

import pytest

from proxy.core.days import CHINA, UTC, Zone
from proxy.operations.dates import parse_moment

NOW_MS = 1_764_000_000_000
"""2025-11-24T16:00:00Z: the first moment of 2025-11-25 in China."""
DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("2025-11-24", 1_763_942_400_000),  # NOW is 16:00 of that day: 57,600 s after its midnight
        ("2025-11-24T16:00:00Z", NOW_MS),
        ("2025-11-24T16:00:00", NOW_MS),
        ("2025-11-25T00:00:00+08:00", NOW_MS),
        ("2025-11-24T16:00:00.250Z", NOW_MS + 250),
        ("7d", NOW_MS - 7 * DAY_MS),
        ("24h", NOW_MS - DAY_MS),
        ("2w", NOW_MS - 14 * DAY_MS),
        ("30m", NOW_MS - 1_800_000),
        ("5s", NOW_MS - 5_000),
        ("999999w", 0),
    ],
)
def test_a_date_a_time_and_an_age_are_understood(text: str, at_ms: int) -> None:
    assert parse_moment(text, NOW_MS, UTC) == at_ms


@pytest.mark.parametrize(
    ("text", "zone", "at_ms"),
    [
        ("2025-11-25", CHINA, NOW_MS),
        ("2025-11-25T00:00:00.001", CHINA, NOW_MS + 1),
        ("2025-11-24T23:59:59.999", CHINA, NOW_MS - 1),
        ("2025-11-24T16:00:00Z", CHINA, NOW_MS),
        ("2025-11-24T10:30:00+05:30", CHINA, NOW_MS - 11 * 3_600_000),
        ("2025-11-24", Zone.parse("-03:30"), NOW_MS - 16 * 3_600_000 + 3 * 3_600_000 + 1_800_000),
        ("1d", CHINA, NOW_MS - DAY_MS),
    ],
)
def test_what_names_no_offset_is_by_the_ledgers_clock(text: str, zone: Zone, at_ms: int) -> None:
    assert parse_moment(text, NOW_MS, zone) == at_ms


@pytest.mark.parametrize("text", ["", "yesterday", "7", "7x", "-7d", "7 d", "2025-13-01", "0001-01-01", "9999-12-31T23:59:59-23:00"])
def test_anything_else_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text!r} is "):
        parse_moment(text, NOW_MS, CHINA)
