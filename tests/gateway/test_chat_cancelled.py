"""A chat call is disturbed at every single turn of the event loop, from its first to its last: no hold leaks and the books balance.

Three disturbances: its handler is cancelled, its client leaves, the process cuts all calls.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp.web import StreamResponse

from proxy.billing import Billing
from proxy.clock import SystemClock
from proxy.config import load
from proxy.core.money import Nanos
from proxy.core.settlement import Outcome
from proxy.demo.ark import StandIn
from proxy.edge.body import BodyReader
from proxy.edge.context import Context
from proxy.edge.door import Door
from proxy.handlers.chat import ChatHandlers
from proxy.metrics import Metrics
from proxy.relay import DisconnectPolicy, Relay
from proxy.store.contract import Grant, Store
from proxy.store.sqlite import open_store
from proxy.tasks import TaskGroup
from proxy.upstream.wire import Limits, Wire
from tests.support.books import assert_books_balance
from tests.support.gateway import CONFIG, DEFAULTS
from tests.support.raw_chat import RawChat, raw_chat

BALANCE = 10**12
FULL_CHARGE = 40_000
"""20 × 800 + 12 × 2,000 nano-yuan."""
UNDISTURBED_IN_A_ROW = 10
"""So many calls must come through untouched, one turn later each, before the sweep is over."""


@dataclass
class Rig:
    """The hot path in one piece, with every part at hand; one call at a time."""

    store: Store
    settlements: TaskGroup
    relay: Relay
    chat: ChatHandlers
    grant: Grant
    origin: str = ""
    inside: asyncio.Future[asyncio.Task[Any]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    ids: list[str] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)

    async def handle(self, context: Context) -> StreamResponse:
        context.grant = self.grant
        self.ids.append(context.id)
        task = asyncio.current_task()
        assert task is not None
        self.inside.set_result(task)
        return await self.chat.create(context)


@asynccontextmanager
async def rig(directory: Path, policy: DisconnectPolicy) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        clock, metrics = SystemClock(), Metrics()
        ark = await stack.enter_async_context(StandIn())
        (directory / "config.toml").write_text(CONFIG.format(**DEFAULTS, base_url=ark.base_url))
        catalog = load(directory / "config.toml", {"ARK_API_KEY": "key"}).catalog
        store = await open_store(directory / "books.db")
        stack.push_async_callback(store.close)
        account = await store.create_account("acme", Nanos(BALANCE), 0)
        wire = Wire(ark.base_url, headers={"Authorization": "Bearer key"}, limits=Limits())
        stack.push_async_callback(wire.close)
        settlements = TaskGroup("settlement")
        relay = Relay(policy, metrics)
        chat = ChatHandlers(
            catalog=catalog,
            wires={"ark": wire},
            billing=Billing(store, settlements, clock, metrics),
            relay=relay,
            bodies=BodyReader(bytes_max=1_000_000, seconds=5),
            clock=clock,
            metrics=metrics,
            estimate=True,
        )
        made = Rig(store, settlements, relay, chat, Grant(b"", "", account.id, "acme"))
        asyncio.get_running_loop().set_exception_handler(lambda _loop, fault: made.faults.append(fault))
        door = Door(made.handle, clock, keepalive_seconds=5, stall_seconds=5)
        stack.push_async_callback(door.close)
        listener = socket.create_server(("127.0.0.1", 0))
        (made.origin,) = await door.open([listener])
        yield made


Disturbance = Callable[[Rig, "asyncio.Task[Any]", RawChat], None]


def cancel(_rig: Rig, task: "asyncio.Task[Any]", _client: RawChat) -> None:
    task.cancel()


def leave(_rig: Rig, _task: "asyncio.Task[Any]", client: RawChat) -> None:
    client.leave(reset=True)


def cut(rig: Rig, _task: "asyncio.Task[Any]", _client: RawChat) -> None:
    rig.relay.cut()


async def disturbed_call(rig: Rig, disturb: Disturbance, turns: int, *, stream: bool) -> bool:
    """Make one call and disturb it after so many turns of the loop; return whether it was still under way then."""
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
async def test_whatever_happens_at_whichever_turn_leaks_no_hold(
    tmp_path: Path, disturb: Disturbance, disconnect: Any, *, stream: bool
) -> None:
    async with rig(tmp_path, DisconnectPolicy(disconnect, 5.0, 10)) as it:
        turns = undisturbed = 0
        while undisturbed < UNDISTURBED_IN_A_ROW:
            undisturbed = 0 if await disturbed_call(it, disturb, turns, stream=stream) else undisturbed + 1
            turns += 1
            assert await it.store.open_requests() == []
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
