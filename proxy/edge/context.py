"""The state of one request, which the layers pass to each other."""

import asyncio
from dataclasses import dataclass

import orjson

from proxy.core.bounds import Bounds
from proxy.core.settlement import Settlement
from proxy.edge.connection import JSON_TYPE
from proxy.edge.intake import Reservation
from proxy.edge.request import Peer, Request
from proxy.edge.response import Response
from proxy.store.values import Grant


@dataclass(eq=False, slots=True)
class Context:
    """Everything known about one request. Handlers fill in the fields of its log line and metrics."""

    request: Request
    id: str
    headers: dict[str, str]
    """The answer's headers; complete before a stream begins, because its head is sent first."""
    received_at: float
    """Monotonic seconds."""
    received_at_ms: int
    """Unix milliseconds."""
    begun: bool = False
    """True once a part of the answer has been sent."""
    route: str = "-"
    """The matched route's pattern: the raw path is never logged, it may hold a key that was pasted wrongly."""
    tail: str = ""
    """The part of the path that matched ``{id}``."""
    grant: Grant | None = None
    bounds: Bounds | None = None
    """Of the key and its account; None: nothing limits them."""
    intake: Reservation | None = None
    """What a large body takes of the memory for all of them; None for ordinary ones."""
    model: str = ""
    """A model of the catalog, once it is known."""
    code: str | None = None
    """The error code of the answer."""
    first_byte_at: float | None = None
    upstream_seconds: float | None = None
    """From asking the upstream until its (last) answer was complete or given up."""
    body_bytes: int = 0
    """Bytes sent of the answer's body, before any framing."""
    settlement: Settlement | None = None

    @property
    def connection(self) -> Peer:
        return self.request.connection

    @property
    def account_id(self) -> int:
        """The account that pays. Only for routes that ask for a key."""
        assert self.grant is not None
        return self.grant.account_id

    @property
    def key_id(self) -> str:
        """The key that was sent. Only for routes that ask for one."""
        assert self.grant is not None
        return self.grant.key_id

    @property
    def discount(self) -> int:
        """What the account pays of each price, in ten-thousandths. Only for routes that ask for a key."""
        assert self.grant is not None
        return self.grant.discount

    def has_left(self) -> bool:
        """Return True once the client's connection is lost."""
        return self.connection.is_lost()

    async def wait_for(self, event: asyncio.Event) -> None:
        """Wait for an event while the client is there: requests whose clients left would wait on unseen, in any number.

        Raises:
            ConnectionResetError: the client has left.
        """
        if not self.has_left():
            try:
                async with asyncio.timeout(None) as limit:
                    self.connection.watcher = _UntilLost(limit)
                    await event.wait()
                    return
            except TimeoutError:
                pass
            finally:
                self.connection.watcher = None
        raise ConnectionResetError("the client left")

    def identify(self, request_id: str) -> None:
        """Change the id in the answer and the log: to one in the route's published form, or to that of the request it repeats."""
        self.id = request_id
        self.headers["x-request-id"] = request_id

    def header_values(self, name: str) -> list[str]:
        """Return every value of a request header."""
        return self.request.headers.getall(name, [])

    def replay(self, request_id: str, status: int, body: bytes) -> Response:
        """Return the answer of an earlier request again, under that request's id: its receipt is the one that counts."""
        self.identify(request_id)
        self.headers["idempotent-replayed"] = "true"
        return self.answer(body, status=status)

    def json(self, value: object, status: int = 200) -> Response:
        """Return a JSON answer with this request's headers."""
        return self.answer(orjson.dumps(value), status=status)

    def answer(self, body: bytes, *, status: int = 200, content_type: str = JSON_TYPE) -> Response:
        """Return an answer of these bytes with this request's headers."""
        self.headers["Content-Type"] = content_type
        return Response(status, self.headers, body)

    def begin_stream(self, first: bytes, fields: str = "") -> Response:
        """Send the head of a streamed answer and the first bytes of its body, framed. Return its `Response`, without a body.

        Args: fields: as `Response.fields`.
        """
        self.begun = True
        self.request.connection.send_head(self.request, 200, self.headers, first, fields)
        return Response(200, self.headers, None)


class _UntilLost:
    """The watcher of a connection on which a request only waits."""

    def __init__(self, limit: asyncio.Timeout) -> None:
        self._limit = limit

    def client_paused(self) -> None:
        """Do nothing: nothing is sent."""

    def client_resumed(self) -> None:
        """Do nothing, as above."""

    def client_lost(self) -> None:
        self._limit.reschedule(asyncio.get_running_loop().time())
