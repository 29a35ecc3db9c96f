"""The client of Ark's slow endpoints, images and video tasks: a call in, status and parsed JSON out.

aiohttp's client costs about 200 µs of CPU a call: too much for chat (`http1`), and nothing beside an image of half a minute. Nothing is
retried here. A call that creates never goes over a kept connection: if that had died meanwhile, it would look like an answer that was
lost after the work was done and charged.
"""

import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

from proxy.config import Secret, UpstreamConfig
from proxy.core.json_text import is_crowded
from proxy.tasks import TaskGroup
from proxy.upstream.failures import UpstreamBrokenError, UpstreamTimeoutError, UpstreamUnreachableError
from proxy.upstream.guard import Guard, GuardedConnector, GuardedTunnelConnector
from proxy.upstream.http1.upload import REPEATABLE_BYTES_MAX
from proxy.upstream.tunnel import TunnelConnector, proxy_of, unreached_through

IMAGES_PATH = "/images/generations"
TASKS_PATH = "/contents/generations/tasks"

CONNECTIONS_MAX = 1024
"""Connections for creating, and as many for asking; a call without a free one within ``connect_seconds`` was not sent."""
ANSWER_BYTES_MAX = 8 * 1024 * 1024
"""A page of 500 tasks is about half a megabyte."""
QUESTION_SECONDS_MAX = 60.0
"""Questions about a task are answered in moments; one that hangs must not hold its poller as long as an image may take."""
PAGE_SIZE_MAX = 500

_LARGE_BODY_BYTES = REPEATABLE_BYTES_MAX
"""A longer body is iterated: aiohttp writes it as it is taken, and keeps nothing of it. Bytes it would write in one piece, and keep."""
_SLICE_BYTES = 65_536

Piece = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer, whatever its status."""

    status: int
    answer: object
    """The body as parsed JSON; None if it was empty, not JSON, as from gateways in front of Ark, or too much to parse on the loop."""
    retry_after: str | None
    """The ``Retry-After`` header as it came."""


@dataclass(slots=True, eq=False)
class _Session:
    """Connections opened by one configuration, and the number of calls that use them."""

    http: aiohttp.ClientSession
    config: UpstreamConfig
    calls: int = 0
    is_retired: bool = False

    @property
    def connections(self) -> tuple[int, int]:
        """Return how many carry a call, and how many are idle. aiohttp's connector has no public way to ask."""
        connector = self.http.connector
        return (0, 0) if connector is None else (len(connector._acquired), sum(map(len, connector._conns.values())))


