"""What a store does, in operations of the business: one transaction each, every invariant true before and after.

A write is *queued at the call*, and writes happen in the order of their calls. A write's future resolves once its transaction is
durable, or was refused, with the exception given; a caller that stops waiting for it changes nothing about the write. Reads are
coroutines on a snapshot of what is committed. Amounts are nano-yuan, times are unix milliseconds.

Invariants (`verify` checks each): Σ transfers = 0 · balance = credits - debits per account · held = Σ open holds · available ≥ 0 ·
each settled request has exactly one charge or release, none above its hold · no open hold without a live request or task · no finished
request or task without its settlement, and the other way round · a video costs what its task says · no charge without a request ·
each idempotency key is its request's · what was folded is in the daily sums, once.
"""

from asyncio import Future
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from msgspec import Struct

from proxy.core.catalog import Kind
from proxy.core.keeping import FoldedRequest
from proxy.core.money import Nanos
from proxy.core.settlement import Settlement
from proxy.core.video_record import TaskState, VideoTask
from proxy.core.video_task import Step
from proxy.store.progress import Report

CLAIM_LIFE_MS = 24 * 3_600_000
"""How long an idempotency key belongs to its request; longer where the request is not settled by then."""
FORGET_CLAIMS_MAX = 10_000
"""As many claims are deleted a call: the writer serves the hot path."""
FOLD_REQUESTS_MAX = 100
"""As many requests are folded a call, for the same reason."""


class StoreError(Exception):
    """A store refused or failed."""


class StoreUnavailableError(StoreError):
    """The transaction did not happen, for no fault of its own (disk full, I/O): it may be tried again."""


class StoreCorruptError(StoreError):
    """Nothing more may be written by this process: an fsync failed. The process must end; a restart recovers."""


class StoreRefusedError(StoreError):
    """What an operator asked for is not possible; the message says why, in words for a terminal."""


class StoreLockedError(StoreRefusedError):
    """Another process holds the store."""


class StoreVersionError(StoreRefusedError):
    """The file was written by a newer version: it is not touched."""


class AccountExistsError(StoreRefusedError):
    pass


class AccountNotFoundError(StoreRefusedError):
    pass


class KeyNotFoundError(StoreRefusedError):
    pass


class InsufficientFundsError(StoreRefusedError):
    """The account's available balance does not cover the amount."""


@dataclass(frozen=True, slots=True)
class Account:
    id: int
    name: str
    balance_nanos: Nanos
    held_nanos: Nanos
    created_at_ms: int

    @property
    def available_nanos(self) -> Nanos:
        return Nanos(self.balance_nanos - self.held_nanos)


class KeyClaimedError(StoreRefusedError):
    """The idempotency key belongs to an earlier request of this account."""

    def __init__(self, claimed: "ClaimedKey") -> None:
        super().__init__(f"the idempotency key belongs to request {claimed.request_id}")
        self.claimed = claimed


class UpstreamIdTakenError(StoreRefusedError):
    """The id upstream belongs to another task: a look-up took somebody else's video for its own."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to be stored: its SHA-256 and a prefix to recognise it by, never the secret."""

    id: str
    name: str
    prefix: str
    sha256: bytes
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class Key:
    id: str
    name: str
    prefix: str
    account: str
    created_at_ms: int
    revoked_at_ms: int | None


@dataclass(frozen=True, slots=True)
class Grant:
    """Whom a live key stands for: one row of the snapshot that authenticates requests."""

    sha256: bytes
    key_id: str
    account_id: int
    account_name: str


@dataclass(frozen=True, slots=True)
class IdempotencyClaim:
    """A customer's ``Idempotency-Key`` on one request: whoever places it first owns it for `CLAIM_LIFE_MS`."""

    key: str
    body_sha256: bytes
    """Of the route and the body as parsed and written again: the same key with another body is a conflict."""


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """The first answer under an idempotency key, to be given again byte for byte."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class ClaimedKey:
    """What is known of a key that was claimed before. ``answer`` None: its request is still under way."""

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


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A request whose hold is open: at start, one whose process died."""

    id: str
    kind: Kind
    account_id: int
    hold_nanos: Nanos
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """Everything that is known of one request. ``settlement`` is None while its hold is open."""

    request: NewRequest
    account: str
    settlement: Settlement | None
    settled_at_ms: int | None


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which settled requests to sum: by time of creation, ``since`` inclusive, ``until`` exclusive.

    Folded requests count at the beginning of their UTC day: a period that begins or ends in the midst of one has all of them or none,
    and the sums of adjoining periods are those of the whole.
    """

    by: Literal["model", "key", "day"] = "model"
    account: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Sums of one group. `day` is the UTC date (``2026-11-23``); `key` is the key's id."""

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
    """How many of the requests were charged by estimate."""


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
class OpenTasks:
    """The video tasks of one upstream in one state that have not ended."""

    upstream: str
    state: TaskState
    count: int
    longest_due_at_ms: int
    """When the one that waits the longest was, or will be, to be looked at."""


