"""What bounds one key, made ready to be looked at by each of its calls: its own limits and those of its account. Pure.

Money is not here: it is held in the store's transaction.
"""

from fnmatch import fnmatchcase

from proxy.core.errors import AccountSuspendedError, InvalidApiKeyError, NetworkNotAllowedError
from proxy.core.limits import NO_LIMITS, Limits
from proxy.core.networks import UNIX, UNKNOWN, Networks
from proxy.core.rates import Rates
from proxy.core.timestamps import iso

REVOKED = "Invalid or revoked API key"
EXPIRED = "This API key expired on {}"
REPLACED = "This API key was replaced by another one, and expired on {}"
ACCOUNT_EXPIRED = "The account of this API key expired on {}"
PAUSED = "This API key is paused"
SUSPENDED = "The account is suspended; please ask who runs this service"
"""What a customer is told of a key that may not be used; where a time stands in it, by `iso`."""

_NEVER_MS = 2**62
_ADMITTED_MAX = 4096


class Bounds:
    """Bounds of one secret. The stricter of key and account counts: a call must be within both."""

    __slots__ = (
        "_ended",
        "_ends_at_ms",
        "_is_paused",
        "_is_suspended",
        "_models",
        "_networks",
        "account_limits",
        "admitted",
        "allowed",
        "has_networks",
        "idle_from_ms",
        "limits",
        "rates",
    )

    def __init__(self, limits: Limits | None, account_limits: Limits | None, *, ends_at_ms: int | None, rates: Rates) -> None:
        """Args: ends_at_ms: end of this secret since its key was rolled; rates: of key and account, those that have a limit."""
        self.limits = limits or NO_LIMITS
        self.account_limits = account_limits or NO_LIMITS
        both = (self.limits, self.account_limits)
        ends = [
            (at_ms, message)
            for at_ms, message in (
                (self.limits.expires_at_ms, EXPIRED),
                (ends_at_ms, REPLACED),
                (self.account_limits.expires_at_ms, ACCOUNT_EXPIRED),
            )
            if at_ms is not None
        ]
        self._ends_at_ms, self._ended = min(ends, default=(_NEVER_MS, ""))
        self._is_paused = self.limits.paused_at_ms is not None
        self._is_suspended = self.account_limits.paused_at_ms is not None
        self.idle_from_ms = 0 if self._is_paused or self._is_suspended else self._ends_at_ms
        """From when on `refuse_idle` refuses."""
        self._networks = tuple(Networks(one.networks) for one in both if one.networks)
        self.has_networks = bool(self._networks)
        self._models = tuple(one.models for one in both if one.models)
        self.allowed: set[str] = set()
        """Models of the catalog that `allows` has allowed."""
        self.admitted: set[str] = set()
        """Addresses that `refuse_address` has let pass, so that a client's is looked at once."""
        self.rates = rates

    @property
    def ends_at_ms(self) -> int | None:
        """When this secret ends, for whichever reason; None: never."""
        return None if self._ends_at_ms == _NEVER_MS else self._ends_at_ms

    def refuse_idle(self, now_ms: int) -> None:
        """Refuse a key that has ended or is paused, and one whose account is suspended; only from `idle_from_ms` on is there one.

        Raises: InvalidApiKeyError, AccountSuspendedError.
        """
        if now_ms >= self._ends_at_ms:
            raise InvalidApiKeyError(self._ended.format(iso(self._ends_at_ms)))
        if self._is_paused:
            raise InvalidApiKeyError(PAUSED)
        if self._is_suspended:
            raise AccountSuspendedError(SUSPENDED)

    def refuse_address(self, address: str) -> None:
        """Refuse a call from an address, as `TrustedProxies.client` returns it. Raises: NetworkNotAllowedError."""
        for networks in self._networks:
            if address not in networks:
                raise NetworkNotAllowedError(
                    f"This API key may not be used from {address}"
                    if address not in (UNKNOWN, UNIX)
                    else "This API key may only be used from some networks, and it cannot be told where this call comes from"
                )
        if len(self.admitted) >= _ADMITTED_MAX:
            self.admitted.clear()
        self.admitted.add(address)

    def allows(self, model_id: str) -> bool:
        """Return whether a model of the catalog may be called."""
        if model_id in self.allowed:
            return True
        allows = all(any(fnmatchcase(model_id, pattern) for pattern in patterns) for patterns in self._models)
        if allows:
            self.allowed.add(model_id)
        return allows
