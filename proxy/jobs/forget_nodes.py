"""Forgets gateways and commands that are long dead, of which nothing is open any more, where many share a store."""

import logging

from proxy.store.peers import FORGET_NODES_MAX, Peers

logger = logging.getLogger(__name__)

EVERY_SECONDS = 3_600.0


class ForgetNodes:
    """Forgets dead nodes, a batch at a time. Their ids are never given again."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    async def __call__(self) -> None:
        forgotten = 0
        while batch := await self._peers.forget_dead():
            forgotten += batch
            if batch < FORGET_NODES_MAX:
                break
        if forgotten:
            logger.info("forgot %d nodes that were dead for a day", forgotten)
