"""What an upstream sends at once is passed on in slices, a turn of the loop for each, in order, whatever happens to the connection."""

import asyncio
from typing import cast

import pytest

from proxy.upstream.failures import UpstreamFailure
from proxy.upstream.http1.answer import BODY_SLICE_BYTES, STREAM_SLICE_BYTES, Answer
from proxy.upstream.http1.connection import Connection, Limits

PIECE = b"".join(b": %d\n\n" % number for number in range(32_000))
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
TO_THE_END = b"HTTP/1.1 200 OK\r\n\r\n"


class Transport:
    """A transport that says whether it is read."""

    def __init__(self) -> None:
        self.reads = True
        self.is_aborted = False

    def write(self, _: bytes) -> None: ...

    def is_closing(self) -> bool:
        return self.is_aborted

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def abort(self) -> None:
        self.is_aborted = True


class Home:
    def __init__(self) -> None:
        self.told: list[str] = []

    def opened(self, _: Connection) -> None: ...

    def vacant(self, _: Connection) -> bool:
        self.told.append("vacant")
        return True

    def gone(self, _: Connection) -> None:
        self.told.append("gone")


class Sink:
    """Notes in which turn of the loop each slice came."""

    def __init__(self) -> None:
        self.slices: list[bytes] = []
        self.turns: list[int] = []
        self.ends: list[UpstreamFailure | None] = []

    def feed(self, payload: bytes, _: bytes | None) -> None:
        self.slices.append(payload)
        self.turns.append(Turns.now)

    def end(self, failure: UpstreamFailure | None) -> None:
        self.ends.append(failure)


class Turns:
    now = 0


async def turn() -> None:
    Turns.now += 1
    await asyncio.sleep(0)


async def begun(head: bytes) -> tuple[Connection, Transport, Home, Sink, Answer]:
    """Return a connection whose answer's head is here, and the sink that its body goes to."""
    home, transport, sink = Home(), Transport(), Sink()
    connection = Connection(home, Limits(), asyncio.get_running_loop())
    connection.connection_made(cast("asyncio.Transport", transport))
    expected = connection.ask(b"", b"")
    connection.data_received(head)
    answer = await expected
    answer.splice(sink)
    return connection, transport, home, sink, answer


async def test_a_piece_is_passed_on_in_slices_and_others_have_their_turn_between_any_two() -> None:
    connection, transport, home, sink, _ = await begun(HEAD % len(PIECE))

    connection.data_received(PIECE)
    was_read = transport.reads
    for _ in range(len(PIECE)):
        if sink.ends:
            break
        await turn()

    assert b"".join(sink.slices) == PIECE
    assert max(map(len, sink.slices)) == STREAM_SLICE_BYTES
    assert len(set(sink.turns)) == len(sink.turns)
    assert not was_read
    assert (sink.ends, home.told) == ([None], ["vacant"])
    await turn()
    assert transport.reads


async def test_a_body_that_is_only_collected_comes_in_larger_slices() -> None:
    body = b"x" * (4 * BODY_SLICE_BYTES)
    home, transport = Home(), Transport()
    connection = Connection(home, Limits(), asyncio.get_running_loop())
    connection.connection_made(cast("asyncio.Transport", transport))
    expected = connection.ask(b"", b"")
    connection.data_received(HEAD % len(body))
    reading = asyncio.get_running_loop().create_task((await expected).read(len(body)))
    await turn()

    connection.data_received(body)
    turns = 0
    while not reading.done():
        turns += 1
        await turn()

    assert await reading == body
    assert turns <= 6


@pytest.mark.parametrize("head", [TO_THE_END, HEAD % len(PIECE)])
async def test_a_connection_that_is_lost_right_behind_a_piece_loses_nothing_of_it(head: bytes) -> None:
    """As under TLS, whose end is told in the turn of the last bytes."""
    connection, _, home, sink, _ = await begun(head)

    connection.data_received(PIECE[:100_000])
    connection.data_received(PIECE[100_000:])
    connection.eof_received()
    connection.connection_lost(None)
    assert "gone" not in home.told
    for _ in range(len(PIECE) // STREAM_SLICE_BYTES + 4):
        await turn()

    assert b"".join(sink.slices) == PIECE
    assert sink.ends == [None]
    assert home.told[-1] == "gone"
    assert home.told.count("gone") == 1


async def test_a_connection_that_breaks_behind_a_piece_fails_once_the_piece_is_passed_on() -> None:
    connection, _, home, sink, _ = await begun(HEAD % (2 * len(PIECE)))

    connection.data_received(PIECE)
    connection.connection_lost(ConnectionResetError())
    for _ in range(len(PIECE) // STREAM_SLICE_BYTES + 4):
        await turn()

    assert b"".join(sink.slices) == PIECE
    assert [type(end).__name__ for end in sink.ends] == ["UpstreamBrokenError"]
    assert home.told == ["gone"]


async def test_a_client_that_is_slow_holds_back_slices_too() -> None:
    connection, transport, _, sink, answer = await begun(HEAD % (2 * len(PIECE)))

    connection.data_received(PIECE)
    answer.pause()
    for _ in range(5):
        await turn()
    held = len(sink.slices)
    answer.resume()
    for _ in range(len(PIECE) // STREAM_SLICE_BYTES + 4):
        await turn()

    assert held == 1
    assert b"".join(sink.slices) == PIECE
    assert transport.reads
    connection.abort()


async def test_an_answer_given_up_passes_on_nothing_more_and_leaves_no_connection_behind() -> None:
    connection, transport, home, sink, answer = await begun(HEAD % len(PIECE))

    connection.data_received(PIECE)
    connection.connection_lost(None)
    answer.abort()
    for _ in range(5):
        await turn()

    assert len(sink.slices) == 1
    assert transport.is_aborted
    assert home.told == ["gone"]


async def test_what_follows_the_end_of_a_body_closes_the_connection() -> None:
    connection, transport, home, sink, _ = await begun(HEAD % STREAM_SLICE_BYTES)

    connection.data_received(PIECE)
    for _ in range(5):
        await turn()

    assert b"".join(sink.slices) == PIECE[:STREAM_SLICE_BYTES]
    assert sink.ends == [None]
    assert transport.is_aborted
    assert home.told == []
