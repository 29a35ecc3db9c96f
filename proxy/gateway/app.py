"""The composition root: everything is built here once, passed by constructor, closed in reverse.

Shutdown is start-up in reverse: each part pushes its own closing on the stack.
"""

import logging
import secrets
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from proxy.billing.claims import ClaimsElsewhere
from proxy.billing.holds import Billing
from proxy.billing.idempotency import Idempotency
from proxy.clock import Clock
from proxy.config import Config, Source
from proxy.core.video.request import SEED_MAX
from proxy.edge.body import BodyReader
from proxy.edge.router import Router
from proxy.exchange.admission import Admission
from proxy.exchange.flight import Relay
from proxy.gateway.books import anonymous_grant, require_balanced
from proxy.gateway.listeners import Listeners
from proxy.gateway.membership import Membership
from proxy.gateway.parent import Parent, by_systemd
from proxy.gateway.routes import ELSEWHERE, PREFIXES, admin_routes, metrics_routes, probe_routes, public_routes, reference_routes
from proxy.gateway.shutdown import StopSignal, abort, drain_customers, drain_settlements, drain_submits
from proxy.gateway.watchdog import Watchdog
from proxy.handlers.account import AccountHandlers
from proxy.handlers.admin import AdminHandlers
from proxy.handlers.chat import ChatHandlers
from proxy.handlers.images import ImageHandlers
from proxy.handlers.models import ModelHandlers
from proxy.handlers.ops import OpsHandlers
from proxy.handlers.reference import ReferenceHandlers
from proxy.handlers.videos import VideoHandlers
from proxy.jobs import fold_requests, forget_keys, forget_nodes, note_use
from proxy.jobs.fold_requests import FoldRequests
from proxy.jobs.forget_keys import ForgetKeys
from proxy.jobs.forget_nodes import ForgetNodes
from proxy.jobs.held import held
from proxy.jobs.note_use import NoteUse
from proxy.jobs.recovery import Recovery
from proxy.jobs.scheduler import Scheduler
from proxy.live.keys import LiveKeys
from proxy.live.reload import Reloader
from proxy.live.settings import Live, settings_of
from proxy.live.shared_keys import SharedKeys
from proxy.operations.operation import Operator
from proxy.store import is_shared, open_store
from proxy.store.contract import Store
from proxy.tasks import TaskGroup
from proxy.telemetry import logs
from proxy.telemetry.collectors import OpenBusiness, watch_routes, watch_store, watch_upstreams
from proxy.telemetry.loop_lag import LoopLag
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.process import watch_process
from proxy.upstream.guard import LeaseGuard
from proxy.upstream.routing import Routing
from proxy.upstream.upstreams import Upstreams
from proxy.videos.assembly import Videos

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway, for the code that started it."""

    store: Store
    addresses: tuple[str, ...]
    """Of the public listener: ``http://HOST:PORT`` or ``unix:PATH``."""
    live_keys: LiveKeys
    live: Live
    """The settings in force."""
    reloader: Reloader
    scraped_at: tuple[str, ...] = ()
    """Addresses of the metrics listener."""


@asynccontextmanager
async def running(
    config: Config,
    *,
    clock: Clock,
    access_log: logs.AccessLog,
    stop: StopSignal | None = None,
    source: Source | None = None,
    parent: Parent | None = None,
) -> AsyncIterator[Gateway]:
    """Start a gateway, and on leaving drain and close it.

    Args:
        source: where a reload finds the configuration; None: it cannot be reloaded.
        parent: who started this process, and may have opened the public sockets; None: systemd, or nobody.

    Raises:
        ListenError: an address cannot be listened on.
        StoreRefusedError: another process has the store open, or it is none of ours.
    """
    async with AsyncExitStack() as stack:
        yield await _Construction(config, clock, access_log, stop or StopSignal(), parent or by_systemd(), stack).gateway(source)


