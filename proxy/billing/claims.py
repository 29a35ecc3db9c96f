"""Idempotency keys whose first call runs on another gateway: whoever waits for one here is told once it is answered or given back.

However many wait, one query a round asks for all their keys. It is asked soon after a wait begins, and less often the longer it lasts.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from proxy.store.contract import Ledger
from proxy.store.errors import StoreError

logger = logging.getLogger(__name__)

ROUND_SECONDS_FIRST = 0.05
ROUND_SECONDS_MAX = 0.5

Place = tuple[int, str]
"""An account's id, and the key."""


class ClaimsElsewhere:
    """Watches keys in the store for those who wait. `run` does, for as long as the gateway lives."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: dict[Place, set[asyncio.Event]] = {}
        self._is_new = asyncio.Event()

    @contextmanager
    def watching(self, place: Place) -> Iterator[asyncio.Event]:
        """Return an event that is set once the key is answered, or free."""
        ended = asyncio.Event()
        self._waiting.setdefault(place, set()).add(ended)
        self._is_new.set()
        try:
            yield ended
        finally:
            waiting = self._waiting[place]
            waiting.remove(ended)
            if not waiting:
                del self._waiting[place]

    async def run(self) -> None:
        """Ask the store round after round while somebody waits, for ever."""
        seconds = ROUND_SECONDS_FIRST
        while True:
            if not self._waiting:
                await self._is_new.wait()
            if self._is_new.is_set():
                self._is_new.clear()
                seconds = ROUND_SECONDS_FIRST
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._is_new.wait()
            seconds = min(seconds * 2, ROUND_SECONDS_MAX)
            await self._ask()

    async def _ask(self) -> None:
        asked = list(self._waiting)
        try:
            under_way = await self._ledger.claims_under_way(asked) if asked else set()
        except StoreError as fault:  # they wait on
            logger.warning("whether %d idempotency keys are answered could not be read: %s", len(asked), fault)
            return
        for place in set(asked) - under_way:
            for ended in self._waiting.get(place, ()):
                ended.set()
