"""So many calls a second and no more: turns in the order of asking, evenly spaced, never in bursts. Urgent calls queue apart."""

import asyncio
from contextlib import suppress
from math import inf

from proxy.clock import Clock


class Rate:
    """Turns of one kind of call to one upstream.

    Spaced from one turn taken to the next, so that turns that could not be taken in time are lost, not saved up: after a stall of the
    loop there is no burst.
    """

    def __init__(self, per_second: float, clock: Clock) -> None:
        self._spacing_seconds = 1 / per_second
        self._clock = clock
        self._line = asyncio.Lock()
        self._urgent_line = asyncio.Lock()
        self._turn = asyncio.Lock()
        self._taken_at = -inf
        self._is_limited_anew = asyncio.Event()

    def limit(self, per_second: float) -> None:
        """Space turns anew, also for who waits already: a pace that was set far too slow is over once it is mended."""
        self._spacing_seconds = 1 / per_second
        self._is_limited_anew.set()

    async def turn(self, *, urgent: bool = False) -> None:
        """Wait for a turn. While both wait, an urgent call, one that a customer waits for, and another take turns."""
        async with self._urgent_line if urgent else self._line:
            await self._take()

    async def _take(self) -> None:
        # Only the heads of the two lines meet here, first come first served: so neither line can starve the other.
        async with self._turn:
            while (wait_seconds := self._taken_at + self._spacing_seconds - self._clock.monotonic()) > 0:
                self._is_limited_anew.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_seconds):
                        await self._is_limited_anew.wait()
            self._taken_at = self._clock.monotonic()
