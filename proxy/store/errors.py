"""Exceptions of a store: refusals, and failures of its own."""

from typing import Literal

from proxy.core.limits import Period
from proxy.core.money import Nanos
from proxy.store.values import Booking, ClaimedKey

KeyRefusal = Literal["revoked", "rolled", "expired", "paused", "suspended", "account_expired"]
"""Why a key is refused: ``rolled``: its secret ended; ``suspended`` and ``account_expired``: its account."""


class StoreError(Exception):
    """A store refused or failed."""


class StoreUnavailableError(StoreError):
    """The transaction did not happen, through no fault of its own (disk full, I/O): it may be tried again."""


class StoreCorruptError(StoreError):
    """Nothing more may be written by this process: an fsync failed. The process must end; a restart recovers."""


class StoreFencedError(StoreCorruptError):
    """The other nodes have set this one dead, since its beat stood still: whatever it writes is refused, so it must end."""


class NotSeenError(StoreError):
    """A change is stored, and a living gateway has not said in time that it goes by it."""


class StoreRefusedError(StoreError):
    """The operation is not possible; the message says why, in words for a terminal."""


class StoreLockedError(StoreRefusedError):
    """Another process holds the store."""


class StoreVersionError(StoreRefusedError):
    """The file was written by a newer version: it is not touched."""


class StoreMovedError(StoreRefusedError):
    """The ledger is being moved to another engine, or was: nothing may start on it."""


class AccountExistsError(StoreRefusedError):
    """The name is taken."""

    def __init__(self, message: str, repeated: Booking | None = None) -> None:
        """Args: repeated: set where the account was opened under the same reference with the same credit, so that this is a repeat."""
        super().__init__(message)
        self.repeated = repeated


class ReferenceTakenError(StoreRefusedError):
    """The reference stands for another account or amount."""


class AccountNotFoundError(StoreRefusedError):
    pass


class AccountClosedError(StoreRefusedError):
    """The account is closed: nothing is booked to it any more."""


class KeyNotFoundError(StoreRefusedError):
    pass


class KeyRefusedError(StoreRefusedError):
    """The key, or its account, may place no hold: it was changed since whoever asks looked at it, perhaps by another process."""

    def __init__(self, message: str, *, reason: KeyRefusal, at_ms: int) -> None:
        """Args: at_ms: since when."""
        super().__init__(message)
        self.reason = reason
        self.at_ms = at_ms


class RequestNotFoundError(StoreRefusedError):
    pass


class InsufficientFundsError(StoreRefusedError):
    """The account's available balance does not cover the amount. Both are those of the refused transaction."""

    def __init__(self, message: str, *, available_nanos: Nanos, needed_nanos: Nanos) -> None:
        super().__init__(message)
        self.available_nanos = available_nanos
        self.needed_nanos = needed_nanos


class SpendLimitError(StoreRefusedError):
    """A money limit of the key or of its account leaves too little for the hold. Figures are those of the refused transaction."""

    def __init__(
        self,
        message: str,
        *,
        whose: Literal["key", "account"],
        period: Period,
        limit_nanos: Nanos,
        left_nanos: Nanos,
        needed_nanos: Nanos,
        resets_at_ms: int | None,
    ) -> None:
        """Args: left_nanos: never negative; resets_at_ms: when the period begins anew, None: never."""
        super().__init__(message)
        self.whose = whose
        self.period = period
        self.limit_nanos = limit_nanos
        self.left_nanos = left_nanos
        self.needed_nanos = needed_nanos
        self.resets_at_ms = resets_at_ms


class KeyClaimedError(StoreRefusedError):
    """The idempotency key belongs to an earlier request of this account."""

    def __init__(self, claimed: ClaimedKey) -> None:
        super().__init__(f"the idempotency key belongs to request {claimed.request_id}")
        self.claimed = claimed


class UpstreamIdTakenError(StoreRefusedError):
    """The id upstream belongs to another task: a look-up took another customer's video for its own."""
