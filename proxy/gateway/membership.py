"""A gateway among others of its store: tells of itself for `llm-proxy nodes`, and leaves where an operator asks it to."""

import logging
from collections.abc import Sequence

from proxy.config import Config
from proxy.config.digest import digest
from proxy.gateway.shutdown import StopSignal
from proxy.live.settings import Live
from proxy.store.errors import StoreUnavailableError
from proxy.store.peers import Introduction, Peers

logger = logging.getLogger(__name__)


class Membership:
    """Keeps what is told up to date, at each look at the others."""

    def __init__(self, peers: Peers, live: Live, stop: StopSignal, addresses: Sequence[str]) -> None:
        self._peers = peers
        self._live = live
        self._stop = stop
        self._address = " ".join(addresses)
        self._digested: tuple[Config | None, str] = (None, "")

    async def run(self) -> None:
        """Tell, and heed, for ever."""
        told = None
        while True:
            if self._peers.is_asked_to_leave and not self._stop.requested.is_set():
                logger.info("an operator asks this gateway to leave (llm-proxy nodes drain %d)", self._peers.node)
                self._stop.leave()
            introduction = Introduction(self._address, self._settings(), self._stop.requested.is_set())
            if introduction != told:
                try:
                    await self._peers.introduce(introduction)
                    told = introduction
                except StoreUnavailableError as fault:  # told again at the next look
                    logger.warning("the others could not be told of this gateway: %s", fault)
            await self._peers.looked()

    def _settings(self) -> str:
        """Return the digest of the configuration in force, worked out once for each."""
        config = self._live.now.config
        if self._digested[0] is not config:
            self._digested = config, digest(config)
        return self._digested[1]
