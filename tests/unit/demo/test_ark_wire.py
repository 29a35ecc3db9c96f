"""Scripts, checked to the byte and the moment over raw sockets."""

import asyncio
from collections.abc import Callable
from itertools import repeat

import pytest
import uvloop

from proxy.demo.ark import (
    LAST_CHUNK,
    TASKS,
    Answer,
    Call,
    Check,
    Close,
    Hang,
    Pause,
    Perform,
    Reset,
    Send,
    StandIn,
    Step,
    Stream,
    Wait,
    answer_json,
    answer_sse,
    cut,
    error,
    lost,
)
from tests.unit.demo.conftest import Asking, Raw

EVENTS = b'data: {"a":1}\n\ndata: [DONE]\n\n'
POST = b"POST /api/v3/chat/completions HTTP/1.1\r\nhost: ark\r\nauthorization: Bearer k\r\ncontent-length: 2\r\n\r\n{}"
VIDEO = {"model": "doubao-seedance-2-0-260128", "content": [{"type": "text", "text": "a cat"}]}
HELLO = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


class Pieces(asyncio.Protocol):
    """A client that records each read separately."""

    def __init__(self) -> None:
        self.reads: list[bytes] = []
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.reads.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


async def _play(ark: StandIn, script: list[Step]) -> Pieces:
    """Play a script and return the client when its connection is lost."""
    ark.enqueue(script)
    transport, client = await asyncio.get_running_loop().create_connection(Pieces, ark.host, ark.port)
    transport.write(POST)
    await client.lost
    return client


async def test_each_send_arrives_as_a_read_of_its_own(ark: StandIn) -> None:
    client = await _play(ark, [Send(b"HTTP/1."), Send(b"1 200 OK\r\n"), Send(b"\r"), Send(b"\nbody"), Close()])

    assert client.reads == [b"HTTP/1.", b"1 200 OK\r\n", b"\r", b"\nbody"]
    assert client.lost.result() is None


@pytest.mark.parametrize("size", [1, 7, 64, None])
async def test_a_stream_cut_anywhere_carries_the_same_bytes(ark: StandIn, ask: Asking, size: int | None) -> None:
    ark.enqueue(answer_sse(EVENTS, cut=size))

    answer = await ask(ark, "POST", "/chat/completions", HELLO)

    assert answer.body == EVENTS
    assert answer.headers["content-type"] == "text/event-stream"


def test_cut_writes_chunks_of_chunked_encoding() -> None:
    assert cut(b"0123456789abcdefXY", 16) == [Send(b"10\r\n0123456789abcdef\r\n"), Send(b"2\r\nXY\r\n")]


@pytest.mark.parametrize(
    ("script", "framing"),
    [
        (answer_sse(EVENTS, framing="content-length"), b"content-length: 29"),
        (answer_sse(EVENTS, cut=5, framing="until-close"), b"connection: close"),
        (answer_sse(EVENTS, cut=5), b"transfer-encoding: chunked"),
    ],
)
async def test_framings_say_what_they_are(ark: StandIn, script: list[Step], framing: bytes) -> None:
    client = await _play(ark, [*script, Close()])

    head, _, body = b"".join(client.reads).partition(b"\r\n\r\n")

    assert framing in head.split(b"\r\n")
    assert body == (b"".join(step.payload for step in cut(EVENTS, 5)) + LAST_CHUNK if b"chunked" in framing else EVENTS)


async def test_a_stream_without_its_end_lacks_only_the_last_chunk(ark: StandIn) -> None:
    client = await _play(ark, [*answer_sse(EVENTS, end=False), Close()])

    assert client.reads[-1] == b"1d\r\n" + EVENTS + b"\r\n"  # 29 bytes


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run])
def test_a_reset_is_a_reset_and_loses_nothing_that_was_sent(runner: Callable[..., tuple[Pieces, Call]]) -> None:
    async def reset() -> tuple[Pieces, Call]:
        async with StandIn() as ark:
            client = await _play(ark, [Send(b"HTTP/1.1 200 OK\r\n\r\nhalf"), Reset()])
            return client, ark.calls[0]

    client, call = runner(reset())

    assert b"".join(client.reads) == b"HTTP/1.1 200 OK\r\n\r\nhalf"
    assert isinstance(client.lost.result(), ConnectionResetError)
    assert call.state == "reset"


