"""Chat in Ark's format, key by key: the expected bytes are those of the reference, with this call's id and time."""

import gzip
from typing import Any

import openai
import orjson
import pytest

from proxy.demo.ark import CANARIES, FAULTS, Account, ChatReply, Settings, StandIn, ToolCall, known_error, paced_reply
from tests.unit.demo.conftest import KEY, Asking, HandClock, Raw

CHAT = "/chat/completions"
CREATED = 1_765_952_525


def _hello(**more: Any) -> dict[str, Any]:
    return {"model": "doubao-1-5-pro-32k-250115", "messages": [{"role": "user", "content": "hi"}], **more}


def _events(body: bytes) -> list[Any]:
    """Return the events without ``[DONE]``, which must be the last."""
    *events, done, rest = body.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    return [orjson.loads(event.removeprefix(b"data: ")) for event in events]


async def test_a_json_answer_has_arks_keys_in_arks_order(ark: StandIn, ask: Asking) -> None:
    answer = await ask(ark, "POST", CHAT, _hello())

    expected = (
        '{"choices":[{"finish_reason":"stop","index":0,"logprobs":null,'
        '"message":{"content":"Hello! How can I help you today?","role":"assistant"}}],'
        f'"created":{CREATED},"id":"{ark.calls[0].request_id}","model":"doubao-1-5-pro-32k-250115","service_tier":"default",'
        '"object":"chat.completion","usage":{"completion_tokens":12,"prompt_tokens":20,"total_tokens":32,'
        '"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}'
    )
    assert answer.body == expected.encode()
    assert answer.headers["content-type"] == "application/json"


async def test_heads_carry_the_ids_and_the_proxy_of_ark(ark: StandIn, ask: Asking) -> None:
    own = await ask(ark, "POST", CHAT, _hello(), headers={"X-Client-Request-Id": "mine"})
    none = await ask(ark, "POST", CHAT, _hello())

    assert own.headers["x-request-id"] == own.json["id"]
    assert own.headers["server"] == "istio-envoy"
    assert own.headers["x-envoy-upstream-service-time"].isdecimal()
    assert own.headers["x-client-request-id"] == "mine"
    assert none.headers["x-client-request-id"] == f"unknown-20251217142205-{none.json['id'][-20:]}"
    assert len(own.json["id"]) == 39
    assert own.json["id"].startswith("021765952525000")  # 02, then milliseconds


async def test_a_stream_is_framed_as_recorded(ark: StandIn, ask: Asking) -> None:
    ark.chat.enqueue(ChatReply(content="Hello"))

    answer = await ask(ark, "POST", CHAT, _hello(stream=True))

    tail = f'"created":{CREATED},"id":"{ark.calls[0].request_id}","model":"doubao-1-5-pro-32k-250115","service_tier":"default"'
    tail += ',"object":"chat.completion.chunk","usage":null}\n\n'
    expected = (
        'data: {"choices":[{"delta":{"content":"Hello","role":"assistant"},"index":0}],'
        + tail
        + 'data: {"choices":[{"delta":{"content":"","role":"assistant"},"finish_reason":"stop","index":0}],'
        + tail
        + "data: [DONE]\n\n"
    )
    assert answer.body == expected.encode()
    assert answer.headers["transfer-encoding"] == "chunked"


async def test_usage_comes_in_one_chunk_of_its_own_when_asked_for(ark: StandIn, ask: Asking) -> None:
    answer = await ask(ark, "POST", CHAT, _hello(stream=True, stream_options={"include_usage": True}))

    *others, usage, done, rest = answer.body.split(b"\n\n")
    assert len(others) == 8  # seven words and the end
    assert all(event.endswith(b'"usage":null}') for event in others)
    assert (done, rest) == (b"data: [DONE]", b"")
    assert (
        usage
        == (
            f'data: {{"choices":[],"created":{CREATED},"id":"{ark.calls[0].request_id}","model":"doubao-1-5-pro-32k-250115",'
            '"object":"chat.completion.chunk","usage":{"completion_tokens":12,"prompt_tokens":20,"total_tokens":32,'
            '"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}'
        ).encode()
    )


async def test_usage_in_each_chunk_grows_to_the_whole(ark: StandIn, ask: Asking) -> None:
    ark.chat.reply = paced_reply(events=4, event_chars=2)

    events = _events((await ask(ark, "POST", CHAT, _hello(stream=True, stream_options={"chunk_include_usage": True}))).body)

    assert [event["usage"]["completion_tokens"] for event in events] == [1, 2, 3, 4, 4]
    assert [event["choices"][0]["delta"]["content"] for event in events] == ["xx", "xx", "xx", "xx", ""]


