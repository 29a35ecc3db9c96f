"""The relay of a stream whose pieces differ only in their text: the same result as if every piece were judged."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.chat import tap as sse
from proxy.core.chat.tap import Tap
from proxy.exchange.stream import Stream
from proxy.upstream.failures import UpstreamBrokenError, UpstreamFailure, UpstreamTimeoutError
from proxy.upstream.http1 import framing
from proxy.upstream.http1.connection import Connection, Limits
from proxy.upstream.http1.framing import Chunked

REST = b'"id":"0217","usage":null}\n\n'
LEFT, RIGHT = b'data: {"choices":[{"delta":{"content":"', b'"}}],' + REST
EVENT = LEFT + b"Hello" + RIGHT
ENDED = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}],' + REST
SHAPES = [
    (LEFT, RIGHT),
    (b'data: {"choices":[{"delta":{"content":"","reasoning_content":"', RIGHT),
    (LEFT, b'"}}],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'),
    (b"data: ", b"\n\n"),
    (b"\n\n\n", b"\n\n\n"),
]
TEXTS = [
    *(b"Hello", b"", b"usage", b"error", b"essage", b"[DONE]", b"data: [DONE]", b"]}", "你好".encode(), b"\x7f", b"\xff"),
    *(b'"', b"\\", b'\\"', b"\\\\", b'\\\\"', b'\\\\\\"', b"\\n", b"\\u0065", b"\\u4f60", b"\\x", b'a\\"b\\n'),
    *(b"\n", b"\r\n", b"\n\n", b"\r", b"\t", b"\x00", b"}\n\ndata: {"),
    *(b'x","error":{"code":"y"},"z":"', b'","usage":{"prompt_tokens":9,"completion_tokens":9},"z":"'),
]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Transport:
    """Records all writes."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_closed = False
        self.waiting_bytes = 0

    def write(self, piece: bytes) -> None:
        self.written.append(piece)

    def is_closing(self) -> bool:
        return self.is_closed

    def abort(self) -> None:
        self.is_closed = True

    def get_write_buffer_size(self) -> int:
        return self.waiting_bytes


class Loop:
    """A loop whose time the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.look: Callable[[], None] = lambda: None
        self.create_future = asyncio.get_running_loop().create_future

    def time(self) -> float:
        return self.now

    def call_later(self, _: float, look: Callable[[], None]) -> asyncio.TimerHandle:
        self.look = look
        return asyncio.get_running_loop().call_later(0, lambda: None)


class Home:
    def opened(self, connection: Connection) -> None: ...

    def vacant(self, _: Connection) -> bool:
        return True

    def gone(self, connection: Connection) -> None: ...


@dataclass
class Relayed:
    """One stream from an upstream connection's bytes to a client."""

    chunked: bool = True
    client: Transport = field(default_factory=Transport)
    upstream: Transport = field(default_factory=Transport)
    tap: Tap = field(default_factory=lambda: Tap(withhold_usage=True))
    answers: list[int] = field(default_factory=list)
    """Bytes that the client had been sent when it was told that an answer began after its head."""

    def __post_init__(self) -> None:
        self.loop = Loop()
        self.done: asyncio.Future[UpstreamFailure | None] = self.loop.create_future()
        self.stream = Stream(self.tap, self.begin, self.done, chunked=self.chunked, on_answer=self.began)
        self.connection = Connection(Home(), Limits(), cast("asyncio.AbstractEventLoop", self.loop))
        self.connection.connection_made(cast("asyncio.Transport", self.upstream))
        expected = self.connection.ask(b"POST / HTTP/1.1\r\n\r\n", b"")
        self.connection.data_received(HEAD)
        expected.result().splice(self.stream)

    def begin(self, first: bytes) -> asyncio.Transport:
        self.client.write(first)
        return cast("asyncio.Transport", self.client)

    def began(self) -> None:
        self.answers.append(self.stream.sent_bytes)

    def feed(self, *pieces: bytes) -> "Relayed":
        for piece in pieces:
            if not self.done.done():
                self.connection.data_received(piece)
        return self

    def facts(self) -> tuple[Any, ...]:
        """Return everything that a customer or the books can see of it."""
        self.connection.connection_lost(None)
        ended = self.done.result()
        written = b"".join(self.client.written)
        body = Chunked().feed(written)[0] if self.chunked and written else written
        assert self.stream.sent_bytes == len(body)
        tap = self.tap
        return body, type(ended), tap.usage, tap.done, tap.error, tap.content_events, tap.upstream_id


