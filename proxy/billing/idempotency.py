"""`Idempotency-Key`: a request repeated under one key is executed once, and answered each time with the same bytes.

A handler gives its work to `Idempotency.once`, passes on the claim that it gets (`NewRequest.claim`), and settles with the answer to be
kept (`Hold.settle(settlement, kept(claim, status, body))`; a video gives it to `VideoTasks.advance_task`):

    return await self._idempotency.once(context, body, lambda claim: self._make(context, body, claim))

Claim and hold are one transaction, answer and settlement another, so a crash leaves both or neither, and a key claimed by a dead
process is free again once its request is settled. A key belongs to an account: the same text from another account is another key.
Within this process a second call waits for the first; otherwise the store is asked. Where several gateways share it, a call waits for
a first one elsewhere likewise (`claims`), also if that was faster by the moment between the look and the hold.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

from proxy.billing.claims import ClaimsElsewhere
from proxy.clock import Clock
from proxy.core.errors import IdempotencyConflictError, InvalidParameterError
from proxy.core.fields import encode
from proxy.store.contract import Ledger
from proxy.store.values import ClaimedKey, IdempotencyClaim, StoredAnswer

HEADER = "Idempotency-Key"
KEPT_BYTES_MAX = 8 * 1024 * 1024
"""A longer answer is not kept: it would delay every commit behind it."""
UNDER_WAY_RETRY_SECONDS = 1.0
WAIT_SECONDS_MAX = 600.0
"""Time that a call waits for a first one elsewhere: as long as an upstream has for its first byte, unless configured otherwise."""

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_INVITES_RETRY = frozenset({402, 408, 409, 425, 429})

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Caller(Protocol[R_co]):
    """The parts of a request that idempotency needs; R is the type of its handler's answer."""

    @property
    def account_id(self) -> int: ...

    route: str

    def header_values(self, name: str) -> Sequence[str]:
        """Return every value of a header."""

    def replay(self, request_id: str, status: int, body: bytes) -> R_co:
        """Return an earlier request's answer again, under that request's id."""

    async def wait_for(self, event: asyncio.Event) -> None:
        """Wait for an event while the client is there. Raises: ConnectionError: it has left."""


class Body(Protocol):
    """A request's body, which may have to wait."""

    @property
    def value(self) -> object:
        """The parsed body."""

    def pack(self) -> None:
        """Keep it in less memory from now on. `value` is not asked for any more."""


@dataclass(frozen=True, slots=True, eq=False)
class _UnderWay:
    claim: IdempotencyClaim
    ended: asyncio.Event


