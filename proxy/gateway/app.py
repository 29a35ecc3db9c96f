"""The composition root: everything is built here once, passed by constructor, closed in reverse.

Shutdown is start-up read backwards: whatever is built leaves on the stack what ends it.
"""

import logging
import os
import random
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from proxy import systemd
from proxy.billing.holds import Billing
from proxy.billing.idempotency import Idempotency
from proxy.clock import Clock
from proxy.config import Config, Source
from proxy.core.money import Nanos
from proxy.core.video.record import VideoTask
from proxy.core.video.request import SEED_MAX
from proxy.edge.body import BodyReader
from proxy.edge.router import Router
from proxy.exchange.flight import Relay
from proxy.gateway.listeners import Listeners
from proxy.gateway.routes import PREFIXES, admin_routes, metrics_routes, probe_routes, public_routes
from proxy.gateway.shutdown import StopSignal, drain_listener, drain_settlements, drain_submits
from proxy.gateway.watchdog import Watchdog
from proxy.handlers.account import AccountHandlers
from proxy.handlers.admin import AdminHandlers
from proxy.handlers.chat import ChatHandlers
from proxy.handlers.images import ImageHandlers
from proxy.handlers.models import ModelHandlers
from proxy.handlers.ops import OpsHandlers
from proxy.handlers.videos import VideoHandlers
from proxy.jobs import fold_requests
from proxy.jobs import forget_keys as retention
from proxy.jobs.fold_requests import FoldRequests
from proxy.jobs.forget_keys import ForgetKeys
from proxy.jobs.scheduler import DueWork, Scheduler
from proxy.live.keys import LiveKeys
from proxy.live.reload import Reloader
from proxy.live.settings import Live, Settings, settings_of
from proxy.operations.operation import Operator
from proxy.store.contract import Store
from proxy.store.errors import AccountNotFoundError, StoreRefusedError
from proxy.store.sqlite import open_store
from proxy.store.values import Grant
from proxy.tasks import TaskGroup
from proxy.telemetry import logs
from proxy.telemetry.collectors import OpenBusiness, watch_store, watch_upstreams
from proxy.telemetry.loop_lag import LoopLag
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.process import watch_process
from proxy.upstream.upstreams import Upstreams
from proxy.videos import sweep as hold_sweep
from proxy.videos.calls import VideoCalls
from proxy.videos.cancel import VideoCancels
from proxy.videos.poll import DueVideos, VideoPoll
from proxy.videos.sweep import OverdueTasks
from proxy.videos.tasks import VideoJobs

logger = logging.getLogger(__name__)

DEFAULT_ACCOUNT = "default"
"""Whom all calls are charged to where no keys are used."""
EXIT_STORE_FAILED = 70


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway, as those see it who started it."""

    store: Store
    addresses: tuple[str, ...]
    """Where it listens: ``http://HOST:PORT`` or ``unix:PATH``."""
    live_keys: LiveKeys
    live: Live
    """What it acts by now."""
    reloader: Reloader
    scraped_at: tuple[str, ...] = ()
    """Where it shows its metrics beside the admin socket."""


@asynccontextmanager
async def running(
    config: Config, *, clock: Clock, access_log: logs.AccessLog, stop: StopSignal | None = None, source: Source | None = None
) -> AsyncIterator[Gateway]:
    """Start a gateway, and on leaving drain and close it.

    Args:
        source: where a reload finds the configuration; None: it cannot be reloaded.

    Raises:
        ListenError: an address cannot be listened on.
        StoreRefusedError: the store is held by another process, or is none of ours.
    """
    async with AsyncExitStack() as stack:
        yield await _Construction(config, clock, access_log, stop or StopSignal(), stack).gateway(source)


