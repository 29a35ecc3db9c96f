"""One request as the stand-in received it, and the state of its answer."""

from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

State = Literal["arrived", "playing", "played", "closed", "reset", "closed_by_peer", "failed"]
"""`played`: the whole script was played; `closed`, `reset`: the script ended the connection; `closed_by_peer`: the peer left before
the end; `failed`: a check raised."""


@dataclass(slots=True, eq=False)
class Call:
    """A request that has arrived in full, and the state of its answer. The state changes while the answer is played.

    Attributes:
        number: 1 for the first call of this stand-in.
        connection: 1 for the first connection; two calls with one number came over one keep-alive connection.
        at: monotonic seconds when its last byte arrived.
        path: without the prefix ``/api/v3`` and without the query: ``/chat/completions``.
        query: every value of every name, decoded.
        headers: names in lower case; the last value of a repeated name. `raw_headers` has all of them, unchanged.
        request_id: Ark's id of the request: `x-request-id`, the `id` of a chat answer, and "Request id: …" in messages.
        bytes_sent: bytes of the answer handed to the transport so far, head and framing included.
    """

    number: int
    connection: int
    at: float
    method: str
    target: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    raw_headers: tuple[tuple[str, str], ...]
    body: bytes
    request_id: str
    client_request_id: str
    state: State = "arrived"
    bytes_sent: int = 0
    _parsed: list[Any] = field(default_factory=list, repr=False)

    @property
    def json(self) -> Any:
        """The body as JSON, or None if it is not JSON."""
        if not self._parsed:
            try:
                self._parsed.append(orjson.loads(self.body))
            except orjson.JSONDecodeError:
                self._parsed.append(None)
        return self._parsed[0]
