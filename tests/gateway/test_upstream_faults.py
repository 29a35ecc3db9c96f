"""An upstream that answers anything, breaks off anywhere, or sends too much: the customer gets a true answer and pays for what came.

These tests go through whole tables; single cases are in `test_chat_outcomes`, `test_chat_errors` and `tests/wire`.
"""

import gzip
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp
import pytest

from proxy.demo.ark import LAST_CHUNK, Answer, Close, Hang, Reset, Send, Step, Stream, answer_json, answer_sse, chunk
from tests.support.books import assert_books_balance
from tests.support.gateway import Bench, bench
from tests.support.promises import Faults
from tests.support.stand import stand

EVENT = b'data: {"choices":[{"delta":{"content":"Hel"},"index":0}],"id":"0217","usage":null}\n\n'
USAGE = b'data: {"choices":[],"id":"0217","usage":{"completion_tokens":12,"prompt_tokens":20,"total_tokens":32}}\n\n'
DONE = b"data: [DONE]\n\n"
CHARGE = 40_000
"""20 × 800 + 12 × 2,000 nano-yuan."""
ONE_EVENT = 2_000
"""One completion token: each content event counts as one if no usage came; five bytes of prompt are 0 tokens at least."""
HTML = b"<html><body>bad gateway, account 2100987654</body></html>"
ARKS = b'{"error":{"code":"Unheard.Of","message":"account 2100987654. Request id: 0217","param":"","type":"x"}}'
ANY = "an upstream that refuses or fails, with any status and any body: free, an error of ours, nothing of the operator's"
CUT = "a stream that is reset after any of its bytes: shown as broken, charged by its usage, or by the events that came whole"
NONSENSE = "an upstream that floods, lies or speaks no HTTP: bounded in memory, an outage to the customer, settled once"


@pytest.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(tmp_path, first_byte_seconds=0.5, idle_seconds=0.5) as running:
        yield running


async def charged(gateway: Bench) -> int:
    """Return what has been charged so far, once nothing is held."""
    before = await gateway.balance()
    assert before[1] == 0
    return before[0]


# Any status, any body.


BODIES = {"JSON": ("application/json", ARKS), "HTML": ("text/html", HTML), "nothing": ("text/plain", b"")}


@pytest.mark.promise(ANY)
@pytest.mark.parametrize("body", BODIES)
async def test_every_status_is_free_and_an_error_of_ours(hasty: Bench, faults: Faults, body: str) -> None:
    content_type, content = BODIES[body]
    for status in range(400, 600):
        for stream in (False, True):
            hasty.ark.enqueue(answer_json(status, content, {"content-type": content_type}))

            answer = await hasty.chat(stream=stream)

            assert answer.status in ((413,) if status == 413 else (400, 500, 503)), (status, answer.body)
            assert answer.error["code"]
            assert b"2100987654" not in answer.body
            faults.injected += 1
    await hasty.assert_charged(0)


@pytest.mark.promise(ANY)
@pytest.mark.parametrize("status", [200, 201, 204, 206, 300, 302, 304, 399])
@pytest.mark.parametrize("body", BODIES)
async def test_so_is_every_other_that_is_no_answer(hasty: Bench, status: int, body: str) -> None:
    content_type, content = BODIES[body]
    hasty.ark.enqueue([*answer_json(status, content, {"content-type": content_type}), Close()])

    answer = await hasty.chat(stream=True)

    assert answer.status in (500, 503), answer.body
    await hasty.assert_charged(0)


# A reset after k bytes.


def whole_stream() -> bytes:
    """Return the bytes of a stream of three events, with head and framing."""
    return b"".join(step.payload for step in answer_sse(EVENT + USAGE + DONE, cut=None) if isinstance(step, Send))


@pytest.mark.promise(CUT)
@pytest.mark.timeout(180)
async def test_a_stream_of_three_events_that_is_reset_after_any_byte(hasty: Bench, faults: Faults) -> None:
    wire = whole_stream()
    head_bytes = wire.index(b"\r\n\r\n") + 4
    body_at = wire.index(EVENT)
    for count in range(len(wire)):
        before = await charged(hasty)
        hasty.ark.enqueue([Send(wire[:count]), Reset()])

        answer = await hasty.chat(stream=True, stream_options={"include_usage": True})

        came = wire[body_at:count]
        if count < head_bytes:
            assert (answer.status, answer.error["code"]) == (503, "MODEL_UNAVAILABLE")
            owed = 0
        elif DONE in came:  # all content has come; only the end of the framing is missing
            assert answer.body == EVENT + USAGE + DONE
            owed = CHARGE
        else:
            assert DONE not in answer.body
            assert answer.body.count(b'"error"') == 1
            relayed = b"".join(event for event in (EVENT, USAGE) if event in came)
            assert answer.body.startswith(relayed)
            owed = CHARGE if USAGE[:-2] in came else ONE_EVENT if EVENT in came else 0
        assert before - await charged(hasty) == owed, (count, wire[:count], answer.body)
        faults.injected += 1
    await assert_books_balance(hasty.store)


# Nonsense.


