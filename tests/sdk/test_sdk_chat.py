"""Chat through the ``openai`` package: how it reads the gateway's answers."""

from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from proxy.demo.ark import ChatReply, Close, Reset, Step, ToolCall, answer_sse
from tests.support.gateway import MODEL, Bench

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]
SAID = "Hello! How can I help you today?"
# 20 prompt tokens at ¥0.8/M and 12 completion tokens at ¥2/M: 16,000 + 24,000 nano-yuan
CHARGE = 40_000

FIRST = (
    b'data: {"id":"a","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
)


async def test_a_completion(gateway: Bench, client: AsyncOpenAI) -> None:
    completion = await client.chat.completions.create(model=MODEL, messages=HELLO)

    assert completion.choices[0].message.content == SAID
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens, completion.usage.total_tokens) == (20, 12, 32)
    receipt = (await gateway.ask(f"/usage/{completion._request_id}")).json
    assert (receipt["cost"], receipt["outcome"]) == ("0.00004", "complete")
    assert (receipt["formula"], receipt["shortfall"]) == ("20 × ¥0.8/M + 12 × ¥2/M = ¥0.00004", "0.00")
    await gateway.assert_charged(CHARGE)


async def test_a_stream_without_usage_has_a_choice_in_each_chunk(gateway: Bench, client: AsyncOpenAI) -> None:
    chunks = [chunk async for chunk in await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)]

    assert all(len(chunk.choices) == 1 for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == SAID
    assert chunks[-1].choices[0].finish_reason == "stop"
    await gateway.assert_charged(CHARGE)


async def test_a_stream_with_usage_has_exactly_one_chunk_without_a_choice(gateway: Bench, client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]

    assert [bool(chunk.choices) for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 32
    await gateway.assert_charged(CHARGE)


async def test_the_stream_helper_assembles_the_completion(gateway: Bench, client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model=MODEL, messages=HELLO) as stream:
        completion = await stream.get_final_completion()

    assert completion.choices[0].message.content == SAID
    await gateway.assert_charged(CHARGE)


async def test_models_are_listed_and_retrieved_by_ids_with_slashes_too(gateway: Bench, client: AsyncOpenAI) -> None:
    listed = {model.id: model async for model in client.models.list()}

    for model_id in (MODEL, "tiered/chat"):
        assert await client.models.retrieve(model_id) == listed[model_id]
    assert (listed[MODEL].created, listed[MODEL].owned_by) == (1_710_000_000, "volcengine")
    await gateway.assert_charged(0)


async def test_a_picture_goes_up_as_it_came(gateway: Bench, client: AsyncOpenAI) -> None:
    content: Any = [
        {"type": "image_url", "image_url": {"url": "https://example.com/image.jpg"}},
        {"type": "text", "text": "这张图片里有什么?"},
    ]

    completion = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": content}])

    assert completion.choices[0].finish_reason == "stop"
    assert gateway.ark.calls[0].json["messages"] == [{"role": "user", "content": content}]
    await gateway.assert_charged(CHARGE)


async def test_tools_are_called_and_answered(gateway: Bench, client: AsyncOpenAI) -> None:
    gateway.ark.chat.reply = ChatReply(content="", tool_calls=(ToolCall("weather", '{"city":"上海"}'),))
    tools: list[ChatCompletionToolParam] = [
        {
            "type": "function",
            "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
        }
    ]

    asked = await client.chat.completions.create(model=MODEL, messages=HELLO, tools=tools, tool_choice="auto")
    said = asked.choices[0].message
    assert said.tool_calls is not None
    gateway.ark.chat.reply = ChatReply()
    conversation: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        *HELLO,
        said.model_dump(exclude_none=True) | {"content": None},
        {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "21 °C"},
    ]
    answered = await client.chat.completions.create(model=MODEL, messages=conversation, tools=tools)

    call: Any = said.tool_calls[0]
    assert (call.function.name, call.function.arguments) == ("weather", '{"city":"上海"}')
    assert answered.choices[0].message.content == SAID
    went_up = gateway.ark.calls[1].json["messages"]
    assert [message["role"] for message in went_up] == ["system", "user", "assistant", "tool"]
    await gateway.assert_charged(2 * CHARGE)


BREAKS: dict[str, list[Step]] = {
    "a reset": [*answer_sse(FIRST, end=False), Reset()],
    "an end between chunks": [*answer_sse(FIRST, end=False), Close()],
    "an end without [DONE]": [*answer_sse(FIRST)],
}


@pytest.mark.parametrize("steps", BREAKS.values(), ids=BREAKS.keys())
async def test_a_stream_cut_in_the_middle_raises(gateway: Bench, client: AsyncOpenAI, steps: list[Step]) -> None:
    gateway.ark.enqueue(steps)
    stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)

    first = await anext(stream)
    with pytest.raises(openai.APIError) as raised:
        await anext(stream)

    assert first.choices[0].delta.content == "Hi"
    assert raised.value.code == "MODEL_UNAVAILABLE"
    await gateway.log.until_chats()  # the log line is written when the settlement is durable
    # a lower bound: 5 bytes of prompt count as no token; one content event is one token at ¥2/M, 2,000 nano-yuan
    await gateway.assert_charged(2_000)


async def test_a_stream_that_ends_within_an_event_raises(gateway: Bench, client: AsyncOpenAI) -> None:
    gateway.ark.enqueue([*answer_sse(FIRST + b'data: {"id"')])
    stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)

    await anext(stream)
    with pytest.raises((openai.APIError, ValueError)):  # the SDK tries to parse half an event first
        await anext(stream)
