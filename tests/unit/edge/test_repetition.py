"""Repeated heads: recognised by their bytes where that is unambiguous, and read as the parser would read them."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import pytest
from aiohttp.web_protocol import RequestHandler

from proxy.clock import SystemClock
from proxy.core.repetition import LESSONS_MAX
from proxy.edge.body import BodyReader
from proxy.edge.connection import Connection
from proxy.edge.receiver import _FILLED_BYTES_MAX
from proxy.edge.request import Request
from proxy.edge.response import Response
from proxy.edge.server import Server
from tests.support.settings import live

HEAD = b"POST /chat HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer sk_a\r\nContent-Length: %d\r\nX-Tag: %b\r\n\r\n"
BARE_HEAD = b"GET /models HTTP/1.1\r\nHost: here\r\nX-Tag: bare\r\n\r\n"
CHUNKED = b"POST /chat HTTP/1.1\r\nHost: here\r\nX-Tag: chunked\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


def post(body: bytes, tag: bytes = b"a") -> bytes:
    return HEAD % (len(body), tag) + body


class Wire(asyncio.Transport):
    """A transport to a client whose packets end where a test wants; over a socket the kernel would decide."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self._is_closing = False

    def write(self, data: Any) -> None:
        self.sent += data

    def write_eof(self) -> None: ...

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._is_closing = True

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def answers(self) -> list[list[str]]:
        """Return method, target, tag and body of each request, as its answer reports them."""
        found, rest = [], self.sent
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body, rest = rest[:size], rest[size:]
            found.append(orjson.loads(body))
        return found