async def test_a_thinking_model_thinks_first_unless_told_not_to(ark: StandIn, ask: Asking) -> None:
    asked = _hello(stream=True, model="doubao-seed-2-0-lite-260428")

    thinking = _events((await ask(ark, "POST", CHAT, asked)).body)
    silent = _events((await ask(ark, "POST", CHAT, asked | {"thinking": {"type": "disabled"}})).body)

    deltas = [event["choices"][0]["delta"] for event in thinking]
    thoughts = [delta for delta in deltas if "reasoning_content" in delta]
    assert deltas[: len(thoughts)] == thoughts
    assert {delta["content"] for delta in thoughts} == {""}
    assert "".join(delta["reasoning_content"] for delta in thoughts) == "The user says hello; a greeting is due."
    assert all("reasoning_content" not in event["choices"][0]["delta"] for event in silent)


@pytest.mark.parametrize(
    ("limit", "content", "reason", "tokens"),
    [
        ({"max_tokens": 5}, "01234", "length", 5),
        ({"max_tokens": 10}, "0123456789", "stop", 10),
        ({"max_completion_tokens": 1}, "0", "length", 1),
    ],
)
async def test_a_limit_cuts_the_answer_in_proportion(
    ark: StandIn, ask: Asking, limit: dict[str, int], content: str, reason: str, tokens: int
) -> None:
    ark.chat.reply = ChatReply(content="0123456789", completion_tokens=10)

    answer = (await ask(ark, "POST", CHAT, _hello(**limit))).json

    assert (answer["choices"][0]["message"]["content"], answer["choices"][0]["finish_reason"]) == (content, reason)
    assert (answer["usage"]["completion_tokens"], answer["usage"]["total_tokens"]) == (tokens, 20 + tokens)


async def test_the_limit_on_the_answer_spares_the_thinking_and_the_other_does_not(ark: StandIn, ask: Asking) -> None:
    ark.chat.reply = ChatReply(content="0123456789", reasoning="abcde", completion_tokens=15, reasoning_tokens=5)

    spared = (await ask(ark, "POST", CHAT, _hello(max_tokens=2))).json
    counted = (await ask(ark, "POST", CHAT, _hello(max_completion_tokens=6))).json

    assert spared["choices"][0]["message"] == {"content": "01", "reasoning_content": "abcde", "role": "assistant"}
    assert spared["usage"]["completion_tokens"] == 7  # 5 thought and 2 said
    assert counted["choices"][0]["message"]["content"] == "0"
    assert counted["usage"]["completion_tokens"] == 6


async def test_an_echo_is_counted_where_no_count_is_set(ark: StandIn, ask: Asking) -> None:
    ark.chat.replies["m"] = ChatReply(echo=True, prompt_tokens=None, completion_tokens=None)

    answer = (await ask(ark, "POST", CHAT, _hello(model="m", messages=[{"role": "user", "content": "你好，世界"}], n=2))).json

    assert [choice["message"]["content"] for choice in answer["choices"]] == ["你好，世界"] * 2
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (4, 8)  # 15 bytes are 4 tokens, said twice


async def test_an_endpoint_answers_as_the_model_behind_it(ask: Asking) -> None:
    async with StandIn(Settings(account=Account(endpoints={"ep-1": "doubao-seed-2-0-pro-260215"}))) as ark:
        answer = await ask(ark, "POST", CHAT, _hello(model="ep-1"))

    assert answer.json["model"] == "doubao-seed-2-0-pro-260215"


async def test_a_json_answer_is_gzipped_for_who_takes_it(ark: StandIn, raw: Raw) -> None:
    asked = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
    head = b"POST /api/v3/chat/completions HTTP/1.1\r\nauthorization: Bearer k\r\naccept-encoding: gzip\r\nconnection: close\r\n"
    reader, writer = await raw(ark)

    writer.write(head + b"content-length: %d\r\n\r\n" % len(asked) + asked)

    answer_head, _, body = (await reader.read()).partition(b"\r\n\r\n")

    assert b"content-encoding: gzip" in answer_head
    assert orjson.loads(gzip.decompress(body))["object"] == "chat.completion"


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"messages": [{"role": "user", "content": "hi"}]}, 400, "MissingParameter", "model"),
        ({"model": "m"}, 400, "MissingParameter", "messages"),
        (_hello(messages=[]), 400, "MissingParameter", "messages"),
        (_hello(messages=[{"role": "developer", "content": "x"}]), 400, "InvalidParameter", "messages.role"),
        (_hello(max_tokens=1, max_completion_tokens=1), 400, "InvalidParameter", "max_tokens"),
        (_hello(temperature=2.1), 400, "InvalidParameter", "temperature"),
        (_hello(top_p=-0.1), 400, "InvalidParameter", "top_p"),
        (_hello(model="doubao-seedance-2-0-260128"), 400, "InvalidParameter", "model"),
        ([1], 400, "InvalidParameter", ""),
    ],
)
async def test_what_ark_refuses_is_refused(ark: StandIn, ask: Asking, body: object, status: int, code: str, param: str) -> None:
    answer = await ask(ark, "POST", CHAT, body)

    error = answer.json["error"]
    assert (answer.status, error["code"], error["param"], error["type"]) == (status, code, param, "BadRequest")
    assert error["message"].endswith(f"Request id: {ark.calls[0].request_id}")
    assert list(error) == ["code", "message", "param", "type"]


