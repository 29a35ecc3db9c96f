"""An image call is cancelled, left by its client or cut by the process's end, at every turn of the loop. No hold and no key leaks."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest

from proxy.billing.holds import Billing
from proxy.billing.idempotency import Idempotency
from proxy.clock import SystemClock
from proxy.config import BillingConfig, load
from proxy.core.bounds import Bounds
from proxy.core.money import Nanos
from proxy.core.rates import Meter, Rates
from proxy.core.settlement import Outcome
from proxy.demo.ark import StandIn
from proxy.edge.body import BodyReader
from proxy.edge.context import Context
from proxy.edge.listener import Listener
from proxy.edge.response import Response
from proxy.exchange.admission import Admission
from proxy.exchange.flight import Relay
from proxy.handlers.images import ImageHandlers
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
from tests.support.images import PRICE, PROMPT, ROUTE
from tests.support.settings import live

BALANCE = 10**12
IMAGES = 2
UNDISTURBED_IN_A_ROW = 4
"""The sweep ends when this number of calls in a row, at growing turns, had ended before their disturbance."""
EVERY_TURN_UP_TO = 40
"""Beyond this turn the steps grow, since the number of turns depends on the disk."""


@dataclass
class Rig:
    """The path of an image call with access to each of its parts; one call at a time, each under its own idempotency key."""

    store: Store
    settlements: TaskGroup
    relay: Relay
    idempotency: Idempotency
    images: ImageHandlers
    grant: Grant
    meter: Meter = field(default_factory=lambda: Meter("key"))
    bounds: Bounds | None = None
    origin: str = ""
    inside: asyncio.Future[asyncio.Task[Any]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    ids: list[str] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)

    async def handle(self, context: Context) -> Response:
        context.grant, context.bounds = self.grant, self.bounds
        context.route = ROUTE
        task = asyncio.get_running_loop().create_task(self._answer(context))
        self.inside.set_result(task)
        return await task

    async def _answer(self, context: Context) -> Response:
        """Answer in a separate task, which ends with the call; the connection's task goes on to the next call."""
        try:
            return await self.images.create(context)
        finally:
            self.ids.append(context.id)


@asynccontextmanager
async def rig(directory: Path, policy: BillingConfig) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        clock, metrics = SystemClock(), Metrics()
        ark = await stack.enter_async_context(StandIn())
        (directory / "config.toml").write_text(CONFIG.format(**{**DEFAULTS, "base_url": ark.base_url}))
        config = load(directory / "config.toml", {"ARK_API_KEY": "key"})
        store = await open_store(directory / "books.db")
        stack.push_async_callback(store.close)
        account = await store.create_account("acme", Nanos(BALANCE), 0)
        upstreams = Upstreams(clock)
        stack.push_async_callback(upstreams.close)
        settings = live(config, upstreams.take(config.upstreams), billing=policy, body_bytes_max=1_000_000)
        settlements, relay, idempotency = TaskGroup("settlement"), Relay(settings, metrics, clock), Idempotency(store, clock)
        images = ImageHandlers(
            live=settings,
            billing=Billing(store, settlements, clock, metrics),
            idempotency=idempotency,
            relay=relay,
            admission=Admission(accounts=store, idempotency=idempotency, bodies=BodyReader(settings), live=settings),
            clock=clock,
            metrics=metrics,
            routing=Routing(clock),
        )
        made = Rig(store, settlements, relay, idempotency, images, Grant(b"", "", account.id, "acme"))
        made.meter.limit(None, None, 1, clock.monotonic())  # one slot: a call that kept it would be the last
        made.bounds = Bounds(None, None, ends_at_ms=None, rates=Rates((made.meter,)))
        asyncio.get_running_loop().set_exception_handler(lambda _loop, fault: made.faults.append(fault))
        listener = Listener(straight_to(made.handle, clock), clock, keepalive_seconds=5, stall_seconds=5)
        stack.push_async_callback(listener.close)
        (made.origin,) = await listener.open([socket.create_server(("127.0.0.1", 0))])
        yield made


