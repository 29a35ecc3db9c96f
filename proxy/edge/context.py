"""One request on its way through the gateway: what the layers hand on to each other."""

from dataclasses import dataclass

import orjson

from proxy.core.settlement import Settlement
from proxy.edge.connection import JSON_TYPE
from proxy.edge.request import Peer, Request
from proxy.edge.response import Response
from proxy.store.values import Grant


@dataclass(eq=False, slots=True)
class Context:
    """Everything known of one request. Handlers fill in what the request's log line and metrics tell."""

    request: Request
    id: str
    headers: dict[str, str]
    """What the answer will carry; complete before the handler runs, because a stream's head leaves before it ends."""
    received_at: float
    """Monotonic seconds."""
    received_at_ms: int
    """Unix milliseconds."""
    begun: bool = False
    """Whether a part of the answer has left."""
    route: str = "-"
    """The matched route's pattern: the raw path is never logged, it may hold a key that was pasted wrongly."""
    tail: str = ""
    """What stands where the pattern ends in ``{id}``."""
    grant: Grant | None = None
    model: str = ""
    """A model of the catalog, once it is known."""
    code: str | None = None
    """The error code that was answered."""
    first_byte_at: float | None = None
    upstream_seconds: float | None = None
    """From asking the upstream until its answer, or the last of several, had come or was given up."""
    body_bytes: int = 0
    """What was sent of the answer's body, before any framing."""
    settlement: Settlement | None = None

    @property
    def connection(self) -> Peer:
        return self.request.connection

    @property
    def account_id(self) -> int:
        """The account that pays. Only for routes that ask for a key."""
        assert self.grant is not None
        return self.grant.account_id

    def identify(self, request_id: str) -> None:
        """Go by another id, in the answer and the log: one in the published form of its kind, or that of the request it repeats."""
        self.id = request_id
        self.headers["x-request-id"] = request_id

    def header_values(self, name: str) -> list[str]:
        """Return every value of a request header."""
        return self.request.headers.getall(name, [])

    def replay(self, request_id: str, status: int, body: bytes) -> Response:
        """Return the answer of an earlier request once more, as that request's: its receipt is the one that counts."""
        self.identify(request_id)
        self.headers["idempotent-replayed"] = "true"
        return self.answer(body, status=status)

    def json(self, value: object, status: int = 200) -> Response:
        """Return an answer of JSON with this request's headers."""
        return self.answer(orjson.dumps(value), status=status)

    def answer(self, body: bytes, *, status: int = 200, content_type: str = JSON_TYPE) -> Response:
        """Return an answer of these bytes with this request's headers."""
        self.headers["Content-Type"] = content_type
        return Response(status, self.headers, body)

    def begin_stream(self) -> Response:
        """Send the head of an answer whose body follows piece by piece, and return what stands for it."""
        self.begun = True
        self.request.connection.send_head(self.request, 200, self.headers)
        return Response(200, self.headers, None)
