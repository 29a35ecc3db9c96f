"""A chat's path through the gateway without kernel, disk and threads: memory transports, and a store that answers at once.

``python -m tests.bench.in_memory json|bound|stream COUNT`` answers COUNT requests (``bound``: of a key with all limits), or relays
COUNT chunks, and ends at once. The difference in instructions between two such runs is the gateway's own code: the same each time,
whatever else the machine does.
"""

import asyncio
import gc
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, cast

import uvloop

from proxy import ids
from proxy.billing.holds import Billing
from proxy.billing.idempotency import Idempotency
from proxy.clock import SystemClock
from proxy.config import UpstreamConfig, load
from proxy.core.bounds import Bounds
from proxy.core.health import Rest, Unrest
from proxy.core.limits import Limits as BoundLimits
from proxy.edge.body import BodyReader
from proxy.edge.entrance import Dispatcher, Entrance, Observer
from proxy.edge.router import Route, Router
from proxy.edge.server import Server
from proxy.exchange.admission import Admission
from proxy.exchange.flight import Relay
from proxy.gateway.process import GC_ALLOCATIONS
from proxy.handlers.chat import PATH, ChatHandlers
from proxy.live.meters import Meters
from proxy.live.settings import Live
from proxy.store.contract import Store
from proxy.store.values import Grant, Settled
from proxy.tasks import TaskGroup
from proxy.telemetry.logs import JsonAccessLog, Lines
from proxy.telemetry.metrics import Metrics
from proxy.upstream.http1.connection import Connection
from proxy.upstream.http1.pool import Limits, Pool
from proxy.upstream.routing import Routing
from proxy.upstream.upstreams import Upstream
from tests.bench.clients import request
from tests.bench.jobs import Job, Target
from tests.bench.upstream import JSON_ANSWER, STREAM_HEAD, frame, stream_end
from tests.support.settings import CONFIGURATION, live

SECRET = "sk_" + 43 * "a"
WARM_REQUESTS = 500
CONNECTIONS = 64
"""JSON requests in flight; a stream runs alone."""
MODELS = """[{"id": "doubao-pro-32k", "kind": "chat", "upstream_model": "doubao-seed-2-0-lite-260428",
  "request_defaults": {"thinking": {"type": "disabled"}}, "price": {"input": "0.8", "output": "2.0", "cached_input": "0.16"}}]"""
ROUTES = 4
_ROUTED = ", ".join(f'{{"upstream": "ark{at}", "model": "doubao-seed-2-0-lite-260428", "weight": {at}}}' for at in range(1, ROUTES + 1))
"""Routes to as many upstreams, each with another weight."""


class Transport:
    """A transport that passes each write to a function."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.write = write

    def is_closing(self) -> bool:
        return False

    def close(self) -> None: ...

    abort = close

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: object = None) -> object:
        return {"socket": Socket, "peername": ("127.0.0.1", 40_000)}.get(name, default)


class Socket:
    """What is asked of a connection's socket."""

    family = socket.AF_INET


