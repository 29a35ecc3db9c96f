"""`LiveKeys` where several processes write to one store: follows the changes that any of them makes, and says how far it has come.

A change counts here once `saw_keys` has told so, which an operator's command waits for. Where it is not known for some seconds whether
there is a newer one, nobody is let in: a revoked key may be among those that are known. What is paid for is checked again by the store,
in the hold's transaction.
"""

import logging
from collections.abc import Callable
from types import MappingProxyType

from proxy.clock import Clock
from proxy.core.errors import ModelUnavailableError
from proxy.core.shares import NONE, Share, share_of
from proxy.live.keys import LiveKeys
from proxy.store.contract import Accounts
from proxy.store.errors import StoreError
from proxy.store.peers import Peers
from proxy.store.values import Grant

logger = logging.getLogger(__name__)

OLD_SECONDS = 5.0
"""Above it the keys are not gone by any more."""


class SharedKeys(LiveKeys):
    """The grant of each key, as the newest change of any node has it."""

    def __init__(
        self, accounts: Accounts, clock: Clock, peers: Peers, anonymous: Grant | None, on_share: Callable[[Share], None]
    ) -> None:
        """Args: on_share: called with this gateway's share of what is limited for all, at first and whenever that changes."""
        self.peers = peers
        self._on_share = on_share
        self._view: tuple[object, ...] = ()
        """Who the limits are shared out among, as they are in force."""
        self._known_anonymous: Grant | None = None
        super().__init__(accounts, clock, anonymous)

    def authenticate(self, credential: bytes) -> Grant | None:
        """Raises: ModelUnavailableError: the keys may have changed since they were read."""
        self._refuse_old()
        return super().authenticate(credential)

    @property
    def anonymous(self) -> Grant | None:
        """The grant of all calls, if no key is needed. Raises: ModelUnavailableError: as `authenticate`."""
        if self._known_anonymous is not None:
            self._refuse_old()
        return self._known_anonymous

    @anonymous.setter
    def anonymous(self, grant: Grant | None) -> None:
        self._known_anonymous = grant

    async def refresh(self) -> None:
        """Read the live keys again, and tell the others which version they are of, at least."""
        version = self.peers.keys_version
        await super().refresh()
        self.peers.saw_keys(version)

    async def follow(self) -> None:
        """Read them again whenever any node has changed them, for ever."""
        seen = 0
        while True:
            version = self.peers.keys_version
            if version > seen:
                try:
                    await self.refresh()
                    seen = version
                except StoreError as fault:  # it is tried again at the next look
                    logger.warning("the keys could not be read again: %s", fault)
            self._share_out()
            await self.peers.looked()

    def share(self, salt: int) -> Share:
        """Return this gateway's share of limits; none before every other gateway counts it."""
        return share_of(self.peers.node, self.peers.serving, salt) if self.peers.is_counted else NONE

    def _share_out(self) -> None:
        """Put the limits in force again, if gateways have come or gone."""
        view = (self.peers.serving, self.peers.is_counted)
        if view != self._view:
            self._view = view
            self.bounds = MappingProxyType({})  # each is made again, with what its share is now
            self._put_in_force(self._grants, self._known_anonymous)
            self._on_share(self.share(0))
            self.peers.saw_nodes(self.peers.serving)

    def _refuse_old(self) -> None:
        seconds = self.peers.keys_seconds
        if seconds > OLD_SECONDS:
            logger.warning("nobody is let in: whether the keys have changed was last known %.1f s ago", seconds)
            raise ModelUnavailableError("The gateway cannot take requests just now", retry_after_seconds=2)
