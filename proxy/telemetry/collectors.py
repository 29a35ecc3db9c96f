"""Metrics of values that exist elsewhere: connections upstream, the store's files and disk, and open holds and tasks.

Each value is read at the scrape, and costs nothing between two scrapes.
"""

import asyncio
import logging
import os
from collections import Counter
from pathlib import Path

from proxy.clock import Clock
from proxy.core.money import NANOS_PER_YUAN
from proxy.core.video.record import TERMINAL, TaskState
from proxy.live.settings import Live
from proxy.store.contract import Books, Engine
from proxy.store.errors import StoreError
from proxy.store.peers import Peers
from proxy.store.values import Census
from proxy.telemetry.instruments import Labels
from proxy.telemetry.metrics import Metrics
from proxy.upstream.routing import Routing, resting

logger = logging.getLogger(__name__)

LOOK_SECONDS_MAX = 2.0
"""Seconds that a scrape waits for the store: the metrics of a gateway whose disk hangs are those needed most."""
_OPEN_STATES = tuple(state for state in TaskState if state not in TERMINAL)


def watch_upstreams(metrics: Metrics, live: Live) -> None:
    """Register the connections to each upstream, by purpose."""

    def read() -> dict[Labels, float]:
        found: dict[Labels, float] = {}
        for name, upstream in live.now.upstreams.items():
            sums: Counter[Labels] = Counter()
            for access in upstream.every_access:
                idle = access.pool.idle_connections
                connections = {"chat": (access.pool.open_connections - idle, idle), **access.client.connections}
                for pool, (busy, idle) in connections.items():
                    sums.update({(name, pool, "busy"): busy, (name, pool, "idle"): idle})
            found |= sums
        return found

    metrics.gauges(
        "llm_proxy_upstream_connections",
        "Connections to upstreams: for chats, for what creates pictures and videos, for what asks about videos.",
        ("upstream", "pool", "state"),
        read,
    )


def watch_routes(metrics: Metrics, live: Live, routing: Routing, clock: Clock) -> None:
    """Register what came of each attempt, and what rests of each upstream and key."""
    metrics.counters(
        "llm_proxy_route_attempts",
        "Upstreams asked for a chat or a picture, by model, upstream, key and result.",
        ("model", "upstream", "key", "result"),
        lambda: routing.attempts(live.now.upstreams),
    )

    def read() -> dict[Labels, float]:
        return {(upstream, key): models for upstream, key, models in resting(live.now.upstreams, clock.monotonic())}

    metrics.gauges("llm_proxy_resting", "Models of an upstream that rest under a key, or the whole key.", ("upstream", "key"), read)


def watch_store(metrics: Metrics, engine: Engine, path: Path | None) -> None:
    """Register the sizes of the store's files, the free space on its disk, and the state of its writes.

    Args: path: of its file; None: a database server keeps it.
    """
    if path is not None:
        _watch_file(metrics, path.resolve())
    else:
        _watch_server(metrics, engine)
    metrics.gauge("llm_proxy_store_waiting_operations", "Writes that wait for their commit.", lambda: engine.backlog.waiting)
    metrics.counter(
        "llm_proxy_commit_failures", "Group commits in which something could not be written.", lambda: engine.backlog.failures
    )


def _watch_file(metrics: Metrics, path: Path) -> None:
    log = path.with_name(path.name + "-wal")
    metrics.gauge("llm_proxy_store_bytes", "Size of the store's file.", lambda: path.stat().st_size)
    metrics.gauge("llm_proxy_wal_bytes", "Size of its write-ahead log; it does not shrink.", lambda: _size(log))
    metrics.gauge("llm_proxy_disk_free_bytes", "Room on the store's disk.", lambda: _room(path.parent))


def _watch_server(metrics: Metrics, engine: Engine) -> None:
    """Register the state of the way to the database server and, of one that several gateways write to, what this one knows of them."""
    metrics.counter("llm_proxy_store_retries", "Transactions that were tried again.", lambda: engine.backlog.retries)
    metrics.counter("llm_proxy_store_read_waits", "Reads that waited for a connection.", lambda: engine.backlog.read_waits)
    if (peers := engine.peers) is not None:
        metrics.gauge(
            "llm_proxy_node_unconfirmed_seconds", "Time since the last beat that the database took.", lambda: peers.unconfirmed_seconds
        )
        metrics.gauge("llm_proxy_keys_age_seconds", "Time since the keys were last known to be the newest.", lambda: peers.keys_seconds)
        metrics.gauge("llm_proxy_gateways", "Living gateways, as this one sees them.", lambda: len(peers.serving))


class OpenBusiness:
    """Metrics that need a query. `look` before each scrape; if the store does not answer, its metrics are left out.

    Where several gateways share the store, they are the cluster's: one of them has them, which the others then leave out.
    """

    def __init__(self, metrics: Metrics, books: Books, clock: Clock, peers: Peers | None = None) -> None:
        self._books = books
        self._clock = clock
        self._peers = peers
        self._census: Census | None = None
        self._is_up = False
        name = "llm_proxy" if peers is None else "llm_proxy_cluster"
        metrics.gauge("llm_proxy_store_up", "Whether the store answered this scrape.", lambda: self._is_up)
        metrics.gauges(f"{name}_held_yuan", "Held for what is under way, in yuan.", (), self._held)
        metrics.gauges(f"{name}_open_holds", "Paid requests and video tasks under way.", (), self._holds)
        metrics.gauges(f"{name}_oldest_hold_seconds", "Age of the oldest hold that is no video's.", (), self._oldest)
        metrics.gauges(f"{name}_video_tasks", "Video tasks under way, by state.", ("state",), self._tasks)
        metrics.gauges(
            f"{name}_video_due_lag_seconds", "How long the longest due video task waits for its look.", ("upstream",), self._lags
        )

    async def look(self) -> None:
        """Query the store."""
        self._is_up, census = False, None
        try:
            async with asyncio.timeout(LOOK_SECONDS_MAX):
                if self._peers is None or await self._peers.take_job("census"):
                    census = await self._books.census()
            self._is_up, self._census = True, census
        except (StoreError, TimeoutError) as fault:
            self._census = None
            logger.warning("a scrape goes without the store: %s", str(fault) or f"no answer within {LOOK_SECONDS_MAX:g} s")

    def _held(self) -> dict[Labels, float]:
        return {(): census.held_nanos / NANOS_PER_YUAN} if (census := self._census) else {}

    def _holds(self) -> dict[Labels, float]:
        return {(): census.holds} if (census := self._census) else {}

    def _oldest(self) -> dict[Labels, float]:
        return {(): self._seconds_since(census.oldest_hold_at_ms)} if (census := self._census) else {}

    def _tasks(self) -> dict[Labels, float]:
        if self._census is None:
            return {}
        counts: dict[Labels, float] = {(state.value,): 0 for state in _OPEN_STATES}
        for tasks in self._census.tasks:
            counts[tasks.state.value,] += tasks.count
        return counts

    def _lags(self) -> dict[Labels, float]:
        """Return the lag of each upstream that has tasks under way."""
        lags: dict[Labels, float] = {}
        for tasks in self._census.tasks if self._census else ():
            lags[tasks.upstream,] = max(lags.get((tasks.upstream,), 0.0), self._seconds_since(tasks.longest_due_at_ms))
        return lags

    def _seconds_since(self, at_ms: int | None) -> float:
        return 0.0 if at_ms is None else max(0.0, (self._clock.now_ms() - at_ms) / 1000)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _room(folder: Path) -> int:
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize
