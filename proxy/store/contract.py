"""The store's contract in five parts, each a small protocol; `Store` is all of them.

`Accounts` is what an operator changes, `Ledger` holds and settlements, `VideoTasks` paid work that goes on, `Books` receipts, sums and
the audit, `Engine` the database itself. A constructor names the parts that it needs. An engine that several processes write to at once
has `Peers` too: what they must know of one another.

An operation is one transaction of the business; every invariant is true before and after it. A write is queued when it is called, and
writes happen in the order of their calls. A write returns a future: its result once the transaction is durable, or the exception that
refused it. Cancelling the future cancels nothing of the write. A read is a coroutine on a snapshot of what is committed. Amounts are
nano-yuan, times are unix milliseconds. Values are in `values.py`, exceptions in `errors.py`.

Owners: each opening of the store for writing is an *owner*, with an id of its own that is never used again; every hold carries the
id of the owner that placed it. Recovery takes up what dead owners left and never what is merely open, since a living process settles
that itself. An engine reports an owner as dead only with proof, and death is final: from then on no write of that owner is committed,
however late it arrives, so what recovery settled cannot be settled again by its owner.

- SQLite: the lock file lets one process write. Whoever holds it has proof that every other owner is dead.
- An engine that several processes write to at once: an owner is a row (a node) with a heartbeat. Every other node watches that beat by
  its own monotonic clock (`Peers`); one that stands still for a whole lease is set dead by a compare-and-swap on the beat. Each write
  locks its own node's row and requires it to be alive, in the same transaction (the fence); setting it dead conflicts with that lock.

Invariants (`verify` checks each): Σ transfers = 0 · balance = credits - debits per account · held = Σ open holds · available ≥ 0 ·
each settled request has exactly one charge or release, none above its hold · no open hold without a live request or task · no finished
request or task without its settlement, and the other way round · a video costs what its task says · no charge without a request ·
each idempotency key is its request's · each credit and refund has one reference, and no reference two · a discount is in
the charge as it is in the price · no refund of a request above its charge · nothing happens to a closed account · what was folded is
in the daily sums, once, and what was given back of it · what money limits count is what the books say.
"""

from asyncio import Future
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

from proxy.core.days import Zone
from proxy.core.limits import LimitsChange
from proxy.core.money import Nanos
from proxy.core.retention import FoldedRequest
from proxy.core.settlement import Settlement
from proxy.core.video.record import TaskState, VideoTask
from proxy.core.video.task import Step
from proxy.store.peers import NodeState, Peers
from proxy.store.progress import Report
from proxy.store.values import (
    Account,
    Backlog,
    Booking,
    Census,
    Check,
    ClaimedKey,
    Grant,
    Key,
    KeyUse,
    NewKey,
    NewRequest,
    OpenRequest,
    Receipt,
    Reference,
    Settled,
    StoredAnswer,
    UsageQuery,
    UsageRow,
)

TASK_CLAIM_SECONDS = 30
"""Seconds for which due work is one owner's: it may ask for longer, and one that has died delays a task for so long."""
CLAIM_LIFE_MS = 24 * 3_600_000
"""Milliseconds that an idempotency key belongs to its request; longer while the request is not settled."""
FORGET_CLAIMS_MAX = 10_000
"""Claims deleted by one call at most: the same writer serves the hot path."""
FOLD_REQUESTS_MAX = 100
"""Requests folded by one call at most, for the same reason."""


