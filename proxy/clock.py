"""Time, passed in: wall time for people and receipts, monotonic time for durations."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now_ms(self) -> int:
        """Return unix time in milliseconds."""

    def monotonic(self) -> float:
        """Return seconds that never run backwards."""


class SystemClock:
    __slots__ = ()

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()


def iso(at_ms: int) -> str:
    """Return ISO-8601 with milliseconds and Z, as the published API writes times: ``2024-03-10T08:00:00.000Z``."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
