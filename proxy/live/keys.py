"""The live keys, frozen: authentication is one dict lookup on a key's SHA-256, and a change swaps the whole.

A revoked key stops with the next request, since the operator's command returns after the swap.
"""

import asyncio
from collections.abc import Mapping
from types import MappingProxyType

from proxy.store.contract import Accounts
from proxy.store.values import Grant


class LiveKeys:
    """Whom each key stands for. With ``anonymous``, all calls are that grant's and no key is asked for."""

    def __init__(self, accounts: Accounts, anonymous: Grant | None = None) -> None:
        self._accounts = accounts
        self._grants: Mapping[bytes, Grant] = MappingProxyType({})
        self._refreshing = asyncio.Lock()
        self.anonymous = anonymous

    def authenticate(self, credential: bytes) -> Grant | None:
        return self._grants.get(credential)

    async def refresh(self) -> None:
        """Read the live keys anew. One at a time, so that an older reading never replaces a newer one."""
        async with self._refreshing:
            self._grants = MappingProxyType({grant.sha256: grant for grant in await self._accounts.grants()})