def chunk(data: bytes, form: str = "%x") -> bytes:
    return b"%b\r\n%b\r\n" % ((form % len(data)).encode(), data)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@given(
    st.lists(st.tuples(st.sampled_from([SHAPES[0], *SHAPES]), st.sampled_from([TEXTS[0], *TEXTS])), min_size=2, max_size=12),
    st.lists(st.sampled_from(["%x", "%x", "%X", "00%x", "%x;a=b"]), min_size=14, max_size=14),
    st.integers(1, 400),
    st.booleans(),
)
def test_pieces_that_repeat_themselves_pass_as_if_each_were_judged(
    drawn: Sequence[tuple[tuple[bytes, bytes], bytes]], forms: Sequence[str], size: int, chunked: bool
) -> None:
    events = [EVENT, EVENT, *(left + text + right for (left, right), text in drawn)]
    chunks = [chunk(event, form) for event, form in zip(events, forms, strict=False)]

    async def facts() -> list[tuple[Any, ...]]:
        whole = b"".join(chunks)
        ways = (chunks, [whole], cut(whole, size), [chunk(event) for event in cut(b"".join(events), size)])
        return [Relayed(chunked).feed(*pieces).facts() for pieces in ways]

    one_by_one, *others = asyncio.run(facts())

    assert others == [one_by_one] * len(others)


async def test_a_piece_that_repeats_the_last_is_not_judged_and_passes_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[bytes] = []
    feed = Tap.feed

    def watched(tap: Tap, piece: bytes) -> bytes:
        judged.append(piece)
        return feed(tap, piece)

    monkeypatch.setattr(Tap, "feed", watched)
    first, second, coded, longer = (LEFT + text + RIGHT for text in (b"first", b"other", b"\\u4f60", b"longer than those"))
    pieces = [chunk(event) for event in (EVENT, EVENT, first, second, coded, first, longer, b'\\"'.join((LEFT, RIGHT)), longer)]

    relayed = Relayed().feed(*pieces)

    # The first piece is parsed for its id, the second gives the shape.
    assert judged == [EVENT, EVENT, coded]
    assert relayed.client.written[0] == pieces[0]  # joined with the head
    assert all(sent is piece for sent, piece in zip(relayed.client.written[1:], pieces[1:], strict=True))
    assert relayed.facts()[-2] == len(pieces)


@pytest.mark.parametrize("joined", [False, True])
async def test_the_bytes_of_the_text_are_counted_for_an_upstream_that_may_tell_no_usage(joined: bool) -> None:
    texts = [b"", b"first", "你好".encode(), b"other", b"\\u4f60", b"!"]
    pieces = [chunk(EVENT), *(chunk(LEFT + text + RIGHT) for text in texts)]
    counting = Relayed(tap=Tap(withhold_usage=True, counts_text=True)).feed(*([b"".join(pieces)] if joined else pieces))

    assert counting.tap.text_bytes == len("Hello") + 5 + 6 + 5 + 3 + 1
    assert counting.tap.seen().text_bytes == counting.tap.text_bytes
    assert Relayed().feed(*pieces).tap.text_bytes == 0


async def test_a_client_that_left_is_written_nothing_more_and_all_is_counted() -> None:
    relayed = Relayed().feed(*[chunk(EVENT)] * 3)

    relayed.stream.forget_client()
    relayed.feed(*[chunk(EVENT)] * 3)

    assert len(relayed.client.written) == 3
    assert (relayed.tap.content_events, relayed.stream.sent_bytes) == (6, 3 * len(EVENT))


@pytest.mark.parametrize("known", [1, 100], ids=["none yet", "none to be found"])
@pytest.mark.parametrize("nonsense", [b"acct 2100 broke", b"\n\n\nacct 2100 broke\n\n\n", b"\n\nacct 2100 broke\n\n"])
async def test_where_no_shape_is_known_no_nonsense_passes_for_one(known: int, nonsense: bytes) -> None:
    relayed = Relayed().feed(*(chunk(EVENT.replace(b'"delta"', b'"nonce":%d,"delta"' % turn)) for turn in range(known)))

    relayed.feed(chunk(nonsense))

    assert b"broke" not in relayed.facts()[0]


async def test_what_looks_like_a_chunk_within_a_chunk_is_data() -> None:
    inner = chunk(EVENT)
    relayed = Relayed().feed(chunk(EVENT), chunk(EVENT), chunk(EVENT))

    relayed.feed(b"%x\r\n%b" % (len(EVENT) + len(inner), EVENT), inner, b"\r\n")

    assert relayed.tap.error is not None
    assert relayed.facts()[0] == EVENT * 4


