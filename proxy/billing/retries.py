"""An SDK's retry of a paid call whose answer never reached its client: it gets that answer, and is not charged again.

A proxy in front gives up (504), or a connection breaks, while the answer is still being made. It is made to its end, and charged. SDKs
then send the same request again by themselves, with ``x-stainless-retry-count`` above 0 and without an `Idempotency-Key`. Such a retry
is joined to the call that it repeats: of the same account, key, route and body, whose client has left and whose answer nobody has had.

In this process only, and only for a success: after anything else the retry runs as a call of its own. A call that is no retry never
gets the answer of another.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

from proxy.billing.idempotency import KEPT_BYTES_MAX, Body, digest
from proxy.clock import Clock
from proxy.store.values import StoredAnswer

RETRY_HEADER = "x-stainless-retry-count"
"""Sent by all SDKs that Stainless makes, such as OpenAI's: 0 on a call, then the number of the retry."""
KEPT_SECONDS = 600.0
ALL_KEPT_BYTES_MAX = 64 * 1024 * 1024

R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")


class UndeliveredError(ConnectionResetError):
    """The client left before its answer, a success that is settled, could be sent."""

    def __init__(self, request_id: str, answer: StoredAnswer) -> None:
        super().__init__("the client left")
        self.request_id = request_id
        self.answer = answer


class Caller(Protocol[R_co]):
    """The parts of a request that a retry needs; R is the type of its handler's answer."""

    route: str

    @property
    def account_id(self) -> int: ...

    @property
    def key_id(self) -> str: ...

    def header_values(self, name: str) -> Sequence[str]:
        """Return every value of a header."""

    def has_left(self) -> bool:
        """Return True once the client's connection is lost."""

    def replay(self, request_id: str, status: int, body: bytes) -> R_co:
        """Return an earlier request's answer again, under that request's id."""

    async def wait_for(self, event: asyncio.Event) -> None:
        """Wait for an event while the client is there. Raises: ConnectionError: it has left."""


class _Place(NamedTuple):
    account_id: int
    key_id: str
    sha256: bytes


class _Answered(NamedTuple):
    """What is kept of an `UndeliveredError`. The traceback would keep the call with it, and pictures of 40 MB."""

    request_id: str
    answer: StoredAnswer


@dataclass(slots=True, eq=False)
class _Call:
    """A call under way, or one that ended with an answer which nobody has had."""

    has_left: Callable[[], bool]
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    answered: _Answered | None = None
    until: float = 0.0
    """Monotonic seconds at which its answer is dropped."""


class Retries:
    """The calls of SDKs that are under way, and the answers that did not reach their clients, oldest first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._under_way: dict[_Place, list[_Call]] = {}
        self._kept: dict[_Call, _Place] = {}
        self._kept_bytes = 0

    async def once(self, caller: Caller[R], body: Body, work: Callable[[], Awaitable[R]]) -> R:
        """Return the answer of ``work``, or the answer that the retried call's client did not get.

        Args:
            caller: one that sent no `Idempotency-Key`.
            body: as it is before ``work`` may change it.
            work: called at most once. It raises `UndeliveredError` if its answer is ready and its client has left.

        Raises:
            ConnectionError: the client left.
        """
        count = _retry_count(caller)
        if count is None:
            return await work()
        place = _Place(caller.account_id, caller.key_id, digest(caller.route, body.value))
        if count and (first := await self._undelivered(caller, place, body)) is not None:
            return caller.replay(first.request_id, first.answer.status, first.answer.body)
        return await self._watched(_Call(caller.has_left), place, work)

    def __len__(self) -> int:
        """Return how many calls are under way or kept."""
        return sum(map(len, self._under_way.values())) + len(self._kept)

    async def _undelivered(self, caller: Caller[R], place: _Place, body: Body) -> _Answered | None:
        """Take the answer that is kept for a retry, once there is one; None: no such call, or it had no success."""
        while True:
            if (kept := self._take(place)) is not None:
                return kept
            left = [call for call in self._under_way.get(place, ()) if call.has_left()]
            if not left:
                return None
            body.pack()
            await caller.wait_for(left[0].ended)
            if caller.has_left():  # the next retry gets it
                raise ConnectionResetError("the client left")

    async def _watched(self, call: _Call, place: _Place, work: Callable[[], Awaitable[R]]) -> R:
        self._under_way.setdefault(place, []).append(call)
        try:
            return await work()
        except UndeliveredError as undelivered:
            self._keep(call, place, undelivered)
            raise
        finally:
            self._under_way[place].remove(call)
            if not self._under_way[place]:
                del self._under_way[place]
            call.ended.set()

    def _keep(self, call: _Call, place: _Place, undelivered: UndeliveredError) -> None:
        if len(undelivered.answer.body) > KEPT_BYTES_MAX:
            return
        call.has_left = _is_gone  # the other was a part of the request, which would be kept with it
        call.answered = _Answered(undelivered.request_id, undelivered.answer)
        call.until = self._clock.monotonic() + KEPT_SECONDS
        self._kept[call] = place
        self._kept_bytes += len(undelivered.answer.body)
        self._drop_old()

    def _take(self, place: _Place) -> _Answered | None:
        self._drop_old()
        call = next((call for call, kept in self._kept.items() if kept == place), None)
        return None if call is None else self._drop(call)

    def _drop_old(self) -> None:
        now = self._clock.monotonic()
        while self._kept:
            oldest = next(iter(self._kept))
            if oldest.until > now and self._kept_bytes <= ALL_KEPT_BYTES_MAX:
                return
            self._drop(oldest)

    def _drop(self, call: _Call) -> _Answered:
        del self._kept[call]
        assert call.answered is not None
        self._kept_bytes -= len(call.answered.answer.body)
        return call.answered


def _is_gone() -> bool:
    return True


def _retry_count(caller: Caller[R]) -> int | None:
    """Return the number of the retry, 0 for a first call; None if its client does not count."""
    values = caller.header_values(RETRY_HEADER)
    if len(values) != 1 or not (values[0].isascii() and values[0].isdigit()):
        return None
    return int(values[0][:9])
