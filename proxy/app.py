"""The composition root: everything is built here once, passed by constructor, closed in reverse.

Shutdown is start-up read backwards.
"""

import asyncio
import gc
import logging
import os
import random
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import chain

import uvloop

from proxy import logs, systemd
from proxy.billing import Billing
from proxy.clock import Clock, SystemClock
from proxy.config import Address, Config, UnixAddress, UpstreamConfig
from proxy.core.money import Nanos
from proxy.core.video_task import Pace
from proxy.core.videos import SEED_MAX, VideoBilling
from proxy.edge.body import BodyReader
from proxy.edge.door import Door
from proxy.edge.listeners import ListenError, open_sockets, remove_unix_socket
from proxy.edge.middleware import Dispatcher, Observer, compose, cross_origin
from proxy.edge.router import Router
from proxy.handlers.account import AccountHandlers
from proxy.handlers.admin import AdminHandlers
from proxy.handlers.chat import ChatHandlers
from proxy.handlers.images import ImageHandlers
from proxy.handlers.models import ModelHandlers
from proxy.handlers.ops import OpsHandlers
from proxy.handlers.videos import VideoHandlers
from proxy.idempotency import Idempotency
from proxy.jobs import hold_sweep, retention
from proxy.jobs.hold_sweep import HoldSweep
from proxy.jobs.retention import Retention
from proxy.jobs.video_poll import DueVideos, VideoPoll
from proxy.metrics import Metrics
from proxy.operations import Desk
from proxy.relay import DisconnectPolicy, Relay
from proxy.routes import PREFIXES, admin_routes, probe_routes, public_routes
from proxy.scheduler import DueWork, Scheduler
from proxy.snapshot import Snapshot
from proxy.store.contract import AccountNotFoundError, Grant, Store, StoreRefusedError, StoreUnavailableError
from proxy.store.sqlite import open_store
from proxy.tasks import TaskGroup, first_of
from proxy.upstream.client import ArkClient
from proxy.upstream.wire import Limits, Wire
from proxy.video_calls import VideoCalls, line
from proxy.video_desk import VideoDesk

logger = logging.getLogger(__name__)

DEFAULT_ACCOUNT = "default"
"""Whom all calls are charged to where no keys are used."""
CUT_SECONDS = 10.0
"""What cut streams get to say goodbye."""
SETTLE_SECONDS = 30.0
"""What the store gets for the last settlements; what is then still open is settled at the next start."""
ADMIN_SOCKET_MODE = 0o600
SUBMIT_DRAIN_SECONDS = 30.0
"""What submits get whose customers have left; the next start looks for those that are cut."""
EXIT_STORE_FAILED = 70
EXIT_SCHEDULER_FAILED = 71
GC_ALLOCATIONS = 10_000


class StopSignal:
    """SIGTERM or SIGINT: the first begins a drain, a second ends it."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.impatient = asyncio.Event()
        self.has_failed = False
        """Whether the gateway stops of itself, because a part of it that must never end has ended."""

    def request(self) -> None:
        """Ask to stop; asked twice, to stop now."""
        (self.impatient if self.requested.is_set() else self.requested).set()

    def fail(self, fault: BaseException | None) -> None:
        """Stop because the scheduler has ended: without it no video would, and no hold of one."""
        logger.critical("the scheduler ended, so the gateway stops: %s", fault or "without a reason")
        self.has_failed = True
        self.requested.set()


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway, as those see it who started it."""

    store: Store
    addresses: tuple[str, ...]
    """Where it listens: ``http://HOST:PORT`` or ``unix:PATH``."""
    snapshot: Snapshot


def serve(config: Config) -> int:
    """Run the gateway until a signal ends it; return the process's exit code."""
    clock = SystemClock()
    access_log = logs.configure(clock)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config, clock, access_log))


async def _serve(config: Config, clock: Clock, access_log: logs.AccessLog) -> int:
    stop = StopSignal()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.request)
    try:
        async with running(config, clock=clock, access_log=access_log, stop=stop) as gateway:
            _settle_memory()
            logger.info("listening on %s", ", ".join(gateway.addresses))
            systemd.notify("READY=1")
            await stop.requested.wait()
            systemd.notify("STOPPING=1")
            logger.info("stopping: up to %g s for what is under way", config.server.drain_seconds)
    except (ListenError, StoreRefusedError, StoreUnavailableError) as fault:
        logger.error("cannot start: %s", fault)  # noqa: TRY400 - the operator's fault, no traceback
        return 1
    logger.info("stopped")
    return EXIT_SCHEDULER_FAILED if stop.has_failed else 0


