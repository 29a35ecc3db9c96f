"""The layer around every handler: routing and authentication before it, error answers, logs and metrics after it.

Few coroutines stand between a connection and its handler: each costs about 0.3 µs every time the request resumes.
"""

import asyncio
import logging
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import orjson

from proxy import ids
from proxy.clock import Clock
from proxy.core.bounds import REVOKED, Bounds
from proxy.core.credential import refuse_foreign_page, secret_of
from proxy.core.errors import (
    RETRY_AFTER_OBEYED_SECONDS,
    RETRY_AFTER_SECONDS_MAX,
    BadRequestError,
    GatewayError,
    InternalError,
    InvalidApiKeyError,
    ModelUnavailableError,
)
from proxy.core.money import format_yuan
from proxy.edge.connection import CROSS_ORIGIN_HEADERS
from proxy.edge.context import Context
from proxy.edge.request import Request
from proxy.edge.response import Response
from proxy.edge.router import Router
from proxy.live.settings import Live
from proxy.store.errors import StoreUnavailableError
from proxy.store.values import Grant
from proxy.telemetry.logs import AccessLog, RequestLine
from proxy.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499
"""Logged only, as nginx and Caddy do, for a client that left before its answer."""

CORS_MAX_AGE_SECONDS = 600
_HEADER_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{0,2048}")


class Entrance:
    """Runs every request: gives it an id and a start time, dispatches it, records its end. Counts the requests in progress."""

    def __init__(self, dispatcher: "Dispatcher", observer: "Observer", clock: Clock) -> None:
        self._dispatcher = dispatcher
        self._observer = observer
        self._clock = clock
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    async def answer(self, request: Request) -> Response:
        """Return the answer to one request, or the JSON of its error.

        Raises:
            ConnectionError: the client left, or must see that its answer is incomplete.
        """
        now_ms = self._clock.now_ms()
        request_id = ids.request_id(now_ms)
        context = Context(request, request_id, {"x-request-id": request_id}, self._clock.monotonic(), now_ms)
        status = CLIENT_CLOSED_REQUEST
        if not self._inside:
            self._empty.clear()
        self._inside += 1
        try:
            try:
                response = await self._dispatcher.dispatch(context)
            except Exception as fault:  # noqa: BLE001 - any bug is answered, logged and counted
                response = self._observer.failed(context, fault)
            if self._dispatcher.draining():
                request.closing = True
            status = response.status
            if response.body is not None:
                context.body_bytes = len(response.body)
                if context.bounds is not None:  # a stream's head has been sent
                    response.fields = context.bounds.rates.fields(self._clock.monotonic())
            return response
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()
            if context.intake is not None:
                context.intake.release()
            self._observer.record(context, status)

    def __len__(self) -> int:
        return self._inside

    async def wait_empty(self) -> None:
        await self._empty.wait()


class Access(Protocol):
    """Finds the account of a key, or the one account that pays for all calls where no keys are used."""

    @property
    def anonymous(self) -> Grant | None: ...

    @property
    def bounds(self) -> Mapping[bytes, Bounds]:
        """What bounds a key, by `Grant.sha256`; a key without limits is not in it."""

    def authenticate(self, credential: bytes) -> Grant | None:
        """Return what the key with this SHA-256 grants, or None."""


class Dispatcher:
    """Finds the route, checks the key if the route needs one, and starts the handler."""

    def __init__(
        self, router: Router, access: Access, live: Live, *, draining: Callable[[], bool], refusing: Callable[[], bool]
    ) -> None:
        """``draining``: a connection closes after its current request; ``refusing``: no new call is accepted."""
        self._live = live
        self._router = router
        self._access = access
        self.draining = draining
        self._refusing = refusing

    def dispatch(self, context: Context) -> Awaitable[Response]:
        """Return the handler's coroutine. Pages of any origin may call with a key in a header. Raises: GatewayError."""
        request = context.request
        if "Origin" in request.headers:
            context.headers.update(CROSS_ORIGIN_HEADERS)
        if not request.head.is_known_version:
            raise BadRequestError("HTTP/1.1 and HTTP/1.0 are spoken here")
        route = self._router.at(request.method, request.target)
        if route is None:
            path = origin_form(request.target)
            if request.method == "OPTIONS" or (request.method == "HEAD" and "GET" not in self._router.methods(path)):
                return self._options(context, path)  # HEAD tells a probe that the path exists, and its methods
            match = self._router.match(request.method, path)
            route, context.tail = match.route, match.tail
        context.route = route.path
        if route.needs_key:
            grant = context.grant = self._grant(context)
            if self._access.bounds and (bounds := self._access.bounds.get(grant.sha256)) is not None:
                self._check(context, bounds)
            if self._refusing():
                raise ModelUnavailableError("The gateway is restarting", retry_after_seconds=1)
        return route.handler(context)

    def _grant(self, context: Context) -> Grant:
        if (grant := self._access.anonymous) is not None:
            headers = context.request.headers
            refuse_foreign_page(headers.get("Origin"), headers.get("Host") if context.connection.is_loopback else None)
            return grant
        head = context.request.head
        credential = head.credential
        if credential is None:
            credential = head.credential = ids.digest(secret_of(head.headers))
        grant = self._access.authenticate(credential)
        if grant is None:
            raise InvalidApiKeyError(REVOKED)
        return grant

    def _check(self, context: Context, bounds: Bounds) -> None:
        """Refuse what the key may not do, whatever it asks for. Raises: GatewayError."""
        context.bounds = bounds
        if context.received_at_ms >= bounds.idle_from_ms:
            bounds.refuse_idle(context.received_at_ms)
        if bounds.has_networks:
            address, proxies = context.request.connection.peer_address, self._live.now.trusted_proxies
            if proxies.are_any:
                address = proxies.client(address, context.header_values("X-Forwarded-For"))
            if address not in bounds.admitted:
                bounds.refuse_address(address)

    async def _options(self, context: Context, path: str) -> Response:
        """Answer a preflight or a plain OPTIONS request; no key is needed."""
        methods = ", ".join(("OPTIONS",) if path == "*" else self._router.methods(path))
        context.route = "*"  # keeps preflights out of the latencies of the paths
        headers = context.request.headers
        context.headers["Allow"] = methods
        if "Access-Control-Request-Method" in headers:
            context.headers["Access-Control-Allow-Methods"] = methods
            wanted = headers.get("Access-Control-Request-Headers", "*")
            context.headers["Access-Control-Allow-Headers"] = wanted if _HEADER_NAMES.fullmatch(wanted) else "*"
            context.headers["Access-Control-Max-Age"] = str(CORS_MAX_AGE_SECONDS)
            context.headers["Vary"] = "Access-Control-Request-Headers"
        return Response(204, context.headers, b"")


