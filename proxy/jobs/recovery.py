"""Takes up what dead nodes left, where several processes write to one store: as soon as this node hears of a death.

Every node does so, each step is safe to repeat and to run beside the same one elsewhere, so this node may die in the midst of it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from proxy.store.errors import StoreError
from proxy.store.peers import Peers

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 60.0
"""Longest time between two looks at what the dead left, whether or not a death was heard of."""


class Recovery:
    """Runs steps, such as `Billing.recover`, each of which returns how much it has taken up."""

    def __init__(self, peers: Peers, steps: Mapping[str, Callable[[], Awaitable[int]]]) -> None:
        """Args: steps: by what they do, for the log."""
        self._peers = peers
        self._steps = steps

    async def run(self) -> None:
        """Take up what is left, and again after each death, for ever."""
        loop = asyncio.get_running_loop()
        known, swept_at = frozenset[int](), float("-inf")
        while True:
            living = self._peers.living
            if known - living or loop.time() - swept_at >= SWEEP_SECONDS:
                swept_at = loop.time() if await self.take_up() else float("-inf")
            known = living
            await self._peers.looked()

    async def take_up(self) -> bool:
        """Run each step; return whether all of them could."""
        try:
            for what, step in self._steps.items():
                if count := await step():
                    logger.warning("%s: %d that a dead gateway left", what, count)
        except StoreError as fault:
            logger.warning("what a dead gateway left waits for the store: %s", fault)
            return False
        return True
