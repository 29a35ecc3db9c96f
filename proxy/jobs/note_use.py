"""Keeps when keys were last used: noted in memory with each settlement, written once a minute and at the end."""

import logging

from proxy.store.contract import Accounts
from proxy.store.errors import StoreError

logger = logging.getLogger(__name__)

EVERY_SECONDS = 60.0


class NoteUse:
    """Writes what was noted since the last time.

    ``used_at_ms`` are unix milliseconds by the key's id; what is written is taken out of it.
    """

    def __init__(self, accounts: Accounts, used_at_ms: dict[str, int]) -> None:
        self._accounts = accounts
        self._used_at_ms = used_at_ms

    async def __call__(self) -> None:
        """Raises: StoreError: what was noted is kept for the next time."""
        if not self._used_at_ms:
            return
        taken = dict(self._used_at_ms)
        self._used_at_ms.clear()
        try:
            await self._accounts.note_use(taken)
        except StoreError:
            for key_id, at_ms in taken.items():
                self._used_at_ms.setdefault(key_id, at_ms)  # what was noted meanwhile is later
            raise

    async def at_the_end(self) -> None:
        """Do it for the last time; a store that cannot write must not stop the gateway from closing it."""
        try:
            await self()
        except StoreError as fault:
            logger.warning("when keys were last used could not be written: %s", fault)