class Accounts(Protocol):
    """Accounts and their keys, which an operator changes."""

    def create_account(self, name: str, credit_nanos: Nanos, now_ms: int, reference: Reference | None = None) -> Future[Account]:
        """Create a customer's account, with an opening credit under ``reference``; None: the account's name is the reference.

        Raises: AccountExistsError, with ``repeated`` where this very opening was done before; ReferenceTakenError.
        """

    def credit_account(self, name: str, amount_nanos: Nanos, note: str, now_ms: int, reference: Reference) -> Future[Booking]:
        """Book money in, or back out where the amount is negative, once for each reference.

        The same account and amount under a reference that is booked change nothing, whatever is available now.

        Raises: AccountNotFoundError, AccountClosedError; ReferenceTakenError: the reference has another account or amount;
        InsufficientFundsError.
        """

    def set_discount(self, name: str, discount: int) -> Future[Account]:
        """Set what an account pays of each price of requests to come, in ten-thousandths. Those under way keep theirs.

        Raises: AccountNotFoundError, AccountClosedError; StoreRefusedError: no factor above 0 and up to the whole price.
        """

    def refund_request(
        self,
        request_id: str,
        amount_nanos: Nanos | None,
        note: str,
        now_ms: int,
        reference: Reference,
        account: str | None = None,
    ) -> Future[Booking]:
        """Give a customer back a part of what one request cost, or (None) what is left of it, once for each reference.

        All refunds of a request are never above its charge. Its receipt shows them; a folded request can be refunded as well.

        Args: account: whose request it has to be; None: anybody's.

        Raises: RequestNotFoundError, ReferenceTakenError, AccountClosedError; StoreRefusedError: it is not charged, not so much, or
        of another account.
        """

    def close_account(self, name: str, now_ms: int) -> Future[Account]:
        """Close an account for good: nothing is held for it and nothing booked to it from then on. A second closing changes nothing.

        Its keys are revoked. What its customer wrote and got is erased: prompts and links of its videos, and answers kept under
        idempotency keys. The books stay, and so does its balance: nothing is paid out.

        Raises: AccountNotFoundError; StoreRefusedError: a request is under way.
        """

    def create_key(self, account: str, key: NewKey) -> Future[Key]:
        """Create a key of an account; one with the same id, secret, name and account is returned as it is.

        Raises: AccountNotFoundError, AccountClosedError; StoreRefusedError: another key has the id or the secret.
        """

    def revoke_key(self, key_id: str, now_ms: int) -> Future[Key]:
        """Revoke a key for good, with all secrets of its identity; a second revocation keeps the first one's time.

        Raises: KeyNotFoundError.
        """

    def roll_key(self, key_id: str, new: NewKey, overlap_ms: int, now_ms: int) -> Future[Key]:
        """Give a key another secret, under an id of its own, and return it. Name, limits and spend are the old one's, not ``new``'s.

        The old secret ends after the overlap. Of a third one that would live beside them, the end is now. Where the new one was made by
        this very call before, nothing changes.

        Raises: KeyNotFoundError; StoreRefusedError: the key is revoked, has ended or was rolled already; the new id or secret is taken.
        """

    def set_key_limits(self, key_id: str, change: LimitsChange, now_ms: int) -> Future[Key]:
        """Change the limits of a key's identity. A first money limit counts what the books show already, of folded days too.

        To count it may take as long as reading the account's requests; other writes go on meanwhile, and later changes of limits wait.

        Raises: KeyNotFoundError; StoreRefusedError: the key is revoked, or nothing could pass such a limit.
        """

    def set_account_limits(self, name: str, change: LimitsChange, now_ms: int) -> Future[Account]:
        """Change the limits of an account, likewise. Raises: AccountNotFoundError, StoreRefusedError."""

    def note_use(self, used_at_ms: Mapping[str, int]) -> Future[None]:
        """Keep when keys were last used, by their ids. An earlier time than the known one, and an unknown id, change nothing."""

    async def accounts(self) -> list[Account]:
        """Return the customers' accounts, by name."""

    async def account(self, name: str) -> Account:
        """Return one account. Raises: AccountNotFoundError."""

    async def account_by_id(self, account_id: int) -> Account:
        """Return one account. Raises: AccountNotFoundError."""

    async def keys(self, account: str | None = None) -> list[Key]:
        """Return all keys, revoked ones too, oldest first. Raises: AccountNotFoundError."""

    async def find_keys(self, prefix: str) -> list[Key]:
        """Return the keys whose secret begins so, as far as what is stored of it can tell; revoked ones too, oldest first."""

    async def key_use(self, now_ms: int, account: str | None = None, identity: str | None = None) -> list[KeyUse]:
        """Return what was spent of each money limit in the periods that run: of all, or of one account, or of one identity.

        An empty identity is accounts themselves, without their keys: all of them, or one.

        Raises: AccountNotFoundError.
        """

    async def grants(self) -> list[Grant]:
        """Return the keys that are not revoked, with their limits: whoever reads them tells apart what has ended or is paused."""


