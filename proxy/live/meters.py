"""The meters of keys and accounts: what each has taken of its rates and slots. In memory: a restart forgets a minute of them.

Slots are counted again at a start, from the requests that are still open.
"""

from collections.abc import Callable, Iterable
from zlib import crc32

from proxy.core.limits import NO_LIMITS, Limits
from proxy.core.rates import NO_RATES, Meter, Rates
from proxy.core.shares import WHOLE, Share
from proxy.store.values import Grant

_Whose = tuple[int, str]
"""An account, and a key's identity in it; empty: the account itself."""


class Meters:
    """A meter for each key, by its identity, and each account that has a limit of its own or a call that is counted."""

    def __init__(self, share: Callable[[int], Share] = lambda _: WHOLE) -> None:
        """Args: share: this gateway's share of what a number stands for."""
        self._share = share
        self._meters: dict[_Whose, Meter] = {}

    def limit(self, grants: Iterable[Grant], now: float) -> None:
        """Put the limits of all keys and accounts in force, and forget the meters of what has none and no open call."""
        limited: dict[_Whose, Limits] = {}
        for grant in grants:
            if grant.limits is not None:
                limited[grant.account_id, grant.identity] = grant.limits
            if grant.account_limits is not None:
                limited[grant.account_id, ""] = grant.account_limits
        for whose in {*self._meters, *limited}:
            limits = limited.get(whose, NO_LIMITS)
            wanted = limits.requests_per_minute, limits.tokens_per_minute, limits.concurrent
            if whose in self._meters or wanted != (None, None, None):
                self._meter(*whose).limit(*wanted, now, self._share(crc32(b"%d %b" % (whose[0], whose[1].encode()))))
        self._meters = {whose: meter for whose, meter in self._meters.items() if meter.open or meter.is_limited}

    def all(self, grant: Grant) -> Rates:
        """Return the meters of a key and of its account, limited or not. Without a key, the account's alone."""
        account = self._meter(grant.account_id, "")
        return Rates((self._meter(grant.account_id, grant.identity), account) if grant.identity else (account,))

    def limited(self, grant: Grant) -> Rates:
        """Return those of them that have a limit."""
        whose = dict.fromkeys([(grant.account_id, grant.identity), (grant.account_id, "")])
        found = (self._meters.get(one) for one in whose)
        meters = tuple(meter for meter in found if meter is not None and meter.is_limited)
        return Rates(meters) if meters else NO_RATES

    def __len__(self) -> int:
        return len(self._meters)

    def _meter(self, account_id: int, identity: str) -> Meter:
        meter = self._meters.get((account_id, identity))
        if meter is None:
            meter = self._meters[account_id, identity] = Meter("key" if identity else "account")
        return meter
