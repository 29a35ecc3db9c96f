"""The API protocols of paid calls: for each, one value of pure functions for what differs.

`exchange/call.py` does the same for all of them: hold, ask, relay, settle. A protocol says what is checked and counted, what is sent
upstream, where the usage is, what an error and a break look like, and what ends a stream. `core/chat/protocol.py` is the first.
A protocol is a value and no base class: the exchange calls its functions directly, without a method in between.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct

from proxy.core.ark.refusal import Refusal
from proxy.core.catalog import ChatPrice, Kind, Model
from proxy.core.errors import GatewayError
from proxy.core.money import Nanos
from proxy.core.settlement import TokenUsage


class Call(Protocol):
    """A checked call, with the figures that bound its price."""

    fields: dict[str, Any]
    """The client's fields; empty once they are written for the upstream, so that an open call keeps figures only."""

    @property
    def stream(self) -> bool: ...

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of all text sent upstream; an estimate of the prompt uses it."""

    def tokens_counted(self) -> int:
        """Return what the call counts of its key's tokens a minute until its usage is known."""

    def hold_nanos(self, price: ChatPrice) -> Nanos:
        """Return the worst case of what this call may cost."""

    def hold_advice(self, price: ChatPrice, available_nanos: int) -> str:
        """Return what makes the hold as large as it is, and how to lower it, in a sentence without its full stop."""


class SeenAnswer(Struct, frozen=True):
    """The facts that a settlement needs of an answer, whole or not."""

    usage: TokenUsage | None = None
    """As the upstream reported it; None: it never did."""
    began: bool = True
    """True if part of an answer came, not only an error: the prompt was read, and an estimate is due if no usage came."""
    completion_tokens_min: int = 0
    """A lower bound: content events of a stream, or the text of an answer by its bytes."""
    text_bytes: int = 0
    """UTF-8 bytes of the answer's text, where they were counted."""
    upstream_id: str = ""


NOTHING_SEEN = SeenAnswer(began=False)


class EventTooLargeError(Exception):
    """One event is larger than the tap may hold; the stream cannot be followed further."""


class StreamTap(Protocol):
    """Reads one stream as it passes. `feed` each piece, then `finish` once; the attributes say what was seen so far."""

    begun: bool
    """True once an event that has data was seen, other than an error: the client's answer begins with it."""
    whole: bool
    """True once the stream has ended, and said how."""
    error: dict[str, Any] | None
    """The upstream's own error object, or a substitute; from that event on nothing is passed on."""
    content_events: int
    """Events passed on that carry text, reasoning or tool arguments, for estimates. `Stream` adds those it passes by shape."""
    counts_text: bool
    """True if the bytes of that text are counted too: an upstream that tells no usage is charged by them."""
    text_bytes: int

    def feed(self, piece: bytes) -> bytes:
        """Return what may be passed on now; ``piece`` itself, the same object, if nothing has to change.

        Raises: EventTooLargeError.
        """

    def shape(self) -> tuple[bytes, bytes] | None:
        """Return the bytes before and after the text of the last plain event; None: the next piece must be fed."""

    def finish(self, clean: bool) -> bytes:
        """Return what is left to pass on at the end of the body."""

    def seen(self) -> SeenAnswer:
        """Return the facts so far that a settlement needs."""


C = TypeVar("C", bound=Call)


@dataclass(frozen=True, slots=True)
class ApiProtocol(Generic[C]):
    """One protocol. Functions that take a body raise GatewayError for the client's faults."""

    kind: Kind
    """Kind of the models that speak it."""
    path: str
    """Path below the upstream's base URL."""
    requested_model: Callable[[Any], str]
    """Return the model id that a request body names."""
    parse_call: Callable[[Any, Model], C]
    """Return the checked call of a body, measured for its hold."""
    upstream_body: Callable[[C, Model], bytes]
    """Return the body to send upstream."""
    asking: Callable[[C], bytes]
    """Return how a call's body ends where it asks for its usage, for `readdressed`; empty if it never does."""
    readdressed: Callable[[bytes, Model, Model, bytes], bytes]
    """Return such a body for another of the model's routes: the body, the model as before and as now, and the call's `asking`."""
    conversation: Callable[[C, int, str], int]
    """Return the number of a call's conversation, given the account and the public model."""
    chosen_names: Callable[[C], tuple[str, ...]]
    """Return the names in a call that its customer chose, and that a refusal may repeat; few, whatever the body holds."""
    read_answer: Callable[[bytes, Model, tuple[str, ...]], SeenAnswer | Refusal]
    """Return the facts or the refusal of a whole 200 answer, given the model and the `chosen_names`."""
    read_refusal: Callable[[int, bytes | dict[str, Any], Model, tuple[str, ...]], Refusal]
    """Return the refusal for the upstream's status, its body or `StreamTap.error`, the model and the `chosen_names`."""
    new_tap: Callable[[C], StreamTap]
    """Return the tap for a call's stream."""
    error_event: Callable[[GatewayError], bytes]
    """Return the event that tells a client that its stream broke off."""
