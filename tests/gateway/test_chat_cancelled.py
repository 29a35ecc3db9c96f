"""A chat call is disturbed at every moment of its life: no hold leaks and the books balance.

It is cancelled exactly at each of its awaits. At each turn of the event loop it is cancelled, left by its client, or cut by the end of
the process.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from proxy.billing.holds import Billing
from proxy.billing.idempotency import Idempotency
from proxy.clock import SystemClock
from proxy.config import BillingConfig, load
from proxy.core.bounds import Bounds
from proxy.core.money import Nanos
from proxy.core.rates import Meter, Rates
from proxy.core.settlement import Outcome
from proxy.demo.ark import Send, StandIn, answer_head
from proxy.edge.body import BodyReader
from proxy.edge.context import Context
from proxy.edge.listener import Listener
from proxy.edge.response import Response
from proxy.exchange.admission import Admission
from proxy.exchange.flight import Relay
from proxy.handlers.chat import ChatHandlers
from proxy.store.contract import Store
from proxy.store.sqlite import open_store
from proxy.store.values import Grant
from proxy.tasks import TaskGroup
from proxy.telemetry.metrics import Metrics
from proxy.upstream.routing import Routing
from proxy.upstream.upstreams import Upstreams
from tests.support.books import assert_books_balance
from tests.support.entrance import straight_to
from tests.support.gateway import CONFIG, DEFAULTS
from tests.support.raw_chat import RawChat, raw_chat
from tests.support.settings import live

BALANCE = 10**12
FULL_CHARGE = 40_000
"""20 × 800 + 12 × 2,000 nano-yuan."""
_BODY = b'{"id":"0217","choices":[{"message":{}}],"usage":{"prompt_tokens":20,"completion_tokens":12}}'
JSON_ANSWER = answer_head(200, "application/json", body_bytes=len(_BODY)) + _BODY
UNDISTURBED_IN_A_ROW = 5
"""The sweep ends when this number of calls in a row, at growing turns, had ended before their disturbance."""
EVERY_TURN_UP_TO = 30
"""Beyond this turn the steps grow, since the number of turns depends on the disk."""


Call = Coroutine[Any, Any, Response]


class CancelAt:
    """Awaits a call and cancels its task at the call's n-th await: at once, or (`late`) at the moment when the awaited result comes."""

    def __init__(self, call: Call, nth: int, *, late: bool) -> None:
        self.call = call
        self.nth = nth
        self.late = late
        self.awaits = 0

    def __await__(self) -> Generator[Any, Any, Response]:
        step: Callable[[], Any] = lambda: self.call.send(None)  # noqa: E731 - replaced at each step
        while True:
            try:
                awaited = step()
            except StopIteration as end:
                response: Response = end.value
                return response
            self.awaits += 1
            if self.awaits == self.nth:
                self._cancel_soon(awaited)
            try:
                yield awaited
            except BaseException as fault:  # noqa: BLE001 - passed on
                step = partial(self.call.throw, fault)
            else:
                step = partial(self.call.send, None)

    def _cancel_soon(self, awaited: "asyncio.Future[Any] | None") -> None:
        task = asyncio.current_task()
        assert task is not None
        if self.late and awaited is not None:
            awaited.add_done_callback(lambda _done: task.cancel() and None)  # before the task's own callback is added
        else:
            asyncio.get_running_loop().call_soon(task.cancel)