class Ledger(Protocol):
    """Holds, their settlements, and the idempotency keys that change with both."""

    def place_hold(self, request: NewRequest) -> Future[None]:
        """Record the request, hold its worst case, and claim its idempotency key where it has one: all of it, or nothing.

        Each money limit of the key and of its account is at least what is spent, held and now to be held of the requests created in its
        period, which is that of this request's creation. A hold of 0 needs nothing of it.

        Raises: KeyClaimedError, checked first: nothing is held then; SpendLimitError; InsufficientFundsError, AccountNotFoundError,
        AccountClosedError; ValueError: a video, which `place_task` places. Where other processes change keys too, KeyRefusedError
        before all of them: the key or its account may not be used any more, whatever this process knows.
        """

    def settle(self, request_id: str, settlement: Settlement, now_ms: int, answer: StoredAnswer | None = None) -> Future[Settled]:
        """Charge and release, once; where the request was settled before, change nothing and say whether by the same settlement.

        The request's idempotency key keeps ``answer``; with None it is given back, so that a retry may run.

        Raises: KeyError where there is no such request; ValueError where the charge is above the hold or negative, or where the
        request is a video whose task has not ended (`advance_task` ends both).
        """

    async def open_requests(self) -> list[OpenRequest]:
        """Return the requests whose holds are open, oldest first, of whichever owner."""

    async def orphaned_requests(self, most: int | None = None, *, with_videos: bool = True) -> list[OpenRequest]:
        """Return the open requests whose owner is dead, oldest first: nobody else settles them.

        Args: most: no more than so many; the next ones are told once these are settled.
        """

    async def claimed_key(self, account_id: int, key: str, now_ms: int) -> ClaimedKey | None:
        """Return which request owns an idempotency key.

        None: the key is free. It was never claimed, was given back, or is older than `CLAIM_LIFE_MS` with its request settled.
        """

    async def claims_under_way(self, places: Collection[tuple[int, str]]) -> set[tuple[int, str]]:
        """Return which of these idempotency keys, each with its account's id before it, are claimed and have no answer yet."""

    def forget_claims(self, now_ms: int) -> Future[int]:
        """Delete idempotency keys that are free again, oldest first, `FORGET_CLAIMS_MAX` at most; return how many."""


class VideoTasks(Protocol):
    """Video tasks: placed with their hold, advanced step by step, ended with their settlement."""

    def place_task(self, request: NewRequest, task: VideoTask, due_at_ms: int) -> Future[None]:
        """Do as `place_hold`, and record the task in the same transaction: before its submit is sent.

        ``due_at_ms`` is when the scheduler looks at the task, unless `advance_task` sets another time first.

        Raises: as `place_hold`; ValueError where the task is not that of the request.
        """

    def advance_task(
        self,
        task_id: str,
        decide: Callable[[VideoTask], Step],
        now_ms: int,
        answer: StoredAnswer | None = None,
        *,
        keeps_claim: bool = False,
    ) -> Future[Step]:
        """Read the task, call ``decide`` with it, and store its step whole: task, due time and, at the end, the settlement.

        ``decide`` is pure and may be called more than once. It decides on the state that the step is stored over, so overlapping polls,
        a sweep and a cancel cannot act on an old one. An ignored step changes nothing but a due time that has passed. The request's
        idempotency key keeps ``answer`` from now on; the first one given stands. Where a settlement comes without an answer and none
        was kept, the key is given back.

        Args: keeps_claim: whether the task stays this owner's, where it is (`claim_task`).

        Raises: KeyError: no such task; UpstreamIdTakenError; ValueError: a step that is not in `TRANSITIONS`, or settles other than
        once, at the end. Nothing is stored then, nor where ``decide`` raises.
        """

    async def task(self, task_id: str) -> VideoTask | None:
        """Return one task, of any account."""

    async def task_states(self, task_ids: Collection[str]) -> dict[str, TaskState]:
        """Return the states of tasks, of any account; those that there are not are left out."""

    async def tasks(self, account_id: int, limit: int, offset: int) -> list[VideoTask]:
        """Return an account's tasks, newest first, by id where times are equal. Raises: ValueError for a negative number."""

    async def claim_task(self, task_id: str) -> bool:
        """Make a task this owner's as `due_tasks` does, due or not; return False where it is another living owner's.

        Where one process alone has the store, every task is its own.
        """

    async def due_tasks(
        self, now_ms: int, limit: int, upstream: str | None = None, after_ms: int = -1, *, with_lost: bool = True
    ) -> list[VideoTask]:
        """Return the tasks due by now and after ``after_ms``, of one upstream or (None) of all, the longest due first.

        They are this owner's for `TASK_CLAIM_SECONDS`, or until a step of theirs is stored: no other living owner gets them meanwhile,
        and this one gets them again, which renews its claim. A submit without an answer is its own owner's until that is dead. Where
        one process alone has the store, all that is due is its own.

        Args: with_lost: whether tasks whose submit is lost, which are looked for in the upstream's list, are among them.
        """

    async def next_due_at_ms(self, after_ms: int = -1, upstream: str | None = None) -> int | None:
        """Return the first due time later than ``after_ms``, of one upstream or (None) of all; None where there is none."""

    async def open_tasks(self) -> list[VideoTask]:
        """Return the tasks that have not ended, oldest first, of whichever owner."""

    async def orphaned_tasks(self) -> list[VideoTask]:
        """Return the open tasks that a dead owner placed, oldest first.

        Anybody may go on with one that has an answer from upstream; a submit that was under way is lost with its owner.
        """

    async def unanswered_tasks(self, upstream: str, since_ms: int) -> list[VideoTask]:
        """Return the tasks created since then that may or may not exist upstream.

        Their submit is under way, was lost, or was given up as lost. A lost submit is told apart from these.
        """

    async def known_upstream_ids(self, upstream: str, since_ms: int) -> frozenset[str]:
        """Return the ids upstream of all tasks created since then: a lost submit has none of them."""