def _settle_memory() -> None:
    """Take what start-up made out of the collector's sight, and let it look less often: a request leaves few cycles behind.

    The collector's default cost 8 % of the CPU of a JSON request.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 20)


@asynccontextmanager
async def running(
    config: Config, *, clock: Clock, access_log: logs.AccessLog, stop: StopSignal | None = None
) -> AsyncIterator[Gateway]:
    """Start a gateway, and on leaving drain and close it.

    Raises:
        ListenError: an address cannot be listened on.
        StoreRefusedError: the store is held by another process, or is none of ours.
    """
    stop = stop or StopSignal()
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        store = await open_store(
            config.store.path, on_commit=lambda commit: metrics.committed(commit.operations, commit.seconds), on_corrupt=_die
        )
        stack.push_async_callback(store.close)
        settlements = TaskGroup("settlement")
        stack.push_async_callback(_drain_settlements, settlements)
        billing = Billing(store, settlements, clock, metrics)
        if recovered := await billing.recover():
            logger.warning("settled %d requests that the last process left open", recovered)
        snapshot = Snapshot(store, await _anonymous(config, store, clock))
        await snapshot.refresh()
        relay = Relay(_policy(config), metrics)
        wires = {name: _wire(stack, upstream) for name, upstream in config.upstreams.items()}
        clients = {name: await stack.enter_async_context(ArkClient(upstream)) for name, upstream in config.upstreams.items()}
        idempotency = Idempotency(store, clock)
        bodies = BodyReader(bytes_max=config.server.body_bytes_max, seconds=config.server.body_seconds)
        draining = stop.requested.is_set
        chat = ChatHandlers(
            catalog=config.catalog,
            wires=wires,
            billing=billing,
            idempotency=idempotency,
            relay=relay,
            bodies=bodies,
            clock=clock,
            metrics=metrics,
            estimate=config.billing.unknown_usage == "estimate",
        )
        images = ImageHandlers(
            catalog=config.catalog,
            clients=clients,
            billing=billing,
            idempotency=idempotency,
            relay=relay,
            bodies=bodies,
            clock=clock,
            metrics=metrics,
        )
        desk, calls = await _start_videos(stack, config, store, clients, clock, metrics, stop)
        videos = VideoHandlers(
            catalog=config.catalog,
            store=store,
            desk=desk,
            calls=calls,
            idempotency=idempotency,
            bodies=bodies,
            clock=clock,
            billing=VideoBilling(config.billing.video_tokens),
            draw_seed=lambda: secrets.randbelow(SEED_MAX + 1),
        )
        ops = OpsHandlers(store, metrics, draining)
        observe = Observer(clock, access_log, metrics)

        async def open_door(router: Router, addresses: Iterable[Address], *, mode: int | None = None) -> tuple[Door, tuple[str, ...]]:
            handler = compose((observe, cross_origin), Dispatcher(router, snapshot, draining))
            door = Door(handler, clock, keepalive_seconds=config.server.keepalive_seconds, stall_seconds=config.server.stall_seconds)
            stack.push_async_callback(door.close)
            opened = [await door.open(_sockets(stack, address, mode)) for address in addresses]
            return door, tuple(chain.from_iterable(opened))

        if config.admin.listen is not None:
            operating = TaskGroup("operation")
            stack.push_async_callback(operating.drain)
            admin = AdminHandlers(Desk(store, clock, on_change=snapshot.refresh), operating)
            await open_door(Router(admin_routes(ops, admin, bodies)), [config.admin.listen], mode=ADMIN_SOCKET_MODE)
        public = public_routes(
            chat=chat, images=images, videos=videos, models=ModelHandlers(config.catalog), account=AccountHandlers(store)
        )
        router = Router([*public, *probe_routes(ops)], PREFIXES, at_root=probe_routes(ops))
        door, addresses = await open_door(router, config.server.listen)
        stack.push_async_callback(_drain, door, relay, stop, config.server.drain_seconds)
        stack.callback(door.stop_accepting)
        stack.callback(desk.release)
        stack.callback(stop.requested.set)
        yield Gateway(store, addresses, snapshot)


async def _start_videos(
    stack: AsyncExitStack,
    config: Config,
    store: Store,
    clients: Mapping[str, ArkClient],
    clock: Clock,
    metrics: Metrics,
    stop: StopSignal,
) -> tuple[VideoDesk, VideoCalls]:
    """Build what moves video tasks, take up those of the last process, and set the scheduler going."""
    lines = {
        name: line(
            clients[name],
            clock,
            requests_per_second=upstream.requests_per_second,
            list_requests_per_second=upstream.list_requests_per_second,
        )
        for name, upstream in config.upstreams.items()
    }
    calls = VideoCalls(lines, metrics)
    stack.push_async_callback(calls.close)
    pace = Pace(round(config.videos.poll_first_seconds * 1000), round(config.videos.poll_longest_seconds * 1000))
    upstreams = {*config.upstreams, *(task.upstream for task in await store.open_tasks())}
    due = {name: DueWork(DueVideos(store, name, metrics), clock) for name in upstreams}
    desk = VideoDesk(
        store=store,
        calls=calls,
        pace=pace,
        clock=clock,
        metrics=metrics,
        jitter=random.random,
        expect=lambda upstream, due_at_ms: due[upstream].expect(due_at_ms),
    )
    stack.push_async_callback(_drain_submits, desk)
    if lost := await desk.recover():
        logger.warning("looking for %d video submits that the last process left without an answer", lost)
    scheduler = Scheduler(on_death=stop.fail)
    stack.push_async_callback(scheduler.close)
    for name, due_work in due.items():
        scheduler.whenever_due(due_work, VideoPoll(store, desk, calls, metrics), f"videos of {name}")
    scheduler.every(hold_sweep.EVERY_SECONDS, HoldSweep(store, desk, clock), "hold_sweep")
    scheduler.every(retention.EVERY_SECONDS, Retention(store, clock), "retention")
    return desk, calls


async def _drain_submits(desk: VideoDesk) -> None:
    if left := await desk.drain(SUBMIT_DRAIN_SECONDS):
        logger.warning("%d video submits were not answered in time; the next start looks for them", left)


async def _drain(door: Door, relay: Relay, stop: StopSignal, drain_seconds: float) -> None:
    """Wait for what is under way: until it is done, the time is up, or a second signal; then cut it."""
    try:
        async with asyncio.timeout(drain_seconds):
            await first_of(door.entrance.wait_empty(), stop.impatient.wait())
    except TimeoutError:
        logger.warning("drain: %d requests are still under way after %g s", len(door.entrance), drain_seconds)
    relay.cut()
    try:
        async with asyncio.timeout(CUT_SECONDS):
            await door.entrance.wait_empty()
    except TimeoutError:
        logger.error("%d requests did not end when they were cut", len(door.entrance))  # noqa: TRY400


async def _drain_settlements(settlements: TaskGroup) -> None:
    if left := await settlements.drain(SETTLE_SECONDS):
        logger.error("%d settlements could not be committed; the next start settles their requests as interrupted", left)
        await settlements.cancel()


def _sockets(stack: AsyncExitStack, address: Address, mode: int | None) -> list[socket.socket]:
    sockets = open_sockets(address, mode=mode)
    if isinstance(address, UnixAddress):
        stack.callback(remove_unix_socket, address.path)
    return sockets


async def _anonymous(config: Config, store: Store, clock: Clock) -> Grant | None:
    """Return the grant that all calls are charged to where no keys are used."""
    if config.server.auth == "keys":
        return None
    try:
        account = await store.account(DEFAULT_ACCOUNT)
    except AccountNotFoundError:
        account = await store.create_account(DEFAULT_ACCOUNT, Nanos(0), clock.now_ms())
        logger.warning("created the account %r; credit it with `llm-proxy account credit %s AMOUNT`", DEFAULT_ACCOUNT, DEFAULT_ACCOUNT)
    return Grant(sha256=b"", key_id="", account_id=account.id, account_name=account.name)


def _wire(stack: AsyncExitStack, upstream: UpstreamConfig) -> Wire:
    limits = Limits(
        connect_seconds=upstream.connect_seconds, first_byte_seconds=upstream.first_byte_seconds, idle_seconds=upstream.idle_seconds
    )
    wire = Wire(upstream.base_url, headers={"Authorization": f"Bearer {upstream.api_key.reveal()}"}, limits=limits)
    stack.push_async_callback(wire.close)
    return wire


def _policy(config: Config) -> DisconnectPolicy:
    billing = config.billing
    return DisconnectPolicy(billing.disconnect, billing.drain_after_seconds, billing.drains_max)


def _die(fault: BaseException) -> None:
    """End the process at once: after a failed fsync nothing it writes can be trusted, and the next start recovers."""
    logger.critical("the store failed and must not be written any more: %s", fault)
    logging.shutdown()
    os._exit(EXIT_STORE_FAILED)