@dataclass
class Rig:
    """The hot path with access to each of its parts; one call at a time."""

    store: Store
    settlements: TaskGroup
    relay: Relay
    chat: ChatHandlers
    ark: StandIn
    grant: Grant
    meter: Meter = field(default_factory=lambda: Meter("key"))
    bounds: Bounds | None = None
    origin: str = ""
    cancel_at: int = 0
    """Number of the await at which the call is cancelled; 0: none."""
    cancel_late: bool = False
    call: CancelAt | None = None
    inside: asyncio.Future[asyncio.Task[Any]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    ids: list[str] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)

    async def handle(self, context: Context) -> Response:
        context.grant, context.bounds = self.grant, self.bounds
        self.ids.append(context.id)
        self.call = CancelAt(self.chat.create(context), self.cancel_at, late=self.cancel_late)
        task = asyncio.get_running_loop().create_task(self._answer(self.call))
        self.inside.set_result(task)
        return await task

    async def _answer(self, call: CancelAt) -> Response:
        """Answer in a separate task, which ends with the call; the connection's task goes on to the next call."""
        return await call


@asynccontextmanager
async def rig(directory: Path, policy: BillingConfig) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        clock, metrics = SystemClock(), Metrics()
        ark = await stack.enter_async_context(StandIn())
        (directory / "config.toml").write_text(CONFIG.format(**DEFAULTS, base_url=ark.base_url))
        config = load(directory / "config.toml", {"ARK_API_KEY": "key"})
        store = await open_store(directory / "books.db")
        stack.push_async_callback(store.close)
        account = await store.create_account("acme", Nanos(BALANCE), 0)
        upstreams = Upstreams(clock)
        stack.push_async_callback(upstreams.close)
        settings = live(config, upstreams.take(config.upstreams), billing=policy, body_bytes_max=1_000_000, estimate=True)
        settlements = TaskGroup("settlement")
        relay = Relay(settings, metrics, clock)
        bodies, idempotency = BodyReader(settings), Idempotency(store, clock)
        chat = ChatHandlers(
            live=settings,
            billing=Billing(store, settlements, clock, metrics),
            idempotency=idempotency,
            relay=relay,
            bodies=bodies,
            admission=Admission(accounts=store, idempotency=idempotency, bodies=bodies, live=settings),
            clock=clock,
            metrics=metrics,
            routing=Routing(clock),
        )
        made = Rig(store, settlements, relay, chat, ark, Grant(b"", "", account.id, "acme"))
        made.meter.limit(None, None, 1, clock.monotonic())  # one slot: a call that kept it would be the last
        made.bounds = Bounds(None, None, ends_at_ms=None, rates=Rates((made.meter,)))
        asyncio.get_running_loop().set_exception_handler(lambda _loop, fault: made.faults.append(fault))
        served = Listener(straight_to(made.handle, clock), clock, keepalive_seconds=5, stall_seconds=5)
        stack.push_async_callback(served.close)
        listener = socket.create_server(("127.0.0.1", 0))
        (made.origin,) = await served.open([listener])
        yield made


async def whole_call(rig: Rig, *, stream: bool) -> CancelAt:
    """Make one call, wait until it and its settlement have ended, and return it."""
    rig.inside = asyncio.get_running_loop().create_future()
    async with raw_chat(rig.origin, "-", stream=stream, max_tokens=50):
        await asyncio.wait([await rig.inside])
    assert await rig.settlements.drain(5) == 0
    assert rig.call is not None
    return rig.call