class ArkClient:
    """Connections to one upstream. ``async with`` it, or `open` and `close`.

    Every call raises:
        UpstreamUnreachableError: nothing was sent.
        UpstreamTimeoutError: in phase ``connect`` nothing was sent; in any other the upstream may have worked, and may charge.
        UpstreamBrokenError: the connection was cut, or the answer is not HTTP or too long; the upstream may have worked, too.
    """

    def __init__(
        self,
        config: UpstreamConfig,
        api_key: Secret | None = None,
        *,
        connections_max: int = CONNECTIONS_MAX,
        answer_bytes_max: int = ANSWER_BYTES_MAX,
        ssl_context: ssl.SSLContext | None = None,
        guard: Guard | None = None,
    ) -> None:
        """Args: api_key: None: the first of the upstream's; guard: asked before anything that creates is sent."""
        self._guard = guard
        self._config = config
        self._api_key = api_key or config.api_key
        self._connections_max = connections_max
        self._answer_bytes_max = answer_bytes_max
        self._ssl_context = ssl_context
        self._open: set[_Session] = set()
        self._closing = TaskGroup("client")
        self._creating: _Session | None = None
        self._asking: _Session | None = None

    async def open(self) -> Self:
        self.renew(self._config, self._api_key)
        return self

    def renew(self, config: UpstreamConfig, api_key: Secret) -> None:
        """Use this configuration and key from the next call on. Calls under way end as they began, on their own connections."""
        self._config, self._api_key = config, api_key
        for session in (self._creating, self._asking):
            if session is not None:
                session.is_retired = True
                self._close_if_done(session)
        self._creating = self._session(config, keep=False, seconds=config.first_byte_seconds)
        self._asking = self._session(config, keep=True, seconds=min(config.first_byte_seconds, QUESTION_SECONDS_MAX))

    async def close(self) -> None:
        """Close all connections. Calls under way end as broken; new ones are refused as unreachable."""
        self._creating = self._asking = None
        for session in tuple(self._open):
            await session.http.close()
        self._open.clear()
        await self._closing.drain()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    @property
    def connections(self) -> dict[str, tuple[int, int]]:
        """Return how many connections carry a call and how many are idle, for each pool: ``create`` and ``ask``."""
        pools = (("create", self._creating), ("ask", self._asking))
        return {pool: session.connections for pool, session in pools if session is not None}

    async def create_image(self, body: list[Piece], sent: Callable[[], None] | None = None) -> Reply:
        """Ask for an image.

        Args:
            body: JSON in pieces; large ones may be shared by several calls, and are not copied. If they are large in all, the list is
                emptied as they are sent, so that nobody keeps them alive for as long as the image takes.
            sent: called once all but what a write buffer may hold of a large body has been sent.
        """
        return await self._ask(self._creating, "POST", IMAGES_PATH, body=body, sent=sent)

    async def create_task(self, body: Mapping[str, object]) -> Reply:
        return await self._ask(self._creating, "POST", TASKS_PATH, body=[orjson.dumps(body)])

    async def get_task(self, upstream_id: str) -> Reply:
        return await self._ask(self._asking, "GET", _task_path(upstream_id))

    async def delete_task(self, upstream_id: str) -> Reply:
        """Cancel a queued task. Beware: for an ended task it deletes the record."""
        return await self._ask(self._asking, "DELETE", _task_path(upstream_id))

    async def list_tasks(
        self, *, model: str | None = None, service_tier: str | None = None, page_size: int = PAGE_SIZE_MAX, page_num: int = 1
    ) -> Reply:
        """Ask for the tasks of the last 7 days, newest first. Those of ``flex`` are hidden unless ``service_tier`` asks for them."""
        query = {"page_num": str(page_num), "page_size": str(page_size)}
        if model is not None:
            query["filter.model"] = model
        if service_tier is not None:
            query["filter.service_tier"] = service_tier
        return await self._ask(self._asking, "GET", TASKS_PATH, query=query)

    # steps

    def _close_if_done(self, session: "_Session") -> None:
        if session.is_retired and not session.calls and session in self._open:
            self._open.remove(session)
            self._closing.spawn(session.http.close(), "close")

    def _session(self, config: UpstreamConfig, *, keep: bool, seconds: float) -> "_Session":
        guard = None if keep else self._guard
        connector = connector_of(config, guard, limit=self._connections_max, force_close=not keep, ssl=self._ssl_context or True)
        timeout = aiohttp.ClientTimeout(
            total=config.connect_seconds + seconds,  # `sock_read` alone would never end an answer that drips in
            connect=config.connect_seconds,  # including the wait for a free connection and the resolver
            sock_connect=config.connect_seconds,
            sock_read=seconds,
        )
        headers = {
            "Authorization": f"Bearer {self._api_key.reveal()}",
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "llm-proxy",
        }
        http = aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers, cookie_jar=aiohttp.DummyCookieJar())
        session = _Session(http, config)
        self._open.add(session)
        return session

    async def _ask(
        self,
        session: "_Session | None",
        method: str,
        path: str,
        *,
        body: list[Piece] | None = None,
        query: Mapping[str, str] | None = None,
        sent: Callable[[], None] | None = None,
    ) -> Reply:
        if session is None:
            raise UpstreamUnreachableError("upstream: the client is closed")
        url = URL(session.config.base_url + path, encoded=True).update_query(query or {})
        has_head = False
        pieces = [] if body is None else body
        size_bytes = sum(map(len, pieces))
        is_large = size_bytes > _LARGE_BODY_BYTES
        data = _slices(pieces, sent) if is_large else b"".join(pieces) or None
        headers = {"Content-Length": str(size_bytes)} if is_large else {}
        session.calls += 1
        try:
            async with session.http.request(method, url, data=data, headers=headers, allow_redirects=False) as response:
                has_head = True
                return Reply(response.status, _parsed(await self._read(response)), response.headers.get("Retry-After"))
        except aiohttp.ConnectionTimeoutError as fault:
            if (through := proxy_of(session.config)) is not None:
                raise unreached_through(through, session.config.connect_seconds) from fault
            raise UpstreamTimeoutError("connect", session.config.connect_seconds) from fault
        except TimeoutError as fault:
            seconds = session.http.timeout.sock_read or 0.0
            raise UpstreamTimeoutError("idle" if has_head else "first_byte", seconds) from fault
        except aiohttp.ClientConnectorError as fault:
            raise UpstreamUnreachableError(f"upstream: cannot connect: {_described(fault)}") from fault
        except (aiohttp.ClientError, OSError) as fault:
            raise UpstreamBrokenError(f"upstream: the answer was cut or is no HTTP: {type(fault).__name__}") from fault
        finally:
            session.calls -= 1
            self._close_if_done(session)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        pieces: list[bytes] = []
        size = 0
        async for piece in response.content.iter_any():
            size += len(piece)
            if size > self._answer_bytes_max:
                raise UpstreamBrokenError(f"upstream: the answer is longer than {self._answer_bytes_max} bytes")
            pieces.append(piece)
        return b"".join(pieces)


def connector_of(config: UpstreamConfig, guard: Guard | None = None, **options: Any) -> aiohttp.TCPConnector:
    """Return aiohttp's connections to an upstream, through its proxy where it has one. Environment variables are not obeyed."""
    through = proxy_of(config)
    if guard is None:
        return aiohttp.TCPConnector(**options) if through is None else TunnelConnector(through, **options)
    guarded = GuardedConnector(**options) if through is None else GuardedTunnelConnector(through, **options)
    guarded.guard = guard
    return guarded


def _task_path(upstream_id: str) -> str:
    """Return the path of one task. Its id comes from the upstream, and is quoted so that it stays one segment.

    Raises:
        ValueError: the id is empty or only dots, which would change the path.
    """
    if not upstream_id.strip("."):
        raise ValueError(f"no id of a task: {upstream_id!r}")
    return f"{TASKS_PATH}/{quote(upstream_id, safe='')}"


async def _slices(body: list[Piece], sent: Callable[[], None] | None) -> AsyncIterator[memoryview]:
    while body:
        view = memoryview(body.pop(0))
        for start in range(0, len(view), _SLICE_BYTES):
            yield view[start : start + _SLICE_BYTES]
        del view
    if sent is not None:
        sent()


def _parsed(body: bytes) -> object:
    if is_crowded(body):
        return None
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _described(fault: aiohttp.ClientConnectorError) -> str:
    return fault.strerror or type(fault.os_error).__name__
