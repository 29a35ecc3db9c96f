"""What a store does, in operations of the business: one transaction each, every invariant true before and after.

A write is *queued at the call*, and writes happen in the order of their calls. A write's future resolves once its transaction is
durable, or was refused, with the exception given; a caller that stops waiting for it changes nothing about the write. Reads are
coroutines on a snapshot of what is committed. Amounts are nano-yuan, times are unix milliseconds. What a store is told and answers
with is in `values.py`, how it refuses in `errors.py`.

Invariants (`verify` checks each): Σ transfers = 0 · balance = credits - debits per account · held = Σ open holds · available ≥ 0 ·
each settled request has exactly one charge or release, none above its hold · no open hold without a live request or task · no finished
request or task without its settlement, and the other way round · a video costs what its task says · no charge without a request ·
each idempotency key is its request's · what was folded is in the daily sums, once.
"""

from asyncio import Future
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from proxy.core.money import Nanos
from proxy.core.retention import FoldedRequest
from proxy.core.settlement import Settlement
from proxy.core.video.record import VideoTask
from proxy.core.video.task import Step
from proxy.store.progress import Report
from proxy.store.values import (
    Account,
    Backlog,
    Census,
    Check,
    ClaimedKey,
    Grant,
    Key,
    NewKey,
    NewRequest,
    OpenRequest,
    Receipt,
    StoredAnswer,
    UsageQuery,
    UsageRow,
)

CLAIM_LIFE_MS = 24 * 3_600_000
"""How long an idempotency key belongs to its request; longer where the request is not settled by then."""
FORGET_CLAIMS_MAX = 10_000
"""As many claims are deleted a call: the writer serves the hot path."""
FOLD_REQUESTS_MAX = 100
"""As many requests are folded a call, for the same reason."""


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
