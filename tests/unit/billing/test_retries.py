"""Calls that are left before their answer, and the retries that look for it: who gets it, and what is kept for how long."""

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from proxy.billing import retries
from proxy.billing.retries import KEPT_SECONDS, RETRY_HEADER, Retries, UndeliveredError
from proxy.core.errors import ModelUnavailableError
from proxy.edge.body import Posted
from proxy.store.values import StoredAnswer

BODY = {"prompt": "a lighthouse"}


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds

    def now_ms(self) -> int:
        return 0


@dataclass
class Caller:
    count: str | None = "0"
    account_id: int = 1
    key_id: str = "key_1"
    route: str = "/images/generations"
    left: bool = False
    replayed: list[str] = field(default_factory=list)

    def header_values(self, name: str) -> list[str]:
        return [self.count] if name == RETRY_HEADER and self.count is not None else []

    def has_left(self) -> bool:
        return self.left

    async def wait_for(self, event: asyncio.Event) -> None:
        await event.wait()

    def replay(self, request_id: str, status: int, body: bytes) -> bytes:
        self.replayed.append(request_id)
        return body


def undelivered(answer: bytes = b"picture", request_id: str = "img-1") -> Callable[[], Awaitable[bytes]]:
    async def work() -> bytes:
        raise UndeliveredError(request_id, StoredAnswer(200, answer))

    return work


async def own() -> bytes:
    return b"own"


async def lose(calls: Retries, answer: bytes = b"picture", body: object = BODY, **caller: object) -> None:
    with pytest.raises(UndeliveredError):
        await calls.once(Caller(**caller), Posted(body), undelivered(answer))  # type: ignore[arg-type]


async def test_a_retry_joins_the_call_that_is_under_way_and_left() -> None:
    calls, first, later, finish = Retries(Clock()), Caller(), Caller("1"), asyncio.Event()

    async def work() -> bytes:
        await finish.wait()
        return await undelivered()()

    asking = asyncio.gather(calls.once(first, Posted(BODY), work), return_exceptions=True)
    await asyncio.sleep(0)
    first.left = True
    waiting = asyncio.gather(calls.once(later, Posted(BODY), own))
    await asyncio.sleep(0)
    assert not waiting.done()
    finish.set()

    (answer,) = await waiting
    assert answer == b"picture"
    assert later.replayed == ["img-1"]
    assert isinstance((await asking)[0], UndeliveredError)
    assert len(calls) == 0


@pytest.mark.parametrize("end", [ModelUnavailableError("no"), asyncio.CancelledError(), ConnectionResetError()])
async def test_where_the_first_call_has_no_success_the_retry_runs_and_nothing_is_left_behind(end: BaseException) -> None:
    calls, first, finish = Retries(Clock()), Caller(), asyncio.Event()

    async def work() -> bytes:
        await finish.wait()
        raise end

    asking = asyncio.gather(calls.once(first, Posted(BODY), work), return_exceptions=True)
    await asyncio.sleep(0)
    first.left = True
    waiting = asyncio.gather(calls.once(Caller("1"), Posted(BODY), own))
    await asyncio.sleep(0)
    finish.set()

    (answer,) = await waiting
    assert answer == b"own"
    await asking
    assert len(calls) == 0


async def test_of_several_that_wait_one_whose_client_is_there_gets_it_and_another_runs() -> None:
    calls, first, finish = Retries(Clock()), Caller(), asyncio.Event()

    async def work() -> bytes:
        await finish.wait()
        return await undelivered()()

    asking = asyncio.gather(calls.once(first, Posted(BODY), work), return_exceptions=True)
    await asyncio.sleep(0)
    first.left = True
    gone, second, third = Caller("1"), Caller("2"), Caller("3")
    waiting = asyncio.gather(*(calls.once(one, Posted(BODY), own) for one in (gone, second, third)), return_exceptions=True)
    await asyncio.sleep(0)
    gone.left = True
    finish.set()
    ends = await waiting
    await asking

    assert isinstance(ends[0], ConnectionResetError)
    assert sorted(end for end in ends if isinstance(end, bytes)) == [b"own", b"picture"]
    assert len(calls) == 0


async def test_who_waits_keeps_little_of_its_body_and_has_it_when_its_turn_comes() -> None:
    calls, first, body, finish = Retries(Clock()), Caller(), Posted({"n": [[1.5], "é"]}), asyncio.Event()
    taken: list[object] = []

    async def fail() -> bytes:
        await finish.wait()
        raise ModelUnavailableError("no")

    async def take() -> bytes:
        taken.append(body.take())
        return b"own"

    asking = asyncio.gather(calls.once(first, Posted({"n": [[1.5], "é"]}), fail), return_exceptions=True)
    await asyncio.sleep(0)
    first.left = True
    waiting = asyncio.gather(calls.once(Caller("1"), body, take))
    await asyncio.sleep(0)
    kept = body.value
    finish.set()
    await waiting
    await asking

    assert kept is None
    assert taken == [{"n": [[1.5], "é"]}]


async def test_nothing_of_the_request_is_kept_with_its_answer() -> None:
    calls = Retries(Clock())

    async def lost() -> "weakref.ref[Caller]":
        caller = Caller()
        with contextlib.suppress(UndeliveredError):
            await calls.once(caller, Posted(BODY), undelivered())
        return weakref.ref(caller)

    watched = await lost()
    gc.collect()

    assert watched() is None
    assert len(calls) == 1


async def test_an_answer_is_given_once() -> None:
    calls = Retries(Clock())
    await lose(calls)

    assert [await calls.once(Caller("1"), Posted(BODY), own) for _ in range(2)] == [b"picture", b"own"]


OTHERS = [Caller("1", account_id=2), Caller("1", key_id="key_2"), Caller("1", route="/else"), Caller("0"), Caller(None), Caller("1.5")]


@pytest.mark.parametrize("other", OTHERS)
async def test_nobody_else_gets_it(other: Caller) -> None:
    calls = Retries(Clock())
    await lose(calls)

    assert await calls.once(other, Posted(BODY), own) == b"own"
    assert await calls.once(Caller("1"), Posted({"prompt": "another"}), own) == b"own"
    assert await calls.once(Caller("1"), Posted(BODY), own) == b"picture"


async def test_it_is_kept_for_ten_minutes() -> None:
    clock = Clock()
    calls = Retries(clock)
    await lose(calls)
    clock.seconds += KEPT_SECONDS

    assert await calls.once(Caller("1"), Posted(BODY), own) == b"own"
    assert len(calls) == 0


async def test_the_oldest_make_room_and_what_is_too_large_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "ALL_KEPT_BYTES_MAX", 25)
    monkeypatch.setattr(retries, "KEPT_BYTES_MAX", 20)
    calls = Retries(Clock())

    for number in range(3):
        await lose(calls, b"0123456789", number)
    await lose(calls, b"0" * 21, "too large")

    assert len(calls) == 2
    assert [await calls.once(Caller("1"), Posted(body), own) for body in (0, 1, 2, "too large")] == [
        b"own",
        b"0123456789",
        b"0123456789",
        b"own",
    ]
    assert len(calls) == 0
