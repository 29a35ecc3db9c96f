"""The composition root: everything is built here once, passed by constructor, closed in reverse.

Shutdown is start-up read backwards: whatever is built leaves on the stack what ends it.
"""

import asyncio
import logging
import os
import random
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from proxy import logs
from proxy.billing import Billing
from proxy.clock import Clock
from proxy.config import Address, Config, UnixAddress, UpstreamConfig
from proxy.core.money import Nanos
from proxy.core.video_task import Pace
from proxy.core.videos import SEED_MAX, VideoBilling
from proxy.edge.body import BodyReader
from proxy.edge.door import Door, Entrance
from proxy.edge.listeners import open_sockets, remove_unix_socket
from proxy.edge.middleware import Dispatcher, Observer
from proxy.edge.router import Router
from proxy.handlers.account import AccountHandlers
from proxy.handlers.admin import AdminHandlers
from proxy.handlers.chat import ChatHandlers
from proxy.handlers.images import ImageHandlers
from proxy.handlers.models import ModelHandlers
from proxy.handlers.ops import OpsHandlers
from proxy.handlers.videos import VideoHandlers
from proxy.idempotency import Idempotency
from proxy.jobs import folding, hold_sweep, retention
from proxy.jobs.folding import Folding
from proxy.jobs.hold_sweep import HoldSweep
from proxy.jobs.retention import Retention
from proxy.jobs.video_poll import DueVideos, VideoPoll
from proxy.metrics import Metrics
from proxy.operations import Desk
from proxy.relay import DisconnectPolicy, Relay
from proxy.routes import PREFIXES, admin_routes, probe_routes, public_routes
from proxy.scheduler import DueWork, Scheduler
from proxy.snapshot import Snapshot
from proxy.store.contract import AccountNotFoundError, Grant, Store
from proxy.store.sqlite import open_store
from proxy.tasks import TaskGroup, first_of
from proxy.upstream.client import ArkClient
from proxy.upstream.wire import Limits, Wire
from proxy.video_calls import VideoCalls, line
from proxy.video_cancel import VideoCancels
from proxy.video_desk import VideoDesk

logger = logging.getLogger(__name__)

DEFAULT_ACCOUNT = "default"
"""Whom all calls are charged to where no keys are used."""
CUT_SECONDS = 10.0
"""What cut streams get to say goodbye."""
SETTLE_SECONDS = 30.0
"""What the store gets for the last settlements; what is then still open is settled at the next start."""
ADMIN_SOCKET_MODE = 0o600
SOCKET_MODES = {"keys": 0o666, "none": 0o660}
"""Of a unix socket for customers. A proxy runs as another user: with keys the key admits, without them the file's group does."""
SUBMIT_DRAIN_SECONDS = 30.0
"""What submits get whose customers have left; the next start looks for those that are cut."""
EXIT_STORE_FAILED = 70


class StopSignal:
    """SIGTERM, SIGINT or SIGHUP: the first begins a drain, a second ends it."""

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


@asynccontextmanager
async def running(
    config: Config, *, clock: Clock, access_log: logs.AccessLog, stop: StopSignal | None = None
) -> AsyncIterator[Gateway]:
    """Start a gateway, and on leaving drain and close it.

    Raises:
        ListenError: an address cannot be listened on.
        StoreRefusedError: the store is held by another process, or is none of ours.
    """
    async with AsyncExitStack() as stack:
        yield await _Construction(config, clock, access_log, stop or StopSignal(), stack).gateway()