class Idempotency:
    """The keys of all calls in progress in this process, checked before those in the store."""

    def __init__(self, ledger: Ledger, clock: Clock, elsewhere: ClaimsElsewhere | None = None) -> None:
        """Args: elsewhere: None: no other gateway has keys of this store."""
        self._ledger = ledger
        self._clock = clock
        self._elsewhere = elsewhere
        self._under_way: dict[tuple[int, str], _UnderWay] = {}

    async def once(self, caller: Caller[R], body: Body, work: Callable[[IdempotencyClaim | None], Awaitable[R]]) -> R:
        """Return the answer of ``work``, or its answer to an earlier call with the same key and body.

        Args:
            body: the route and the body, serialised with sorted keys, are compared.
            work: called at most once, with None if no key was sent. It ends only when its request is settled.

        Raises:
            InvalidJsonError: the body is nested too deeply to be compared.
            InvalidParameterError: the key is malformed: it must be 1 to 255 visible ASCII characters, sent once.
            IdempotencyConflictError: the key came with another body, or its first request is neither settled nor in progress here.
            ConnectionError: the client left while another call had the key.
        """
        key = _key_of(caller.header_values(HEADER))
        claim = None if key is None else IdempotencyClaim(key, digest(caller.route, body.value))
        if key is None or claim is None:
            return await work(None)
        place = (caller.account_id, key)
        while (first := self._under_way.get(place)) is not None:
            _check_same(first.claim, claim)
            body.pack()
            await caller.wait_for(first.ended)
        mine = self._under_way[place] = _UnderWay(claim, asyncio.Event())
        try:
            known = await self._known(caller, body, claim)
            if known is not None:
                return _replayed(caller, known, claim)
            try:
                return await work(claim)
            except IdempotencyConflictError:  # nothing was held: another gateway was faster
                known = None if self._elsewhere is None else await self._known(caller, body, claim)
                if known is None:
                    raise
            return _replayed(caller, known, claim)
        finally:
            del self._under_way[place]
            mine.ended.set()

    async def _known(self, caller: Caller[R], body: Body, claim: IdempotencyClaim) -> ClaimedKey | None:
        """Return who owns the key, once that call has ended if it runs elsewhere; None: the key is free.

        Raises: IdempotencyConflictError: it runs, with another body; ConnectionError: the client left meanwhile.
        """
        known = await self._ledger.claimed_key(caller.account_id, claim.key, self._clock.now_ms())
        if known is None or known.answer is not None or self._elsewhere is None:
            return known
        _check_same(known.claim, claim)
        body.pack()
        with self._elsewhere.watching((caller.account_id, claim.key)) as ended, suppress(TimeoutError):
            async with asyncio.timeout(WAIT_SECONDS_MAX):
                await caller.wait_for(ended)
        return await self._ledger.claimed_key(caller.account_id, claim.key, self._clock.now_ms())

    async def is_claimed(self, caller: Caller[R]) -> bool:
        """Return whether the call's key is that of an earlier call, whose answer it may get. Raises: InvalidParameterError."""
        key = _key_of(caller.header_values(HEADER))
        if key is None:
            return False
        if (caller.account_id, key) in self._under_way:
            return True
        return await self._ledger.claimed_key(caller.account_id, key, self._clock.now_ms()) is not None


def kept(claim: IdempotencyClaim | None, status: int, body: bytes) -> StoredAnswer | None:
    """Return the answer to keep under a key; None if there is no key, or a retry under it should run.

    A success is final, and so is a refusal by the upstream: a retry would get the same. A refusal because of the balance, a limit or
    an outage is not.
    """
    if claim is None or len(body) > KEPT_BYTES_MAX:
        return None
    final = 200 <= status < 300 or (400 <= status < 500 and status not in _INVITES_RETRY)
    return StoredAnswer(status, body) if final else None


def digest(route: str, body: object) -> bytes:
    """Return a request's SHA-256, by which requests are compared: over its route and its body, serialised with sorted keys.

    Raises:
        InvalidJsonError: nested too deeply to be serialised.
    """
    written = hashlib.sha256(route.encode() + b"\n")
    written.update(encode(body, sort_keys=True))
    return written.digest()


def _key_of(values: Sequence[str]) -> str | None:
    if not values:
        return None
    if len(values) > 1 or not _KEY.fullmatch(values[0]):
        raise InvalidParameterError(f"{HEADER} must be sent once, as 1 to 255 visible ASCII characters", param=HEADER)
    return values[0]


def _check_same(first: IdempotencyClaim, claim: IdempotencyClaim) -> None:
    if first.body_sha256 != claim.body_sha256:
        raise IdempotencyConflictError(f"This {HEADER} was used for another request", param=HEADER, should_retry=False)


def _replayed(caller: Caller[R], known: ClaimedKey, claim: IdempotencyClaim) -> R:
    _check_same(known.claim, claim)
    if known.answer is None:
        raise IdempotencyConflictError(
            f"The first request with this {HEADER} is not settled yet",
            param=HEADER,
            retry_after_seconds=UNDER_WAY_RETRY_SECONDS,
            should_retry=True,
        )
    return caller.replay(known.request_id, known.answer.status, known.answer.body)
