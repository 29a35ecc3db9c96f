"""Values that a store takes and returns. Amounts are nano-yuan, times are unix milliseconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Literal

from msgspec import Struct

from proxy.core.catalog import Kind
from proxy.core.limits import NO_LIMITS, Limits
from proxy.core.money import DISCOUNT_WHOLE, Nanos
from proxy.core.settlement import Settlement
from proxy.core.video.record import TaskState

_NOTHING = Nanos(0)


@dataclass(frozen=True, slots=True)
class Account:
    id: int
    name: str
    balance_nanos: Nanos
    held_nanos: Nanos
    created_at_ms: int
    discount: int = DISCOUNT_WHOLE
    """What the account pays of each price, in ten-thousandths."""
    closed_at_ms: int | None = None
    """When it was closed for good."""
    limits: Limits | None = None
    """None: none, or not asked for: `accounts` and `account` ask."""

    @property
    def available_nanos(self) -> Nanos:
        return Nanos(self.balance_nanos - self.held_nanos)


@dataclass(frozen=True, slots=True)
class Reference:
    """Name of a payment where it came from. The same source and text are the same payment, for ever."""

    source: str
    """Way in: ``cli`` for what operators book, ``opening`` for an account that was opened without a reference of its own."""
    text: str


@dataclass(frozen=True, slots=True)
class Booking:
    """A payment that is booked, and the account as it is now."""

    account: Account
    is_new: bool
    """False: nothing was booked now, since the same payment had been before."""
    booked_at_ms: int


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to be stored: its SHA-256 and a prefix to recognise it by, never the secret."""

    id: str
    name: str
    prefix: str
    sha256: bytes
    created_at_ms: int
    limits: Limits = NO_LIMITS


@dataclass(frozen=True, slots=True)
class Key:
    id: str
    name: str
    prefix: str
    account: str
    created_at_ms: int
    revoked_at_ms: int | None
    identity: str = ""
    """What it has in common with the key that it was rolled from, or to: the id of the first of them. On a stored key never empty."""
    ends_at_ms: int | None = None
    """When this secret ends, since the key was rolled."""
    last_used_at_ms: int | None = None
    """Of its settlements, as far as `note_use` was told."""
    limits: Limits | None = None
    """Of its identity; None: none."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Money of one period: of requests that are settled, and of open ones."""

    spent_nanos: Nanos
    held_nanos: Nanos


@dataclass(frozen=True, slots=True)
class KeyUse:
    """What an account or a key with a money limit has spent and holds in the periods that run; None where there is no such limit."""

    account: str
    identity: str
    """Of the key; empty: of the account itself."""
    day: Spent | None
    month: Spent | None
    total: Spent | None


@dataclass(frozen=True, slots=True)
class Grant:
    """Whom a live key stands for: a row of what requests are authenticated by."""

    sha256: bytes
    key_id: str
    account_id: int
    account_name: str
    identity: str = ""
    """What a rolled key's secrets have in common: limits, rates and spend. Empty where no keys are used."""
    ends_at_ms: int | None = None
    """From when on this secret is refused, whatever the limits say: it was rolled."""
    limits: Limits | None = None
    """The key's; None: none."""
    account_limits: Limits | None = None
    """The account's; None: none."""
    key_name: str = ""
    discount: int = DISCOUNT_WHOLE
    """What the account pays of each price, in ten-thousandths."""


@dataclass(frozen=True, slots=True)
class IdempotencyClaim:
    """A customer's ``Idempotency-Key`` on one request: the first request with it owns it for `CLAIM_LIFE_MS`."""

    key: str
    body_sha256: bytes
    """Digest of the route and of the body as parsed and written again: the same key with another body is a conflict."""


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """The first answer under an idempotency key, to be given again byte for byte."""

    status: int
    body: bytes


class Settled(Enum):
    """Result of a settlement."""

    NOW = "now"
    """Charged and released by this call."""
    BEFORE = "before"
    """Nothing changed: an earlier settlement with the same outcome and charge stands. To its caller that is success."""
    OTHERWISE = "otherwise"
    """Nothing changed: an earlier settlement with another outcome or charge stands, such as the release of a dead owner's request."""


