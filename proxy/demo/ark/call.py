"""One request as the stand-in saw it, and what became of its answer."""

from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

State = Literal["arrived", "playing", "played", "closed", "reset", "closed_by_peer", "failed"]
"""`played`: the whole script; `closed` and `reset`: the script ended the connection; `closed_by_peer`: it left before the end;
`failed`: a check raised."""


@dataclass(slots=True, eq=False)
class Call:
    """A request that has arrived in full, and the state of its answer, which changes while the answer is played.

    Attributes:
        number: 1 for the first call of this stand-in.
        connection: 1 for the first connection; two calls with one number came over one keep-alive connection.
        at: monotonic seconds when its last byte had arrived.
        path: without the prefix ``/api/v3`` and without the query: ``/chat/completions``.
        query: every value of every name, decoded.
        headers: names in lower case; of a repeated name the last value. `raw_headers` has all, as they came.
        request_id: the id that Ark gives it: `x-request-id`, a chat answer's `id`, and "Request id: …" in messages.
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
        """The body as JSON, or None where it is not JSON."""
        if not self._parsed:
            try:
                self._parsed.append(orjson.loads(self.body))
            except orjson.JSONDecodeError:
                self._parsed.append(None)
        return self._parsed[0]
