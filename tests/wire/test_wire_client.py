"""The upstream HTTP client over real sockets: bodies, the pool, limits, failures, cancellation, on both event loops."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from proxy.upstream.http1 import pool as pool_module
from proxy.upstream.http1.pool import (
    Answer,
    Limits,
    Pool,
    Upload,
    UpstreamBrokenError,
    UpstreamFailure,
    UpstreamTimeoutError,
    UpstreamUnreachableError,
)
from tests.support.origin import Origin, Peer, answering, chunked, cut, serve
from tests.support.promises import UPSTREAM_AWAY
from tests.support.tls import make_certificate

PAYLOADS = [b"data: %d %b\n\n" % (n, b"x" * (n * 37 % 300)) for n in range(40)]
BODY = b"".join(PAYLOADS)
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM = CHUNKED + chunked(PAYLOADS)
COUNTED = b"HTTP/1.1 200 OK\r\nX-Request-Id: 0217\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
TO_THE_END = b"HTTP/1.1 200 OK\r\n\r\n" + BODY
SMALL = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
TURNS_MAX = 5_000
PATIENT = Limits(connect_seconds=20, first_byte_seconds=20, idle_seconds=20, keepalive_seconds=20)
SHORT_SECONDS = 0.05


pytestmark = pytest.mark.both_loops


@asynccontextmanager
async def client(
    origin: Origin, limits: Limits = PATIENT, *, base_url: str = "", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Pool]:
    """Run a client; at the end none of its connections may be open."""
    pool = Pool(base_url or origin.base_url, headers={"Authorization": "Bearer k"}, limits=limits, ssl_context=tls)
    try:
        yield pool
    finally:
        await pool.close()
        assert pool.open_connections == pool.idle_connections == 0


class Collected:
    """A sink that records its calls."""

    def __init__(self) -> None:
        self.pieces: list[tuple[bytes, bytes | None]] = []
        self.ends: list[UpstreamFailure | None] = []
        self.ended = asyncio.Event()
        self.fed = asyncio.Event()
        self.on_feed: Callable[[], None] = lambda: None

    @property
    def payload(self) -> bytes:
        return b"".join(payload for payload, _ in self.pieces)

    def feed(self, payload: bytes, framed: bytes | None) -> None:
        self.pieces.append((payload, framed))
        self.fed.set()
        self.on_feed()

    def end(self, failure: UpstreamFailure | None) -> None:
        self.ends.append(failure)
        self.ended.set()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until the condition holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the client sends no event for this state
            await asyncio.sleep(0)


# requests and answers


async def test_the_request_is_whole_and_carries_its_fields() -> None:
    seen = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.request())
        await peer.send(SMALL)

    async with serve(script) as origin, client(origin) as pool:
        await (await pool.ask("/chat/completions", Upload(b'{"a":1}'), {"X-Client-Request-Id": "r1"})).read(10)

    assert seen[0].body == b'{"a":1}'
    assert seen[0].head == (
        b"POST /api/v3/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
        b"Accept-Encoding: identity\r\nAuthorization: Bearer k\r\nX-Client-Request-Id: r1\r\nContent-Length: 7\r\n\r\n" % origin.port
    )


@pytest.mark.parametrize("size", [1, 7, 64, 4096])
@pytest.mark.parametrize(("raw", "kept"), [(STREAM, 1), (COUNTED, 1), (TO_THE_END, 0)])
async def test_every_kind_of_body_is_read_whole(raw: bytes, kept: int, size: int) -> None:
    async with serve(answering(*cut(raw, size), close=not kept)) as origin, client(origin) as pool:
        answer = await pool.ask("/x", Upload(b"{}"))
        body = await answer.read(len(BODY))

        assert (answer.status, body) == (200, BODY)
        assert pool.idle_connections == kept


@pytest.mark.parametrize("size", [1, 7, 64, 4096])
async def test_every_kind_of_body_is_spliced_whole(size: int) -> None:
    for raw in (STREAM, COUNTED, TO_THE_END):
        sink = Collected()
        async with serve(answering(*cut(raw, size), close=raw is TO_THE_END)) as origin, client(origin) as pool:
            (await pool.ask("/x", Upload(b"{}"))).splice(sink)
            await sink.ended.wait()

        assert sink.payload == BODY
        assert sink.ends == [None]


async def test_chunks_that_arrive_whole_come_with_their_own_bytes() -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        for payload in PAYLOADS:
            await go.wait()
            go.clear()
            await peer.send(b"%x\r\n%b\r\n" % (len(payload), payload))
        await peer.left()

    sink = Collected()
    sink.on_feed = go.set
    async with serve(script) as origin, client(origin) as pool:
        answer = await pool.ask("/x", Upload(b"{}"))
        answer.splice(sink)
        go.set()
        await until(lambda: len(sink.pieces) == len(PAYLOADS))
        answer.abort()

    assert sink.pieces == [(payload, b"%x\r\n%b\r\n" % (len(payload), payload)) for payload in PAYLOADS]


async def test_header_names_are_found_in_lower_case() -> None:
    async with serve(answering(COUNTED)) as origin, client(origin) as pool:
        answer = await pool.ask("/x", Upload(b"{}"))

        assert answer.header(b"x-request-id") == b"0217"
        assert answer.header(b"retry-after") is None


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_ends_at_once(status: int) -> None:
    async with serve(answering(b"HTTP/1.1 %d X\r\n\r\n" % status)) as origin, client(origin) as pool:
        answer = await pool.ask("/x", Upload(b"{}"))

        assert (answer.status, await answer.read(10)) == (status, b"")
        assert pool.idle_connections == 1


async def test_interim_heads_and_trailers_are_skipped() -> None:
    raw = b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"

    async with serve(answering(raw)) as origin, client(origin) as pool:
        assert await (await pool.ask("/x", Upload(b"{}"))).read(2) == b"ok"
        assert pool.idle_connections == 1


async def test_a_large_request_body_arrives_whole() -> None:
    seen = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.request())
        await peer.send(SMALL)

    body = bytes(range(256)) * 8192  # 2 MiB
    async with serve(script) as origin, client(origin) as pool:
        await (await pool.ask("/x", Upload(body))).read(2)

    assert seen[0].body == body


async def test_a_body_above_the_callers_limit_is_refused_and_its_connection_closed() -> None:
    async with serve(answering(CHUNKED + b"5\r\nhello\r\n")) as origin, client(origin) as pool:
        answer = await pool.ask("/x", Upload(b"{}"))

        with pytest.raises(UpstreamBrokenError, match="larger"):
            await answer.read(4)
        await origin.peers[0].gone.wait()


# the pool


async def test_a_finished_connection_serves_the_next_request() -> None:
    async with serve(answering(*cut(STREAM, 64))) as origin, client(origin) as pool:
        for _ in range(5):
            await (await pool.ask("/x", Upload(b"{}"))).read(len(BODY))

        assert len(origin.peers) == pool.open_connections == 1


async def test_the_pool_keeps_no_more_than_its_cap() -> None:
    limits = Limits(idle_connections_max=2)

    async with serve(answering(SMALL)) as origin, client(origin, limits) as pool:
        answers = await asyncio.gather(*(pool.ask("/x", Upload(b"{}")) for _ in range(4)))
        bodies = [await answer.read(2) for answer in answers]
        await until(lambda: pool.open_connections == 2)

        assert bodies == [b"ok"] * 4
        assert len(origin.peers) == 4
        assert pool.idle_connections == 2


async def test_the_connection_used_last_is_used_first() -> None:
    async def script(peer: Peer) -> None:
        port = peer.writer.get_extra_info("peername")[1]
        while True:
            asked = await peer.request()
            if asked.body == b"wait":
                await release.wait()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n%05d" % port)

    release = asyncio.Event()
    async with serve(script) as origin, client(origin) as pool:
        slow = asyncio.gather(pool.ask("/x", Upload(b"wait")))
        await until(lambda: len(origin.peers) == 1)
        await (await pool.ask("/x", Upload(b"{}"))).read(5)
        release.set()
        last = await (await slow)[0].read(5)

        assert pool.idle_connections == 2
        assert await (await pool.ask("/x", Upload(b"{}"))).read(5) == last


async def test_an_idle_connection_expires() -> None:
    limits = Limits(keepalive_seconds=SHORT_SECONDS)

    async with serve(answering(SMALL)) as origin, client(origin, limits) as pool:
        await (await pool.ask("/x", Upload(b"{}"))).read(2)
        await origin.peers[0].gone.wait()
        await until(lambda: pool.open_connections == 0)


@pytest.mark.promise(UPSTREAM_AWAY)
@pytest.mark.parametrize("extra", [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad", b"", b"x"])
async def test_a_connection_that_gets_bytes_or_eof_while_idle_is_dropped(extra: bytes) -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(SMALL)
        await go.wait()
        if extra:
            await peer.send(extra)
            await peer.left()

    async with serve(script, answering(SMALL)) as origin, client(origin) as pool:
        await (await pool.ask("/x", Upload(b"{}"))).read(2)
        go.set()
        await until(lambda: pool.open_connections == 0)

        assert await (await pool.ask("/x", Upload(b"{}"))).read(2) == b"ok"
        assert len(origin.peers) == 2


@pytest.mark.parametrize(
    "raw",
    [
        SMALL + b"surplus",
        SMALL.replace(b"Content", b"Connection: close\r\nContent"),
        SMALL.replace(b"HTTP/1.1", b"HTTP/1.0"),
        CHUNKED + b"2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n",
    ],
)
async def test_an_answer_that_taints_its_connection_is_whole_but_the_connection_not_kept(raw: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(raw)
        await peer.left()

    async with serve(script) as origin, client(origin) as pool:
        assert await (await pool.ask("/x", Upload(b"{}"))).read(2) == b"ok"
        assert pool.idle_connections == 0


async def test_no_more_connections_than_allowed_are_opened() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        await peer.left()

    async with serve(script) as origin, client(origin, Limits(connections_max=1)) as pool:
        await pool.ask("/x", Upload(b"{}"))

        with pytest.raises(UpstreamUnreachableError, match="1 connections"):
            await pool.ask("/x", Upload(b"{}"))


# failures


@pytest.mark.promise(UPSTREAM_AWAY)
@pytest.mark.parametrize("by_reset", [False, True])
async def test_a_kept_connection_that_dies_unanswered_is_dialled_again_once(by_reset: bool) -> None:
    asked = []

    async def dies_on_the_second(peer: Peer) -> None:
        await peer.request()
        await peer.send(SMALL)
        asked.append(await peer.request())
        if by_reset:
            peer.reset()

    async with serve(dies_on_the_second, answering(SMALL)) as origin, client(origin) as pool:
        await (await pool.ask("/x", Upload(b"1"))).read(2)
        second = await (await pool.ask("/x", Upload(b"2"))).read(2)

        assert second == b"ok"
        assert [one.body for one in asked] == [b"2"]
        assert len(origin.peers) == 2


@pytest.mark.promise(UPSTREAM_AWAY)
async def test_a_kept_connection_that_dies_late_may_have_worked_and_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy on the way that gives up looks like that: what it was asked for may run on, and may be charged."""
    monkeypatch.setattr(pool_module, "DIED_IDLE_SECONDS", -1.0)  # any time is late

    async def dies_on_the_second(peer: Peer) -> None:
        await peer.request()
        await peer.send(SMALL)
        await peer.request()

    async with serve(dies_on_the_second, answering(SMALL)) as origin, client(origin) as pool:
        await (await pool.ask("/x", Upload(b"1"))).read(2)

        with pytest.raises(UpstreamBrokenError, match="before an answer"):
            await pool.ask("/x", Upload(b"2"))
        assert len(origin.peers) == 1