async def test_a_role_that_is_not_known_is_named_as_recorded(ark: StandIn, ask: Asking) -> None:
    answer = await ask(ark, "POST", CHAT, _hello(messages=[{"role": "developer", "content": "x"}]))

    assert answer.json["error"]["message"].startswith(
        "The parameter `messages.role` specified in the request are not valid: invalid value: `developer`, "
        "supported values are: `system`, `assistant`, `user`, `tool`, `function`"
    )


async def test_keys_and_models_are_those_of_the_account(ask: Asking, clock: HandClock) -> None:
    account = Account(keys=frozenset({KEY}), models=frozenset({"open", "closed"}), closed=frozenset({"closed"}))
    async with StandIn(Settings(account=account), clock=clock) as ark:
        missing = await ask(ark, "POST", CHAT, _hello(), key=None)
        wrong = await ask(ark, "POST", CHAT, _hello(), key="other")
        unknown = await ask(ark, "POST", CHAT, _hello(model="nowhere"))
        closed = await ask(ark, "POST", CHAT, _hello(model="closed"))
        opened = await ask(ark, "POST", CHAT, _hello(model="open"))

    assert (missing.status, missing.json["error"]["code"], missing.json["error"]["type"]) == (
        401,
        "AuthenticationError",
        "Unauthorized",
    )
    assert missing.headers["x-error-code"] == "AuthN_MissOrInvalidAuthorizationHeader"
    assert (wrong.status, "doesn't exist" in wrong.json["error"]["message"]) == (401, True)
    assert (unknown.status, unknown.json["error"]["code"]) == (404, "InvalidEndpointOrModel.NotFound")
    assert (closed.status, closed.json["error"]["code"], closed.json["error"]["type"]) == (404, "ModelNotOpen", "Not Found")
    assert account.number in closed.json["error"]["message"]
    assert opened.status == 200


@pytest.mark.parametrize("code", FAULTS)
@pytest.mark.parametrize("wrapped", [True, False])
async def test_every_known_error_can_be_played(ark: StandIn, ask: Asking, code: str, wrapped: bool) -> None:
    ark.enqueue(known_error(code, wrapped))

    answer = await ask(ark, "POST", CHAT, _hello())

    error = answer.json["error"] if wrapped else answer.json
    assert (answer.status, error["code"], answer.headers["x-error-code"]) == (FAULTS[code].status, code, code)
    assert any(canary in error["message"] for canary in CANARIES)
    assert bool(error["type"]) is wrapped


async def test_the_openai_package_reads_a_stream_and_a_tool_call(ark: StandIn) -> None:
    ark.chat.enqueue(ChatReply(), ChatReply(content="", tool_calls=(ToolCall("weather", '{"city":"北京"}'),)))
    async with openai.AsyncOpenAI(base_url=ark.base_url, api_key=KEY) as client:
        messages: Any = [{"role": "user", "content": "hi"}]
        stream = await client.chat.completions.create(model="m", messages=messages, stream=True, stream_options={"include_usage": True})
        chunks = [piece async for piece in stream]
        called = await client.chat.completions.create(model="m", messages=messages)

    text = "".join(piece.choices[0].delta.content or "" for piece in chunks if piece.choices)
    assert text == "Hello! How can I help you today?"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 32
    assert called.choices[0].finish_reason == "tool_calls"
    assert called.choices[0].message.tool_calls is not None
    assert called.choices[0].message.tool_calls[0].model_dump()["function"] == {"name": "weather", "arguments": '{"city":"北京"}'}


async def test_unknown_paths_are_404_in_arks_words(ark: StandIn, ask: Asking) -> None:
    answer = await ask(ark, "GET", "/nowhere")

    assert (answer.status, answer.json["error"]["code"], answer.json["error"]["type"]) == (404, "ResourceNotFound", "NotFound")