async def test_what_looks_like_a_chunk_after_half_a_size_line_is_data() -> None:
    piece = chunk(EVENT)
    fill = b"\n" * (int(b"1" + piece.partition(b"\r\n")[0], 16) - len(EVENT) - 2)
    relayed = Relayed().feed(*[piece] * 3)

    relayed.feed(piece + b"1", piece, fill + chunk(b"data: [DONE]\n\n")[-2:], b"0\r\n\r\n")

    assert relayed.done.result() is None
    assert relayed.facts()[0] == EVENT * 5 + b"\r\n" + fill


async def test_bytes_that_are_no_chunk_are_not_taken_for_a_known_one() -> None:
    relayed = Relayed().feed(*[chunk(EVENT)] * 3)

    relayed.feed(b"x" * len(chunk(EVENT)), b"\r\n")

    assert isinstance(relayed.done.result(), UpstreamBrokenError)
    assert relayed.facts()[0] == EVENT * 3


async def test_a_piece_that_repeats_the_last_is_a_sign_of_life() -> None:
    relayed = Relayed()
    clock, idle_seconds = relayed.loop, Limits().idle_seconds
    for piece in [chunk(EVENT)] * 5:
        clock.now += idle_seconds - 1
        relayed.feed(piece)

    clock.now += idle_seconds - 1
    clock.look()
    assert not relayed.done.done()
    clock.now += 1
    clock.look()

    assert isinstance(relayed.done.result(), UpstreamTimeoutError)


async def test_a_chunk_after_the_end_is_nobodys() -> None:
    relayed = Relayed().feed(*[chunk(EVENT)] * 3, b"0\r\n\r\n")

    relayed.connection.data_received(chunk(EVENT))

    assert relayed.done.result() is None
    assert (len(relayed.client.written), relayed.upstream.is_closed) == (3, True)


async def test_an_answer_that_is_aborted_passes_nothing_more() -> None:
    relayed = Relayed().feed(*[chunk(EVENT)] * 3)

    relayed.connection.abort()
    relayed.connection.data_received(chunk(EVENT))

    assert len(relayed.client.written) == 3


@pytest.mark.parametrize(("end", "passed"), [(b"0\r\n\r\n", b"data: [DONE]\n"), (b"", b"")], ids=["whole", "cut"])
async def test_an_event_without_its_empty_line_passes_at_the_end_of_a_whole_body(end: bytes, passed: bytes) -> None:
    relayed = Relayed().feed(chunk(EVENT), chunk(ENDED), chunk(b"data: [DONE]\n"))

    relayed.feed(*filter(None, [end]))

    assert relayed.facts()[0] == EVENT + ENDED + passed


async def test_an_event_beyond_the_limit_ends_the_stream() -> None:
    relayed = Relayed(tap=Tap(withhold_usage=True, event_bytes_max=len(EVENT)))

    relayed.feed(chunk(EVENT), chunk(EVENT), chunk(LEFT + b"x" * framing._PLAIN_BYTES_MAX + RIGHT))

    assert isinstance(relayed.done.result(), UpstreamBrokenError)


def test_a_chunk_that_is_known_by_its_length_is_smaller_than_any_event_may_be() -> None:
    sizes = [size for _, size in framing.PLAIN_CHUNKS.values()]

    assert max(sizes) < sse.EVENT_BYTES_MAX
    assert all(line + b"x" * size + b"\r\n" == chunk(b"x" * size) for line, size in framing.PLAIN_CHUNKS.values())
    assert list(framing.PLAIN_CHUNKS) == [len(chunk(b"x" * size)) for size in sizes]


@pytest.mark.parametrize("line", [b"A", b"00a", b"0A"])
def test_a_size_that_is_written_in_another_way_is_read_all_the_same(line: bytes) -> None:
    piece = line + b"\r\n" + b"x" * 10 + b"\r\n"

    assert Chunked().feed(piece) == (b"x" * 10, piece)


# What comes before the first event, and in silence.


async def test_the_head_waits_for_the_first_event_that_has_data_and_comments_wait_with_it() -> None:
    relayed = Relayed().feed(chunk(b": queued\n\n"), chunk(b"retry: 10\n\n"), chunk(EVENT[:9]))
    assert (relayed.client.written, relayed.stream.begun) == ([], False)

    relayed.feed(chunk(EVENT[9:]))

    assert relayed.client.written == [chunk(b": queued\n\nretry: 10\n\n" + EVENT)]
    assert relayed.stream.begun


async def test_an_error_as_the_first_event_begins_nothing() -> None:
    relayed = Relayed().feed(chunk(b": queued\n\n"), chunk(b'data: {"error":{"code":"ServerOverloaded"}}\n\n'))

    assert relayed.done.result() is None
    assert (relayed.client.written, relayed.stream.begun) == ([], False)
    assert relayed.tap.error == {"code": "ServerOverloaded"}


