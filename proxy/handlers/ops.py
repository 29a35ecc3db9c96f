"""Answers to probes and scrapers: ``/healthz``, ``/readyz``, and on the operator's listeners ``/metrics``."""

import asyncio
import logging
from contextlib import suppress

from proxy.core.credential import refuse_foreign_page
from proxy.core.waiting import wait_seconds
from proxy.edge.context import Context
from proxy.edge.response import Response
from proxy.store.contract import Engine
from proxy.store.errors import StoreError
from proxy.tasks import first_of
from proxy.telemetry.collectors import OpenBusiness
from proxy.telemetry.metrics import CONTENT_TYPE, Metrics

logger = logging.getLogger(__name__)

SLOW_SECONDS_MAX = 120.0
SLOW_MAX = 16
"""Slow answers at a time. They need no key; one beyond these is given at once."""
_ALIVE = {"status": "ok"}
_STREAM_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Those of a chat's stream: a proxy must treat both alike."""


class OpsHandlers:
    def __init__(self, engine: Engine, metrics: Metrics, open_business: OpenBusiness, stopping: asyncio.Event) -> None:
        """Args: stopping: set when the gateway begins to stop."""
        self._engine = engine
        self._metrics = metrics
        self._open_business = open_business
        self._stopping = stopping
        self._slow = 0

    async def healthz(self, context: Context) -> Response:
        """Answer that the process is alive.

        For `doctor`, which looks at a proxy in front and has no key: ``?wait=SECONDS`` answers so much later, and with ``&stream=true``
        as a stream that begins at once.
        """
        seconds = min(wait_seconds(context.request.query_values("wait")), SLOW_SECONDS_MAX)
        if not seconds or self._slow >= SLOW_MAX:
            return context.json(_ALIVE)
        streams = context.request.method == "GET" and context.request.query_values("stream") == ["true"]
        self._slow += 1
        try:
            return await self._slowly(context, seconds, streams=streams)
        finally:
            self._slow -= 1

    async def _slowly(self, context: Context, seconds: float, *, streams: bool) -> Response:
        """Answer when the time is up, or the gateway stops. Raises: ConnectionError: the client left."""
        client = _Leaving()
        context.connection.watcher = client
        try:
            response = None
            if streams:
                context.headers.update(_STREAM_HEADERS)
                response = context.begin_stream(b"")
                _write(context, b": alive\n\n")
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await first_of(self._stopping.wait(), client.left.wait())
        finally:
            context.connection.watcher = None
        if context.connection.is_lost():
            raise ConnectionResetError("the client left")
        if response is None:
            return context.json(_ALIVE)
        _write(context, b"data: [DONE]\n\n")
        return response

    async def readyz(self, context: Context) -> Response:
        """Answer 200 if a paid request could be taken now: the store answers, can write, and no drain has begun; else 503."""
        if self._stopping.is_set():
            return context.json({"status": "draining"}, status=503)
        try:
            await self._engine.ping()
        except StoreError as fault:
            logger.error("the store does not answer: %s", fault)  # noqa: TRY400
            return context.json({"status": "store unavailable"}, status=503)
        return context.json({"status": "ready"})

    async def metrics(self, context: Context) -> Response:
        """Answer with all metrics. A web page of another machine is refused: it would read the turnover."""
        headers = context.request.headers
        refuse_foreign_page(headers.get("Origin"), headers.get("Host") if context.connection.is_loopback else None)
        await self._open_business.look()
        return context.answer(self._metrics.render(), content_type=CONTENT_TYPE)


def _write(context: Context, piece: bytes) -> None:
    """Send a piece of a stream."""
    transport = context.connection.transport
    if transport is not None:
        transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if context.request.takes_chunks else piece)


class _Leaving:
    """Sees a client leave."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    def client_paused(self) -> None: ...

    def client_resumed(self) -> None: ...

    def client_lost(self) -> None:
        self.left.set()