@pytest.mark.parametrize("late", [False, True], ids=["at once", "as it comes"])
@pytest.mark.parametrize("stream", [False, True], ids=["JSON", "stream"])
@pytest.mark.parametrize("kept", [False, True], ids=["dials", "has a connection"])
async def test_a_handler_cancelled_at_any_of_its_awaits_leaks_no_hold(tmp_path: Path, *, stream: bool, late: bool, kept: bool) -> None:
    async with rig(tmp_path, BillingConfig(disconnect="drain", drain_after_seconds=5.0, drains_max=10)) as it:
        outcomes: list[Outcome] = []
        if not stream:
            it.ark.enqueue([Send(JSON_ANSWER[:-30]), Send(JSON_ANSWER[-30:])], times=None)  # so that the gateway awaits its body
        it.cancel_late = late
        was_cancelled = True
        while was_cancelled:
            it.cancel_at, nth = 0, it.cancel_at + 1
            if kept:
                await whole_call(it, stream=stream)
            else:
                it.ark.drop_idle(reset=True)
                await it.ark.wait_until(lambda: it.ark.open_connections == 0)
            it.cancel_at = nth
            call = await whole_call(it, stream=stream)
            was_cancelled = call.awaits >= nth

            assert (await it.store.open_requests(), it.meter.open) == ([], 0)
            if (found := await it.store.receipt(it.ids[-1])) is not None:
                assert found[0].settlement is not None
                outcomes.append(found[0].settlement.outcome)

        if kept:  # cancelled at the hold, the upstream's head, its body, and the settlement, which stands; then not at all
            assert outcomes == [Outcome.INTERRUPTED] * 3 + [Outcome.COMPLETE] * 2
        else:
            assert (len(outcomes) > 5, outcomes[0], outcomes[-1]) == (True, Outcome.INTERRUPTED, Outcome.COMPLETE)
        assert len(it.relay) == 0
        assert it.faults == []
        await assert_books_balance(it.store)


Disturbance = Callable[[Rig, "asyncio.Task[Any]", RawChat], None]


def cancel(_rig: Rig, task: "asyncio.Task[Any]", _client: RawChat) -> None:
    task.cancel()


def leave(_rig: Rig, _task: "asyncio.Task[Any]", client: RawChat) -> None:
    client.leave(reset=True)


def cut(rig: Rig, _task: "asyncio.Task[Any]", _client: RawChat) -> None:
    rig.relay.cut()


async def disturbed_call(rig: Rig, disturb: Disturbance, turns: int, *, stream: bool) -> bool:
    """Make one call and disturb it after `turns` turns of the loop; return whether it was still under way then."""
    rig.inside = asyncio.get_running_loop().create_future()
    rig.relay._is_cut = False  # each call is the first one of a process that is about to end
    async with raw_chat(rig.origin, "-", stream=stream, max_tokens=50) as client:
        task = await rig.inside
        for _ in range(turns):
            if task.done():
                return False
            await asyncio.sleep(0)
        was_running = not task.done()
        disturb(rig, task, client)
        await asyncio.wait([task])
    assert await rig.settlements.drain(5) == 0
    return was_running


@pytest.mark.parametrize("stream", [False, True], ids=["JSON", "stream"])
@pytest.mark.parametrize(("disturb", "disconnect"), [(cancel, "drain"), (cut, "drain"), (leave, "drain"), (leave, "cancel")])
async def test_whatever_happens_at_whatever_turn_leaks_no_hold(
    tmp_path: Path, disturb: Disturbance, disconnect: Any, *, stream: bool
) -> None:
    async with rig(tmp_path, BillingConfig(disconnect=disconnect, drain_after_seconds=5.0, drains_max=10)) as it:
        turns = undisturbed = 0
        while undisturbed < UNDISTURBED_IN_A_ROW:
            undisturbed = 0 if await disturbed_call(it, disturb, turns, stream=stream) else undisturbed + 1
            turns += 1 + max(0, turns - EVERY_TURN_UP_TO) // 15
            assert (await it.store.open_requests(), it.meter.open) == ([], 0)
            assert len(it.relay) == 0

        account = await it.store.account("acme")
        receipts = [found[0] for found in await asyncio.gather(*map(it.store.receipt, it.ids)) if found is not None]
        settlements = [receipt.settlement for receipt in receipts if receipt.settlement is not None]
        assert turns > 20
        assert account.held_nanos == 0
        assert account.balance_nanos == BALANCE - sum(settlement.charge_nanos for settlement in settlements)
        assert {settlement.charge_nanos for settlement in settlements if settlement.outcome is Outcome.COMPLETE} == {FULL_CHARGE}
        assert len({settlement.outcome for settlement in settlements}) > 1
        assert it.faults == []
        await assert_books_balance(it.store)
