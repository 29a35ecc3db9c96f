"""The live keys as a frozen dict: authentication is one lookup by a key's SHA-256, and a change swaps the dict.

A revoked key is refused from the next request on: the operator's command returns after the swap.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from proxy.store.contract import Accounts
from proxy.store.values import Grant


class LiveKeys:
    """The grant of each key. With ``anonymous``, all calls use that grant and no key is needed."""

    def __init__(self, accounts: Accounts, anonymous: Grant | None = None) -> None:
        self._accounts = accounts
        self._grants: Mapping[bytes, Grant] = MappingProxyType({})
        self._refreshing = asyncio.Lock()
        self.anonymous = anonymous

    def authenticate(self, credential: bytes) -> Grant | None:
        return self._grants.get(credential)

    async def refresh(self) -> None:
        """Read the live keys again. One read at a time, so that an older one never replaces a newer one."""
        async with self._refreshing:
            self._grants = MappingProxyType({grant.sha256: grant for grant in await self._accounts.grants()})
            if self.anonymous is not None:
                account = await self._accounts.account_by_id(self.anonymous.account_id)
                self.anonymous = replace(self.anonymous, discount=account.discount)