class _Construction:
    """What every part is built from."""

    def __init__(self, config: Config, clock: Clock, access_log: logs.AccessLog, stop: StopSignal, stack: AsyncExitStack) -> None:
        self._config = config
        self._clock = clock
        self._stop = stop
        self._stack = stack
        self._metrics = Metrics()
        self._metrics.expect(config.catalog, config.upstreams)
        self._scheduler = Scheduler(on_death=stop.fail)
        self._upstreams = Upstreams(clock)
        self._live = Live(settings_of(config, self._upstreams.take(config.upstreams)))
        self._bodies = BodyReader(self._live)
        self._listeners = Listeners(self._live, clock, access_log, self._metrics, stop, stack)
        self._due: dict[str, DueWork[VideoTask]] = {}
        """Of each upstream's videos."""

    async def gateway(self, source: Source | None) -> Gateway:
        """Build everything, from the store up to the open doors."""
        self._stack.push_async_callback(self._upstreams.close)
        store = await self._store()
        billing = await self._billing(store)
        live_keys = LiveKeys(store, await self._anonymous(store))
        await live_keys.refresh()
        relay = Relay(self._live, self._metrics)
        idempotency = Idempotency(store, self._clock)
        chat = self._chat(billing, idempotency, relay)
        images = self._images(billing, idempotency, relay)
        calls = VideoCalls(self._live, self._metrics)
        self._stack.push_async_callback(calls.close)
        jobs, poll_videos = await self._video_jobs(store, calls)
        videos = self._videos(store, jobs, calls, idempotency)
        await _require_balanced(store)
        self._watch(store)
        ops = OpsHandlers(store, self._metrics, OpenBusiness(self._metrics, store, self._clock), self._stop.requested.is_set)
        reloader = self._reloader(source, poll_videos)
        await self._open_admin_listener(store, live_keys, ops, reloader)
        scraped = await self._open_metrics_listener(live_keys, ops)
        models, account, probes = ModelHandlers(self._live), AccountHandlers(store), probe_routes(ops)
        public = public_routes(chat=chat, images=images, videos=videos, models=models, account=account)
        router = Router([*public, *probes], PREFIXES, at_root=probes)
        server = self._config.server
        listener, addresses = await self._listeners.open("public", router, live_keys, server.listen, mode=server.socket_mode)
        self._stack.push_async_callback(drain_listener, listener, relay, self._bodies, self._stop, self._live)
        self._stack.callback(listener.stop_accepting)
        self._stack.callback(jobs.release)
        self._stack.callback(self._stop.requested.set)
        return Gateway(store, addresses, live_keys, self._live, reloader, scraped)

    def _reloader(self, source: Source | None, poll_videos: Callable[[Settings], None]) -> Reloader:
        return Reloader(
            source=source,
            live=self._live,
            upstreams=self._upstreams,
            is_stopping=self._stop.requested.is_set,
            on_swap=(
                self._listeners.limit,
                poll_videos,
                lambda settings: self._metrics.expect(settings.catalog, settings.upstreams),
                lambda settings: logs.set_level(settings.config.log.level),
            ),
        )

    # money

    async def _store(self) -> Store:
        metrics = self._metrics
        store = await open_store(
            self._config.store.path, on_commit=lambda commit: metrics.committed(commit.operations, commit.seconds), on_corrupt=_die
        )
        self._stack.push_async_callback(store.close)
        self._feed_watchdog(store)
        return store

    def _feed_watchdog(self, store: Store) -> None:
        """Let systemd have its signs of life, where it wants them, to the end of a drain and of the settlements after it."""
        if (period_seconds := systemd.watchdog_seconds()) is None:
            return
        parts = {"the store's writer": store.turn, "the scheduler": self._scheduler.turn}
        watchdog = Watchdog(period_seconds, parts, beat=lambda: systemd.notify("WATCHDOG=1"))
        self._stack.push_async_callback(watchdog.close)
        watchdog.start()

    async def _billing(self, store: Store) -> Billing:
        settlements = TaskGroup("settlement")
        self._stack.push_async_callback(drain_settlements, settlements)
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
            live=self._live,
            billing=billing,
            idempotency=idempotency,
            relay=relay,
            bodies=self._bodies,
            clock=self._clock,
            metrics=self._metrics,
        )

    def _images(self, billing: Billing, idempotency: Idempotency, relay: Relay) -> ImageHandlers:
        return ImageHandlers(
            live=self._live,
            billing=billing,
            idempotency=idempotency,
            relay=relay,
            bodies=self._bodies,
            clock=self._clock,
            metrics=self._metrics,
        )

    # videos

    async def _video_jobs(self, store: Store, calls: VideoCalls) -> tuple[VideoJobs, Callable[[Settings], None]]:
        """Build what moves video tasks, take up those of the last process, and set the scheduler going.

        Returns: the desk, and what lets the scheduler look after the upstreams that settings add.
        """
        clock, metrics, due = self._clock, self._metrics, self._due
        jobs = VideoJobs(
            store=store,
            calls=calls,
            live=self._live,
            clock=clock,
            metrics=metrics,
            jitter=random.random,
            expect=lambda upstream, due_at_ms: due[upstream].expect(due_at_ms),
        )
        self._stack.push_async_callback(drain_submits, jobs)
        names = {*self._live.now.upstreams, *(task.upstream for task in await store.open_tasks())}
        due.update({name: DueWork(DueVideos(store, name, self._live), clock) for name in names})
        if lost := await jobs.recover():
            logger.warning("looking for %d video submits that the last process left without an answer", lost)
        scheduler = self._scheduler
        self._stack.push_async_callback(scheduler.close)
        poll = VideoPoll(store, jobs, calls, metrics)
        for name, due_work in due.items():
            scheduler.whenever_due(due_work, poll, f"videos of {name}")

        def poll_videos(settings: Settings) -> None:
            for name in settings.upstreams.keys() - due.keys():
                due[name] = DueWork(DueVideos(store, name, self._live), clock)
                scheduler.whenever_due(due[name], poll, f"videos of {name}")

        scheduler.every(hold_sweep.EVERY_SECONDS, OverdueTasks(store, jobs, clock), "hold_sweep")
        scheduler.every(retention.EVERY_SECONDS, ForgetKeys(store, clock), "retention")
        scheduler.every(fold_requests.EVERY_SECONDS, FoldRequests(store, clock, self._live), "folding")
        return jobs, poll_videos

    def _videos(self, store: Store, jobs: VideoJobs, calls: VideoCalls, idempotency: Idempotency) -> VideoHandlers:
        return VideoHandlers(
            live=self._live,
            store=store,
            jobs=jobs,
            cancels=VideoCancels(store, jobs, calls),
            idempotency=idempotency,
            bodies=self._bodies,
            clock=self._clock,
            draw_seed=lambda: secrets.randbelow(SEED_MAX + 1),
        )

    # what is seen from outside

    def _watch(self, store: Store) -> None:
        """Register everything that a scrape reads where it stands."""
        metrics = self._metrics
        watch_process(metrics, self._clock)
        watch_store(metrics, store, self._config.store.path)
        watch_upstreams(metrics, self._live)
        metrics.gauge("llm_proxy_draining", "Whether the gateway stops: 1 from the signal on.", self._stop.requested.is_set)
        metrics.gauges("llm_proxy_client_connections", "Connections of clients.", ("door",), self._listeners.connections)
        metrics.gauges("llm_proxy_requests_in_flight", "Requests being answered.", ("door",), self._listeners.in_flight)
        self._stack.callback(LoopLag(self._clock, metrics.loop_was_late).close)

    # doors

    async def _open_admin_listener(self, store: Store, live_keys: LiveKeys, ops: OpsHandlers, reloader: Reloader) -> None:
        if self._config.admin.listen is None:
            return
        operating = TaskGroup("operation")
        self._stack.push_async_callback(operating.drain)
        admin = AdminHandlers(Operator(store, self._clock, on_change=live_keys.refresh, reloader=reloader), operating)
        router = Router(admin_routes(ops, admin, self._bodies))
        await self._listeners.open("admin", router, live_keys, [self._config.admin.listen])

    async def _open_metrics_listener(self, live_keys: LiveKeys, ops: OpsHandlers) -> tuple[str, ...]:
        if self._config.admin.metrics_listen is None:
            return ()
        _, addresses = await self._listeners.open(
            "metrics", Router(metrics_routes(ops)), live_keys, [self._config.admin.metrics_listen]
        )
        return addresses


async def _require_balanced(store: Store) -> None:
    """Let nobody in where the books of what is open do not hold: what is booked on top of them would be wrong too.

    Raises: StoreRefusedError.
    """
    faults = [f"{check.name}: {'; '.join(check.offenders)}" for check in await store.verify_open() if not check.holds]
    if faults:
        raise StoreRefusedError(f"the books do not hold, {', '.join(faults)}: `llm-proxy ledger verify` says more; restore a backup")


def _die(fault: BaseException) -> None:
    """End the process at once: after a failed fsync nothing it writes can be trusted, and the next start recovers."""
    logger.critical("the store failed and must not be written any more: %s", fault)
    logging.shutdown()
    os._exit(EXIT_STORE_FAILED)