@pytest.mark.promise(UPSTREAM_AWAY)
async def test_the_second_dial_is_the_last() -> None:
    async def dies_on_the_second(peer: Peer) -> None:
        await peer.request()
        await peer.send(SMALL)
        await peer.request()

    async def dies(peer: Peer) -> None:
        await peer.request()

    async with serve(dies_on_the_second, dies) as origin, client(origin) as pool:
        await (await pool.ask("/x", Upload(b"1"))).read(2)

        with pytest.raises(UpstreamBrokenError, match="before an answer"):
            await pool.ask("/x", Upload(b"2"))
        assert len(origin.peers) == 2


@pytest.mark.promise(UPSTREAM_AWAY)
@pytest.mark.parametrize("beginning", [b"", b"HTT"])
async def test_a_new_connection_that_dies_is_not_asked_again(beginning: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(beginning)

    async with serve(script) as origin, client(origin) as pool:
        with pytest.raises(UpstreamBrokenError):
            await pool.ask("/x", Upload(b"{}"))

        assert len(origin.peers) == 1


@pytest.mark.promise(UPSTREAM_AWAY)
@pytest.mark.parametrize("beginning", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_a_kept_connection_that_dies_after_a_byte_is_not_asked_again(beginning: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(SMALL)
        await peer.request()
        await peer.send(beginning)

    async with serve(script) as origin, client(origin) as pool:
        await (await pool.ask("/x", Upload(b"{}"))).read(2)

        with pytest.raises(UpstreamBrokenError, match="within an answer"):
            await pool.ask("/x", Upload(b"{}"))
        assert len(origin.peers) == 1


@pytest.mark.promise(UPSTREAM_AWAY)
@pytest.mark.parametrize("raw", [STREAM[:-1], STREAM[:-5], STREAM[:-9], STREAM[: len(CHUNKED)], COUNTED[:-1]])
@pytest.mark.parametrize("by_reset", [False, True])
async def test_a_cut_body_is_broken_after_all_that_came(raw: bytes, by_reset: bool) -> None:
    sink = Collected()
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(raw)
        await go.wait()
        if by_reset:
            peer.reset()

    async with serve(script) as origin, client(origin) as pool:
        answer = await pool.ask("/x", Upload(b"{}"))
        answer.splice(sink)
        # An RST may discard bytes that the client has not read yet, so send it when all have arrived.
        await until(lambda: (BODY.startswith(sink.payload) and len(sink.payload) >= len(BODY) - 300) or raw == STREAM[: len(CHUNKED)])
        go.set()
        await sink.ended.wait()

    assert BODY.startswith(sink.payload)
    assert [type(end) for end in sink.ends] == [UpstreamBrokenError]


async def test_bytes_that_are_no_chunk_end_the_body_as_broken() -> None:
    async with serve(answering(CHUNKED + b"2\r\nok\r\nxyz\r\n")) as origin, client(origin) as pool:
        answer = await pool.ask("/x", Upload(b"{}"))

        with pytest.raises(UpstreamBrokenError, match="hexadecimal"):
            await answer.read(100)


async def test_a_head_beyond_its_limit_is_broken() -> None:
    raw = b"HTTP/1.1 200 OK\r\nX: " + 500 * b"y" + b"\r\n\r\n"

    async with serve(answering(raw)) as origin, client(origin, Limits(head_bytes_max=300)) as pool:
        with pytest.raises(UpstreamBrokenError, match="larger than 300 bytes"):
            await pool.ask("/x", Upload(b"{}"))


@pytest.mark.promise(UPSTREAM_AWAY)
async def test_a_port_where_nobody_listens_is_unreachable() -> None:
    async with serve(answering(SMALL)) as origin:
        pass

    async with client(origin) as pool:
        with pytest.raises(UpstreamUnreachableError):
            await pool.ask("/x", Upload(b"{}"))


@pytest.mark.promise(UPSTREAM_AWAY)
async def test_a_name_that_does_not_resolve_is_unreachable() -> None:
    async with serve(answering(SMALL)) as origin, client(origin, base_url="http://no-such-host.invalid") as pool:
        with pytest.raises(UpstreamUnreachableError):
            await pool.ask("/x", Upload(b"{}"))


# time limits


@pytest.mark.promise(UPSTREAM_AWAY)
async def test_an_upstream_that_answers_nothing_runs_into_the_first_byte_limit() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.left()

    async with serve(script) as origin, client(origin, Limits(first_byte_seconds=SHORT_SECONDS)) as pool:
        with pytest.raises(UpstreamTimeoutError) as caught:
            await pool.ask("/x", Upload(b"{}"))

        assert caught.value.phase == "first_byte"
        assert len(origin.peers) == 1


@pytest.mark.promise(UPSTREAM_AWAY)
async def test_a_head_that_drips_in_does_not_move_its_limit() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            await peer.send(b"y")

    limits = Limits(first_byte_seconds=SHORT_SECONDS, head_bytes_max=1 << 30)
    async with serve(script) as origin, client(origin, limits) as pool:
        with pytest.raises(UpstreamTimeoutError) as caught:
            await pool.ask("/x", Upload(b"{}"))

    assert caught.value.phase == "first_byte"


@pytest.mark.promise(UPSTREAM_AWAY)
async def test_a_body_that_stands_still_runs_into_the_idle_limit() -> None:
    sink = Collected()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"2\r\nok\r\n")
        await peer.left()

    async with serve(script) as origin, client(origin, Limits(idle_seconds=SHORT_SECONDS)) as pool:
        (await pool.ask("/x", Upload(b"{}"))).splice(sink)
        await sink.ended.wait()

    (failure,) = sink.ends
    assert isinstance(failure, UpstreamTimeoutError)
    assert failure.phase == "idle"
    assert sink.payload == b"ok"


async def test_idle_time_does_not_run_while_paused() -> None:
    sink = Collected()

    async with serve(answering(CHUNKED)) as origin, client(origin, Limits(idle_seconds=SHORT_SECONDS)) as pool:
        answer = await pool.ask("/x", Upload(b"{}"))
        answer.splice(sink)
        answer.pause()
        await asyncio.sleep(4 * SHORT_SECONDS)
        assert sink.ends == []

        answer.resume()
        await sink.ended.wait()

    assert isinstance(sink.ends[0], UpstreamTimeoutError)


@pytest.mark.promise(UPSTREAM_AWAY)
async def test_tls_that_never_shakes_hands_runs_into_the_connect_limit() -> None:
    async def script(peer: Peer) -> None:
        await peer.left()

    async with serve(script) as origin:
        url = origin.base_url.replace("http:", "https:")
        async with client(origin, Limits(connect_seconds=SHORT_SECONDS), base_url=url) as pool:
            with pytest.raises(UpstreamTimeoutError) as caught:
                await pool.ask("/x", Upload(b"{}"))

    assert caught.value.phase == "connect"


# back-pressure and leaving


async def test_pausing_stops_the_upstream_and_resuming_loses_nothing() -> None:
    piece = b"%x\r\n%b\r\n" % (65536, 65536 * b"x")
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(CHUNKED)
        for _ in range(512):  # 32 MiB: more than the kernel's buffers of both ends
            await peer.send(piece)
            sent += 1
        await peer.send(b"0\r\n\r\n")
        await peer.left()

    sink = Collected()
    async with serve(script) as origin, client(origin) as pool:
        answer = await pool.ask("/x", Upload(b"{}"))
        sink.on_feed = answer.pause
        answer.splice(sink)
        await sink.fed.wait()
        stood = -1
        while stood != sent:  # until the origin makes no more progress
            stood = sent
            await asyncio.sleep(0.1)
        fed_while_paused = len(sink.pieces)
        assert fed_while_paused == 1 or sum(len(payload) for payload, _ in sink.pieces) < 1 << 20
        assert sent < 512

        sink.on_feed = lambda: None
        answer.resume()
        await sink.ended.wait()

    assert len(sink.payload) == 512 * 65536
    assert sink.ends == [None]


async def test_a_fast_upstream_is_read_once_a_turn_so_that_others_have_theirs() -> None:
    loop, turn, fed_in = asyncio.get_running_loop(), 0, list[int]()
    go = asyncio.Event()

    def count_turns() -> None:
        nonlocal turn
        turn += 1
        if not sink.ended.is_set():
            loop.call_soon(count_turns)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        await go.wait()
        await peer.send(chunked([65536 * b"x"] * 128))  # in one write: the kernel buffers megabytes before they are read
        await peer.left()

    sink = Collected()
    sink.on_feed = lambda: fed_in.append(turn)
    async with serve(script) as origin, client(origin) as wire:
        (await wire.ask("/x", Upload(b"{}"))).splice(sink)
        count_turns()
        go.set()
        await sink.ended.wait()

    assert len(sink.payload) == 128 * 65536
    assert len(set(fed_in)) == len(fed_in)


async def test_what_comes_before_the_splice_is_kept_and_bounded() -> None:
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(CHUNKED)
        for _ in range(512):
            await peer.send(b"10000\r\n" + 65536 * b"x" + b"\r\n")
            sent += 1
        await peer.send(b"0\r\n\r\n")
        await peer.left()

    async with serve(script) as origin, client(origin) as pool:
        answer = await pool.ask("/x", Upload(b"{}"))
        stood = -1
        while stood != sent:
            stood = sent
            await asyncio.sleep(0.1)
        assert sent < 512

        assert len(await answer.read(1 << 30)) == 512 * 65536


async def test_an_aborted_answer_closes_its_connection_and_calls_nobody() -> None:
    sink = Collected()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"2\r\nok\r\n")
        await peer.left()

    async with serve(script) as origin, client(origin) as pool:
        answer = await pool.ask("/x", Upload(b"{}"))
        answer.splice(sink)
        await sink.fed.wait()
        answer.abort()
        answer.abort()
        await origin.peers[0].gone.wait()
        await until(lambda: pool.open_connections == 0)

    assert sink.ends == []


async def test_a_sink_may_abort_from_within_its_feed() -> None:
    sink = Collected()

    async with serve(answering(STREAM)) as origin, client(origin) as pool:
        answer = await pool.ask("/x", Upload(b"{}"))
        sink.on_feed = answer.abort
        answer.splice(sink)
        await until(lambda: pool.open_connections == 0 or sink.ended.is_set())

    assert sink.ends in ([], [None])
    assert sink.fed.is_set()


async def test_aborting_a_finished_answer_does_not_touch_who_has_its_connection_now() -> None:
    async with serve(answering(SMALL)) as origin, client(origin) as pool:
        first = await pool.ask("/x", Upload(b"{}"))
        await first.read(2)
        second = await pool.ask("/x", Upload(b"{}"))
        first.abort()

        assert await second.read(2) == b"ok"
        assert len(origin.peers) == 1


async def test_closing_the_client_ends_what_is_under_way() -> None:
    sink = Collected()

    async with serve(answering(CHUNKED)) as origin, client(origin) as pool:
        (await pool.ask("/x", Upload(b"{}"))).splice(sink)
        await pool.close()

        assert [type(end) for end in sink.ends] == [UpstreamBrokenError]
        assert pool.open_connections == 0
        with pytest.raises(UpstreamUnreachableError):
            await pool.ask("/x", Upload(b"{}"))


@pytest.mark.parametrize("kept", [False, True])
async def test_a_cancel_at_any_turn_leaks_no_connection(kept: bool) -> None:
    async with serve(answering(SMALL)) as origin, client(origin) as pool:
        finished, turns = 0, 0
        while finished < 3:  # some are cancelled at each step, and some finish, however busy the machine is
            assert turns < TURNS_MAX
            if kept:
                await (await pool.ask("/x", Upload(b"{}"))).read(2)
            else:
                await pool.close()
                pool = Pool(origin.base_url, headers={}, limits=PATIENT)  # noqa: PLW2901
            task = asyncio.get_running_loop().create_task(pool.ask("/x", Upload(b"{}")))
            for _ in range(turns):
                await asyncio.sleep(0)
            turns += 1
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            finished += isinstance(outcome, Answer)
            if isinstance(outcome, Answer):
                assert await outcome.read(2) == b"ok"
            await until(lambda pool=pool: pool.open_connections == pool.idle_connections)  # type: ignore[misc]
        await pool.close()

        assert pool.open_connections == 0
        assert finished < turns


async def test_a_call_cancelled_as_its_answer_came_spares_the_next_user_of_the_connection() -> None:
    release = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(SMALL)
        await peer.request()
        await release.wait()
        await peer.send(SMALL)
        await peer.left()

    async with serve(script) as origin, client(origin) as pool:
        loop = asyncio.get_running_loop()
        first = loop.create_task(pool.ask("/x", Upload(b"{}")))
        second: asyncio.Task[Answer] | None = None
        original = pool.vacant

        def vacant(connection: object) -> bool:
            """Let another call take the connection at the moment when the first answer frees it, and cancel the first."""
            nonlocal second
            kept = original(connection)  # type: ignore[arg-type]
            if second is None:
                second = loop.create_task(pool.ask("/x", Upload(b"{}")))
                first.cancel()
            return kept

        pool.vacant = vacant  # type: ignore[method-assign]
        await asyncio.gather(first, return_exceptions=True)
        assert second is not None
        release.set()

        assert await (await second).read(2) == b"ok"
        assert len(origin.peers) == 1


async def test_an_answer_that_comes_as_its_call_is_cancelled_closes_the_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.left()

    async with serve(script) as origin, client(origin) as pool:
        asking = asyncio.get_running_loop().create_task(pool.ask("/x", Upload(b"{}")))
        await until(lambda: pool.open_connections == 1 and not pool._openings)
        (connection,) = pool._connections
        await until(lambda: connection._expected is not None)
        asking.cancel()
        connection.data_received(CHUNKED)  # in the same turn of the loop: the task has not run since it was cancelled
        (outcome,) = await asyncio.gather(asking, return_exceptions=True)

        assert isinstance(outcome, asyncio.CancelledError)
        await origin.peers[0].gone.wait()
        await until(lambda: pool.open_connections == 0)


async def test_a_connection_whose_caller_left_while_it_opened_serves_the_next(certificate: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))

    async with (
        serve_tls(certificate, SMALL) as origin,
        client(origin, base_url=f"https://localhost:{origin.port}", tls=trusting) as pool,
    ):
        asking = asyncio.get_running_loop().create_task(pool.ask("/x", Upload(b"{}")))
        await until(lambda: len(pool._openings) == 1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: pool.idle_connections == 1)

        assert await (await pool.ask("/x", Upload(b"{}"))).read(2) == b"ok"
        assert len(origin.peers) == 1