@dataclass(frozen=True, slots=True)
class ClaimedKey:
    """An idempotency key that was claimed before. ``answer`` None: its request is still under way."""

    claim: IdempotencyClaim
    request_id: str
    answer: StoredAnswer | None


class NewRequest(Struct, frozen=True):
    """A paid request before its upstream is asked, with its hold: the worst case of what it may cost."""

    id: str
    kind: Kind
    account_id: int
    key_id: str
    """Empty where no keys are used (``auth = "none"``)."""
    model: str
    upstream: str
    upstream_model: str
    stream: bool
    hold_nanos: Nanos
    price: str
    """The frozen price, as JSON: what `receipt` explains the charge with."""
    created_at_ms: int
    claim: IdempotencyClaim | None = None
    """Taken in the same transaction as the hold. On a receipt: the claim that the request still has."""
    key_name: str = ""
    """The upstream's key that is asked by; empty: placed before keys had names. With the upstream and its model it is the first choice;
    on a receipt, what answered, or was asked last."""


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A request whose hold is open."""

    id: str
    kind: Kind
    account_id: int
    hold_nanos: Nanos
    created_at_ms: int
    owner: str | None
    """Id of the owner that placed it; None: placed before owners were recorded."""
    key_id: str = ""
    """Empty where no keys are used."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """Everything that is known of one request. ``settlement`` is None while its hold is open."""

    request: NewRequest
    account: str
    settlement: Settlement | None
    settled_at_ms: int | None
    refunded_nanos: Nanos = _NOTHING
    """What of the charge has been given back since."""


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which settled requests to sum: by time of creation, ``since`` inclusive, ``until`` exclusive.

    Folded requests count at the beginning of their day: a period that begins or ends in the midst of one has all of them or none,
    and the sums of adjoining periods are those of the whole.
    """

    by: Literal["model", "key", "day"] = "model"
    account: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Sums of one group. `day` is the date in the ledger's time zone (``2026-11-23``); `key` is the key's id.

    A refund belongs to its request's group. Of a request that was folded before, key and model are not known any more: such a refund is
    in the account's group of an empty name.
    """

    account: str
    group: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    units: int
    charge_nanos: Nanos
    shortfall_nanos: Nanos
    estimated: int
    """Number of requests charged by estimate."""
    refunded_nanos: Nanos = _NOTHING
    """What of the charges has been given back since, whenever that was."""


@dataclass(frozen=True, slots=True)
class Check:
    """One invariant: what it says, its figures, and the rows that break it (empty: it holds)."""

    name: str
    figures: str
    offenders: Sequence[str] = ()

    @property
    def holds(self) -> bool:
        return not self.offenders


@dataclass(frozen=True, slots=True)
class Restored:
    """A backup that is the store now."""

    kept: Path | None
    """The old store; None where there was none."""
    newest_at_ms: int | None
    """Time of the last booking in the backup; what was booked later is not in it."""
    checks: Sequence[Check]


@dataclass(frozen=True, slots=True)
class OpenTasks:
    """The video tasks of one upstream in one state that have not ended."""

    upstream: str
    state: TaskState
    count: int
    longest_due_at_ms: int
    """When the one that waits the longest was, or will be, to be looked at."""


@dataclass(frozen=True, slots=True)
class Census:
    """Everything open at one moment, for metrics."""

    held_nanos: Nanos
    holds: int
    oldest_hold_at_ms: int | None
    """Creation of the oldest open request other than a video: those end within minutes, a video may last for days."""
    tasks: Sequence[OpenTasks]


@dataclass(frozen=True, slots=True)
class Backlog:
    """State of the way to the database. All but ``waiting`` counts since the store was opened."""

    waiting: int
    """Writes that wait."""
    failures: int
    """Batches in which something could not be written."""
    retries: int = 0
    """Tries of a transaction after its first one, where a server keeps the store."""
    read_waits: int = 0
    """Reads that waited for a connection, where a server keeps the store."""


@dataclass(frozen=True, slots=True)
class CommitStats:
    """One group commit: the operations in it, and the seconds its transaction took."""

    operations: int
    seconds: float
