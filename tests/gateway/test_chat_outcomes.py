"""All ways in which a chat call can end, with its receipt and the books: one outcome each, exact to the nano-yuan."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest

from proxy.demo.ark import LAST_CHUNK, Check, Close, Hang, Reset, Send, Step, Wait, answer_json, answer_sse, chunk, error
from tests.support.gateway import Bench, Reply, bench
from tests.support.promises import UPSTREAM_AWAY
from tests.support.raw_chat import RawChat, raw_chat

REPORTED = 40_000
"""20 prompt tokens at ¥0.8/M and 12 completion tokens at ¥2/M: 20 × 800 + 12 × 2,000 nano-yuan."""
ESTIMATED_NOTHING = 0
"""5 bytes of prompt are 0 tokens at least (8 bytes a token at most)."""

EVENT = b'data: {"choices":[{"delta":{"content":"Hel"},"index":0}],"id":"0217","usage":null}\n\n'
USAGE = b'data: {"choices":[],"id":"0217","usage":{"completion_tokens":12,"prompt_tokens":20,"total_tokens":32}}\n\n'
ENDED = b'data: {"choices":[{"delta":{},"finish_reason":"stop","index":0}],"id":"0217","usage":null}\n\n'
DONE = b"data: [DONE]\n\n"
LONG_PROMPT = [{"role": "user", "content": "p" * 800}]
"""At least 800 / 8 = 100 tokens, which cost 80,000 nano-yuan."""


def events(body: bytes) -> list[Any]:
    """Return the data of each event, parsed if it is JSON."""
    texts = [part.removeprefix(b"data: ") for part in body.split(b"\n\n") if part]
    return [text.decode() if text == b"[DONE]" else orjson.loads(text) for text in texts]


async def receipt_of(gateway: Bench, request_id: object) -> dict[str, Any]:
    answer = await gateway.ask(f"/usage/{request_id}")
    assert answer.status == 200
    receipt: dict[str, Any] = answer.json
    assert receipt["status"] == "settled"
    return receipt


async def told(gateway: Bench, answer: Reply) -> tuple[str, str, str]:
    """Return outcome, source of the usage and cost from the receipt."""
    receipt = await receipt_of(gateway, answer.headers["x-request-id"])
    return receipt["outcome"], receipt["usage_source"], receipt["cost"]


async def told_in_log(gateway: Bench) -> tuple[str, str, str]:
    """Return the same for the one call whose client did not wait for an answer."""
    (line,) = await gateway.log.until_chats()
    receipt = await receipt_of(gateway, line["request_id"])
    assert (line["outcome"], line["usage"], line["cost"]) == (receipt["outcome"], receipt["usage_source"], receipt["cost"])
    return receipt["outcome"], receipt["usage_source"], receipt["cost"]


@asynccontextmanager
async def leaving_in_mid_stream(gateway: Bench, *then: Step, **fields: Any) -> AsyncIterator[RawChat]:
    """Ask for a stream, leave after its first event, and only then let the upstream play ``then``."""
    gone = asyncio.Event()
    gateway.ark.enqueue([*answer_sse(EVENT, end=False), Wait(gone), *then])
    async with raw_chat(gateway.origin, gateway.key, stream=True, **fields) as client:
        assert (await client.head())[0] == 200
        await client.first_bytes(len(EVENT))
        client.leave()
        await asyncio.sleep(0)
        yield client
        gone.set()


# complete


@pytest.mark.parametrize("stream", [False, True])
async def test_a_whole_answer_is_complete_and_its_receipt_is_there_with_its_last_byte(gateway: Bench, stream: bool) -> None:
    answer = await gateway.chat(stream=stream, max_tokens=100)

    receipt = await receipt_of(gateway, answer.headers["x-request-id"])
    assert receipt | {"created_at": 0, "settled_at": 0, "first_byte_ms": 0, "total_ms": 0} == {
        "object": "usage",
        "id": answer.headers["x-request-id"],
        "kind": "chat",
        "model": "doubao-pro-32k",
        "stream": stream,
        "status": "settled",
        "created_at": 0,
        "settled_at": 0,
        # 5 bytes of text + 32 for one message + 256 = 293 tokens at ¥0.8/M, and 100 at ¥2/M: 234,400 + 200,000 nano-yuan
        "hold": "0.0004344",
        "currency": "CNY",
        "outcome": "complete",
        "usage_source": "reported",
        "usage": {"prompt_tokens": 20, "cached_tokens": 0, "completion_tokens": 12, "reasoning_tokens": 0},
        "units": 0,
        "cost": "0.00004",
        "formula": "20 × ¥0.8/M + 12 × ¥2/M = ¥0.00004",
        "shortfall": "0.00",
        "discount": "1",
        "refunded": "0.00",
        "http_status": 200,
        "first_byte_ms": 0,
        "total_ms": 0,
    }
    await gateway.assert_charged(REPORTED)


async def test_a_stream_whose_upstream_breaks_after_done_is_complete(gateway: Bench) -> None:
    gateway.ark.enqueue([*answer_sse(EVENT + USAGE + DONE, end=False), Reset()])

    answer = await gateway.chat(stream=True)

    assert answer.body == EVENT + DONE
    assert await told(gateway, answer) == ("complete", "reported", "0.00004")
    await gateway.assert_charged(REPORTED)


async def test_an_answer_without_usage_is_estimated_from_its_text(gateway: Bench) -> None:
    gateway.ark.enqueue(answer_json(200, {"id": "0217", "choices": [{"message": {"content": "c" * 80}}]}))

    answer = await gateway.chat(messages=LONG_PROMPT)

    # 800 / 8 = 100 tokens at ¥0.8/M and 80 / 8 = 10 at ¥2/M: 80,000 + 20,000 nano-yuan
    assert await told(gateway, answer) == ("complete", "estimated", "0.0001")
    await gateway.assert_charged(100_000)


@pytest.mark.parametrize("usage", [b'{"prompt_tokens":0,"completion_tokens":0}', b'{"prompt_tokens":0,"completion_tokens":0,"x":1}'])
async def test_usage_reported_as_zero_is_zero(gateway: Bench, usage: bytes) -> None:
    gateway.ark.enqueue(answer_sse(EVENT + b'data: {"choices":[],"usage":' + usage + b"}\n\n" + DONE))

    answer = await gateway.chat(stream=True, messages=LONG_PROMPT)

    assert await told(gateway, answer) == ("complete", "reported", "0.00")
    await gateway.assert_charged(0)


@pytest.mark.parametrize(
    "usage",
    [
        b"{}",
        b'"20"',
        b"[20,12]",
        b'{"prompt_tokens":-1,"completion_tokens":12}',
        b'{"prompt_tokens":20.5,"completion_tokens":12}',
        b'{"prompt_tokens":"20","completion_tokens":12}',
        b'{"prompt_tokens":true,"completion_tokens":12}',
        b'{"prompt_tokens":100000000000000000000,"completion_tokens":12}',
        b'{"prompt_tokens":20}',
        b'{"completion_tokens":12}',
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_usage_that_is_no_usage_is_not_believed_but_estimated(gateway: Bench, usage: bytes, stream: bool) -> None:
    body = b'{"choices":[{"message":{"content":"12345678"}}],"usage":' + usage + b"}"
    events = b'data: {"choices":[{"delta":{"content":"Hel"},"finish_reason":"stop"}],"usage":' + usage + b"}\n\n" + DONE
    gateway.ark.enqueue(answer_sse(events) if stream else answer_json(200, body))

    answer = await gateway.chat(stream=stream, messages=LONG_PROMPT)

    # 800 / 8 = 100 tokens of prompt at ¥0.8/M, and one of completion at ¥2/M: a content event, or 8 bytes of text
    assert answer.status == 200
    assert await told(gateway, answer) == ("complete", "estimated", "0.000082")
    await gateway.assert_charged(82_000)


@pytest.mark.parametrize(
    ("written", "what"),
    [
        (b'"content":"cut \\ud83d"', "half a surrogate pair"),
        (b'"content":"a","logprobs":{"content":[{"logprob":-Infinity},{"logprob":NaN}]}', "numbers that JSON has not"),
        (b'"content":"NaN \\"Infinity\\" \\\\","logprob":-Infinity', "the like within a text"),
        (b'"content":"a","logprob":-1e999', "a number beyond a double"),
        (b'"content":"a","logprob":-1' + b"0" * 309, "the same in digits"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_sdks_read_and_a_strict_parser_does_not_is_passed_on_and_charged(
    gateway: Bench, written: bytes, what: str, stream: bool
) -> None:
    # the upstream has made the answer and bills it: a refusal would leave the bill to the operator and invite a retry
    usage = b'"usage":{"prompt_tokens":20,"completion_tokens":12,"total_tokens":32}'
    whole = b'{"choices":[{"index":0,"%b":{%b}}],%b}' % (b"delta" if stream else b"message", written, usage)
    gateway.ark.enqueue(answer_sse(b"data: " + whole + b"\n\n" + DONE) if stream else answer_json(200, whole))

    answer = await gateway.chat(stream=stream)

    assert answer.status == 200, what
    assert whole in answer.body
    await gateway.assert_charged(REPORTED)


async def test_cached_tokens_are_charged_at_their_own_price(gateway: Bench) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 600}}
    gateway.ark.enqueue(answer_json(200, {"choices": [{"message": {}}], "usage": usage}))

    await gateway.chat(messages=[{"role": "user", "content": "p" * 2000}])

    # 400 × 800 + 600 × 160 + 10 × 2,000 nano-yuan
    await gateway.assert_charged(320_000 + 96_000 + 20_000)


async def test_usage_above_the_hold_is_charged_up_to_the_hold_and_the_rest_is_marked(gateway: Bench) -> None:
    gateway.ark.enqueue(answer_json(200, {"choices": [{"message": {}}], "usage": {"prompt_tokens": 20, "completion_tokens": 1000}}))

    answer = await gateway.chat(max_tokens=10)

    # held: 293 × 800 + 10 × 2,000 = 254,400; used: 20 × 800 + 1,000 × 2,000 = 2,016,000 nano-yuan
    found = await gateway.store.receipt(answer.headers["x-request-id"])
    assert found is not None
    assert found[0].settlement is not None
    assert found[0].settlement.shortfall_nanos == 2_016_000 - 254_400
    await gateway.assert_charged(254_400)


async def test_a_stream_without_usage_costs_nothing_where_unknown_usage_is_free(tmp_path: Path) -> None:
    async with bench(tmp_path, unknown_usage="free") as gateway:
        gateway.ark.enqueue(answer_sse(EVENT + ENDED + DONE))

        answer = await gateway.chat(stream=True, messages=LONG_PROMPT)

        assert await told(gateway, answer) == ("complete", "none", "0.00")
        await gateway.assert_charged(0)


# upstream_cut


CUTS: dict[str, list[Step]] = {
    "FIN": [Close()],
    "RST": [Reset()],
    "no [DONE]": [Send(LAST_CHUNK)],
    "half an event": [Send(chunk(b'data: {"choices":[{"del')), Close()],
    "half a chunk": [Send(b"ff\r\ndata: {"), Reset()],
    "no chunk at all": [Send(b"zz\r\n")],
    "silence": [Hang()],
}


@pytest.mark.promise(UPSTREAM_AWAY)
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
async def test_a_stream_that_breaks_shows_it_and_is_charged_by_what_came(tmp_path: Path, cut: list[Step]) -> None:
    async with bench(tmp_path, idle_seconds=0.3) as gateway:
        gateway.ark.enqueue([*answer_sse(EVENT + EVENT, end=False), *cut])

        answer = await gateway.chat(stream=True, messages=LONG_PROMPT)

        assert answer.status == 200
        assert answer.body.startswith(EVENT + EVENT)
        (broken,) = events(answer.body[len(EVENT + EVENT) :])
        assert broken["error"] | {"message": ""} == {
            "type": "service_unavailable_error",
            "code": "MODEL_UNAVAILABLE",
            "message": "",
            "param": None,
        }
        # 100 tokens of prompt at ¥0.8/M, two content events at ¥2/M: 80,000 + 4,000 nano-yuan
        assert await told(gateway, answer) == ("upstream_cut", "estimated", "0.000084")
        await gateway.assert_charged(84_000)


async def test_a_break_after_the_usage_is_charged_by_the_usage(gateway: Bench) -> None:
    gateway.ark.enqueue([*answer_sse(EVENT + USAGE, end=False), Reset()])

    answer = await gateway.chat(stream=True)

    assert DONE not in answer.body
    assert await told(gateway, answer) == ("upstream_cut", "reported", "0.00004")
    assert [line["bytes"] for line in gateway.log.chats] == [len(answer.body)]
    await gateway.assert_charged(REPORTED)


@pytest.mark.parametrize("cut", [*CUTS.values()], ids=[*CUTS.keys()])
async def test_a_break_makes_the_sdk_raise(tmp_path: Path, cut: list[Step]) -> None:
    async with bench(tmp_path, idle_seconds=1) as gateway:
        gateway.ark.enqueue([*answer_sse(EVENT, end=False), *cut])
        async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key=gateway.key, max_retries=0) as client:
            stream = await client.chat.completions.create(
                model="doubao-pro-32k", messages=[{"role": "user", "content": "Hello"}], stream=True
            )

            first = await anext(stream)
            with pytest.raises(openai.APIError) as raised:
                await anext(stream)

        assert first.choices[0].delta.content == "Hel"
        assert raised.value.code == "MODEL_UNAVAILABLE"


async def test_one_event_without_end_is_cut_off_and_the_upstream_with_it(gateway: Bench) -> None:
    endless = [Send(chunk(b"x" * 1_000_000)) for _ in range(40)]
    gateway.ark.enqueue([*answer_sse(EVENT + b"data: ", end=False), *endless, Hang()])

    answer = await gateway.chat(stream=True)

    assert answer.body.startswith(EVENT)
    assert len(answer.body) < 1000
    assert events(answer.body[len(EVENT) :])[0]["error"]["code"] == "MODEL_UNAVAILABLE"
    # long before the 5 seconds of silence that would end it too
    assert (await gateway.ark.wait_ended(gateway.ark.calls[0], timeout_seconds=2)).state == "closed_by_peer"
    await gateway.assert_charged(2_000)  # one content event


# upstream_error


@pytest.mark.promise(UPSTREAM_AWAY)
async def test_an_upstream_that_cannot_be_reached_costs_nothing(gateway: Bench) -> None:
    gateway.ark.stop_listening()

    answer = await gateway.chat(stream=True)

    assert (answer.status, answer.error["code"], answer.headers["Retry-After"]) == (503, "MODEL_UNAVAILABLE", "5")
    assert await told(gateway, answer) == ("upstream_error", "none", "0.00")
    await gateway.assert_charged(0)


FAILURES: dict[str, list[Step]] = {
    "500": error(500, "InternalServiceError", "boom"),
    "502 in HTML": answer_json(502, b"<html>bad gateway</html>", {"content-type": "text/html"}),
    "503 without a body": answer_json(503, b""),
    "504 with an error": error(504, "InternalServiceError", "timeout"),
    "reset before the head": [Reset()],
    "closed before the head": [Close()],
    "no HTTP": [Send(b"SSH-2.0-OpenSSH\r\n\r\n")],
    "no head in time": [Hang()],
    "an error's body that stands still": [Send(b"HTTP/1.1 500 Oops\r\ncontent-length: 100\r\n\r\n{"), Hang()],
    "an answer's body cut": [Send(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"id'), Close()],
}


@pytest.mark.promise(UPSTREAM_AWAY)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
async def test_an_upstream_that_fails_before_its_answer_costs_nothing(tmp_path: Path, failure: list[Step], stream: bool) -> None:
    async with bench(tmp_path, first_byte_seconds=0.3, idle_seconds=0.3) as gateway:
        gateway.ark.enqueue(failure)

        answer = await gateway.chat(stream=stream, messages=LONG_PROMPT)

        assert (answer.status, answer.error["code"]) == (503, "MODEL_UNAVAILABLE")
        is_told = failure is FAILURES["500"]  # Ark itself says that it failed; of all others nobody knows whether the call ran
        retry = (answer.headers.get("Retry-After"), answer.headers.get("x-should-retry"))
        assert retry == (("5", None) if is_told else (None, "false"))
        assert await told(gateway, answer) == ("upstream_error", "none", "0.00")
        assert len(gateway.ark.calls) == 1
        await gateway.assert_charged(0)


@pytest.mark.parametrize("body", [b"not json", b"", b"[]", b"null", b'"text"', EVENT + DONE])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_none_is_an_internal_error_that_is_not_asked_again(gateway: Bench, body: bytes, stream: bool) -> None:
    gateway.ark.enqueue(answer_json(200, body))

    answer = await gateway.chat(stream=stream)

    assert (answer.status, answer.error["code"], answer.headers["x-should-retry"]) == (500, "INTERNAL_ERROR", "false")
    assert await told(gateway, answer) == ("upstream_error", "none", "0.00")
    await gateway.assert_charged(0)


# an error event within a stream


def said(code: str, message: str = "Your account 2100987654 failed. Request id: 021765952525000c0ffee") -> bytes:
    return b"data: " + orjson.dumps({"error": {"code": code, "message": message, "param": "", "type": "x"}}) + b"\n\n"


@pytest.mark.parametrize("size", [1, 64, None])
async def test_an_error_event_is_replaced_by_ours_and_what_came_before_is_charged(gateway: Bench, size: int | None) -> None:
    gateway.ark.enqueue(answer_sse(EVENT + said("InternalServiceError") + EVENT + DONE, cut=size))

    answer = await gateway.chat(stream=True, messages=LONG_PROMPT)

    assert answer.body.startswith(EVENT)
    (ours,) = events(answer.body[len(EVENT) :])
    assert ours["error"]["code"] == "MODEL_UNAVAILABLE"
    assert b"2100987654" not in answer.body
    # 100 tokens of prompt and the one content event that was relayed: 80,000 + 2,000 nano-yuan
    assert await told(gateway, answer) == ("upstream_error", "estimated", "0.000082")
    await gateway.assert_charged(82_000)


async def test_a_stream_that_only_brings_an_error_costs_nothing(gateway: Bench) -> None:
    gateway.ark.enqueue(answer_sse(said("ServerOverloaded") + DONE))

    answer = await gateway.chat(stream=True, messages=LONG_PROMPT)

    assert events(answer.body)[0]["error"]["code"] == "MODEL_UNAVAILABLE"
    assert await told(gateway, answer) == ("upstream_error", "none", "0.00")
    await gateway.assert_charged(0)


async def test_moderation_within_a_stream_is_a_refusal(gateway: Bench) -> None:
    message = "The request failed because the output text may contain sensitive information. Request id: 0217659525"
    gateway.ark.enqueue(answer_sse(EVENT + said("OutputTextSensitiveContentDetected", message)))

    answer = await gateway.chat(stream=True)

    error = events(answer.body)[1]["error"]
    assert (error["code"], "Request id" in error["message"]) == ("CONTENT_REJECTED", False)
    assert await told(gateway, answer) == ("refused", "estimated", "0.000002")
    await gateway.assert_charged(2_000)


# client_gone


async def test_the_usage_is_learnt_after_the_client_left(gateway: Bench) -> None:
    async with leaving_in_mid_stream(gateway, Send(chunk(EVENT * 500)), Send(chunk(USAGE + DONE) + LAST_CHUNK)):
        pass

    assert await told_in_log(gateway) == ("client_gone", "reported", "0.00004")
    assert gateway.ark.calls[0].state == "played"
    await gateway.assert_charged(REPORTED)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_before_the_first_byte_pays_for_what_was_made(gateway: Bench, stream: bool) -> None:
    gone = asyncio.Event()
    answer = (
        answer_sse(EVENT + USAGE + DONE)
        if stream
        else answer_json(200, {"choices": [{"message": {}}], "usage": {"prompt_tokens": 20, "completion_tokens": 12}})
    )
    gateway.ark.enqueue([Wait(gone), *answer])
    async with raw_chat(gateway.origin, gateway.key, stream=stream) as client:
        await gateway.ark.wait_until(lambda: len(gateway.ark.calls) == 1)
        client.leave(reset=stream)
    gone.set()

    assert await told_in_log(gateway) == ("client_gone", "reported", "0.00004")
    await gateway.assert_charged(REPORTED)


async def test_a_drain_that_takes_too_long_is_given_up_and_estimated(tmp_path: Path) -> None:
    async with bench(tmp_path, drain_after_seconds=0.3) as gateway:
        async with leaving_in_mid_stream(gateway, Send(chunk(EVENT)), Hang(), messages=LONG_PROMPT):
            pass

        # 100 tokens of prompt and two content events: 80,000 + 4,000 nano-yuan
        assert await told_in_log(gateway) == ("client_gone", "estimated", "0.000084")
        assert (await gateway.ark.wait_ended(gateway.ark.calls[0])).state == "closed_by_peer"
        await gateway.assert_charged(84_000)


async def test_cancel_stops_the_upstream_at_once_and_estimates(tmp_path: Path) -> None:
    async with bench(tmp_path, disconnect="cancel") as gateway, leaving_in_mid_stream(gateway, messages=LONG_PROMPT):
        assert await told_in_log(gateway) == ("client_gone", "estimated", "0.000082")
        assert (await gateway.ark.wait_ended(gateway.ark.calls[0])).state == "closed_by_peer"
        await gateway.assert_charged(82_000)


@pytest.mark.parametrize("unknown_usage", ["estimate", "free"])
async def test_cancel_before_the_first_byte_costs_a_lower_bound_of_the_prompt(tmp_path: Path, unknown_usage: str) -> None:
    async with bench(tmp_path, disconnect="cancel", unknown_usage=unknown_usage) as gateway:
        gateway.ark.enqueue([Hang()])
        async with raw_chat(gateway.origin, gateway.key, messages=LONG_PROMPT) as client:
            await gateway.ark.wait_until(lambda: len(gateway.ark.calls) == 1)
            client.leave()

        # 800 / 8 = 100 tokens of prompt
        assert await told_in_log(gateway) == ("client_gone", "estimated", "0.00008")
        assert (await gateway.ark.wait_ended(gateway.ark.calls[0])).state == "closed_by_peer"
        await gateway.assert_charged(80_000)


async def test_an_account_that_gives_up_too_many_calls_is_refused_for_a_while(tmp_path: Path) -> None:
    async with bench(tmp_path, disconnect="cancel", billing="abandoned_per_minute = 2") as gateway:
        for calls in (1, 2):
            asked = asyncio.Event()
            gateway.ark.enqueue([Check(lambda _call, asked=asked: asked.set()), Hang()])  # type: ignore[misc]
            async with raw_chat(gateway.origin, gateway.key, messages=LONG_PROMPT) as client:
                await asked.wait()
                client.leave()
            await gateway.log.until_chats(calls)

        refused = await gateway.chat()

        assert (refused.status, refused.json["error"]["code"]) == (429, "RATE_LIMITED")
        assert 0 < int(refused.headers["retry-after"]) <= 31
        assert len(gateway.ark.calls) == 2
        await gateway.assert_charged(160_000)


async def test_no_more_streams_are_drained_than_configured(tmp_path: Path) -> None:
    async with bench(tmp_path, billing="drains_max = 1") as gateway:
        async with leaving_in_mid_stream(gateway, Send(chunk(USAGE + DONE) + LAST_CHUNK)):
            await gateway.ask("/healthz")  # the gateway has seen the first one leave before it answers
            async with leaving_in_mid_stream(gateway):
                (second,) = await gateway.log.until_chats()
                assert (second["outcome"], second["usage"]) == ("client_gone", "estimated")

        lines = await gateway.log.until_chats(2)
        assert [(line["outcome"], line["usage"]) for line in lines] == [("client_gone", "estimated"), ("client_gone", "reported")]
        await gateway.assert_charged(REPORTED + 2_000)


async def test_a_stream_that_breaks_while_it_is_drained_is_the_clients_leaving(gateway: Bench) -> None:
    async with leaving_in_mid_stream(gateway, Reset(), messages=LONG_PROMPT):
        pass

    assert await told_in_log(gateway) == ("client_gone", "estimated", "0.000082")
    await gateway.assert_charged(82_000)


async def test_an_error_alone_costs_nothing_also_when_the_client_has_left(gateway: Bench) -> None:
    gone = asyncio.Event()
    gateway.ark.enqueue([Wait(gone), *answer_sse(said("ServerOverloaded"))])
    async with raw_chat(gateway.origin, gateway.key, stream=True, messages=LONG_PROMPT) as client:
        await gateway.ark.wait_until(lambda: len(gateway.ark.calls) == 1)
        client.leave()
    gone.set()

    assert (await told_in_log(gateway))[1:] == ("none", "0.00")
    await gateway.assert_charged(0)


async def test_an_error_status_whose_body_is_cut_by_a_leaving_client_costs_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path, disconnect="cancel") as gateway:
        sent = asyncio.Event()
        gateway.ark.enqueue([Send(b"HTTP/1.1 500 Oops\r\ncontent-length: 100\r\n\r\n{"), Check(lambda _call: sent.set()), Hang()])
        async with raw_chat(gateway.origin, gateway.key, messages=LONG_PROMPT) as client:
            await sent.wait()
            await gateway.ask("/healthz")  # the gateway has read what was sent before it answers
            client.leave()

        assert (await told_in_log(gateway))[1:] == ("none", "0.00")
        await gateway.assert_charged(0)