class Client:
    """A connection of the gateway, and the bytes that the parser was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.parsed: list[bytes] = []
        self.length: list[int] = []
        self.faults: list[ConnectionError] = []
        parse = RequestHandler.data_received

        def watched(connection: RequestHandler, data: bytes) -> None:
            if connection is self.connection:
                self.parsed.append(data)
            parse(connection, data)

        monkeypatch.setattr(RequestHandler, "data_received", watched)
        self._bodies = BodyReader(live(body_bytes_max=1_000_000, body_seconds=5))
        self.connection: Connection = Server(self._told, clock=SystemClock(), keepalive_seconds=60, stall_seconds=60)()
        self.wire = Wire()
        self.connection.connection_made(self.wire)

    async def _told(self, request: Request) -> Response:
        try:
            body = await self._bodies.read(request) if request.method == "POST" else b""
        except ConnectionError as fault:
            self.faults.append(fault)
            raise
        self.length.append(request.content_length)
        assert request.headers.get("Content-Length", str(request.content_length)) == str(request.content_length)
        told = [request.method, request.target, request.headers["X-Tag"], body.decode("latin-1")]
        return Response(200, {"Content-Type": "application/json"}, orjson.dumps(told))

    async def send(self, *packets: bytes) -> None:
        """Deliver packets, each after the work that the one before began has come to rest."""
        for packet in packets:
            await self.rest()
            self.connection.data_received(packet)
        await self.rest()

    async def rest(self, turns: int = 8) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)


@pytest.fixture
async def client(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[], Client]]:
    """Yield a function that opens a connection; all are lost at the end."""
    opened: list[Client] = []

    def connect() -> Client:
        opened.append(Client(monkeypatch))
        return opened[-1]

    yield connect
    for one in opened:
        one.connection.connection_lost(None)


async def test_a_head_that_comes_again_is_not_parsed_again(client: Callable[[], Client]) -> None:
    made = client()
    await made.send(post(b"one"), post(b"another"), post(b""))

    assert made.wire.answers() == [["POST", "/chat", "a", "one"], ["POST", "/chat", "a", "another"], ["POST", "/chat", "a", ""]]
    assert made.length == [3, 7, 0]
    assert made.parsed == [post(b"one")]


async def test_without_a_body_too(client: Callable[[], Client]) -> None:
    made = client()
    await made.send(BARE_HEAD, BARE_HEAD)

    assert made.wire.answers() == [["GET", "/models", "bare", ""]] * 2
    assert made.parsed == [BARE_HEAD]


async def test_a_body_that_comes_after_its_head_is_waited_for(client: Callable[[], Client]) -> None:
    made = client()
    whole = post(b"in three packets")
    await made.send(whole[:-16], whole[-16:], whole[:-16], whole[-16:-9])
    assert len(made.wire.answers()) == 1

    await made.send(whole[-9:])

    assert made.wire.answers() == [["POST", "/chat", "a", "in three packets"]] * 2
    assert made.parsed == [whole[:-16], whole[-16:]]


async def test_what_comes_behind_a_recognised_request_is_the_next_one(client: Callable[[], Client]) -> None:
    made = client()
    whole = post(b"first, then the other")
    await made.send(whole, whole[:-10], whole[-10:] + BARE_HEAD + whole)

    assert made.wire.answers() == [
        ["POST", "/chat", "a", "first, then the other"],
        ["POST", "/chat", "a", "first, then the other"],
        ["GET", "/models", "bare", ""],
        ["POST", "/chat", "a", "first, then the other"],
    ]


async def test_a_long_body_is_the_parsers(client: Callable[[], Client]) -> None:
    made = client()
    long = post(b"x" * (_FILLED_BYTES_MAX + 1))
    await made.send(post(b"x"), long[:1000], long[1000:], post(b"short again"))

    assert [len(body) for *_, body in made.wire.answers()] == [1, _FILLED_BYTES_MAX + 1, 11]
    assert made.parsed == [post(b"x"), long[:1000], long[1000:]]


async def test_another_head_is_parsed_and_remembered(client: Callable[[], Client]) -> None:
    made = client()
    await made.send(post(b"1"), post(b"2", b"b"), post(b"3", b"b"), post(b"4"))

    assert [tag for _, _, tag, _ in made.wire.answers()] == ["a", "b", "b", "a"]
    assert made.parsed == [post(b"1"), post(b"2", b"b"), post(b"4")]


async def test_a_client_that_leaves_within_a_recognised_body_is_told_to_who_reads_it(client: Callable[[], Client]) -> None:
    made = client()
    whole = post(b"never whole")
    await made.send(whole, whole[:-3])
    made.connection.connection_lost(None)
    await made.rest()

    assert len(made.wire.answers()) == 1
    assert len(made.faults) == 1


async def test_a_client_whose_heads_differ_each_time_is_soon_left_to_the_parser(client: Callable[[], Client]) -> None:
    made = client()
    heads = [post(b"x", b"%d" % turn) for turn in range(LESSONS_MAX + 2)]
    await made.send(*heads, heads[-1], heads[-1])

    assert made.wire.answers() == [
        ["POST", "/chat", f"{turn}", "x"] for turn in (*range(LESSONS_MAX + 2), LESSONS_MAX + 1, LESSONS_MAX + 1)
    ]
    assert [packet for packet in made.parsed if packet] == [*heads, heads[-1], heads[-1]]


async def test_a_client_that_changes_its_head_now_and_then_is_learnt_anew(client: Callable[[], Client]) -> None:
    made = client()
    for turn in range(3 * LESSONS_MAX):
        await made.send(post(b"x", b"%d" % turn), post(b"y", b"%d" % turn))

    assert len([packet for packet in made.parsed if packet]) == 3 * LESSONS_MAX


@pytest.mark.parametrize("digits", [b"+1", b"1_0", b" 1", b"", b"0x1", b"9" * 16, "\u0661".encode()])
async def test_a_length_that_is_no_number_is_the_parsers_to_refuse(client: Callable[[], Client], digits: bytes) -> None:
    made = client()
    again = post(b"x").replace(b"Length: 1", b"Length: " + digits)
    await made.send(post(b"x"), again)

    assert [data for data in made.parsed if data] == [post(b"x"), again]


INTO_A_VALUE = b"POST /other HTTP/1.1\r\nX-Tag: "


@pytest.mark.parametrize(
    "packets",
    [
        pytest.param([post(b"body"), INTO_A_VALUE], id="between two"),
        pytest.param([post(b"body")[:-4], b"body" + INTO_A_VALUE], id="behind a parsed body"),
        pytest.param([post(b"a"), post(b"body")[:-4], b"body" + INTO_A_VALUE], id="behind a recognised one"),
        pytest.param([post(b"a"), post(b"body") + INTO_A_VALUE], id="behind a whole request"),
    ],
)
async def test_a_head_inside_of_a_header_is_none(client: Callable[[], Client], packets: list[bytes]) -> None:
    """The parser waits for the rest of a header's value. The next bytes look like a request but belong to that value."""
    made = client()
    await made.send(*packets, post(b"x"))

    *before, last = made.wire.answers()
    assert last[:3] == ["POST", "/other", "POST /chat HTTP/1.1"]
    assert {told[1] for told in before} == {"/chat"}


