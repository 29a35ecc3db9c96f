"""Unusual and broken HTTP: every answer is documented JSON with a request id, and the gateway serves the next request."""

import re

import pytest

from tests.support.gateway import MODEL, Bench
from tests.support.raw import RawAnswer, connect, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/api/v1/chat/completions"
PUBLIC = "/api/v1/models/public"
CANARY = "canary-prompt-3b91"
BODY = b'{"model":"%b","messages":[]}' % MODEL.encode()
CHUNKED = ("Transfer-Encoding", "chunked")
HOST = b"Host: gateway\r\n"


def key_of(gateway: Bench) -> tuple[str, str]:
    return "Authorization", f"Bearer {gateway.key}"


def assert_refused(answer: RawAnswer, status: int, code: str) -> None:
    assert (answer.status, answer.error["code"], answer.error["type"]) == (status, code, "invalid_request_error")
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["server"] == "llm-proxy"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert CANARY.encode() not in answer.body


MALFORMED = {
    "no HTTP": CANARY.encode() + b"\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown method": request("BREW", PUBLIC),
    "a method in lower case": request("get", PUBLIC),
    "no version": b"GET /api/v1/models/public\r\n" + HOST + b"\r\n" + CANARY.encode(),
    "HTTP/1.2": request("GET", PUBLIC, version="HTTP/1.2"),
    "HTTP/3.0": request("GET", PUBLIC, version="HTTP/3.0"),
    "no Host": request("GET", PUBLIC, host=False),
    "two Hosts": request("GET", PUBLIC, ("Host", "other")),
    "a space in the target": request("GET", "/api/v1/models/a b"),
    "a raw byte in the target": request("GET", "/api/v1/models/").replace(b"models/", b"models/\xff"),
    "a NUL in the target": request("GET", "/api/v1/models/\x00"),
    "a target that is no path": request("GET", "models"),
    "bare line feeds": request("GET", PUBLIC).replace(b"\r\n", b"\n"),
    "a bare carriage return": request("GET", PUBLIC, ("x-a", "a\rx-b: b")),
    "a folded header": request("GET", PUBLIC, ("x-a", f"a\r\n {CANARY}")),
    "a space before the colon": request("GET", PUBLIC, ("x-api-key ", CANARY)),
    "a header without a name": request("GET", PUBLIC, ("", CANARY)),
    "a header without a colon": request("GET", PUBLIC).replace(HOST, HOST + CANARY.encode() + b"\r\n"),
    "a NUL in a header": request("GET", PUBLIC, ("x-api-key", f"{CANARY}\x00")),
    "a control character in a header": request("GET", PUBLIC, ("x-api-key", f"{CANARY}\x01")),
    "a length and chunks": request("POST", CHAT, CHUNKED, body=b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n"),
    "two lengths": request("POST", CHAT, ("Content-Length", "3"), body=b"hello"),
    "two equal lengths": request("POST", CHAT, ("Content-Length", "5"), body=b"hello"),
    "a list of lengths": request("POST", CHAT, ("Content-Length", "5, 5")) + b"hello",
    "a signed length": request("POST", CHAT, ("Content-Length", "+5")) + b"hello",
    "a negative length": request("POST", CHAT, ("Content-Length", "-5")) + b"hello",
    "a hexadecimal length": request("POST", CHAT, ("Content-Length", "0x5")) + b"hello",
    "an empty length": request("POST", CHAT, ("Content-Length", "")) + b"hello",
    "an unknown coding": request("POST", CHAT, ("Transfer-Encoding", "identity")) + b"0\r\n\r\n",
    "chunked in disguise": request("POST", CHAT, ("Transfer-Encoding", "xchunked")) + b"0\r\n\r\n",
    "chunked before the last": request("POST", CHAT, ("Transfer-Encoding", "chunked, gzip")) + b"0\r\n\r\n",
    "chunked twice": request("POST", CHAT, ("Transfer-Encoding", "chunked, chunked")) + b"0\r\n\r\n",
    "a chunk size that is none": request("POST", CHAT, CHUNKED) + b"zz\r\n",
    "a negative chunk size": request("POST", CHAT, CHUNKED) + b"-1\r\n",
    "a vast chunk size": request("POST", CHAT, CHUNKED) + b"f" * 32 + b"\r\n",
    "a chunk longer than its size": request("POST", CHAT, CHUNKED) + b"2\r\n" + CANARY.encode() + b"\r\n0\r\n\r\n",
    "chunks with bare line feeds": request("POST", CHAT, CHUNKED) + b"2\n{}\n0\n\n",
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_http_gets_the_documented_json_and_the_connection_ends(refusing: Bench, sent: bytes) -> None:
    async with connect(refusing.origin) as client:
        answer = await client.ask(sent)
        rest = await client.closed()

    assert_refused(answer, 400, "MALFORMED_REQUEST")
    assert answer.headers["connection"] == "close"
    assert rest == b"", "what followed was taken for a request"


@pytest.mark.parametrize("version", ["HTTP/2.0", "HTTP/0.9"])
async def test_a_version_that_is_not_spoken_is_answered_in_one_that_is(refusing: Bench, version: str) -> None:
    async with connect(refusing.origin) as client:
        answer = await client.ask(request("GET", PUBLIC, version=version))
        await client.closed()

    assert (answer.status, answer.error["code"]) == (400, "MALFORMED_REQUEST")


LIMITS = {
    "a long target": request("GET", "/api/v1/models/" + "x" * 20_000),
    "a long query": request("GET", PUBLIC + "?" + CANARY + "x" * 20_000),
    "a long header": request("GET", PUBLIC, ("x-api-key", CANARY + "x" * 20_000)),
    "a long header name": request("GET", PUBLIC, (CANARY + "x" * 20_000, "1")),
    "a header that never ends": request("GET", PUBLIC)[:-2] + b"x-a: " + b"x" * 200_000,
    "many headers": request("GET", PUBLIC, *[(f"x-{number}", CANARY) for number in range(120)]),
    "many empty headers": request("GET", PUBLIC, *[("x", "")] * 10_000),
}


@pytest.mark.parametrize("sent", LIMITS.values(), ids=LIMITS.keys())
async def test_headers_over_the_limits_are_refused(refusing: Bench, sent: bytes) -> None:
    async with connect(refusing.origin) as client:
        answer = await client.ask(sent)

    assert_refused(answer, 431, "HEADERS_TOO_LARGE")


BROKEN_BODIES = {
    "a chunk size that is none": b"zz\r\n",
    "a chunk longer than its size": b"2\r\nhello\r\n",
    "a chunk without its end": b"2\r\n{}0\r\n\r\n",
}


@pytest.mark.parametrize("rest", BROKEN_BODIES.values(), ids=BROKEN_BODIES.keys())
async def test_a_body_that_breaks_while_it_is_awaited_is_refused_at_once(refusing: Bench, rest: bytes) -> None:
    head = request("POST", CHAT, key_of(refusing), CHUNKED, ("Expect", "100-continue"))

    async with connect(refusing.origin) as client:
        go_on = await client.ask(head)  # from here on the handler waits for the body
        answer = await client.ask(b"5\r\nhello\r\n", rest)
        await client.closed()

    assert go_on.status == 100
    assert (answer.status, answer.error["code"]) == (400, "MALFORMED_REQUEST")
    assert refusing.log.written[-1]["status"] == 400


async def test_a_body_nobody_wants_may_break_without_a_word(refusing: Bench) -> None:
    async with connect(refusing.origin) as client:
        answer = await client.ask(request("POST", CHAT, CHUNKED))
        await client.send(b"zz\r\n")
        await client.closed()

    assert (answer.status, answer.error["code"]) == (401, "MISSING_API_KEY")


async def test_a_client_that_leaves_in_its_body_is_logged_as_one_that_left(refusing: Bench) -> None:
    async with connect(refusing.origin) as client:
        await client.ask(request("POST", CHAT, key_of(refusing), ("Expect", "100-continue"), ("Content-Length", "1000")))
        client.writer.write(b"{")
        client.writer.transport.abort()
        while not refusing.log.written:
            await refusing.ask("/models/public")
            refusing.log.written[:] = [line for line in refusing.log.written if line["route"] != "/models/public"]

    assert [line["status"] for line in refusing.log.written] == [499]


async def test_expect_is_answered_before_the_body_is_sent(refusing: Bench) -> None:
    async with connect(refusing.origin) as client:
        go_on = await client.ask(
            request("POST", CHAT, key_of(refusing), ("Expect", "100-Continue"), ("Content-Length", str(len(BODY))))
        )
        answer = await client.ask(BODY)
        again = await client.ask(request("GET", PUBLIC))

    assert (go_on.status, dict(go_on.headers)) == (100, {})
    assert (answer.status, answer.error["code"]) == (400, "INVALID_MESSAGES")
    assert answer.headers.get("connection") == "close" or again.status == 200


async def test_http_1_0_is_never_told_to_go_on(refusing: Bench) -> None:
    """RFC 9110, 10.1.1: an HTTP/1.0 request gets no 100."""
    expecting = request(
        "POST", CHAT, key_of(refusing), ("Expect", "100-continue"), ("Content-Length", str(len(BODY))), version="HTTP/1.0"
    )
    async with connect(refusing.origin) as client:
        await client.send(expecting)
        await refusing.ask("/models/public")  # by then its handler waits for the body
        answer = await client.ask(BODY)

    assert (answer.status, answer.error["code"]) == (400, "INVALID_MESSAGES")


async def test_a_refusal_without_the_expected_body_ends_the_connection(refusing: Bench) -> None:
    async with connect(refusing.origin) as client:
        answer = await client.ask(request("POST", CHAT, ("Expect", "100-continue"), ("Content-Length", "50")))

    assert (answer.status, answer.headers["connection"]) == (401, "close")


async def test_http_1_0_is_answered_and_closed(refusing: Bench) -> None:
    async with connect(refusing.origin) as client:
        answer = await client.ask(request("GET", PUBLIC, version="HTTP/1.0", host=False))
        rest = await client.closed()

    assert (answer.status, answer.json["object"], rest) == (200, "list", b"")


async def test_http_1_0_may_keep_its_connection(refusing: Bench) -> None:
    async with connect(refusing.origin) as client:
        answers = [
            await client.ask(request("GET", PUBLIC, ("Connection", "keep-alive"), version="HTTP/1.0", host=False)) for _ in range(2)
        ]

    assert [(answer.status, answer.headers["connection"]) for answer in answers] == [(200, "keep-alive")] * 2


async def test_pipelined_requests_are_answered_in_their_order(refusing: Bench) -> None:
    key = key_of(refusing)

    async with connect(refusing.origin) as client:
        await client.send(
            request("GET", PUBLIC)
            + request("POST", CHAT, key, body=BODY)
            + request("HEAD", PUBLIC)
            + request("GET", "/nothing")
            + request("POST", CHAT, key, CHUNKED)
            + b"%x\r\n%b\r\n0\r\nx-trailer: a\r\n\r\n" % (len(BODY), BODY)
        )
        answers = [await client.answer(head=number == 2) for number in range(5)]
        answers.append(await client.ask(b"rubbish\r\n\r\n"))
        await client.closed()

    assert [answer.status for answer in answers] == [200, 400, 200, 404, 400, 400]
    assert [answer.error["code"] for answer in (answers[1], *answers[3:])] == [
        "INVALID_MESSAGES", "NOT_FOUND", "INVALID_MESSAGES", "MALFORMED_REQUEST",
    ]  # fmt: skip
    assert len({answer.headers["x-request-id"] for answer in answers}) == 6


async def test_a_flood_of_pipelined_requests_is_answered_whole(refusing: Bench) -> None:
    async with connect(refusing.origin) as client:
        await client.send(request("GET", "/healthz") * 500)
        statuses = [(await client.answer()).status for _ in range(500)]

    assert statuses == [200] * 500


async def test_a_body_on_a_get_is_passed_over(refusing: Bench) -> None:
    async with connect(refusing.origin) as client:
        first = await client.ask(request("GET", PUBLIC, body=b"GET /admin HTTP/1.1\r\n\r\n"))
        second = await client.ask(request("GET", PUBLIC))

    assert (first.status, second.status) == (200, 200)


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "TLS/1.0", "\u017f"])
async def test_an_upgrade_is_declined_by_answering(refusing: Bench, protocol: str) -> None:
    async with connect(refusing.origin) as client:
        first = await client.ask(request("GET", PUBLIC, ("Connection", "Upgrade"), ("Upgrade", protocol)))
        second = await client.ask(request("GET", PUBLIC))

    assert (first.status, second.status) == (200, 200)