def origin_form(raw_path: str) -> str:
    """Return the path and query of a request target, without the scheme and host of an absolute one (RFC 9112 §3.2.2)."""
    if raw_path[:8].lower().startswith(("http://", "https://")):
        _, _, rest = raw_path.partition("://")
        _, slash, path = rest.partition("/")
        return slash + path
    return raw_path


class Observer:
    """Writes one log line and the metrics of every request, and turns exceptions of handlers into answers."""

    def __init__(self, clock: Clock, log: AccessLog, metrics: Metrics) -> None:
        self._clock = clock
        self._log = log
        self._metrics = metrics

    def failed(self, context: Context, fault: Exception) -> Response:
        """Return the JSON answer for an exception of a handler.

        Raises:
            ConnectionError: the client left, or a part of the answer has been sent: the client must see that it is incomplete.
        """
        error = self._error_of(context, fault)
        if context.begun:
            context.code = error.code
            raise ConnectionResetError("the answer had begun")
        return error_response(context, error)

    def _error_of(self, context: Context, fault: Exception) -> GatewayError:
        if isinstance(fault, GatewayError):
            return fault
        if isinstance(fault, StoreUnavailableError):
            logger.error("request %s: the store does not answer: %s", context.id, fault)  # no bug of ours: no traceback
            return ModelUnavailableError("The gateway cannot answer just now", retry_after_seconds=5)
        if isinstance(fault, OSError) and context.connection.is_lost():
            raise ConnectionResetError("the client left") from None
        logger.error("request %s failed", context.id, exc_info=fault)
        return InternalError("Internal error", should_retry=False)  # the upstream may have been asked

    def record(self, context: Context, status: int) -> None:
        """Count a finished request, and write its log line."""
        now = self._clock.monotonic()
        total = now - context.received_at
        first_byte = (context.first_byte_at or now) - context.received_at
        self._metrics.answered(context.route, context.model, status, first_byte, total)
        self._log.write(_line(context, status, first_byte, total))


def error_response(context: Context, error: GatewayError) -> Response:
    """Return the documented JSON of an error, with the headers that tell an SDK whether and when to retry."""
    context.code = error.code
    headers = context.headers
    if error.retry_after_seconds is not None:
        seconds = min(max(error.retry_after_seconds, 0.001), RETRY_AFTER_SECONDS_MAX)
        headers["Retry-After"] = str(math.ceil(seconds))
        headers["retry-after-ms"] = str(round(seconds * 1000))
        if seconds > RETRY_AFTER_OBEYED_SECONDS:
            headers["x-should-retry"] = "false"
    if error.should_retry is not None:
        headers["x-should-retry"] = "true" if error.should_retry else "false"
    if error.allow:
        headers["Allow"] = ", ".join(error.allow)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    # The rest of such a body is not worth reading. A client that sent Expect may or may not send its body.
    unread = not context.request.content.is_eof()
    if error.code == BadRequestError.code or (unread and (error.status in (408, 413) or "Expect" in context.request.headers)):
        context.request.closing = True
    return context.answer(orjson.dumps(error.body()), status=error.status)


def _line(context: Context, status: int, first_byte: float, total: float) -> RequestLine:
    """Return the log line of a request. Times are truncated to 0.1 ms: ``round`` takes three times as long."""
    grant, settlement, upstream_seconds = context.grant, context.settlement, context.upstream_seconds
    method = context.request.method
    line = (
        context.id,
        method[:16],
        context.route,
        status,
        context.body_bytes if method != "HEAD" else 0,
        int(first_byte * 10_000) / 10,
        int(total * 10_000) / 10,
        None if upstream_seconds is None else int(upstream_seconds * 10_000) / 10,
        None if grant is None else grant.account_name,
        None if grant is None else grant.key_id,
        context.model,
        context.code,
    )
    if settlement is None:
        return RequestLine(*line)
    usage = settlement.usage
    return RequestLine(
        *line,
        settlement.outcome,
        settlement.usage_source,
        usage.prompt_tokens,
        usage.cached_tokens,
        usage.completion_tokens,
        format_yuan(settlement.charge_nanos),
        settlement.upstream_id,
        settlement.units,
        settlement.note,
    )
