"""The live keys as a frozen dict: authentication is one lookup by a key's SHA-256, and a change swaps the dict.

A revoked key is refused from the next request on: the operator's command returns after the swap. So does a change of limits. Of a key
that nothing limits nothing more is kept than its grant.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from proxy.clock import Clock
from proxy.core.bounds import Bounds
from proxy.core.rates import Rates
from proxy.core.shares import WHOLE, Share
from proxy.live.meters import Meters
from proxy.store.contract import Accounts
from proxy.store.values import Grant, OpenRequest


class LiveKeys:
    """The grant of each key. With ``anonymous``, all calls use that grant and no key is needed."""

    def __init__(self, accounts: Accounts, clock: Clock, anonymous: Grant | None = None) -> None:
        self._accounts = accounts
        self._clock = clock
        self._grants: Mapping[bytes, Grant] = MappingProxyType({})
        self._refreshing = asyncio.Lock()
        self._meters = Meters(self.share)
        self.bounds: Mapping[bytes, Bounds] = MappingProxyType({})
        """By `Grant.sha256`; a key without limits is not in it."""
        self.anonymous = anonymous

    def authenticate(self, credential: bytes) -> Grant | None:
        return self._grants.get(credential)

    async def refresh(self) -> None:
        """Read the live keys again. One read at a time, so that an older one never replaces a newer one."""
        async with self._refreshing:
            grants = {grant.sha256: grant for grant in await self._accounts.grants()}
            anonymous = self.anonymous
            if anonymous is not None:
                account = await self._accounts.account(anonymous.account_name)
                anonymous = replace(anonymous, account_limits=account.limits, discount=account.discount)
            self._put_in_force(grants, anonymous)

    def rates(self, grant: Grant) -> Rates:
        """Return the meters of a key and its account, limited or not: what goes on for long is counted before there is a limit."""
        return self._meters.all(grant)

    def occupy(self, requests: Iterable[OpenRequest]) -> dict[str, Rates]:
        """Take the slots of requests that the last process left open and whose work goes on; return each one's rates by its id.

        Of a request whose key is revoked the account's alone: such a key admits no others.
        """
        by_key = {grant.key_id: grant for grant in self._grants.values()}
        taken = {}
        for request in requests:
            grant = by_key.get(request.key_id) or Grant(b"", request.key_id, request.account_id, "")
            taken[request.id] = rates = self._meters.all(grant)
            rates.occupy()
        return taken

    def share(self, salt: int) -> Share:  # noqa: ARG002  a gateway that is alone has all of every limit
        """Return this gateway's share of limits that a number stands for."""
        return WHOLE

    def _put_in_force(self, grants: Mapping[bytes, Grant], anonymous: Grant | None) -> None:
        bound = [grant for grant in (*grants.values(), *([] if anonymous is None else [anonymous])) if _is_bound(grant)]
        self._meters.limit(bound, self._clock.monotonic())
        self.bounds = MappingProxyType({grant.sha256: self._bounds(grant) for grant in bound})
        self._grants = MappingProxyType(dict(grants))
        self.anonymous = anonymous

    def _bounds(self, grant: Grant) -> Bounds:
        """Return the bounds of a grant; the same ones as long as they would be equal, with what they have learnt of its callers."""
        before = self.bounds.get(grant.sha256)
        if before is not None and grant in (self._grants.get(grant.sha256), self.anonymous):
            return before
        return Bounds(grant.limits, grant.account_limits, ends_at_ms=grant.ends_at_ms, rates=self._meters.limited(grant))


def _is_bound(grant: Grant) -> bool:
    return grant.limits is not None or grant.account_limits is not None or grant.ends_at_ms is not None
