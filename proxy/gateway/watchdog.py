"""Watchdog beats for systemd: one is sent only when every part that must not hang has had a turn since the last one.

Running this proves that the loop works. The other parts take their turns where they work (the store's writer on its thread, the
scheduler in its look at what is due), so that no beat is sent for a part that hangs. A request pays nothing.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from proxy.tasks import TaskGroup

logger = logging.getLogger(__name__)

BEATS_A_PERIOD = 3
"""One may be late, and one lost, before systemd acts."""


class Watchdog:
    """Beats from `start` until `close`. ``parts`` are asked for a turn each, by name; ``beat`` tells systemd."""

    def __init__(self, period_seconds: float, parts: Mapping[str, Callable[[], Awaitable[None]]], beat: Callable[[], object]) -> None:
        self._interval_seconds = period_seconds / BEATS_A_PERIOD
        self._parts = parts
        self._beat = beat
        self._tasks = TaskGroup("watchdog")

    def start(self) -> None:
        self._tasks.spawn(self._run(), "beats")

    async def close(self) -> None:
        await self._tasks.cancel()

    async def _run(self) -> None:
        while True:
            turns = [self._tasks.spawn(self._turn(name, part), name) for name, part in self._parts.items()]
            await asyncio.gather(*turns)
            self._beat()
            await asyncio.sleep(self._interval_seconds)

    async def _turn(self, name: str, part: Callable[[], Awaitable[None]]) -> None:
        """Return once a part has had its turn. A late one is named in the log, once, however long it hangs."""
        late = asyncio.get_running_loop().call_later(self._interval_seconds, self._complain, name)
        try:
            await part()
        finally:
            late.cancel()

    def _complain(self, name: str) -> None:
        logger.error("no sign of life of %s for %g s: without one systemd will restart the gateway", name, self._interval_seconds)
