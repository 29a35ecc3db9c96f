"""Hold and settle: how a chat or an image call touches money. A video's money moves with its task.

The hold is durable before anything is asked upstream. The settlement is committed once: it is queued with the store at once, so that no
client that leaves, no cancelled handler and no SIGTERM can cut it; a store that fails is asked again until it answers.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from proxy.clock import Clock
from proxy.core import bounds
from proxy.core.errors import (
    AccountSuspendedError,
    GatewayError,
    IdempotencyConflictError,
    InsufficientBalanceError,
    InternalError,
    InvalidApiKeyError,
    KeyLimitReachedError,
    ModelUnavailableError,
)
from proxy.core.limits import Period
from proxy.core.money import Nanos, format_yuan
from proxy.core.rates import Rates
from proxy.core.settlement import Outcome, Settlement, UsageSource
from proxy.core.timestamps import iso
from proxy.store.contract import Ledger
from proxy.store.errors import (
    AccountClosedError,
    InsufficientFundsError,
    KeyClaimedError,
    KeyRefusal,
    KeyRefusedError,
    SpendLimitError,
    StoreError,
    StoreUnavailableError,
)
from proxy.store.values import NewRequest, Settled, StoredAnswer
from proxy.tasks import TaskGroup
from proxy.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

RETRY_SECONDS_FIRST = 0.2
RETRY_SECONDS_MAX = 1.0
"""Nothing new is taken meanwhile."""
SETTLE_WAIT_SECONDS = 15.0
"""Seconds an answer waits for its settlement before the customer is told of a failure instead."""

RECOVER_SLICE = 512
"""Requests of dead owners that are read and settled together: a batch of the store's."""

HOLD_REFUSALS = (
    *(SpendLimitError, InsufficientFundsError, KeyClaimedError, KeyRefusedError, StoreUnavailableError, AccountClosedError),
)
"""Why a hold may not be placed."""
_KEY_REFUSALS: dict[KeyRefusal, str] = {
    "revoked": bounds.REVOKED,
    "rolled": bounds.REPLACED,
    "expired": bounds.EXPIRED,
    "paused": bounds.PAUSED,
    "suspended": bounds.SUSPENDED,
    "account_expired": bounds.ACCOUNT_EXPIRED,
}
"""What the entrance says for the same reasons, to whoever comes a moment later."""

_NOW = Settled.NOW
_UNRECORDED = "The answer was made, and cannot be recorded just now; GET /usage/{id} tells its charge once it is"
_FORFEITED = "The call was settled before its answer was complete; GET /usage/{id} tells its charge"

INTERRUPTED = Settlement(Outcome.INTERRUPTED, UsageSource.NONE, Nanos(0), note="ended before the upstream answered")


def hold_refused(fault: StoreError, advice: str = "") -> GatewayError:
    """Return what a customer is told of one of `HOLD_REFUSALS`.

    Args: advice: what makes the hold so large and how to lower it, in a sentence without its full stop.
    """
    if isinstance(fault, InsufficientFundsError):
        return InsufficientBalanceError(
            f"The account has ¥{format_yuan(fault.available_nanos)} available, and this request needs "
            f"¥{format_yuan(fault.needed_nanos)}, the most that it can cost{f'. {advice}' if advice else ''}; or top up"
        )
    if isinstance(fault, SpendLimitError):
        return KeyLimitReachedError(_limit_reached(fault) + (f". {advice}" if advice else ""), should_retry=False)
    if isinstance(fault, KeyClaimedError):
        return IdempotencyConflictError("The request with this Idempotency-Key is not settled yet", should_retry=True)
    if isinstance(fault, KeyRefusedError):  # since its key was looked at, here or by another gateway
        refusal = AccountSuspendedError if fault.reason == "suspended" else InvalidApiKeyError
        return refusal(_KEY_REFUSALS[fault.reason].format(iso(fault.at_ms)))
    if isinstance(fault, AccountClosedError):  # since its key was looked at, or it pays for calls without one
        return InvalidApiKeyError("The account is closed")
    logger.error("no hold could be placed: %s", fault)
    return ModelUnavailableError("The gateway cannot take requests just now", retry_after_seconds=5)


def _left(fault: StoreError) -> int | None:
    """Return the nano-yuan that are left for a hold that found too little of them; None: it was refused otherwise."""
    if isinstance(fault, InsufficientFundsError):
        return fault.available_nanos
    return fault.left_nanos if isinstance(fault, SpendLimitError) else None


