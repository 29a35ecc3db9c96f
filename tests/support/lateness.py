"""How late a loop is on a machine that does other things too: what a test may take off the time that something took."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from proxy.tasks import TaskGroup

STEP_SECONDS = 0.005


@dataclass
class Lateness:
    """How much later than asked for a sleeper woke up, all in all and at worst. A loop that has nothing to do is never late."""

    seconds: float = 0.0
    worst_seconds: float = 0.0


@asynccontextmanager
async def lateness() -> AsyncIterator[Lateness]:
    """Measure it for as long as the context lasts."""
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