async def test_an_upgrade_that_is_answered_before_its_body_came_is_declined_too(refusing: Bench) -> None:
    asked = request("POST", "/nowhere", ("Connection", "Upgrade"), ("Upgrade", "websocket"), body=b"hello")
    async with connect(refusing.origin) as client:
        first = await client.ask(asked[:-2])
        second = await client.ask(asked[-2:] + request("GET", PUBLIC))

    assert (first.status, second.status) == (404, 200)


@pytest.mark.parametrize("beginning", ["no HTTP\r\n\r\n", f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"])
async def test_a_refusal_is_not_lost_to_what_the_client_still_sends(refusing: Bench, beginning: str) -> None:
    async with connect(refusing.origin) as client:
        await client.send(beginning.encode())
        await client.send(b"zz\r\n" + bytes(1_000_000))

        answer = await client.answer()
        rest = await client.reader.read()  # a reset would raise

    assert (answer.status, rest) == (400, b"")


async def test_connect_finds_nothing(refusing: Bench) -> None:
    async with connect(refusing.origin) as client:
        answer = await client.ask(request("CONNECT", "example.com:443"))

    assert (answer.status, answer.error["code"]) == (404, "NOT_FOUND")


IDS = ["mine", "a" * 10_000, "a\tb", "\u202e", b"\xff\xfe", "req_" + "0" * 26, "<script>", ""]


@pytest.mark.parametrize("value", IDS, ids=[repr(value[:12]) for value in IDS])
async def test_the_request_id_is_ours_whatever_the_client_sends(refusing: Bench, value: str | bytes) -> None:
    async with connect(refusing.origin) as client:
        answer = await client.ask(request("GET", PUBLIC, ("x-request-id", value)))

    assert re.fullmatch(r"req_[0-9a-z]{26,28}", answer.headers["x-request-id"])
    assert answer.headers["x-request-id"] != value
    assert refusing.log.written[-1]["request_id"] == answer.headers["x-request-id"]