Disturbance = Callable[[Rig, "asyncio.Task[Any]", asyncio.StreamWriter], None]


def cancel(_rig: Rig, task: "asyncio.Task[Any]", _client: asyncio.StreamWriter) -> None:
    task.cancel()


def leave(_rig: Rig, _task: "asyncio.Task[Any]", client: asyncio.StreamWriter) -> None:
    client.transport.abort()


def cut(rig: Rig, _task: "asyncio.Task[Any]", _client: asyncio.StreamWriter) -> None:
    rig.relay.cut()


async def disturbed_call(rig: Rig, disturb: Disturbance, turns: int, *, is_held: bool) -> bool:
    """Make one call and disturb it after `turns` turns of the loop, counted from its beginning or its hold.

    Return whether it was still under way then.
    """
    rig.inside = asyncio.get_running_loop().create_future()
    rig.relay._is_cut = False  # each call is the first one of a process that is about to end
    url, body = urlsplit(rig.origin), orjson.dumps({"prompt": PROMPT, "n": IMAGES})
    _, client = await asyncio.open_connection(url.hostname, url.port)
    try:
        client.write(f"POST / HTTP/1.1\r\nHost: g\r\nIdempotency-Key: k{turns}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        task = await rig.inside
        while is_held and not len(rig.relay):  # noqa: ASYNC110 - turns are what is counted here
            await asyncio.sleep(0)
        for _ in range(turns):
            if task.done():
                return False
            await asyncio.sleep(0)
        was_running = not task.done()
        disturb(rig, task, client)
        await asyncio.wait([task])
    finally:
        client.transport.abort()
    assert await rig.settlements.drain(5) == 0
    return was_running


@pytest.mark.parametrize("is_held", [False, True], ids=["from the first turn", "from the hold"])
@pytest.mark.parametrize(("disturb", "disconnect"), [(cancel, "drain"), (cut, "drain"), (leave, "drain"), (leave, "cancel")])
async def test_whatever_happens_at_whatever_turn_leaks_no_hold_and_no_key(
    tmp_path: Path, disturb: Disturbance, disconnect: Any, *, is_held: bool
) -> None:
    async with rig(tmp_path, BillingConfig(disconnect=disconnect, drain_after_seconds=5.0, drains_max=10)) as it:
        turns = undisturbed = 0
        while undisturbed < UNDISTURBED_IN_A_ROW:
            undisturbed = 0 if await disturbed_call(it, disturb, turns, is_held=is_held) else undisturbed + 1
            turns += 1 + max(0, turns - EVERY_TURN_UP_TO) // 10
            assert (await it.store.open_requests(), it.meter.open) == ([], 0)
            assert len(it.relay) == 0
            assert it.idempotency._under_way == {}

        account = await it.store.account("acme")
        receipts = [found[0] for found in await asyncio.gather(*map(it.store.receipt, it.ids)) if found is not None]
        settlements = [receipt.settlement for receipt in receipts if receipt.settlement is not None]
        assert turns > 20
        assert account.held_nanos == 0
        assert account.balance_nanos == BALANCE - sum(settlement.charge_nanos for settlement in settlements)
        assert all(settlement.charge_nanos == settlement.units * PRICE for settlement in settlements)
        ends = {(settlement.outcome, settlement.units) for settlement in settlements}
        assert (Outcome.COMPLETE, IMAGES) in ends
        if disturb is not leave:
            assert (Outcome.INTERRUPTED, 0) in ends
        elif is_held:
            # nothing stops an image upstream: open ones are finished and charged, whatever `disconnect` says
            assert (Outcome.CLIENT_GONE, IMAGES) in ends
        else:
            assert (Outcome.CLIENT_GONE, 0) in ends  # the client left before the upstream was asked
        assert it.faults == []
        await assert_books_balance(it.store)