@pytest.mark.parametrize("end", [(), (chunk(b"data: [DONE]\n\n"),), (chunk(b": ping\n\n"),)], ids=["nothing", "done", "a comment"])
async def test_a_stream_without_an_event_begins_nothing(end: tuple[bytes, ...]) -> None:
    relayed = Relayed().feed(*end, b"0\r\n\r\n")

    assert (relayed.client.written, relayed.stream.begun, relayed.tap.error is None) == ([], False, False)


async def test_an_event_whose_empty_line_never_came_begins_the_answer_at_the_end() -> None:
    whole = b'data: {"choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}],"id":"0217"}\n'

    relayed = Relayed().feed(chunk(whole), b"0\r\n\r\n")

    assert (relayed.client.written, relayed.tap.whole) == ([chunk(whole)], True)


async def test_no_more_comments_are_kept_than_may_be() -> None:
    comment = b":" + b" ping" * 50 + b"\n\n"
    relayed = Relayed().feed(*[chunk(comment)] * 400)

    relayed.feed(chunk(EVENT))

    kept = len(relayed.client.written[0])
    assert 65_536 - len(comment) < kept < 65_536 + len(chunk(EVENT)) + 8


async def test_a_comment_fills_a_silence_between_two_events() -> None:
    relayed = Relayed().feed(chunk(EVENT), chunk(EVENT[:20]))

    relayed.stream.keep_alive()
    relayed.feed(chunk(EVENT[20:]), chunk(ENDED), b"0\r\n\r\n")

    assert relayed.client.written == [chunk(EVENT), chunk(b": keep-alive\n\n"), chunk(EVENT), chunk(ENDED)]
    assert relayed.facts()[0] == EVENT + b": keep-alive\n\n" + EVENT + ENDED


async def test_a_client_that_has_bytes_to_take_is_sent_no_comment() -> None:
    relayed = Relayed().feed(chunk(EVENT))
    relayed.client.waiting_bytes = 1

    relayed.stream.keep_alive()

    assert relayed.client.written == [chunk(EVENT)]


async def test_a_client_that_left_before_the_head_is_sent_neither_head_nor_comment() -> None:
    relayed = Relayed()
    relayed.stream.forget_client()

    relayed.stream.keep_alive()
    relayed.feed(chunk(EVENT), chunk(ENDED), b"0\r\n\r\n")

    assert (relayed.client.written, relayed.stream.begun, relayed.tap.whole) == ([], False, True)


@pytest.mark.parametrize("chunked", [True, False])
async def test_the_first_event_after_an_early_head_is_told_once(*, chunked: bool) -> None:
    """From then on no other upstream may be asked, and nothing is kept for it."""
    late, early = Relayed(chunked=chunked), Relayed(chunked=chunked)

    late.feed(chunk(EVENT), chunk(EVENT))
    early.stream.keep_alive()
    early.feed(chunk(b": queued\n\n"))
    assert early.answers == []
    early.feed(chunk(EVENT), chunk(EVENT), chunk(ENDED), b"0\r\n\r\n")

    assert (late.answers, early.answers) == ([], [len(b": keep-alive\n\n: queued\n\n")])
    assert early.facts()[0] == b": keep-alive\n\n: queued\n\n" + EVENT + EVENT + ENDED


@pytest.mark.parametrize("done", [b"data: [DONE]\n\n", b"data:[DONE]\r\n\r\n", b"data: [DONE]\n", b"data: [DONE]\r\r"])
@pytest.mark.parametrize("size", [1, 7, 4096])
async def test_the_event_that_ends_an_answer_is_kept_back_until_it_is_released(done: bytes, size: int) -> None:
    """However it is cut; where others may have settled the call, that event shows an answer as complete that is not paid for."""
    transport, first = Transport(), list[bytes]()

    def begin(piece: bytes) -> Any:
        first.append(piece)
        return transport

    loop = asyncio.get_running_loop()
    stream = Stream(Tap(withhold_usage=True), begin, loop.create_future(), chunked=False, holds_end=True)
    body = EVENT + ENDED + done
    for at in range(0, len(body), size):
        stream.feed(body[at : at + size], None)
    stream.end(None)
    kept_back = b"".join(first + transport.written)
    stream.release_end()

    assert kept_back == EVENT + ENDED
    assert b"".join(first + transport.written) == body
    assert await stream.done is None


async def test_an_upstream_that_goes_on_after_the_end_is_waited_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.exchange.stream.END_SECONDS", 0.01)
    transport = Transport()
    loop = asyncio.get_running_loop()
    stream = Stream(Tap(withhold_usage=True), lambda _: cast("Any", transport), loop.create_future(), chunked=False, holds_end=True)

    stream.feed(EVENT + ENDED + b"data: [DONE]\n\n", None)

    assert await stream.done is None
    assert transport.written == []