async def test_chunks_behind_their_head_are_not_taken_for_requests(client: Callable[[], Client]) -> None:
    made = client()
    head, _, chunks = CHUNKED.partition(b"\r\n5")
    for _ in range(2):
        await made.send(head + b"\r\n", b"5" + chunks)

    assert made.wire.answers() == [["POST", "/chat", "chunked", "hello"]] * 2


async def test_a_turn_of_the_parser_without_data_forgets_nothing(client: Callable[[], Client]) -> None:
    made = client()
    await made.send(post(b"x"), b"", post(b"y"))

    assert made.parsed == [post(b"x"), b""]


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(CHUNKED, id="chunked"),
        pytest.param(post(b"x").replace(b"Content-Length: ", b"Content-Length:  "), id="two spaces"),
        pytest.param(b"\r\n" + post(b"x"), id="an empty line before it"),
        pytest.param(post(b"x").replace(b"1.1\r\n", b"1.0\r\nConnection: keep-alive\r\n", 1), id="HTTP/1.0"),
        pytest.param(post(b"x").replace(b"POST", b"post"), id="method"),
        pytest.param(post(b"x").replace(b" HTTP", b"  HTTP"), id="two spaces in its first line"),
        pytest.param(post(b"x").replace(b"Host: here\r\n", b"Host: here\r\n X-Tag: folded\r\n"), id="folded"),
        pytest.param(post(b"x").replace(b"\r\nX-Tag", b"\nX-Tag"), id="a bare line feed"),
        pytest.param(post(b"x").replace(b"\r\n\r\n", b"\n\n"), id="bare line feeds at its end"),
        pytest.param(post(b"x").replace(b"Length: 1", b"Length: +1"), id="signed"),
        pytest.param(post(b"x").replace(b"Length: 1\r\n", b"Length: 1\r\nContent-Length: 1\r\n"), id="two lengths"),
        pytest.param(post(b"x", b"t" * 10_000), id="a head too long to be kept while its connection idles"),
    ],
)
async def test_what_is_out_of_the_ordinary_is_the_parsers_each_time(client: Callable[[], Client], asked: bytes) -> None:
    made, other = client(), client()
    await made.send(asked)
    assert made.connection._repetition is None
    await made.send(asked, post(b"x"))
    for packet in (asked, asked, post(b"x")):
        other.connection._repetition = None
        await other.send(packet)

    assert made.wire.answers() == other.wire.answers()


async def test_many_requests_at_once_behind_one_in_two_packets_are_all_answered(client: Callable[[], Client]) -> None:
    """aiohttp counts a message that was taken before its body arrived as waiting for ever."""
    made = client()
    await made.send(post(b"body")[:-4], b"body", post(b"x") * 100)
    await made.rest(1000)

    assert len(made.wire.answers()) == 101


@pytest.mark.parametrize("seed", range(150))
async def test_requests_in_any_packets_are_read_as_they_were_sent(client: Callable[[], Client], seed: int) -> None:
    chance = random.Random(seed)
    made = client()
    bodies = [b"", b"{}", b"x" * 300, post(b"smuggled", b"evil"), HEAD % (5, b"evil"), BARE_HEAD, b"\r\n\r\n", b"0\r\n\r\n"]
    expected: list[list[str]] = []
    packets: list[bytes] = []
    for _ in range(chance.randint(2, 12)):
        if chance.random() < 0.2:
            asked, told = chance.choice([(BARE_HEAD, ["GET", "/models", "bare", ""]), (CHUNKED, ["POST", "/chat", "chunked", "hello"])])
        else:
            body, tag = chance.choice(bodies), chance.choice([b"a", b"a", b"b"])
            asked, told = post(body, tag), ["POST", "/chat", tag.decode(), body.decode()]
        expected.append(told)
        cuts = sorted(chance.sample(range(1, len(asked)), chance.choice([0, 0, 0, 1, 1, 3])))
        if chance.random() < 0.3:
            cuts = [asked.index(b"\r\n\r\n") + 4]
        pieces = [asked[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(asked)], strict=True)]
        pieces = [piece for piece in pieces if piece]
        if packets and chance.random() < 0.2:
            packets[-1] += pieces.pop(0)
        packets += pieces
    for packet in packets:
        made.connection.data_received(packet)
        await made.rest(chance.choice([0, 1, 8]))
    await made.rest(60)

    assert made.wire.answers() == expected
