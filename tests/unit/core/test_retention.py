"""How long requests are kept: whole days of the ledger's zone."""

import pytest

from proxy.core.days import CHINA, UTC, Zone
from proxy.core.retention import DAY_MS, keep_from_ms

MIDNIGHT_MS = 1_763_942_400_000
"""2025-11-24T00:00:00Z."""


@pytest.mark.parametrize(
    ("zone", "begins_ms"), [(UTC, MIDNIGHT_MS), (CHINA, MIDNIGHT_MS - 8 * 3_600_000), (Zone(-90), MIDNIGHT_MS + 5_400_000)]
)
def test_days_are_kept_whole_to_the_millisecond(zone: Zone, begins_ms: int) -> None:
    assert keep_from_ms(begins_ms - 1, 30, zone) == begins_ms - 31 * DAY_MS
    assert keep_from_ms(begins_ms, 30, zone) == begins_ms - 30 * DAY_MS
    assert keep_from_ms(begins_ms + DAY_MS - 1, 30, zone) == begins_ms - 30 * DAY_MS