# TLS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def serve_tls(certificate: Path, *pieces: bytes, close: bool = False) -> AbstractAsyncContextManager[Origin]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    return serve(answering(*pieces, close=close), tls=context)


@pytest.mark.parametrize("size", [7, 4096])
async def test_a_stream_over_tls_is_whole_and_its_connection_kept(certificate: Path, size: int) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))

    async with serve_tls(certificate, *cut(STREAM, size)) as origin:
        url = f"https://localhost:{origin.port}"
        async with client(origin, base_url=url, tls=trusting) as pool:
            for _ in range(2):
                assert await (await pool.ask("/x", Upload(b"{}"))).read(len(BODY)) == BODY

            assert len(origin.peers) == 1


@pytest.mark.promise(UPSTREAM_AWAY)
async def test_a_cut_over_tls_is_broken(certificate: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))

    async with (
        serve_tls(certificate, STREAM[:-5], close=True) as origin,
        client(origin, base_url=f"https://localhost:{origin.port}", tls=trusting) as pool,
    ):
        answer = await pool.ask("/x", Upload(b"{}"))
        with pytest.raises(UpstreamBrokenError):
            await answer.read(len(BODY))


@pytest.mark.promise(UPSTREAM_AWAY)
async def test_a_certificate_that_nobody_vouches_for_is_unreachable(certificate: Path) -> None:
    async with serve_tls(certificate, SMALL) as origin, client(origin, base_url=f"https://localhost:{origin.port}") as pool:
        with pytest.raises(UpstreamUnreachableError, match=r"(?i)certificate"):
            await pool.ask("/x", Upload(b"{}"))


@pytest.mark.parametrize("url", ["ftp://host/x", "host/x", "http://", "https:///x"])
def test_a_base_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        Pool(url, headers={}, limits=PATIENT)


@pytest.mark.parametrize("value", ["k\r\nX: y", "k\n", "k\0", "钥"])
def test_a_key_that_would_break_the_head_is_refused_unquoted(value: str) -> None:
    with pytest.raises(ValueError, match="header") as caught:
        Pool("http://host", headers={"Authorization": value}, limits=PATIENT)

    assert value not in str(caught.value)
