"""A measure of how late the event loop runs on a busy machine. A test may subtract it from a measured time."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from proxy.tasks import TaskGroup

STEP_SECONDS = 0.005


@dataclass
class Lateness:
    """Delay of a sleeper's wake-ups, in total and at worst. An idle loop is never late."""

    seconds: float = 0.0
    worst_seconds: float = 0.0


@asynccontextmanager
async def lateness() -> AsyncIterator[Lateness]:
    """Measure lateness while the context lasts."""
    measured, tasks = Lateness(), TaskGroup("lateness")
    sleeper = tasks.spawn(_sleep_on(measured), "sleeper")
    try:
        yield measured
    finally:
        sleeper.cancel()
        with suppress(asyncio.CancelledError):
            await sleeper


async def _sleep_on(measured: Lateness) -> None:
    while True:
        asleep_at = time.monotonic()
        await asyncio.sleep(STEP_SECONDS)
        late_seconds = time.monotonic() - asleep_at - STEP_SECONDS
        measured.seconds += late_seconds
        measured.worst_seconds = max(measured.worst_seconds, late_seconds)