def _limit_reached(fault: SpendLimitError) -> str:
    whose = "This key" if fault.whose == "key" else "The account"
    span = "in all" if fault.period is Period.TOTAL else f"a {fault.period}"
    anew = "" if fault.resets_at_ms is None else f", which begins anew at {iso(fault.resets_at_ms)}"
    return (
        f"{whose} may spend ¥{format_yuan(fault.limit_nanos)} {span}{anew}: ¥{format_yuan(fault.left_nanos)} of it is left, and this "
        f"request needs ¥{format_yuan(fault.needed_nanos)}, the most that it can cost"
    )


class Hold(Struct, eq=False):
    """A durable hold on an account. It ends by `settle`, once; the caller that placed it makes sure of that in a ``finally``."""

    billing: "Billing"
    request: NewRequest
    rates: Rates | None = None
    """Rates of its key that the call was admitted to; None: nothing limits the key."""
    tokens: int = 0
    """Tokens that it has taken of them."""
    durable: "asyncio.Future[None] | None" = None
    """Done when the settlement is on the ledger, failed where the store refuses it for `SETTLE_WAIT_SECONDS`; None: not settled."""

    def settle(self, settlement: Settlement, answer: StoredAnswer | None = None) -> None:
        """Begin to commit the settlement; only the first call counts. Never waits, so nothing can come between.

        The request's idempotency key, where it has one, keeps ``answer`` in the same transaction; without an answer it is free again.
        """
        if self.durable is None:
            if self.rates is not None:
                usage = settlement.usage
                self.rates.end(self.tokens, usage.prompt_tokens + usage.completion_tokens, self.billing.clock.monotonic())
            self.durable = self.billing.commit(self.request, settlement, answer)

    def settled(self) -> "asyncio.Future[None]":
        """Return a future that resolves when the settlement is durable. Cancelling a task that waits for it cancels nothing else.

        It raises:
            InternalError: the store has refused it for `SETTLE_WAIT_SECONDS`, and it is still being tried; or another settlement
                stands, so the customer must not take the answer for complete.
        """
        assert self.durable is not None
        return self.durable