class _Construction:
    """Builds each part once, the lowest first. A part that has to be closed pushes its closing on the stack."""

    def __init__(
        self, config: Config, clock: Clock, access_log: logs.AccessLog, stop: StopSignal, parent: Parent, stack: AsyncExitStack
    ) -> None:
        self._config = config
        self._clock = clock
        self._zone = config.billing.zone
        self._stop = stop
        self._parent = parent
        self._stack = stack
        self._minding = TaskGroup("peers")
        self._metrics = Metrics()
        self._metrics.expect(config.catalog, config.upstreams)
        self._scheduler = Scheduler(on_death=stop.fail)
        self._guard = LeaseGuard() if is_shared(config.store.url) else None
        self._upstreams = Upstreams(clock, self._guard)
        self._routing = Routing(clock)
        self._live = Live(settings_of(config, self._upstreams.take(config.upstreams)))
        self._bodies = BodyReader(self._live)
        self._relay = Relay(self._live, self._metrics, clock)
        self._listeners = Listeners(self._live, clock, access_log, self._metrics, stop, stack)

    async def gateway(self, source: Source | None) -> Gateway:
        """Build everything, from the store up to the open listeners.

        The gateway stops in reverse: customers are drained while the operator's listeners still answer, then scheduled work, submits
        and settlements end, then the store closes, and the upstreams' connections last.
        """
        self._stack.push_async_callback(self._upstreams.close)  # whatever is drained below may still call them
        store = await self._store()
        billing = await self._billing(store)
        anonymous = await anonymous_grant(store, self._clock) if self._config.server.auth == "none" else None
        peers = store.peers
        live_keys = (
            LiveKeys(store, self._clock, anonymous)
            if peers is None
            else SharedKeys(*(store, self._clock, peers, anonymous), on_share=self._upstreams.share_out)
        )
        await live_keys.refresh()
        videos = await self._videos(store)
        if peers is None:
            videos.jobs.occupied(live_keys.occupy(await store.open_requests()))  # only videos are open: all else has been settled
        await require_balanced(store)  # before anything moves money again, but after what was left has been settled
        videos.start()
        self._keep_house(store)
        self._watch(store)
        if isinstance(live_keys, SharedKeys):
            self._mind_peers(live_keys, billing, videos)
        ops = OpsHandlers(store, self._metrics, OpenBusiness(self._metrics, store, self._clock, peers), self._stop.requested)
        reloader = self._reloader(source, videos)
        # The public listener opens last, so it stops first, and the operator sees the drain on the other two.
        await self._open_admin_listener(store, live_keys, ops, reloader)
        scraped = await self._open_metrics_listener(live_keys, ops)
        addresses = await self._open_public_listener(self._public_router(store, live_keys, billing, videos, ops), live_keys, videos)
        if peers is not None:
            self._mind(Membership(peers, self._live, self._stop, addresses).run(), "the word to other gateways")
        return Gateway(store, addresses, live_keys, self._live, reloader, scraped)

    def _reloader(self, source: Source | None, videos: Videos) -> Reloader:
        return Reloader(
            source=source,
            live=self._live,
            upstreams=self._upstreams,
            routing=self._routing,
            is_stopping=self._stop.requested.is_set,
            on_swap=(
                self._listeners.limit,
                videos.poll_added,
                lambda settings: self._routing.renew(settings.routes),
                lambda settings: self._metrics.expect(settings.catalog, settings.upstreams),
                lambda settings: logs.set_level(settings.config.log.level),
            ),
        )

    # money

    async def _store(self) -> Store:
        metrics = self._metrics
        store = await open_store(
            self._config.store.url,
            on_commit=lambda commit: metrics.committed(commit.operations, commit.seconds),
            on_corrupt=abort,
            serves=True,
            zone=self._zone,
            password=self._config.store.password.reveal(),
        )
        self._stack.push_async_callback(store.close)  # once nothing writes to it any more
        self._stack.push_async_callback(self._minding.cancel)
        if self._guard is not None:
            self._guard.lease = store.peers
        self._feed_watchdog(store)
        return store

    def _feed_watchdog(self, store: Store) -> None:
        """Send whoever started this process watchdog beats, if it wants them."""
        if (period_seconds := self._parent.watchdog_seconds) is None:
            return
        parts = {"the store's writer": store.turn, "the scheduler": self._scheduler.turn}
        watchdog = Watchdog(period_seconds, parts, beat=lambda: self._parent.tell("WATCHDOG=1"))
        # It asks the store for a turn, so it closes before the store. It closes after the drain and the last settlements, because
        # systemd would kill a gateway that is silent while it drains.
        self._stack.push_async_callback(watchdog.close)
        watchdog.start()

    async def _billing(self, store: Store) -> Billing:
        settlements = TaskGroup("settlement")
        billing = Billing(store, settlements, self._clock, self._metrics, is_shared=store.peers is not None)
        noting = NoteUse(store, billing.used_at_ms)
        self._stack.push_async_callback(noting.at_the_end)
        self._scheduler.every(note_use.EVERY_SECONDS, noting, "noting when keys were used")
        self._stack.push_async_callback(drain_settlements, settlements)  # after the listeners: a call that is cut settles too
        if recovered := await billing.recover():
            logger.warning("settled %d requests that the last process left open", recovered)
        return billing

    # scheduled work

    async def _videos(self, store: Store) -> Videos:
        videos = Videos(
            store=store, scheduler=self._scheduler, live=self._live, clock=self._clock, metrics=self._metrics, routing=self._routing
        )
        # Polls end first: a cancel then waits for no poll's lock, and has the upstream's rate for itself. The calls end last, with the
        # lists that are still being read for ended polls.
        self._stack.push_async_callback(videos.calls.close)
        self._stack.push_async_callback(drain_submits, videos.jobs)
        await videos.take_up()
        self._stack.push_async_callback(self._scheduler.close)
        return videos

    def _keep_house(self, store: Store) -> None:
        """Schedule forgetting old keys and folding old requests. `_videos` closes the scheduler."""
        forgetting = held(store.peers, "forget", ForgetKeys(store, self._clock))
        self._scheduler.every(forget_keys.EVERY_SECONDS, forgetting, "forgetting idempotency keys")
        folding = held(store.peers, "fold", FoldRequests(store, self._clock, self._live, self._zone))
        self._scheduler.every(fold_requests.EVERY_SECONDS, folding, "folding old requests")

    def _mind_peers(self, live_keys: SharedKeys, billing: Billing, videos: Videos) -> None:
        """Follow what other gateways change in the store, and take up what dead ones leave, until the store is closed."""
        steps = {"settled requests": billing.recover, "looking for video submits": videos.jobs.recover}
        forgetting = held(live_keys.peers, "forget nodes", ForgetNodes(live_keys.peers))
        self._scheduler.every(forget_nodes.EVERY_SECONDS, forgetting, "forgetting dead nodes")
        self._mind(live_keys.follow(), "the look for new keys")
        self._mind(videos.jobs.watch(), "the look at videos")
        self._mind(Recovery(live_keys.peers, steps).run(), "recovery")

    def _mind(self, coroutine: Coroutine[Any, Any, None], part: str) -> None:
        """Run what never ends, until the store is closed."""
        self._minding.spawn(coroutine, part, on_death=partial(self._stop.fail, part=part))

    # the customers' routes

    def _public_router(self, store: Store, live_keys: LiveKeys, billing: Billing, videos: Videos, ops: OpsHandlers) -> Router:
        idempotency = Idempotency(store, self._clock, self._claims_elsewhere(store))
        admission = Admission(accounts=store, idempotency=idempotency, bodies=self._bodies, live=self._live)
        probes = probe_routes(ops)
        public = public_routes(
            chat=self._chat(billing, idempotency, admission),
            images=self._images(billing, idempotency, admission),
            videos=self._video_handlers(store, live_keys, videos, idempotency, admission),
            models=ModelHandlers(self._live),
            account=AccountHandlers(store, store, self._clock, self._zone),
        )
        reference = reference_routes(ReferenceHandlers(lambda: served, PREFIXES)) if self._config.server.docs else []
        routes, asks_keys = [*public, *probes, *reference], self._config.server.auth == "keys"
        served = [(route.method, route.path, asks_keys and route.needs_key) for route in routes]
        return Router(routes, PREFIXES, at_root=[*probes, *reference], elsewhere=ELSEWHERE)

    def _claims_elsewhere(self, store: Store) -> ClaimsElsewhere | None:
        if store.peers is None:
            return None
        elsewhere = ClaimsElsewhere(store)
        self._mind(elsewhere.run(), "the look for answers of other gateways")
        return elsewhere

    def _chat(self, billing: Billing, idempotency: Idempotency, admission: Admission) -> ChatHandlers:
        return ChatHandlers(
            live=self._live,
            billing=billing,
            idempotency=idempotency,
            relay=self._relay,
            bodies=self._bodies,
            admission=admission,
            clock=self._clock,
            metrics=self._metrics,
            routing=self._routing,
        )

    def _images(self, billing: Billing, idempotency: Idempotency, admission: Admission) -> ImageHandlers:
        return ImageHandlers(
            live=self._live,
            billing=billing,
            idempotency=idempotency,
            relay=self._relay,
            admission=admission,
            clock=self._clock,
            metrics=self._metrics,
            routing=self._routing,
        )

    def _video_handlers(
        self, store: Store, live_keys: LiveKeys, videos: Videos, idempotency: Idempotency, admission: Admission
    ) -> VideoHandlers:
        return VideoHandlers(
            live=self._live,
            tasks=store,
            books=store,
            jobs=videos.jobs,
            cancels=videos.cancels,
            idempotency=idempotency,
            admission=admission,
            keys=live_keys,
            clock=self._clock,
            routing=self._routing,
            draw_seed=lambda: secrets.randbelow(SEED_MAX + 1),
            zone=self._zone,
        )

    # metrics

    def _watch(self, store: Store) -> None:
        """Register the metrics that are read at each scrape."""
        metrics = self._metrics
        watch_process(metrics, self._clock)
        watch_store(metrics, store, self._config.store.path)
        watch_upstreams(metrics, self._live)
        watch_routes(metrics, self._live, self._routing, self._clock)
        metrics.gauge("llm_proxy_draining", "Whether the gateway stops: 1 from the signal on.", self._stop.requested.is_set)
        metrics.gauges("llm_proxy_client_connections", "Connections of clients.", ("door",), self._listeners.connections)
        metrics.gauges("llm_proxy_requests_in_flight", "Requests being answered.", ("door",), self._listeners.in_flight)
        self._stack.callback(LoopLag(self._clock, metrics.loop_was_late).close)

    # listeners

    async def _open_admin_listener(self, store: Store, live_keys: LiveKeys, ops: OpsHandlers, reloader: Reloader) -> None:
        if self._config.admin.listen is None:
            return
        operating = TaskGroup("operation")
        on_change = live_keys.refresh if store.peers is None else store.peers.all_saw_keys
        self._stack.push_async_callback(operating.drain)  # after the listener is closed, so that no operation joins them
        admin = AdminHandlers(Operator(store, self._clock, self._zone, on_change=on_change, reloader=reloader), operating)
        router = Router(admin_routes(ops, admin, self._bodies))
        await self._listeners.open("admin", router, live_keys, [self._config.admin.listen])

    async def _open_metrics_listener(self, live_keys: LiveKeys, ops: OpsHandlers) -> tuple[str, ...]:
        if self._config.admin.metrics_listen is None:
            return ()
        _, addresses = await self._listeners.open(
            "metrics", Router(metrics_routes(ops)), live_keys, [self._config.admin.metrics_listen]
        )
        return addresses

    async def _open_public_listener(self, router: Router, live_keys: LiveKeys, videos: Videos) -> tuple[str, ...]:
        server = self._config.server
        listener, addresses = await self._listeners.open(
            "public", router, live_keys, server.listen, mode=server.socket_mode, inherited=self._parent.sockets
        )
        self._stack.push_async_callback(
            drain_customers, listener, videos.jobs, self._relay, self._bodies, stop=self._stop, live=self._live
        )
        return addresses