async def test_a_wait_holds_the_answer_until_the_event_is_set(ark: StandIn, raw: Raw) -> None:
    event = asyncio.Event()
    ark.enqueue([Send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"), Wait(event), Send(b"ok")])
    reader, writer = await raw(ark)
    writer.write(POST)
    await _read_head(reader)
    (call,) = await ark.wait_for_calls(1)
    state_before = call.state

    event.set()

    assert await reader.readexactly(2) == b"ok"
    assert (state_before, (await ark.wait_ended(call)).state) == ("playing", "played")


async def test_a_peer_that_leaves_in_the_midst_is_counted(ark: StandIn, raw: Raw) -> None:
    ark.enqueue([Send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx"), Hang()])
    reader, writer = await raw(ark)
    writer.write(POST)
    await reader.readuntil(b"x")

    writer.close()
    await ark.wait_closed_by_peer()

    assert (ark.calls[0].state, ark.closed_by_peer, ark.open_connections) == ("closed_by_peer", 1, 0)


@pytest.mark.parametrize(
    "script",
    [
        [Send(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n"), Send(b"x")],
        [Stream([b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n", b"x"])],
        answer_json(200, {}),
    ],
)
async def test_a_peer_that_leaves_after_the_last_byte_is_not_counted(ark: StandIn, raw: Raw, script: list[Step]) -> None:
    ark.enqueue(script)
    reader, writer = await raw(ark)
    writer.write(POST)
    await _read_head(reader)
    await reader.readexactly(1)

    writer.close()
    await ark.wait_until(lambda: ark.open_connections == 0)

    assert (ark.calls[0].state, ark.closed_by_peer) == ("played", 0)


async def test_a_check_that_fails_fails_the_test(raw: Raw, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(call: Call) -> None:
        raise AssertionError(f"{call.method} was not expected")

    ark = await StandIn().open()
    ark.enqueue([Check(refuse), *answer_json(200, {})])
    reader, writer = await raw(ark)
    writer.write(POST)

    with pytest.raises(ConnectionResetError):
        await reader.read(1)

    with pytest.raises(AssertionError, match="POST was not expected"):
        await ark.close()
    assert ark.calls[0].state == "failed"
    assert "failed" in caplog.text


async def test_a_script_may_be_a_function_of_the_call(ark: StandIn, ask: Asking) -> None:
    ark.enqueue(lambda call: answer_json(200, {"asked": call.json["model"]}), times=None)

    answers = [await ask(ark, "POST", "/chat/completions", {"model": name}) for name in ("a", "b")]

    assert [answer.json for answer in answers] == [{"asked": "a"}, {"asked": "b"}]


async def test_scripts_play_in_order_and_then_the_default_returns(ark: StandIn, ask: Asking) -> None:
    ark.enqueue(error(429, "ServerOverloaded", "Busy."), times=2)
    ark.enqueue(answer_json(500, b"<html>"), path=TASKS + "/*", method="GET")
    ark.enqueue([Pause(0.001), Answer()])

    statuses = [(await ask(ark, "POST", "/chat/completions", HELLO)).status for _ in range(3)]
    left = ark.unplayed
    other = await ask(ark, "GET", f"{TASKS}/cgt-1")

    assert statuses == [429, 429, 200]
    assert (left, other.status, other.body, ark.unplayed) == (1, 500, b"<html>", 0)


async def test_a_lost_answer_leaves_the_work_done(ark: StandIn, ask: Asking) -> None:
    ark.enqueue(lost(), path=TASKS)

    with pytest.raises(OSError, match=r"reset|disconnected"):
        await ask(ark, "POST", TASKS, VIDEO)

    assert [task.status for task in ark.videos.tasks.values()] == ["queued"]


async def test_work_is_done_once_though_its_answer_waits(ark: StandIn, ask: Asking) -> None:
    seen: list[int] = []
    ark.enqueue([Perform(), Check(lambda _: seen.append(len(ark.videos.tasks))), Answer()], path=TASKS)

    answer = await ask(ark, "POST", TASKS, VIDEO)

    assert seen == [1]
    assert list(ark.videos.tasks) == [answer.json["id"]]


async def test_calls_are_recorded_as_they_came(ark: StandIn, ask: Asking) -> None:
    await ask(ark, "POST", "/chat/completions", HELLO, headers={"X-Trace": "7"})
    await ask(ark, "GET", TASKS + "?page_num=1&filter.task_ids=a&filter.task_ids=b")

    post, get = await ark.wait_for_calls(2)

    assert (post.method, post.path, post.json, post.headers["x-trace"]) == ("POST", "/chat/completions", HELLO, "7")
    assert (get.number, get.path, get.query) == (2, TASKS, {"page_num": ["1"], "filter.task_ids": ["a", "b"]})
    assert (post.connection, get.connection, post.at) == (1, 1, 1_765_952_525.0)


async def test_only_the_last_calls_are_kept(ask: Asking) -> None:
    async with StandIn(calls_max=2) as ark:
        for _ in range(3):
            await ask(ark, "GET", TASKS)

        assert [call.number for call in ark.calls] == [2, 3]


async def test_waiting_for_calls_that_never_come_times_out(ark: StandIn) -> None:
    with pytest.raises(TimeoutError):
        await ark.wait_for_calls(1, timeout_seconds=0.01)


async def test_pipelined_requests_are_answered_in_their_order(ark: StandIn, raw: Raw) -> None:
    event = asyncio.Event()
    ark.enqueue([Wait(event), *answer_json(200, b"one")])
    ark.enqueue(answer_json(200, b"two"))
    reader, writer = await raw(ark)
    writer.write(POST + POST)
    await ark.wait_for_calls(1)

    event.set()

    assert [(await _read_head(reader))[:15] and await reader.readexactly(3) for _ in range(2)] == [b"one", b"two"]


async def test_a_connection_ends_when_the_client_asked_for_it(ark: StandIn, raw: Raw) -> None:
    ark.enqueue(answer_json(200, b"one"))
    reader, writer = await raw(ark)

    writer.write(POST.replace(b"host: ark", b"connection: close"))

    assert (await reader.read()).endswith(b"\r\n\r\none")


async def test_an_answer_may_come_before_the_body(ark: StandIn, raw: Raw) -> None:
    ark.enqueue(error(401, "AuthenticationError", "No."), when="head")
    reader, writer = await raw(ark)

    writer.write(b"POST /api/v3/chat/completions HTTP/1.1\r\ncontent-length: 1000000\r\n\r\nonly this")

    assert (await reader.read()).startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    assert ark.calls[0].body == b""


async def test_a_connection_may_be_reset_before_anything_is_read(ark: StandIn, raw: Raw) -> None:
    ark.enqueue_connection([Reset()])
    reader, _ = await raw(ark)

    with pytest.raises(ConnectionResetError):
        await reader.read(1)

    assert (ark.calls, ark.connections_accepted) == ([], 1)


async def test_idle_connections_can_be_dropped(ark: StandIn, raw: Raw) -> None:
    ark.enqueue(answer_json(200, b"one"))
    reader, writer = await raw(ark)
    writer.write(POST)
    await _read_head(reader)
    await reader.readexactly(3)

    dropped = ark.drop_idle()

    assert (dropped, await reader.read()) == (1, b"")


async def test_it_can_stop_listening_and_listen_again_on_the_same_port(ark: StandIn, raw: Raw) -> None:
    port = ark.port
    ark.stop_listening()
    with pytest.raises(ConnectionRefusedError):
        await raw(ark)

    await ark.open()
    await raw(ark)

    assert ark.port == port


@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_a_chunked_request_is_read_however_it_is_split(ark: StandIn, raw: Raw, size: int) -> None:
    ark.enqueue(answer_json(200, b"ok!"), times=2)
    reader, writer = await raw(ark)
    request = b"POST /api/v3/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
    request += b'7;x=1\r\n{"a":[1\r\n2\r\n]}\r\n0\r\ntrailer: 1\r\n\r\n'

    for at in range(0, len(request), size):
        writer.write(request[at : at + size])
        await writer.drain()
        await asyncio.sleep(0)
    writer.write(POST)
    await ark.wait_for_calls(2)

    assert [call.json for call in ark.calls] == [{"a": [1]}, {}]
    assert [await _read_head(reader) and await reader.readexactly(3) for _ in range(2)] == [b"ok!", b"ok!"]


@pytest.mark.parametrize(
    "request_head",
    [
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: +1\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"POST / HTTP/1.1\r\n spaced : x\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"x" * 70_000,
    ],
)
async def test_what_is_no_request_is_refused(ark: StandIn, raw: Raw, request_head: bytes) -> None:
    reader, writer = await raw(ark)

    writer.write(request_head)

    assert (await reader.read()).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert ark.calls == []


async def test_a_client_that_asks_first_is_told_to_go_on(ark: StandIn, raw: Raw) -> None:
    ark.enqueue(answer_json(200, b"ok!"))
    reader, writer = await raw(ark)
    head, body = POST[:-2].replace(b"host: ark", b"expect: 100-continue"), POST[-2:]
    writer.write(head)
    go_on = await _read_head(reader)

    writer.write(body)

    assert go_on == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert (await _read_head(reader)).startswith(b"HTTP/1.1 200 OK")


async def test_a_peer_that_does_not_read_holds_the_stream_back(ark: StandIn, raw: Raw) -> None:
    piece, count = bytes(65_536), 800  # 52 MB: more than sockets and buffers hold
    ark.enqueue([Stream(repeat(piece, count)), Close()])
    reader, writer = await raw(ark)
    writer.write(POST)
    (call,) = await ark.wait_for_calls(1)
    await _settled(lambda: call.bytes_sent)
    sent_before = call.bytes_sent

    received = 0
    while read := await reader.read(1 << 20):
        received += len(read)

    assert 0 < sent_before < len(piece) * count
    assert received == call.bytes_sent == len(piece) * count


async def _settled(figure: Callable[[], int]) -> None:
    """Wait until the figure has not changed for 200 turns of the loop."""
    still, last = 0, -1
    while still < 200:
        await asyncio.sleep(0)
        still, last = (still + 1, last) if figure() == last else (0, figure())
