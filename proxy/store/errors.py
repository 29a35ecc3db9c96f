"""Exceptions of a store: refusals, and failures of its own."""

from proxy.core.money import Nanos
from proxy.store.values import Booking, ClaimedKey


class StoreError(Exception):
    """A store refused or failed."""


class StoreUnavailableError(StoreError):
    """The transaction did not happen, through no fault of its own (disk full, I/O): it may be tried again."""


class StoreCorruptError(StoreError):
    """Nothing more may be written by this process: an fsync failed. The process must end; a restart recovers."""


class StoreRefusedError(StoreError):
    """The operation is not possible; the message says why, in words for a terminal."""


class StoreLockedError(StoreRefusedError):
    """Another process holds the store."""


class StoreVersionError(StoreRefusedError):
    """The file was written by a newer version: it is not touched."""


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


class KeyNotFoundError(StoreRefusedError):
    pass


class InsufficientFundsError(StoreRefusedError):
    """The account's available balance does not cover the amount. Both are those of the refused transaction."""

    def __init__(self, message: str, *, available_nanos: Nanos, needed_nanos: Nanos) -> None:
        super().__init__(message)
        self.available_nanos = available_nanos
        self.needed_nanos = needed_nanos


class KeyClaimedError(StoreRefusedError):
    """The idempotency key belongs to an earlier request of this account."""

    def __init__(self, claimed: ClaimedKey) -> None:
        super().__init__(f"the idempotency key belongs to request {claimed.request_id}")
        self.claimed = claimed


class UpstreamIdTakenError(StoreRefusedError):
    """The id upstream belongs to another task: a look-up took another customer's video for its own."""
