"""Rate limits for calls: turns in order of arrival, evenly spaced, never in bursts. Urgent calls have a queue of their own."""

import asyncio
from contextlib import suppress
from math import inf

from proxy.clock import Clock


class Rate:
    """Turns of one kind of call to one upstream. At a rate of 0 there is none until it is limited anew.

    The spacing counts from the last turn taken. Turns missed during a stall of the loop are lost, not saved up, so no burst follows.
    """

    def __init__(self, per_second: float, clock: Clock) -> None:
        self._spacing_seconds = _spacing(per_second)
        self._clock = clock
        self._line = asyncio.Lock()
        self._urgent_line = asyncio.Lock()
        self._turn = asyncio.Lock()
        self._taken_at = -inf
        self._is_limited_anew = asyncio.Event()

    def limit(self, per_second: float) -> None:
        """Change the spacing, also for calls that already wait: the correction of a rate set far too low takes effect at once."""
        self._spacing_seconds = _spacing(per_second)
        self._is_limited_anew.set()

    async def turn(self, *, urgent: bool = False) -> None:
        """Wait for a turn. Urgent calls, which a customer waits for, and others alternate while both wait."""
        async with self._urgent_line if urgent else self._line:
            await self._take()

    async def _take(self) -> None:
        # Only the first of each queue waits here, first come first served, so neither queue can starve the other.
        async with self._turn:
            while (wait_seconds := self._wait_seconds()) > 0:
                self._is_limited_anew.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if wait_seconds == inf else wait_seconds):
                        await self._is_limited_anew.wait()
            self._taken_at = self._clock.monotonic()

    def _wait_seconds(self) -> float:
        if self._spacing_seconds == inf:
            return inf
        return self._taken_at + self._spacing_seconds - self._clock.monotonic()


def _spacing(per_second: float) -> float:
    return 1 / per_second if per_second else inf