class _Construction:
    """What every part is built from."""

    def __init__(self, config: Config, clock: Clock, access_log: logs.AccessLog, stop: StopSignal, stack: AsyncExitStack) -> None:
        self._config = config
        self._clock = clock
        self._access_log = access_log
        self._stop = stop
        self._stack = stack
        self._metrics = Metrics()
        self._bodies = BodyReader(bytes_max=config.server.body_bytes_max, seconds=config.server.body_seconds)

    async def gateway(self) -> Gateway:
        """Build everything, from the store up to the open doors."""
        store = await self._store()
        billing = await self._billing(store)
        snapshot = Snapshot(store, await self._anonymous(store))
        await snapshot.refresh()
        relay = Relay(_policy(self._config), self._metrics)
        clients = {name: await self._stack.enter_async_context(ArkClient(one)) for name, one in self._config.upstreams.items()}
        idempotency = Idempotency(store, self._clock)
        chat = self._chat(billing, idempotency, relay)
        images = self._images(billing, idempotency, relay, clients)
        calls = self._video_calls(clients)
        desk = await self._video_desk(store, calls)
        videos = self._videos(store, desk, calls, idempotency)
        ops = OpsHandlers(store, self._metrics, self._stop.requested.is_set)
        await self._open_admin_door(store, snapshot, ops)
        models, account, probes = ModelHandlers(self._config.catalog), AccountHandlers(store), probe_routes(ops)
        public = public_routes(chat=chat, images=images, videos=videos, models=models, account=account)
        router = Router([*public, *probes], PREFIXES, at_root=probes)
        server = self._config.server
        door, addresses = await self._open_door(router, snapshot, server.listen, mode=SOCKET_MODES[server.auth])
        self._stack.push_async_callback(_drain, door, relay, self._stop, server.drain_seconds)
        self._stack.callback(door.stop_accepting)
        self._stack.callback(desk.release)
        self._stack.callback(self._stop.requested.set)
        return Gateway(store, addresses, snapshot)

    # money

    async def _store(self) -> Store:
        metrics = self._metrics
        store = await open_store(
            self._config.store.path, on_commit=lambda commit: metrics.committed(commit.operations, commit.seconds), on_corrupt=_die
        )
        self._stack.push_async_callback(store.close)
        return store

    async def _billing(self, store: Store) -> Billing:
        settlements = TaskGroup("settlement")
        self._stack.push_async_callback(_drain_settlements, settlements)
        billing = Billing(store, settlements, self._clock, self._metrics)
        if recovered := await billing.recover():
            logger.warning("settled %d requests that the last process left open", recovered)
        return billing

    async def _anonymous(self, store: Store) -> Grant | None:
        """Return the grant that all calls are charged to where no keys are used."""
        if self._config.server.auth == "keys":
            return None
        try:
            account = await store.account(DEFAULT_ACCOUNT)
        except AccountNotFoundError:
            account = await store.create_account(DEFAULT_ACCOUNT, Nanos(0), self._clock.now_ms())
            logger.warning("created the account %r; credit it with `llm-proxy account credit %s AMOUNT`", *(DEFAULT_ACCOUNT,) * 2)
        return Grant(sha256=b"", key_id="", account_id=account.id, account_name=account.name)

    # chat and images

    def _chat(self, billing: Billing, idempotency: Idempotency, relay: Relay) -> ChatHandlers:
        return ChatHandlers(
            catalog=self._config.catalog,
            wires={name: self._wire(one) for name, one in self._config.upstreams.items()},
            billing=billing,
            idempotency=idempotency,
            relay=relay,
            bodies=self._bodies,
            clock=self._clock,
            metrics=self._metrics,
            estimate=self._config.billing.unknown_usage == "estimate",
        )

    def _wire(self, upstream: UpstreamConfig) -> Wire:
        limits = Limits(
            connect_seconds=upstream.connect_seconds,
            first_byte_seconds=upstream.first_byte_seconds,
            idle_seconds=upstream.idle_seconds,
        )
        wire = Wire(upstream.base_url, headers={"Authorization": f"Bearer {upstream.api_key.reveal()}"}, limits=limits)
        self._stack.push_async_callback(wire.close)
        return wire

    def _images(self, billing: Billing, idempotency: Idempotency, relay: Relay, clients: Mapping[str, ArkClient]) -> ImageHandlers:
        return ImageHandlers(
            catalog=self._config.catalog,
            clients=clients,
            billing=billing,
            idempotency=idempotency,
            relay=relay,
            bodies=self._bodies,
            clock=self._clock,
            metrics=self._metrics,
        )

    # videos

    def _video_calls(self, clients: Mapping[str, ArkClient]) -> VideoCalls:
        lines = {
            name: line(
                clients[name],
                self._clock,
                requests_per_second=upstream.requests_per_second,
                list_requests_per_second=upstream.list_requests_per_second,
            )
            for name, upstream in self._config.upstreams.items()
        }
        calls = VideoCalls(lines, self._metrics)
        self._stack.push_async_callback(calls.close)
        return calls

    async def _video_desk(self, store: Store, calls: VideoCalls) -> VideoDesk:
        """Build what moves video tasks, take up those of the last process, and set the scheduler going."""
        videos, clock, metrics = self._config.videos, self._clock, self._metrics
        upstreams = {*self._config.upstreams, *(task.upstream for task in await store.open_tasks())}
        pace = Pace(round(videos.poll_first_seconds * 1000), round(videos.poll_longest_seconds * 1000))
        due = {name: DueWork(DueVideos(store, name, metrics, pace), clock) for name in upstreams}
        desk = VideoDesk(
            store=store,
            calls=calls,
            pace=pace,
            clock=clock,
            metrics=metrics,
            jitter=random.random,
            expect=lambda upstream, due_at_ms: due[upstream].expect(due_at_ms),
        )
        self._stack.push_async_callback(_drain_submits, desk)
        if lost := await desk.recover():
            logger.warning("looking for %d video submits that the last process left without an answer", lost)
        scheduler = Scheduler(on_death=self._stop.fail)
        self._stack.push_async_callback(scheduler.close)
        for name, due_work in due.items():
            scheduler.whenever_due(due_work, VideoPoll(store, desk, calls, metrics), f"videos of {name}")
        scheduler.every(hold_sweep.EVERY_SECONDS, HoldSweep(store, desk, clock), "hold_sweep")
        scheduler.every(retention.EVERY_SECONDS, Retention(store, clock), "retention")
        scheduler.every(folding.EVERY_SECONDS, Folding(store, clock, self._config.retention.request_days), "folding")
        return desk

    def _videos(self, store: Store, desk: VideoDesk, calls: VideoCalls, idempotency: Idempotency) -> VideoHandlers:
        return VideoHandlers(
            catalog=self._config.catalog,
            store=store,
            desk=desk,
            cancels=VideoCancels(store, desk, calls),
            idempotency=idempotency,
            bodies=self._bodies,
            clock=self._clock,
            billing=VideoBilling(self._config.billing.video_tokens),
            draw_seed=lambda: secrets.randbelow(SEED_MAX + 1),
        )

    # doors

    async def _open_admin_door(self, store: Store, snapshot: Snapshot, ops: OpsHandlers) -> None:
        if self._config.admin.listen is None:
            return
        operating = TaskGroup("operation")
        self._stack.push_async_callback(operating.drain)
        admin = AdminHandlers(Desk(store, self._clock, on_change=snapshot.refresh), operating)
        router = Router(admin_routes(ops, admin, self._bodies))
        await self._open_door(router, snapshot, [self._config.admin.listen], mode=ADMIN_SOCKET_MODE)

    async def _open_door(
        self, router: Router, snapshot: Snapshot, addresses: Iterable[Address], *, mode: int
    ) -> tuple[Door, tuple[str, ...]]:
        observer = Observer(self._clock, self._access_log, self._metrics)
        entrance = Entrance(Dispatcher(router, snapshot, self._stop.requested.is_set), observer, self._clock)
        server = self._config.server
        door = Door(entrance, self._clock, keepalive_seconds=server.keepalive_seconds, stall_seconds=server.stall_seconds)
        self._stack.push_async_callback(door.close)
        opened: list[str] = []
        for address in addresses:
            sockets = open_sockets(address, mode=mode)
            if isinstance(address, UnixAddress):
                self._stack.callback(remove_unix_socket, address.path)
            opened += await door.open(sockets)
        return door, tuple(opened)


async def _drain_submits(desk: VideoDesk) -> None:
    if left := await desk.drain(SUBMIT_DRAIN_SECONDS):
        logger.warning("%d video submits or cancels were not answered in time; the next start looks after their tasks", left)


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


def _policy(config: Config) -> DisconnectPolicy:
    billing = config.billing
    return DisconnectPolicy(billing.disconnect, billing.drain_after_seconds, billing.drains_max)


def _die(fault: BaseException) -> None:
    """End the process at once: after a failed fsync nothing it writes can be trusted, and the next start recovers."""
    logger.critical("the store failed and must not be written any more: %s", fault)
    logging.shutdown()
    os._exit(EXIT_STORE_FAILED)
