"""The pure half of the HTTP client: chunked coding and heads, well-formed, cut anywhere, and hostile."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.repetition import LESSONS_MAX
from proxy.upstream.http1 import head as head_module
from proxy.upstream.http1.framing import Chunked, Counted, FramingError, UntilClose
from proxy.upstream.http1.head import Head, HeadError, HeadReader
from tests.support.origin import chunked, cut


def test_one_plain_chunk_comes_with_its_own_bytes() -> None:
    body = Chunked()
    received = b"5\r\nhello\r\n"

    payload, framed = body.feed(received)

    assert payload == b"hello"
    assert framed is received


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        (b"5\r\nhello\r\n6\r\n world\r\n", (b"hello world", b"5\r\nhello\r\n6\r\n world\r\n")),
        (b"5\r\nhello\r\n0\r\n\r\n", (b"hello", b"5\r\nhello\r\n")),  # the relay writes the terminator itself
        (b"5\r\nhello\r\n6", (b"hello", b"5\r\nhello\r\n")),  # the next size waits
        (b"A\r\n0123456789\r\n", (b"0123456789", b"A\r\n0123456789\r\n")),
        (b"005\r\nhello\r\n", (b"hello", b"005\r\nhello\r\n")),
        (b"5\r\nhello\r\n6\r\n wo", (b"hello wo", None)),  # ends inside a chunk
        (b"5\r\nhello\r", (b"hello", None)),  # ends inside the CRLF after it
        (b"5;a=b\r\nhello\r\n", (b"hello", None)),  # an extension ends here
        (b"5\r\nhello\r\n6;a\r\n world\r\n", (b"hello world", None)),
        (b"7\r\n\r\n5\r\n\r\n\r\n", (b"\r\n5\r\n\r\n", b"7\r\n\r\n5\r\n\r\n\r\n")),  # payload that looks like framing
        (b"0\r\n\r\n", (b"", None)),
        (b"5", (b"", None)),
    ],
)
def test_only_whole_plain_chunks_are_framed(received: bytes, expected: tuple[bytes, bytes | None]) -> None:
    assert Chunked().feed(received) == expected


def test_what_begins_inside_a_chunk_is_not_framed() -> None:
    body = Chunked()
    body.feed(b"5\r\nhel")

    assert body.feed(b"lo\r\n5\r\nagain\r\n") == (b"loagain", None)
    assert body.feed(b"1\r\nx\r\n") == (b"x", b"1\r\nx\r\n")


@pytest.mark.parametrize("end", [b"0\r\n\r\n", b"000\r\n\r\n", b"0;x=y\r\n\r\n", b"0\r\nDigest: abc\r\nX: y\r\n\r\n"])
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_body_ends_after_its_trailers(end: bytes, size: int) -> None:
    body = Chunked()

    payload = b"".join(body.feed(piece)[0] for piece in cut(b"3\r\nabc\r\n" + end, size))

    assert (payload, body.done, body.surplus) == (b"abc", True, False)


def test_bytes_after_the_end_are_surplus() -> None:
    body = Chunked()

    body.feed(b"1\r\nx\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n")

    assert (body.done, body.surplus) == (True, True)


@pytest.mark.parametrize(
    "hostile",
    [
        b"g\r\nx\r\n",
        b"\r\nx\r\n",
        b"-1\r\nx\r\n",
        b"+1\r\nx\r\n",
        b"0x1\r\nx\r\n",
        b"1_0\r\n" + 16 * b"x" + b"\r\n",
        b" 1\r\nx\r\n",
        b"1 \r\nx\r\n",
        b"1\t\r\nx\r\n",
        b"\xb9\r\nx\r\n",
        b"1\nx\r\n0\r\n\r\n",
        b"1;a\nb\r\nx\r\n",
        b"1;a\rb\r\nx\r\n",
        b";a\r\nx\r\n",
        b"1\r\nxy\r\n",
        b"1\r\nx\n0\r\n\r\n",
        b"1\r\nx0\r\n\r\n",
        b"2\r\nx\r\n\r\n",
        16 * b"f" + b"\r\n",
        2000 * b"0" + b"1\r\nx\r\n",
        b"1;" + 2000 * b"a" + b"\r\nx\r\n",
        b"0\r\n" + 2000 * b"a",
        b"0\r\n" + 2000 * b"Trailer: again\r\n",
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100_000])
def test_hostile_framing_is_refused(hostile: bytes, size: int) -> None:
    body = Chunked()

    with pytest.raises(FramingError):
        [body.feed(piece) for piece in cut(hostile, size)]


def test_a_huge_chunk_is_passed_on_as_it_comes_and_never_collected() -> None:
    body = Chunked()

    assert body.feed(b"fffffffffffffff\r\nabc") == (b"abc", None)
    assert body.feed(b"def") == (b"def", None)
    assert not body.done


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.data())
def test_any_cut_of_a_chunked_body_gives_its_payload(payloads: list[bytes], data: st.DataObject) -> None:
    stream = chunked(payloads)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    body, passed, framed_bytes = Chunked(), [], []

    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        payload, framed = body.feed(stream[begin:end])
        passed.append(payload)
        framed_bytes.append(framed or (b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""))

    assert b"".join(passed) == b"".join(payloads)
    assert (body.done, body.surplus) == (True, False)
    again = Chunked()  # the relay's output, read by the next proxy
    assert again.feed(b"".join(framed_bytes) + b"0\r\n\r\n")[0] == b"".join(payloads)
    assert again.done


@given(st.lists(st.binary(max_size=30) | st.sampled_from([b"\r\n", b"5\r\n", b"0\r\n\r\n", b"a;b\r\n"]), max_size=8), st.integers(1, 9))
def test_on_garbage_the_cut_decides_nothing(parts: list[bytes], size: int) -> None:
    stream = b"".join(parts)

    assert _outcome([stream]) == _outcome(cut(stream, size))


def _outcome(pieces: list[bytes]) -> tuple[bool, bytes] | str:
    body, passed = Chunked(), b""
    for piece in pieces:
        if body.done:
            break
        try:
            passed += body.feed(piece)[0]
        except FramingError:
            return "refused"
    return body.done, passed


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_counted_body_ends_with_its_last_byte(size: int) -> None:
    body = Counted(10)

    payload = b"".join(body.feed(piece)[0] for piece in cut(b"0123456789", size))

    assert (payload, body.done, body.surplus) == (b"0123456789", True, False)


def test_more_than_was_counted_is_surplus() -> None:
    body = Counted(3)

    assert body.feed(b"abcd") == (b"abc", None)
    assert (body.done, body.surplus) == (True, True)


@pytest.mark.parametrize(
    ("fields", "status", "kind", "keep_alive"),
    [
        (b"Content-Length: 5\r\n", 200, Counted, True),
        (b"Transfer-Encoding: chunked\r\n", 200, Chunked, True),
        (b"transfer-encoding: Chunked\r\n", 200, Chunked, True),
        (b"", 200, UntilClose, False),
        (b"Content-Length: 5\r\nConnection: close\r\n", 200, Counted, False),
        (b"Content-Length: 5\r\nConnection: close\r\nConnection: keep-alive\r\n", 200, Counted, False),
        (b"", 204, Counted, True),
        (b"Content-Length: 5\r\n", 304, Counted, True),
    ],
)
def test_the_head_says_how_the_body_ends(fields: bytes, status: int, kind: type, keep_alive: bool) -> None:
    head = Head(b"HTTP/1.1 %d X\r\n%b\r\n" % (status, fields))

    assert head.status == status
    assert isinstance(head.framing, kind)
    assert head.keep_alive is keep_alive


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\nY: b\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\nX: y\n\n",
        b"HTTP/1.1 200 OK\r\nX: " + 300 * b"y",
        20 * b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
@pytest.mark.parametrize("size", [1, 100_000])
def test_a_head_that_is_none_is_refused(raw: bytes, size: int) -> None:
    reader = HeadReader(bytes_max=256)

    with pytest.raises(HeadError):
        [reader.feed(piece) for piece in cut(raw, size)]


def test_a_field_full_of_spaces_takes_no_longer_than_another() -> None:
    raw = b"HTTP/1.1 200 OK\r\nConnection: x" + 64_000 * b" " + b"x\r\nContent-Length: 5\r\n\r\n"
    began = time.process_time()

    head = Head(raw)

    assert (head.keep_alive, time.process_time() - began < 0.5) == (True, True)  # 2 s if each space starts a search to the end


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_interim_heads_are_skipped(size: int) -> None:
    reader = HeadReader(bytes_max=256)
    raw = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

    found = [reader.feed(piece) for piece in cut(raw, size)]

    assert found[:-1] == [None] * (len(found) - 1)
    assert found[-1] is not None
    assert (found[-1][0].status, found[-1][1]) == (200, b"")


# heads with the same fields as the last one

ARK = [
    b"HTTP/1.1 200 OK",
    b"server: istio-envoy",
    b"Date: Mon, 23 Nov 2026 12:00:00 GMT",
    b"x-request-id: 0217",
    b"content-type: application/json",
    b"content-length: 480",
]
USUAL = [
    ARK,
    [*ARK, b"connection: keep-alive"],
    [*ARK, b"connection: close"],
    [*ARK, b"content-encoding: br"],
    [b"HTTP/1.1 201 Created", *ARK[1:]],
    [b"HTTP/1.0 200 OK", *ARK[1:], b"connection: keep-alive"],
    [b"HTTP/1.0 200 OK", *ARK[1:]],
    [*ARK[:-1], b"transfer-encoding: chunked"],
    [*ARK[:-1], b"Content-Length:480"],
    [b"HTTP/1.1 204 No Content", *ARK[1:-1]],
]
OTHER_LINES = [
    *(b"HTTP/1.1 201 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 200 Fine", b"HTTP/1.1 200", b"HTTP/1.1 100 Continue", b"HTTP/1.1 204 OK"),
    *(b"content-length: 5", b"content-length:5", b"content-length:  5", b"Content-Length: 5", b"content-length: +5"),
    *(b"content-length: 5 5", b"content-length: 5, 5", b"content-length: " + 20 * b"9", b"content-length: "),
    *(b"content-length : 5", b"content-lengthy: 5", b"transfer-encoding: chunked", b"connection: close", b"connection: keep-alive"),
    *(b"content-encoding: gzip", b"x-request-id", b"x-request-id: ", b"x-request-id: a\0b", b"x-request-id: a\rb"),
    *(b"x-request-id: a\nb", b"x-request-id: \xff\x01\t", b" folded", b"", b"x-request-id: " + 9000 * b"x"),
]


def _head_of(reader: HeadReader, raw: bytes) -> object:
    try:
        found = reader.feed(raw)
    except HeadError as fault:
        return str(fault)
    if found is None:
        return None
    head, rest = found
    fields = [head.field(name) for name in (b"x-request-id", b"content-encoding", b"content-type", b"no-such")]
    return head.status, type(head.framing), head.framing.feed(99 * b"x"), head.keep_alive, fields, rest


def _joined(lines: list[bytes]) -> bytes:
    return b"\r\n".join(lines) + b"\r\n\r\n{}"


@pytest.mark.parametrize("usual", USUAL, ids=lambda lines: f"{lines[0].decode()} {lines[-1].decode()}")
def test_a_known_shape_changes_nothing_of_what_a_head_says(usual: list[bytes]) -> None:
    for at in range(len(usual) + 1):
        before, after = usual[:at], usual[at + 1 :]
        for lines in (usual, before + after, *([*before, line, *rest] for line in OTHER_LINES for rest in (usual[at:], after))):
            knowing, fresh = HeadReader(bytes_max=4096), HeadReader(bytes_max=4096)
            _head_of(knowing, _joined(usual))
            knowing.restart()
            assert _head_of(knowing, _joined(lines)) == _head_of(fresh, _joined(lines)), lines


def test_a_head_of_a_known_shape_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, raw = HeadReader(bytes_max=4096), b"\r\n".join(ARK) + b"\r\n\r\n"
    first = _head_of(reader, raw)
    monkeypatch.setattr(Head, "__init__", lambda *_: pytest.fail("it was parsed"))
    for _ in range(3):
        reader.restart()
        assert _head_of(reader, raw) == first


def test_an_upstream_whose_heads_differ_each_time_is_soon_taken_as_it_is() -> None:
    reader = HeadReader(bytes_max=4096)
    before = head_module._shape.cache_info().misses
    for turn in range(50):
        reader.restart()
        assert _head_of(reader, b"\r\n".join([*ARK, b"x-%d: y" % turn]) + b"\r\n\r\n")

    assert head_module._shape.cache_info().misses - before <= LESSONS_MAX


def test_a_reader_begins_anew_after_a_head_that_came_in_pieces() -> None:
    reader, raw = HeadReader(bytes_max=256), b"HTTP/1.1 100 Continue\r\n\r\n" + b"\r\n".join(ARK) + b"\r\n\r\n"
    for _ in range(5):
        reader.restart()
        assert [reader.feed(piece) for piece in cut(raw, 100)][-1] is not None
        assert reader.begun
