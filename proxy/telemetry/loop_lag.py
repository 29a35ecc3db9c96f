"""Lag of the event loop: the wait that every request and every chunk has in common.

A timer runs each tenth of a second, and its delay is measured. A stop of the loop longer than that cannot be missed; a shorter one is
met in proportion to its length.
"""

import asyncio
from collections.abc import Callable

from proxy.clock import Clock

EVERY_SECONDS = 0.1


class LoopLag:
    """A measurement that calls ``tell`` with the running loop's lag, in seconds, until `close`."""

    def __init__(self, clock: Clock, tell: Callable[[float], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._tell = tell
        self._wait()

    def close(self) -> None:
        self._timer.cancel()

    def _wait(self) -> None:
        # By our own clock: the loop's stands still while the loop does, so by that clock no timer of a turn is ever late.
        self._due_at = self._clock.monotonic() + EVERY_SECONDS
        self._timer = self._loop.call_later(EVERY_SECONDS, self._look)

    def _look(self) -> None:
        self._tell(max(0.0, self._clock.monotonic() - self._due_at))
        self._wait()