class Books(Protocol):
    """Receipts, sums, the audit, and the folding of old requests into daily sums."""

    @property
    def zone(self) -> Zone:
        """Time zone of all days and months: the one that the store was opened to write with last."""

    async def receipt(self, request_id: str) -> tuple[Receipt, int] | None:
        """Return a request's receipt and its account's id."""

    async def usage(self, query: UsageQuery) -> list[UsageRow]:
        """Return the sums of what was settled. Raises: AccountNotFoundError."""

    async def census(self) -> Census:
        """Return what is open now. Its cost grows with what is open, not with the ledger."""

    async def verify(self, report: Report | None = None) -> list[Check]:
        """Check every invariant on one snapshot."""

    async def verify_open(self) -> list[Check]:
        """Check the accounts and what is open, at the same cost however long the ledger is: a start does this."""

    async def old_requests(self, before_ms: int) -> dict[int, int]:
        """Return how many requests `fold_requests` could fold, by account; accounts without any are left out."""

    async def accounts_to_fold(self, before_ms: int) -> list[int]:
        """Return the accounts that have such requests. Cheap where there are none."""

    def fold_requests(self, account_id: int, before_ms: int) -> Future[int]:
        """Add an account's oldest requests to the sums of their days and delete them, their tasks too, `FOLD_REQUESTS_MAX` at most.

        Only what is settled, created before ``before_ms``, and owned by no idempotency key. `usage` returns the same before and after.

        Raises: ValueError where ``before_ms`` is not the beginning of a day in the store's time zone.
        """

    async def folded(self, request_id: str) -> FoldedRequest | None:
        """Return what is known of a request that was folded; None for any other, and for one that had no hold."""

    async def has_daily_sums(self, at_ms: int) -> bool:
        """Return whether any request of that day has been folded."""


class Engine(Protocol):
    """The database: whether it answers and writes, a copy of it, its end."""

    @property
    def peers(self) -> Peers | None:
        """The nodes that write to it; None: this process does so alone, or only reads."""

    async def nodes(self) -> list[NodeState] | None:
        """Return the nodes that nobody has set dead, oldest first; None: one process alone writes to this store."""

    @property
    def backlog(self) -> Backlog:
        """Writes that wait, and failures since the store was opened."""

    async def ping(self) -> None:
        """Return if the store answers and can write. Raises: StoreError."""

    async def turn(self) -> None:
        """Return once the writer has had a turn, whatever came of it; not while it is stuck. Nothing is written."""

    async def backup(self, destination: Path, report: Report | None = None) -> list[Check]:
        """Write a consistent copy while running, never over an existing file, and return the copy's own `verify`.

        Raises: StoreRefusedError: it cannot be written, or copies are the database server's, and the message says how it makes them.
        """

    async def close(self) -> None:
        """Commit what is queued and let go of the database."""


class Store(Accounts, Ledger, VideoTasks, Books, Engine, Protocol):
    """All parts, as one engine keeps them."""