@dataclass(frozen=True, slots=True)
class Census:
    """What is open at one moment, for who watches the gateway."""

    held_nanos: Nanos
    holds: int
    oldest_hold_at_ms: int | None
    """Of a request that is no video: those end within minutes, a video's may last for days."""
    tasks: Sequence[OpenTasks]


@dataclass(frozen=True, slots=True)
class Backlog:
    """How it goes with writing: operations that wait, and batches so far in which something could not be written."""

    waiting: int
    failures: int


@dataclass(frozen=True, slots=True)
class CommitStats:
    """Of one group commit: how many operations shared it, and how long the transaction took, in seconds."""

    operations: int
    seconds: float


class Store(Protocol):
    """One engine's way of keeping the books."""

    # accounts and keys: the operator's

    def create_account(self, name: str, credit_nanos: Nanos, now_ms: int) -> Future[Account]:
        """Raises: AccountExistsError."""

    def credit_account(self, name: str, amount_nanos: Nanos, note: str, now_ms: int) -> Future[Account]:
        """Book money in, or, where the amount is negative, back out. Raises: AccountNotFoundError, InsufficientFundsError."""

    def create_key(self, account: str, key: NewKey) -> Future[Key]:
        """Raises: AccountNotFoundError."""

    def revoke_key(self, key_id: str, now_ms: int) -> Future[Key]:
        """Revoke for good; revoking twice keeps the first time. Raises: KeyNotFoundError."""

    async def accounts(self) -> list[Account]:
        """Return the customers' accounts, by name."""

    async def account(self, name: str) -> Account:
        """Raises: AccountNotFoundError."""

    async def account_by_id(self, account_id: int) -> Account:
        """Raises: AccountNotFoundError."""

    async def keys(self, account: str | None = None) -> list[Key]:
        """Return all keys, revoked ones too, oldest first. Raises: AccountNotFoundError."""

    async def grants(self) -> list[Grant]:
        """Return the live keys."""

    # the money path

    def place_hold(self, request: NewRequest) -> Future[None]:
        """Record the request, hold its worst case, and take its idempotency key where it has one: all of it, or none.

        Raises: KeyClaimedError, before all else: nothing is held then; InsufficientFundsError, AccountNotFoundError; ValueError: a
        video, which `place_task` places.
        """

    def settle(self, request_id: str, settlement: Settlement, now_ms: int, answer: StoredAnswer | None = None) -> Future[bool]:
        """Charge and release, once: False where the request was settled before (nothing is changed then).

        The request's idempotency key keeps ``answer``; with None it is given back, so that a retry may run.

        Raises: KeyError where there is no such request; ValueError where the charge is above the hold or negative, or where the
        request is a video whose task has not ended (`advance_task` ends both).
        """

    async def open_requests(self) -> list[OpenRequest]:
        """Return the requests whose holds are open, oldest first."""

    async def claimed_key(self, account_id: int, key: str, now_ms: int) -> ClaimedKey | None:
        """Return who owns an idempotency key; None where it is free: never claimed, given back, or `CLAIM_LIFE_MS` over and settled."""

    def forget_claims(self, now_ms: int) -> Future[int]:
        """Delete the idempotency keys that are free again, the oldest first, `FORGET_CLAIMS_MAX` at most; return how many."""

    # retention

    async def old_requests(self, before_ms: int) -> dict[int, int]:
        """Return how many requests `fold_requests` could fold, by account; accounts without any are left out."""

    async def accounts_to_fold(self, before_ms: int) -> list[int]:
        """Return the accounts that have such requests. Cheap where there are none."""

    def fold_requests(self, account_id: int, before_ms: int) -> Future[int]:
        """Put an account's oldest requests into the sums of their days and delete them, their tasks too, `FOLD_REQUESTS_MAX` at most.

        Only what is settled, created before ``before_ms``, and owned by no idempotency key. `usage` says the same before and after.

        Raises: ValueError where ``before_ms`` is not the beginning of a UTC day.
        """

    async def folded(self, request_id: str) -> FoldedRequest | None:
        """Return what is known of a request that was folded; None for any other, and for one that had no hold."""

    async def has_daily_sums(self, at_ms: int) -> bool:
        """Return whether any request of that UTC day has been folded."""

    # video tasks

    def place_task(self, request: NewRequest, task: VideoTask, due_at_ms: int) -> Future[None]:
        """Do as `place_hold`, and record the task, in one transaction: before its submit is sent.

        ``due_at_ms`` is when the scheduler looks after it unless `advance_task` says otherwise first.

        Raises: as `place_hold`; ValueError where the task is not that of the request.
        """

    def advance_task(
        self, task_id: str, decide: Callable[[VideoTask], Step], now_ms: int, answer: StoredAnswer | None = None
    ) -> Future[Step]:
        """Read the task, let ``decide`` say what becomes of it, and store that whole: task, due time and, at its end, the settlement.

        ``decide`` is pure and runs inside the transaction, so that overlapping polls, a sweep and a cancel cannot both act on an old
        state. A step that is ignored changes nothing, but that it puts off a due time that has passed. ``answer`` is what the request's
        idempotency key keeps from now on (the first one given stands); where a settlement comes without one and none was kept, the key
        is given back.

        Raises: KeyError: no such task; UpstreamIdTakenError; ValueError: a step that is not in `TRANSITIONS`, or settles other than
        once, at the end. Nothing is stored then, nor where ``decide`` raises.
        """

    async def task(self, task_id: str) -> VideoTask | None:
        """Return one task, of whichever account."""

    async def tasks(self, account_id: int, limit: int, offset: int) -> list[VideoTask]:
        """Return an account's tasks, the newest first; ids decide between equal times. Raises: ValueError for a negative number."""

    async def due_tasks(self, now_ms: int, limit: int, upstream: str | None = None, after_ms: int = -1) -> list[VideoTask]:
        """Return the tasks that are due by now and after ``after_ms``, of one upstream or (None) of all, the longest due first."""

    async def next_due_at_ms(self, after_ms: int = -1, upstream: str | None = None) -> int | None:
        """Return the first due time of a task that is later than ``after_ms``; None where there is none. ``upstream``: as above."""

    async def open_tasks(self) -> list[VideoTask]:
        """Return every task that has not ended, oldest first: what a start resumes."""

    async def unanswered_tasks(self, upstream: str, since_ms: int) -> list[VideoTask]:
        """Return the tasks created since then of which nobody knows whether they were made: those whose submit is under way or lost,
        and those given up as lost. What a lost submit is told apart from."""

    async def known_upstream_ids(self, upstream: str, since_ms: int) -> frozenset[str]:
        """Return the ids upstream of all tasks created since then: a lost submit is none of them."""

    # what happened

    async def receipt(self, request_id: str) -> tuple[Receipt, int] | None:
        """Return a request's receipt and its owner's account id."""

    async def usage(self, query: UsageQuery) -> list[UsageRow]:
        """Raises: AccountNotFoundError."""

    async def verify(self, report: Report | None = None) -> list[Check]:
        """Check every invariant on one snapshot of the file."""

    async def verify_open(self) -> list[Check]:
        """Check what a start can: the accounts and what is open, however long the ledger is."""

    async def census(self) -> Census:
        """Return what is open now, in a time that grows with that alone, not with the ledger."""

    @property
    def backlog(self) -> Backlog:
        """How it goes with writing, since the store was opened."""

    # the file

    async def ping(self) -> None:
        """Return if the store answers; raise StoreError otherwise."""

    async def turn(self) -> None:
        """Return once whoever writes has had a turn, whatever it then said; not while it is stuck. Nothing is written."""

    async def backup(self, destination: Path, report: Report | None = None) -> list[Check]:
        """Write a consistent copy while running, never over an existing file, and return its own `verify`."""

    async def close(self) -> None:
        """Commit what is queued, checkpoint, let go of the lock."""
