"""So many calls a second and no more: turns in the order of asking, evenly spaced, never in bursts. Urgent calls queue apart."""

import asyncio

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
        self._next_at = 0.0

    def limit(self, per_second: float) -> None:
        """Space turns anew, from the next one taken."""
        self._spacing_seconds = 1 / per_second

    async def turn(self, *, urgent: bool = False) -> None:
        """Wait for a turn. While both wait, an urgent call, one that a customer waits for, and another take turns."""
        async with self._urgent_line if urgent else self._line:
            await self._take()

    async def _take(self) -> None:
        # Only the heads of the two lines meet here, first come first served: so neither line can starve the other.
        async with self._turn:
            wait_seconds = self._next_at - self._clock.monotonic()
            if wait_seconds > 0:
                await asyncio.sleep(wait_seconds)
            self._next_at = self._clock.monotonic() + self._spacing_seconds