class Books:
    """A store in which everything is durable at once."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def place_hold(self, *_: object) -> "asyncio.Future[None]":
        return self._done(None)

    def settle(self, *_: object) -> "asyncio.Future[Settled]":
        return self._done(Settled.NOW)

    def _done(self, result: Any) -> "asyncio.Future[Any]":
        future = self._loop.create_future()
        self._loop.call_soon(future.set_result, result)
        return future


GRANT = Grant(ids.digest(SECRET), "key_bench", 3, "bench", "key_bench")
UNBOUND: Mapping[bytes, Bounds] = {}


def all_bounds(*, account: bool = True) -> Mapping[bytes, Bounds]:
    """Return every limit that a key, and with ``account`` its account too, can have, but money: the store has that. None is reached."""
    limits = BoundLimits(
        expires_at_ms=2**52,
        models=("doubao-seed-*", "doubao-pro-32k"),
        networks=("10.0.0.0/8", "127.0.0.0/8"),
        requests_per_minute=10_000,
        tokens_per_minute=100_000_000,
        concurrent=1_000,
    )
    grant = replace(GRANT, limits=limits, account_limits=limits if account else None)
    meters = Meters()
    meters.limit([grant], 0)
    return {GRANT.sha256: Bounds(limits, grant.account_limits, ends_at_ms=None, rates=meters.limited(grant))}


class Access:
    """Accepts one key."""

    anonymous: Grant | None = None

    def __init__(self, bounds: Mapping[bytes, Bounds]) -> None:
        self.bounds = bounds
        self._grants = {GRANT.sha256: GRANT}

    def authenticate(self, credential: bytes) -> Grant | None:
        return self._grants.get(credential)


class Gateway:
    """The parts of a gateway that a chat goes through."""

    def __init__(self, bounds: Mapping[bytes, Bounds] = UNBOUND, *, routed: bool = False) -> None:
        """Args: routed: whether its model has `ROUTES` routes instead of one."""
        self._loop = asyncio.get_running_loop()
        clock, metrics, store = SystemClock(), Metrics(), cast("Store", Books())
        self._limits = Limits()
        self._pool = Pool("http://127.0.0.1:9/api/v3", headers={"Authorization": "Bearer upstream"}, limits=self._limits)
        models = MODELS.replace('"upstream_model": "doubao-seed-2-0-lite-260428"', f'"routes": [{_ROUTED}]') if routed else MODELS
        others = {
            name.replace("__ARK__", f"__ARK{at}__"): value
            for at in range(1, ROUTES + 1)
            for name, value in CONFIGURATION.items()
            if routed and "__ARK__" in name
        }
        config = load(None, {**CONFIGURATION, **others, "LLM_PROXY_MODELS": models})
        arks = {name: cast("Upstream", _Ark(self._pool, upstream)) for name, upstream in config.upstreams.items()}
        settings: Live = live(config, arks)
        bodies, idempotency = BodyReader(settings), Idempotency(store, clock)
        chat = ChatHandlers(
            live=settings,
            billing=Billing(store, TaskGroup("settlement"), clock, metrics),
            idempotency=idempotency,
            relay=Relay(settings, metrics, clock),
            bodies=bodies,
            admission=Admission(accounts=store, idempotency=idempotency, bodies=bodies, live=settings),
            clock=clock,
            metrics=metrics,
            routing=Routing(clock),
        )
        router = Router([Route("POST", PATH, chat.create)], ("/api/v1", "/v1"))
        dispatcher = Dispatcher(router, Access(bounds), settings, draining=lambda: False, refusing=lambda: False)
        observer = Observer(clock, JsonAccessLog(clock, Lines(len)), metrics)
        self._server = Server(Entrance(dispatcher, observer, clock).answer, clock=clock, keepalive_seconds=75, stall_seconds=30)

    def add_upstream(self, asked: Callable[[Connection], object]) -> None:
        """Add a pooled connection to an upstream that calls ``asked`` for each request."""
        connection = Connection(self._pool, self._limits, self._loop)
        connection.connection_made(cast("asyncio.Transport", Transport(lambda _: asked(connection))))
        self._pool.vacant(connection)

    def add_client(self, told: Callable[[bytes], None]) -> Callable[[bytes], None]:
        """Connect a client, and return the function that sends."""
        connection = self._server()
        connection.connection_made(cast("asyncio.Transport", Transport(told)))
        return connection.data_received


_UNREST = Unrest()


class _Ark:
    """An upstream with only the parts that a chat needs: its connection pool, and what may rest."""

    def __init__(self, pool: Pool, config: UpstreamConfig) -> None:
        self.config, self.pool, self.name = config, pool, "default"
        self.unrest, self.rest, self.rests = _UNREST, Rest(config.health, _UNREST), dict[str, Rest]()
        self.answers = dict[tuple[str, str], list[int]]()
        self.accesses = {"default": self}


async def answer_bound(count: int) -> None:
    """Do as `answer`, for a key with all limits."""
    await answer(count, all_bounds(account=False))


async def answer(count: int, bounds: Mapping[bytes, Bounds] = UNBOUND, *, routed: bool = False) -> None:
    """Answer ``count`` JSON requests, `CONNECTIONS` at a time."""
    loop, gateway = asyncio.get_running_loop(), Gateway(bounds, routed=routed)
    asked = _asked(chunks=0)
    left = count + WARM_REQUESTS
    done = loop.create_future()

    def client() -> None:
        def told(piece: bytes) -> None:
            nonlocal left
            assert piece.startswith(b"HTTP/1.1 200"), piece
            left -= 1
            if left >= CONNECTIONS:
                loop.call_soon(send, asked)
            elif left == 0:
                done.set_result(None)

        send = gateway.add_client(told)
        loop.call_soon(send, asked)

    for _ in range(CONNECTIONS):
        gateway.add_upstream(lambda connection: loop.call_soon(connection.data_received, JSON_ANSWER))
        client()
    await done


async def relay(count: int) -> None:
    """Relay ``count`` chunks of one stream, each in its own piece."""
    loop, gateway = asyncio.get_running_loop(), Gateway()
    done = loop.create_future()
    left, right = frame(0)
    chunk = left + b"%020d" % 1 + right

    def stream(connection: Connection) -> None:
        connection.data_received(STREAM_HEAD)
        loop.call_soon(run, connection)  # by then the stream is joined to the client, whose head waits for the first chunk

    def run(connection: Connection) -> None:
        for _ in range(count):
            connection.data_received(chunk)
        connection.data_received(stream_end(count))

    def told(piece: bytes) -> None:
        if piece.endswith(b"0\r\n\r\n"):
            done.set_result(None)

    gateway.add_upstream(lambda connection: loop.call_soon(stream, connection))
    gateway.add_client(told)(_asked(chunks=count))
    await done


def _asked(chunks: int) -> bytes:
    target = Target(0, keys=(SECRET,))
    return request(target, Job(kind="json", target=target, connections=1, seconds=0, chunks=chunks).body, 0)


def main() -> None:
    what, count = sys.argv[1:]
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 20)
    loads: dict[str, Callable[[int], Coroutine[Any, Any, None]]] = {
        "json": answer,
        "bound": answer_bound,
        "routes": partial(answer, routed=True),
        "stream": relay,
    }
    uvloop.run(loads[what](int(count)))


if __name__ == "__main__":
    main()
