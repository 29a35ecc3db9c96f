"""Refusals that help: an SDK does not ask again where that pays twice or mends nothing, and an agent learns what to change."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import openai
import orjson
import pytest

from proxy.demo.ark import CANARIES, Close, Hang, Reset, Send, StandIn, Step, answer_json, answer_sse, error, known_error
from tests.support.gateway import MODEL, Bench, Reply, bench

HELLO: Any = [{"role": "user", "content": "Hello"}]
CHAT = "/chat/completions"


# Advice on retries.

ASKED_ONCE: dict[str, Sequence[Step]] = {
    "no head in time": [Hang()],
    "cut before the head": [Reset()],
    "cut within the answer": [Send(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"id'), Close()],
    "a proxy's page": answer_json(502, b"<html>bad gateway</html>", {"content-type": "text/html"}),
    "a proxy's timeout": answer_json(504, b"upstream request timeout"),
    "no answer in a 200": answer_json(200, b"{}"),
    "the operator's key": known_error("AuthenticationError"),
    "the operator's balance": known_error("AccountOverdueError"),
    "a model unknown upstream": known_error("InvalidEndpointOrModel.NotFound"),
    "a route unknown upstream": answer_json(404, b"<html>not found</html>"),
    "the operator's balance elsewhere": answer_json(
        402, {"error": {"message": "Insufficient Balance", "code": "invalid_request_error"}}
    ),
    "the operator's quota elsewhere": answer_json(429, {"error": {"message": "Quota exceeded", "code": "insufficient_quota"}}),
    "an answer that was lost behind the upstream": answer_json(500, {"error": {"message": "Timed out", "code": "RequestTimeOut"}}),
    "too large upstream": answer_json(413, b"<html>request entity too large</html>"),
    "moderation": known_error("InputTextSensitiveContentDetected"),
    "a full context": known_error("OutofContextError"),
}


@pytest.mark.parametrize("steps", ASKED_ONCE.values(), ids=ASKED_ONCE)
async def test_openais_sdk_with_its_own_retries_asks_once(tmp_path: Path, steps: Sequence[Step]) -> None:
    async with (
        bench(tmp_path, first_byte_seconds=0.3) as gateway,
        openai.AsyncOpenAI(base_url=gateway.base_url, api_key=gateway.key) as client,
    ):
        gateway.ark.enqueue(steps, times=3)

        with pytest.raises(openai.APIStatusError) as raised:
            await client.chat.completions.create(model=MODEL, messages=HELLO)

        assert len(gateway.ark.calls) == 1
        assert raised.value.response.headers["x-should-retry"] == "false"
        assert "retry-after" not in raised.value.response.headers
        await gateway.assert_charged(0)


NO_STREAM: dict[str, Sequence[Step]] = {
    "no event": answer_sse(b""),
    "an end alone": answer_sse(b"data: [DONE]\n\n"),
    "cut before an event": answer_sse(b"data: ", end=False),
    "nonsense": answer_sse(b"upstream connect error\n\n"),
}


@pytest.mark.parametrize("steps", NO_STREAM.values(), ids=NO_STREAM)
async def test_openais_sdk_asks_once_for_a_stream_that_never_begins(gateway: Bench, steps: Sequence[Step]) -> None:
    gateway.ark.enqueue([*steps, Close()] if steps is NO_STREAM["cut before an event"] else steps, times=3)

    async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key=gateway.key) as client:
        with pytest.raises(openai.InternalServerError) as raised:
            await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)

    assert len(gateway.ark.calls) == 1
    assert raised.value.response.headers["x-should-retry"] == "false"
    await gateway.assert_charged(0)


async def test_openais_sdk_asks_once_for_a_model_that_is_switched_off(gateway: Bench) -> None:
    async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key=gateway.key) as client:
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model="switched-off", messages=HELLO)

    assert len(gateway.log.chats) == 1
    await gateway.assert_charged(0)


@pytest.mark.parametrize("code", ["ServerOverloaded", "ModelAccountRpmRateLimitExceeded", "InternalServiceError"])
async def test_where_waiting_helps_it_is_said_how_long(gateway: Bench, code: str) -> None:
    gateway.ark.enqueue(known_error(code))

    answer = await gateway.chat()

    assert (answer.status, "Retry-After" in answer.headers, "x-should-retry" in answer.headers) == (503, True, False)
    await gateway.assert_charged(0)


DELAYS = [("1", "1", None), ("20", "20", None), ("3600", "3600", "false"), ("Wed, 21 Oct 2026 07:28:00 GMT", "2", None)]


@pytest.mark.parametrize(("told", "shown", "should_retry"), DELAYS)
@pytest.mark.parametrize("path", [CHAT, "/images/generations", "/videos/generations"])
async def test_the_upstreams_own_delay_is_passed_on(gateway: Bench, path: str, told: str, shown: str, should_retry: str | None) -> None:
    route = "/contents/generations/tasks" if path.startswith("/videos") else path
    limit = {"error": {"code": "RateLimitExceeded", "message": "slowly"}}
    gateway.ark.enqueue(answer_json(429, limit, {"Retry-After": told}), route)
    body = {"model": MODEL, "messages": HELLO} if path == CHAT else {"prompt": "a cat"}

    answer = await gateway.ask(path, body)

    assert (answer.status, answer.error["code"]) == (503, "MODEL_UNAVAILABLE")
    assert (answer.headers["Retry-After"], answer.headers.get("x-should-retry")) == (shown, should_retry)
    await gateway.assert_charged(0)


async def test_openais_sdk_waits_as_long_as_the_upstream_asks_and_pays_once(gateway: Bench) -> None:
    gateway.ark.enqueue(answer_json(429, {"error": {"code": "RateLimitExceeded", "message": "slowly"}}, {"Retry-After": "1"}))

    async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key=gateway.key) as client:
        await client.chat.completions.create(model=MODEL, messages=HELLO)

    first, second = gateway.ark.calls
    assert second.at - first.at >= 1
    assert gateway.log.chats[0]["cost"] == "0.00"


async def test_a_call_that_the_processs_end_cuts_is_not_to_be_made_again(tmp_path: Path) -> None:
    async with StandIn() as ark, aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        ark.enqueue([Hang()], CHAT)
        async with bench(tmp_path, ark=ark) as gateway:
            asking = group.create_task(_asked(session, gateway))
            await ark.wait_for_calls(1, CHAT)
            gateway.stop.request()
            gateway.stop.request()
        answer = await asking

        async with bench(tmp_path, ark=ark) as restarted:
            assert (answer.status, answer.error["code"]) == (503, "MODEL_UNAVAILABLE")
            assert (answer.headers["x-should-retry"], "Retry-After" in answer.headers) == ("false", False)
            await restarted.assert_charged(0)


async def _asked(session: aiohttp.ClientSession, gateway: Bench) -> Reply:
    headers = {"Authorization": f"Bearer {gateway.key}"}
    async with session.post(gateway.base_url + CHAT, json={"model": MODEL, "messages": HELLO}, headers=headers) as answer:
        return Reply(answer.status, answer.headers, await answer.read())


# A full context, in each place where an error can stand.

SAID = "Input length 265330 exceeds the maximum length 229376. Request id: 0217canary"
FULL = {"code": "InvalidParameter", "message": SAID, "param": "", "type": "BadRequest"}
LLAMA = {
    "code": 400,
    "message": "request (40000 tokens) exceeds the available context size (32768 tokens)",
    "type": "exceed_context_size_error",
}
EVENT = b'data: {"choices":[{"delta":{"content":"Hello"},"index":0}],"id":"0217","usage":null}\n\n'


@pytest.mark.parametrize(("said", "tokens"), [(FULL, 229_376), (LLAMA, 32_768)], ids=["Ark", "llama.cpp"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [200, 400])
async def test_a_full_context_is_told_so_that_agents_compact(
    gateway: Bench, status: int, stream: bool, said: dict[str, Any], tokens: int
) -> None:
    gateway.ark.enqueue(answer_json(status, {"error": said}))

    answer = await gateway.chat(stream=stream)

    assert (answer.status, answer.error["code"], answer.error["type"]) == (400, "CONTEXT_LENGTH_EXCEEDED", "context_length_exceeded")
    assert answer.error["message"].startswith(f"This model's maximum context length is {tokens} tokens.")
    assert (await gateway.ask(f"/usage/{answer.headers['x-request-id']}")).json["outcome"] == "refused"
    await gateway.assert_charged(0)


@pytest.mark.parametrize(("said", "tokens"), [(FULL, 229_376), (LLAMA, 32_768)], ids=["Ark", "llama.cpp"])
async def test_a_context_that_fills_up_within_a_stream_is_told_in_its_event(gateway: Bench, said: dict[str, Any], tokens: int) -> None:
    gateway.ark.enqueue(answer_sse(EVENT + b"data: " + orjson.dumps({"error": said}) + b"\n\n"))

    answer = await gateway.chat(stream=True)

    told = orjson.loads(answer.body.removeprefix(EVENT + b"data: "))["error"]
    assert (told["code"], told["type"]) == ("CONTEXT_LENGTH_EXCEEDED", "context_length_exceeded")
    assert told["message"].startswith(f"This model's maximum context length is {tokens} tokens.")
    await gateway.assert_charged(2_000)  # one event


async def test_the_models_own_context_is_told_where_the_upstream_names_none(gateway: Bench) -> None:
    gateway.ark.enqueue(known_error("OutofContextError"))

    answer = await gateway.chat()

    assert answer.error["message"] == ("This model's maximum context length is 32768 tokens. Please reduce the length of the messages.")
    await gateway.assert_charged(0)


# Names that the customer chose.

TOOLS = [{"type": "function", "function": {"name": "web-search-v2", "parameters": {}}}]
CALLED = [
    *HELLO,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_9f86d081", "type": "function", "function": {"name": "f", "arguments": ""}}],
    },
    {"role": "tool", "tool_call_id": "call_9f86d081", "content": "x"},
]


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize(
    ("fields", "said", "param"),
    [
        ({"tools": TOOLS}, "invalid function name web-search-v2.", "tools"),
        ({"messages": CALLED}, "The parameter `messages` is not valid: tool_call_id call_9f86d081 is not found.", "messages"),
        (
            {},
            "The parameter `max_tokens` specified in the request is not valid: expected a value <= 32768, but got 65536.",
            "max_tokens",
        ),
    ],
)
async def test_a_fault_names_its_field_and_what_the_customer_called_it(
    gateway: Bench, fields: dict[str, Any], said: str, param: str, status: int
) -> None:
    refused = {"error": {"code": "InvalidParameter", "message": f"{said} Request id: 021789aabbcc0099ff", "param": ""}}
    gateway.ark.enqueue(answer_json(status, refused))

    answer = await gateway.chat(**fields)

    assert (answer.status, answer.error["message"], answer.error["param"]) == (400, said, param)
    await gateway.assert_charged(0)


GUESSES = [canary for canary in CANARIES if " " not in canary]


@pytest.mark.parametrize("canary", [*GUESSES, "ep-20260101-canary", "ep-20260202120000-fghij", "doubao-seed-2-0-lite-260428"])
async def test_a_tool_that_is_called_like_something_of_the_operators_confirms_no_guess(gateway: Bench, canary: str) -> None:
    gateway.ark.enqueue(error(400, "InvalidParameter", f"function '{canary}' of account {canary} is bad: {canary}", param="tools"))

    answer = await gateway.chat(tools=[{"type": "function", "function": {"name": canary}}])

    assert (answer.status, answer.error["code"]) == (400, "INVALID_PARAMETER")
    assert canary not in f"{answer.body.decode()} {answer.headers} {gateway.log.written}"
    await gateway.assert_charged(0)