INTERIM = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
FLOODS: dict[str, list[Step]] = {
    "1xx without end": [Stream(INTERIM * 1_000 for _ in range(200)), Hang()],
    "headers without end": [Send(b"HTTP/1.1 200 OK\r\n"), Stream(b"x-a: b\r\n" * 1_000 for _ in range(200)), Hang()],
    "one header without end": [Send(b"HTTP/1.1 200 OK\r\nx-a: "), Stream(b"b" * 100_000 for _ in range(20)), Hang()],
    "a chunk's extension without end": [Send(HEAD + b"5;"), Stream(b"b" * 100_000 for _ in range(20)), Hang()],
    "trailers without end": [Send(HEAD + chunk(EVENT) + b"0\r\n"), Stream(b"x-a: b\r\n" * 10_000 for _ in range(20)), Hang()],
    "two lengths": [Send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef"), Hang()],
    "length and chunks": [Send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nzzzzz"), Hang()],
    "a negative chunk": [Send(HEAD + b"-5\r\nhello\r\n"), Hang()],
    "a chunk of 2^64 bytes": [Send(HEAD + b"1" + b"0" * 16 + b"\r\nhello\r\n"), Hang()],
    "a chunk without its end": [Send(HEAD + b"5\r\nhelloX\r\n"), Hang()],
    "bytes of nothing": [Send(bytes(1_000)), Hang()],
    "TLS": [Send(b"\x15\x03\x01\x00\x02\x02\x28"), Close()],
    "an answer of FTP": [Send(b"220 ready\r\n"), Close()],
    "gzip, though none was asked for": [
        *answer_json(200, gzip.compress(EVENT + DONE), {"content-encoding": "gzip", "content-type": "text/event-stream"})
    ],
}


@pytest.mark.promise(NONSENSE)
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
async def test_nonsense_is_an_outage_and_serves_nobody_else(hasty: Bench, flood: Sequence[Step]) -> None:
    hasty.ark.enqueue(flood)

    answer = await hasty.chat(stream=True)
    after = await hasty.chat()

    if answer.status == 200:  # its head was sound
        assert b"MODEL_UNAVAILABLE" in answer.body
        assert DONE not in answer.body
    else:
        assert (answer.status, answer.error["code"]) == (503, "MODEL_UNAVAILABLE")
    assert after.status == 200
    receipt = (await hasty.ask(f"/usage/{answer.headers['x-request-id']}")).json
    assert (receipt["status"], receipt["outcome"]) == ("settled", "upstream_cut" if answer.status == 200 else "upstream_error")
    assert receipt["cost"] in ("0.00", "0.000002")  # one whole event came, or none
    await assert_books_balance(hasty.store)


@pytest.mark.promise(NONSENSE)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_comes_before_the_request_was_read_is_an_answer_to_it(hasty: Bench, stream: bool) -> None:
    events = answer_sse(EVENT + USAGE + DONE) if stream else [Answer()]
    hasty.ark.enqueue([Send(INTERIM), *events], when="head" if stream else "body")

    answer = await hasty.chat(stream=stream)

    assert answer.status == 200
    assert (await hasty.chat()).status == 200  # over another connection, or a clean one
    await hasty.assert_charged(2 * CHARGE)


@pytest.mark.promise(NONSENSE)
async def test_invalid_utf_8_within_a_stream_is_relayed_as_it_came_and_charged(hasty: Bench) -> None:
    broken = EVENT.replace(b"Hel", b"H\xff\xc3l")
    hasty.ark.enqueue([*answer_sse(EVENT + broken + USAGE + DONE)])

    answer = await hasty.chat(stream=True)

    assert (answer.status, answer.body) == (200, EVENT + broken + DONE)
    await hasty.assert_charged(CHARGE)


@pytest.mark.promise(NONSENSE)
async def test_an_answer_of_invalid_utf_8_is_none(hasty: Bench) -> None:
    hasty.ark.enqueue(
        answer_json(200, b'{"choices":[{"message":{"content":"\xff"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}')
    )

    answer = await hasty.chat()

    assert answer.status == 500
    await hasty.assert_charged(0)


def peak_bytes(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


HUGE = 100_000_000
PIECE = b"x" * 1_000_000
LINES: dict[str, list[Step]] = {
    "an event of one line": [Send(HEAD + chunk(b"data: ")), Stream(chunk(PIECE) for _ in range(100)), Send(LAST_CHUNK)],
    "a JSON answer": [
        Send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % HUGE),
        Stream(PIECE for _ in range(100)),
    ],
    "an error": [Send(b"HTTP/1.1 500 Oops\r\ncontent-length: %d\r\n\r\n" % HUGE), Stream(PIECE for _ in range(100))],
}


@pytest.mark.promise(NONSENSE)
@pytest.mark.parametrize("line", LINES)
async def test_a_hundred_megabytes_in_one_line_are_given_up_in_bounded_memory(tmp_path: Path, line: str) -> None:
    async with stand(tmp_path) as one:
        assert await one.start()
        await one.customers(4, calls=3)
        before = peak_bytes(one.gateway.pid)
        one.ark.forget_scripts()
        one.ark.enqueue(LINES[line])
        async with aiohttp.ClientSession(one.gateway.origin) as session:
            body = {"model": "doubao-pro-32k", "messages": [{"role": "user", "content": "Hello"}], "stream": "event" in line}
            async with session.post("/v1/chat/completions", json=body, headers=one.headers("000")) as answer:
                said = await answer.read()

        assert b"MODEL_UNAVAILABLE" in said
        # At most 32 MiB of a JSON answer may be kept, some megabytes of one event, a quarter of one of an error.
        assert peak_bytes(one.gateway.pid) - before < (200_000_000 if line == "a JSON answer" else 60_000_000)
        await one.all_ended()
        async with one.gateway.looked_into() as store:
            await assert_books_balance(store)