class Billing:
    """Places holds and commits settlements. ``tasks`` is what a drain waits for."""

    def __init__(self, ledger: Ledger, tasks: TaskGroup, clock: Clock, metrics: Metrics, *, is_shared: bool = False) -> None:
        """Args: is_shared: other processes write to the ledger, too, and may settle what this one holds once they take it for dead."""
        self.is_shared = is_shared
        self._loop = asyncio.get_running_loop()
        self._ledger = ledger
        self._tasks = tasks
        self.clock = clock
        self._metrics = metrics
        self.used_at_ms: dict[str, int] = {}
        """When each key, by its id, was last settled for, until `jobs.note_use` has written it."""

    async def hold(
        self, request: NewRequest, advise: Callable[[int], str] | None = None, rates: Rates | None = None, tokens: int = 0
    ) -> Hold:
        """Record the request and hold its worst case, durably.

        Args:
            advise: called where too little is available, with the nano-yuan that are, for `hold_refused`.
            rates: those that the call was admitted to with so many tokens. The hold ends that; here, if none is placed.

        Raises:
            InsufficientBalanceError: too little is available; KeyLimitReachedError: of a money limit too little is left.
            ModelUnavailableError: the store cannot write; nothing was held.
            IdempotencyConflictError: the request's idempotency key is another request's; nothing was held.
        """
        is_placed = False
        try:
            await self._ledger.place_hold(request)
            is_placed = True
        except asyncio.CancelledError:
            # The write goes on without us, so its hold must end without us too.
            self._tasks.spawn(self._abandon(request), f"abandon {request.id}")
            raise
        except HOLD_REFUSALS as fault:
            left = _left(fault)
            raise hold_refused(fault, advise(left) if advise and left is not None else "") from None
        finally:
            if rates is not None and not is_placed:
                rates.withdraw(tokens)
        return Hold(self, request, rates, tokens)

    def commit(self, request: NewRequest, settlement: Settlement, answer: StoredAnswer | None = None) -> "asyncio.Future[None]":
        """Commit a settlement, however often it takes; the future resolves once it is durable.

        No task, no shield and no timer where the store takes it at once, as it nearly always does: they cost 25 µs a request.
        """
        durable: asyncio.Future[None] = self._loop.create_future()
        self.used_at_ms[request.key_id] = now_ms = self.clock.now_ms()
        stored = self._ledger.settle(request.id, settlement, now_ms, answer)
        self._tasks.keep(stored)
        stored.add_done_callback(partial(self._stored, request, settlement, answer, durable))
        return durable

    def _stored(
        self,
        request: NewRequest,
        settlement: Settlement,
        answer: StoredAnswer | None,
        durable: "asyncio.Future[None]",
        stored: "asyncio.Future[Settled]",
    ) -> None:
        self._tasks.release(stored)
        if stored.cancelled():
            return  # the process ends, and the next start settles the request
        fault = stored.exception()
        if isinstance(fault, StoreUnavailableError):
            self._tasks.spawn(self._retry(request, settlement, answer, durable), f"settle {request.id}")
            return
        if fault is not None:
            logger.error("request %s cannot be settled", request.id, exc_info=fault)
            _fail(durable)
            return
        self._conclude(request, settlement, stored.result(), durable)

    def _conclude(self, request: NewRequest, settlement: Settlement, settled: Settled, durable: "asyncio.Future[None]") -> None:
        """Count a settlement that is on the ledger now, and resolve the future that its answer waits for."""
        if settled is _NOW:
            self._metrics.settled(request.kind, request.model, settlement)
        elif settled is Settled.OTHERWISE:
            # This process was taken for dead. What stands is what the customer pays, so the answer must not look complete.
            logger.error("request %s was settled before, by another settlement than this one: %s", request.id, settlement)
            _fail(durable, _FORFEITED)
        if not durable.done():
            durable.set_result(None)

    async def _retry(
        self, request: NewRequest, settlement: Settlement, answer: StoredAnswer | None, durable: "asyncio.Future[None]"
    ) -> None:
        """Try until the store takes the settlement; fail the answer that waits for it once that takes long."""
        patience = self._loop.call_later(SETTLE_WAIT_SECONDS, _fail, durable)
        settled: Settled | None = None
        try:
            settled = await self._commit(request, settlement, answer)
        finally:
            patience.cancel()
            if settled is None:  # whatever went wrong, nobody may wait for ever
                _fail(durable)
        self._conclude(request, settlement, settled, durable)

    async def _commit(self, request: NewRequest, settlement: Settlement, answer: StoredAnswer | None = None) -> Settled:
        """Ask the store until it takes the settlement, and return what that came to."""
        logger.error("request %s waits to be settled: the store cannot write", request.id)
        delay = RETRY_SECONDS_FIRST
        while True:
            await asyncio.sleep(delay)
            delay = min(delay * 2, RETRY_SECONDS_MAX)
            try:
                return await self._ledger.settle(request.id, settlement, self.clock.now_ms(), answer)
            except StoreUnavailableError:
                continue

    async def _abandon(self, request: NewRequest) -> None:
        """End a hold whose caller was cancelled, if it was placed: this is queued behind it."""
        try:
            settled = await self._ledger.settle(request.id, INTERRUPTED, self.clock.now_ms())
        except KeyError:
            return  # nothing was held
        except StoreUnavailableError:
            settled = await self._commit(request, INTERRUPTED)
        if settled is _NOW:
            self._metrics.settled(request.kind, request.model, INTERRUPTED)

    async def recover(self) -> int:
        """Settle what dead owners left open, and return how many requests those were. Safe to repeat, beside open holds and itself.

        Nothing is known of such a call but that it was asked: it is released, as `interrupted`, and costs nothing. Videos go on: their
        tasks end them.
        """
        note = replace(INTERRUPTED, note="the gateway ended while this was open")
        recovered = 0
        # Calls of the living wait behind one slice at most, and no more than one is in memory, however much a gateway left.
        while some := await self._ledger.orphaned_requests(RECOVER_SLICE, with_videos=False):
            told = await asyncio.gather(*(self._ledger.settle(request.id, note, self.clock.now_ms()) for request in some))
            recovered += told.count(_NOW)
            if len(some) < RECOVER_SLICE:
                break
        return recovered


def _fail(durable: "asyncio.Future[None]", why: str = _UNRECORDED) -> None:
    """Fail the answer that waits. Not 503: a client that asks again would pay for two answers."""
    if not durable.done():
        durable.set_exception(InternalError(why, should_retry=False))
        durable.exception()  # seen: no answer need wait for it
