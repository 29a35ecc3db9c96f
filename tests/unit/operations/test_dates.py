"""Parsing of times as people type them."""

import pytest

from proxy.operations.dates import parse_moment

NOW_MS = 1_764_000_000_000
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
    assert parse_moment(text, NOW_MS) == at_ms


@pytest.mark.parametrize("text", ["", "yesterday", "7", "7x", "-7d", "7 d", "2025-13-01", "0001-01-01", "9999-12-31T23:59:59-23:00"])
def test_anything_else_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text!r} is "):
        parse_moment(text, NOW_MS)
