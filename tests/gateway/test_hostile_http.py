"""Requests that two parsers would read differently, and disguised paths: one answer each, and no smuggled request is served."""

import itertools
from collections.abc import Callable

import pytest

from proxy.gateway.routes import PREFIXES
from tests.support.gateway import MODEL, Bench
from tests.support.raw import connect, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/api/v1/chat/completions"
HIDDEN = b"GET /api/v1/models/smuggled HTTP/1.1\r\nHost: gateway\r\n\r\n"
"""A request hidden in a body, which another proxy on the way may take for a request of another client."""
CHUNKED_END = b"0\r\n\r\n" + HIDDEN
LENGTH = ("Content-Length", str(len(CHUNKED_END)))


def post(*headers: tuple[str, str | bytes], rest: bytes = CHUNKED_END) -> bytes:
    return request("POST", CHAT, *headers) + rest


def raw(head: bytes, rest: bytes = CHUNKED_END) -> bytes:
    return b"POST /api/v1/chat/completions HTTP/1.1\r\nHost: gateway\r\n" + head + b"\r\n\r\n" + rest


TWO_READINGS = {
    "a length and chunks": post(LENGTH, ("Transfer-Encoding", "chunked")),
    "chunks and a length": post(("Transfer-Encoding", "chunked"), LENGTH),
    "a length of 0 and chunks": post(("Content-Length", "0"), ("Transfer-Encoding", "chunked")),
    "two codings": post(("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "identity")),
    "two codings the other way": post(("Transfer-Encoding", "identity"), ("Transfer-Encoding", "chunked")),
    "chunked by two headers": post(("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")),
    "a coding with a parameter": post(LENGTH, ("Transfer-Encoding", "chunked;q=1")),
    "a coding in quotes": post(LENGTH, ("Transfer-Encoding", '"chunked"')),
    "a coding after a comma": post(LENGTH, ("Transfer-Encoding", ",chunked")),
    "a coding before a comma": post(LENGTH, ("Transfer-Encoding", "chunked,")),
    "a coding behind a tab": post(LENGTH, ("Transfer-Encoding", "\tchunked")),
    "a coding behind a vertical tab": post(LENGTH, ("Transfer-Encoding", "\x0bchunked")),
    "a coding before a form feed": post(LENGTH, ("Transfer-Encoding", "chunked\x0c")),
    "a coding before a NUL": post(LENGTH, ("Transfer-Encoding", "chunked\x00")),
    "a coding in Unicode": post(LENGTH, ("Transfer-Encoding", "chun\u212aed".encode())),
    "gzip, chunked": post(LENGTH, ("Transfer-Encoding", "gzip, chunked")),
    "an empty coding": post(LENGTH, ("Transfer-Encoding", "")),
    "a space before the colon of the coding": raw(b"Content-Length: %d\r\nTransfer-Encoding : chunked" % len(CHUNKED_END)),
    "a tab before the colon of the coding": raw(b"Content-Length: %d\r\nTransfer-Encoding\t: chunked" % len(CHUNKED_END)),
    "a folded coding": raw(b"Content-Length: %d\r\nTransfer-Encoding:\r\n chunked" % len(CHUNKED_END)),
    "a coding folded into another header": raw(b"X-A: b\r\n Transfer-Encoding: chunked\r\nContent-Length: %d" % len(CHUNKED_END)),
    "a coding behind a bare line feed": raw(b"X-A: b\nTransfer-Encoding: chunked\r\nContent-Length: %d" % len(CHUNKED_END)),
    "a coding behind a bare carriage return": raw(b"X-A: b\rTransfer-Encoding: chunked\r\nContent-Length: %d" % len(CHUNKED_END)),
    "a coding behind a NUL": raw(b"X-A: b\x00\r\nTransfer-Encoding: chunked\r\nContent-Length: %d" % len(CHUNKED_END)),
    "an end of the head by bare line feeds": raw(b"Content-Length: %d\n" % len(CHUNKED_END)),
    "two lengths": post(("Content-Length", "5"), LENGTH),
    "two lengths in one": post(("Content-Length", f"5, {LENGTH[1]}")),
    "a length and spaces within": post(("Content-Length", "1 0")),
    "a length with a plus": post(("Content-Length", "+5")),
    "a length with a point": post(("Content-Length", "5.0")),
    "a length with an underscore": post(("Content-Length", "1_0")),
    "a length in full-width digits": post(("Content-Length", "\uff15".encode())),
    "a length before a vertical tab": post(("Content-Length", "5\x0b")),
    "a length before its colon": raw(b"Content-Length : 5"),
    "a folded length": raw(b"Content-Length:\r\n 5"),
    "a length beyond 64 bits": post(("Content-Length", "18446744073709551621")),
    "a chunk size with a prefix": post(("Transfer-Encoding", "chunked"), rest=b"0x5\r\nhello\r\n" + CHUNKED_END),
    "a chunk size with a plus": post(("Transfer-Encoding", "chunked"), rest=b"+5\r\nhello\r\n" + CHUNKED_END),
    "a chunk size behind a space": post(("Transfer-Encoding", "chunked"), rest=b" 5\r\nhello\r\n" + CHUNKED_END),
    "a chunk size beyond 64 bits": post(("Transfer-Encoding", "chunked"), rest=b"10000000000000005\r\nhello\r\n" + CHUNKED_END),
    "a chunk size before a bare line feed": post(("Transfer-Encoding", "chunked"), rest=b"5\nhello\r\n" + CHUNKED_END),
    "a chunk ended by a bare line feed": post(("Transfer-Encoding", "chunked"), rest=b"5\r\nhello\n" + CHUNKED_END),
    "a bare line feed in an extension": post(("Transfer-Encoding", "chunked"), rest=b"5;a\n0\r\nhello\r\n" + CHUNKED_END),
    "a bare carriage return in an extension": post(("Transfer-Encoding", "chunked"), rest=b"5;a\r0\r\nhello\r\n" + CHUNKED_END),
    "a length in a trailer": post(("Transfer-Encoding", "chunked"), rest=b"2\r\n{}\r\n0\r\nContent-Length: 9\r\n\r\n" + HIDDEN),
    "a tab for a space": b"POST\t/api/v1/chat/completions\tHTTP/1.1\r\nHost: gateway\r\n\r\n" + HIDDEN,
    "a version twice": b"POST /api/v1/chat/completions HTTP/1.1 HTTP/1.1\r\nHost: gateway\r\n\r\n" + HIDDEN,
    "a version in lower case": b"POST /api/v1/chat/completions http/1.1\r\nHost: gateway\r\n\r\n" + HIDDEN,
    "a version of two digits": b"POST /api/v1/chat/completions HTTP/01.1\r\nHost: gateway\r\n\r\n" + HIDDEN,
    "a method with a colon": b"POST: /api/v1/chat/completions HTTP/1.1\r\nHost: gateway\r\n\r\n" + HIDDEN,
    "a space before the first header": b"POST /api/v1/chat/completions HTTP/1.1\r\n Host: gateway\r\n\r\n" + HIDDEN,
    "a host with a space": b"POST /api/v1/chat/completions HTTP/1.1\r\nHost : gateway\r\n\r\n" + HIDDEN,
    "two hosts": b"POST /api/v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nhost: other\r\n\r\n" + HIDDEN,
}


@pytest.mark.parametrize("sent", TWO_READINGS.values(), ids=TWO_READINGS.keys())
async def test_what_has_two_readings_is_answered_once_and_the_connection_ends(refusing: Bench, sent: bytes) -> None:
    """However another server reads it, there is no second answer that it could take for another client's."""
    async with connect(refusing.origin) as client:
        answer = await client.ask(sent)
        rest = await client.closed()

    assert (answer.status, answer.headers["connection"]) in ((400, "close"), (401, "close"))
    assert rest == b"", "what was hidden has been answered"
    assert not refusing.log.of("/models/{id}"), "what was hidden has been served"


ONE_READING = {
    "a length with zeroes before it": (request("POST", CHAT, ("Content-Length", "0002")) + b"{}", 401),
    "chunked in upper case": (request("POST", CHAT, ("Transfer-Encoding", "CHUNKED")) + b"2\r\n{}\r\n0\r\n\r\n", 401),
    "an extension of a chunk": (request("POST", CHAT, ("Transfer-Encoding", "chunked")) + b"2;a=b\r\n{}\r\n0\r\n\r\n", 401),
    "a trailer that would be a credential": (
        request("POST", CHAT, ("Transfer-Encoding", "chunked")) + b"2\r\n{}\r\n0\r\nAuthorization: Bearer sk_x\r\n\r\n",
        401,
    ),
    "a header that is a length elsewhere": (request("POST", CHAT, ("Content_Length", "99"), body=b"{}"), 401),
    "an absolute target of another host": (request("GET", "http://other.example/api/v1/models/public"), 200),
    "a fragment in the query": (request("GET", "/api/v1/models/public?a=%23b"), 200),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "status"), ONE_READING.values(), ids=ONE_READING.keys())
async def test_what_has_one_reading_leaves_the_next_request_where_it_was(refusing: Bench, sent: bytes, status: int) -> None:
    async with connect(refusing.origin) as client:
        await client.send(sent + request("GET", "/healthz"))
        first = await client.answer()
        second = None if first.headers.get("connection") == "close" else await client.answer()

    assert first.status == status
    assert second is None or (second.status, second.json) == (200, {"status": "ok"})


PATHS = [prefix + path for prefix in PREFIXES for path in ("/models", "/account", "/chat/completions", "/usage/req_1", "/healthz")]
TRICKS: dict[str, Callable[[str], str]] = {
    "a slash and a dot": lambda path: path.replace("/v1", "/./v1"),
    "a segment and back": lambda path: path.replace("/v1", "/x/../v1"),
    "dots encoded": lambda path: path.replace("/v1", "/x/%2e%2e/v1"),
    "dots half encoded": lambda path: path.replace("/v1", "/x/.%2E/v1"),
    "a slash encoded": lambda path: path.replace("v1/", "v1%2f"),
    "a slash encoded twice": lambda path: path.replace("v1/", "v1%252f"),
    "a backslash": lambda path: path.replace("v1/", "v1\\"),
    "a backslash encoded": lambda path: path.replace("v1/", "v1%5c"),
    "an overlong slash": lambda path: path.replace("v1/", "v1%c0%af"),
    "a letter encoded": lambda path: path.replace("v1", "%76%31"),
    "a letter in upper case": lambda path: path.replace("v1", "V1"),
    "a NUL encoded": lambda path: path.replace("v1", "v1%00"),
    "a line break encoded": lambda path: path.replace("v1", "v1%0d%0a"),
    "a space encoded": lambda path: path.replace("v1", "v1%20"),
    "a parameter of a segment": lambda path: path.replace("v1", "v1;a=b"),
    "a full-width letter": lambda path: path.replace("v1", "%EF%BD%961"),
    "an IIS escape": lambda path: path.replace("v1", "%u00761"),
}


@pytest.mark.parametrize("trick", TRICKS.values(), ids=TRICKS.keys())
@pytest.mark.parametrize("path", PATHS)
async def test_a_path_that_is_nearly_a_route_is_none(refusing: Bench, path: str, trick: Callable[[str], str]) -> None:
    tricked = trick(path)
    key = ("Authorization", f"Bearer {refusing.key}")

    async with connect(refusing.origin) as client:
        for method, keyed in itertools.product(("GET", "POST", "DELETE"), (True, False)):
            answer = await client.ask(request(method, tricked, *([key] if keyed else [])))

            if tricked.endswith(("/usage/req_1", "/usage/req_1/")) and answer.status in (401, 405):
                continue  # an id may contain slashes: with a key it is looked up unchanged
            assert (answer.status, answer.error["code"]) == (404, "NOT_FOUND"), (method, tricked)


BOMBS = {
    "many credentials": [("x-api-key", "sk_x")] * 60,
    "a long credential": [("Authorization", "Bearer " + "x" * 7_000)],
    "a cookie jar": [("Cookie", "a=b; " * 1_400)],
    "many names": [(f"x-{number:03}", "y" * 60) for number in range(90)],
    "a long content type": [("Content-Type", "application/json; " + "a=b; " * 1_300)],
    "a long range": [("Range", "bytes=" + ",".join(f"{n}-{n}" for n in range(900)))],
    "a long accept": [("Accept-Encoding", "gzip;q=0.5," * 600)],
    "a long forwarded": [("X-Forwarded-For", "10.0.0.1, " * 700)],
}


@pytest.mark.parametrize("headers", BOMBS.values(), ids=BOMBS.keys())
async def test_headers_as_large_as_they_may_be_change_nothing(refusing: Bench, headers: list[tuple[str, str]]) -> None:
    body = b'{"model":"%b","messages":[]}' % MODEL.encode()
    async with connect(refusing.origin) as client:
        answer = await client.ask(request("POST", CHAT, *headers, body=body))

    assert answer.status in (400, 401, 431)
    assert len(answer.body) < 1_000


LONG_HEADERS = [(f"x-{number}", "y" * 15_000) for number in range(5)]
"""Each is shorter than a header may be; together they are longer than a head."""


@pytest.mark.parametrize("is_whole", [True, False])
async def test_a_head_too_long_as_a_whole_is_refused_whether_or_not_it_ends(refusing: Bench, is_whole: bool) -> None:
    sent = request("GET", "/api/v1/models", ("x-api-key", refusing.key), *LONG_HEADERS)
    async with connect(refusing.origin) as client:
        answer = await client.ask(sent if is_whole else sent[:-2])
        rest = await client.closed()

    assert (answer.status, answer.error["code"], answer.headers["connection"]) == (431, "HEADERS_TOO_LARGE", "close")
    assert rest == b""


async def test_a_head_as_long_as_it_may_be_is_served(refusing: Bench) -> None:
    async with connect(refusing.origin) as client:
        answer = await client.ask(request("GET", "/api/v1/models", ("x-api-key", refusing.key), *LONG_HEADERS[:4]))

    assert answer.status == 200


async def test_of_requests_that_are_sent_ahead_each_is_answered_and_one_too_long_ends_them(refusing: Bench) -> None:
    ask = request("GET", "/api/v1/models", ("x-api-key", refusing.key))
    async with connect(refusing.origin) as client:
        await client.send(ask * 40 + request("GET", "/api/v1/models", *LONG_HEADERS) + ask)
        answers = [await client.answer() for _ in range(41)]
        rest = await client.closed()

    assert [answer.status for answer in answers] == [200] * 40 + [431]
    assert rest == b""


async def test_long_bodies_one_after_the_other_are_no_head(refusing: Bench) -> None:
    sent = request("POST", CHAT, ("x-api-key", refusing.key), body=b"[" + b" " * 1_000_000 + b"]")
    async with connect(refusing.origin) as client:
        answers = [await client.ask(sent) for _ in range(5)]

    assert [answer.status for answer in answers] == [400] * 5


async def test_headers_after_a_body_are_limited_as_those_before_it(refusing: Bench) -> None:
    trailers = b"".join(b"t-%d: %b\r\n" % (number, b"y" * 15_000) for number in range(90))
    async with connect(refusing.origin) as client:
        head = request("POST", CHAT, ("x-api-key", refusing.key), ("Transfer-Encoding", "chunked"))
        answer = await client.ask(
            head + b"1\r\n[\r\n0\r\n", *(trailers[begin : begin + 15_000] for begin in range(0, 1_350_000, 15_000))
        )

    assert (answer.status, answer.error["code"], answer.headers["connection"]) == (400, "MALFORMED_REQUEST", "close")
