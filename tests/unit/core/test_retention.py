"""How long requests are kept: whole UTC days."""

from proxy.core.retention import DAY_MS, keep_from_ms

MIDNIGHT_MS = 1_763_942_400_000
"""2025-11-24T00:00:00Z."""


def test_days_are_kept_whole() -> None:
    assert keep_from_ms(MIDNIGHT_MS, 30) == MIDNIGHT_MS - 30 * DAY_MS
    assert keep_from_ms(MIDNIGHT_MS + DAY_MS - 1, 30) == MIDNIGHT_MS - 30 * DAY_MS
