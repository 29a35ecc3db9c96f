"""What a chat holds before the upstream is asked, what a customer is told who cannot pay it, and which conversations are taken."""

from pathlib import Path
from typing import Any

import pytest

from proxy.core.money import parse_yuan
from proxy.demo.ark import ChatReply
from tests.support.books import assert_books_balance
from tests.support.gateway import Bench, bench

CHARGE = 20 * 800 + 12 * 2_000
HELLO = {"role": "user", "content": "Hello"}


@pytest.mark.parametrize(
    ("fields", "needed", "told"),
    [
        # 293 × 800 + 4,096 × 2,000 nano-yuan
        ({}, "0.0084264", "set 'max_tokens' (without it the model's own limit of 4096 counts)"),
        # 293 × 800 + 100,000 × 2,000
        ({"max_tokens": 100_000}, "0.2002344", "lower 'max_tokens' (100000)"),
        ({"max_tokens": 1_000, "n": 10}, "0.0202344", "lower 'n' (10)"),
    ],
)
async def test_402_says_what_would_have_been_enough(tmp_path: Path, fields: dict[str, Any], needed: str, told: str) -> None:
    async with bench(tmp_path, balance=parse_yuan("0.0005")) as gateway:
        answer = await gateway.chat(**fields)

        assert (answer.status, answer.error["code"]) == (402, "INSUFFICIENT_BALANCE")
        message = answer.error["message"]
        assert message.startswith(f"The account has ¥0.0005 available, and this request needs ¥{needed}, the most that it can cost. ")
        assert told in message
        assert message.endswith("; or top up")
        assert gateway.ark.calls == []
        assert await gateway.balance() == (500_000, 0)
        await assert_books_balance(gateway.store)


async def test_402_of_pictures_and_videos_says_so_too(tmp_path: Path) -> None:
    async with bench(tmp_path, balance=parse_yuan("0.1")) as gateway:
        pictures = await gateway.ask("/images/generations", {"prompt": "a lighthouse", "n": 4})
        film = await gateway.ask("/videos/generations", {"prompt": "waves", "resolution": "720p", "duration": 5})

        assert [answer.status for answer in (pictures, film)] == [402, 402]
        has = "The account has ¥0.10 available, and this request needs"
        most = "the most that it can cost"
        assert pictures.error["message"] == f"{has} ¥0.72, {most}. It is the price of 4 pictures; or top up"
        assert film.error["message"] == (
            f"{has} ¥0.864, {most}. It is the price of 5 seconds at 720p without sound. "
            "To need less: lower 'duration' or 'resolution'; or top up"
        )
        assert gateway.ark.calls == []
        assert await gateway.balance() == (100_000_000, 0)
        await assert_books_balance(gateway.store)


async def test_what_a_402_says_is_enough_is_paid(tmp_path: Path) -> None:
    async with bench(tmp_path, balance=parse_yuan("0.5")) as gateway:
        chat = await gateway.chat(max_tokens=1_000_000)
        pictures = await gateway.ask("/images/generations", {"prompt": "a lighthouse", "n": 4})
        # (500,000,000 - 293 × 800) ÷ 2,000; 0.5 ÷ 0.18
        assert "To need less: set 'max_tokens' to 249882 at most, which is enough; " in chat.error["message"]
        assert "To need less: lower 'n' to 2, which is enough; " in pictures.error["message"]

        assert [(await gateway.chat(max_tokens=tokens)).status for tokens in (249_883, 249_882)] == [402, 200]
        assert (await gateway.ask("/images/generations", {"prompt": "a lighthouse", "n": 2})).status == 200
        assert await gateway.balance() == (500_000_000 - CHARGE - 360_000_000, 0)
        await assert_books_balance(gateway.store)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"resolution": "480p"}, "To need less: lower 'duration'; "),
        ({"duration": 4, "generate_audio": True}, "To need less: lower 'resolution'; "),
        ({"duration": 4, "resolution": "480p"}, "It is the price of 4 seconds at 480p without sound; or top up"),
    ],
)
async def test_402_of_a_video_advises_only_what_helps(tmp_path: Path, fields: dict[str, Any], told: str) -> None:
    async with bench(tmp_path, balance=parse_yuan("0.1")) as gateway:
        answer = await gateway.ask("/videos/generations", {"prompt": "waves", **fields})

        assert told in answer.error["message"]
        assert await gateway.balance() == (100_000_000, 0)
        await assert_books_balance(gateway.store)


async def test_a_text_that_is_surely_too_long_is_refused_before_anything_is_held(gateway: Bench) -> None:
    answer = await gateway.chat(messages=[{"role": "user", "content": "word " * 400_000}])  # 2,000,000 bytes, at most 8 a token

    assert (answer.status, answer.error["code"]) == (400, "CONTEXT_LENGTH_EXCEEDED")
    assert (answer.error["type"], answer.error["param"]) == ("context_length_exceeded", "messages")
    assert answer.error["message"].startswith("This model's maximum context length is 32768 tokens")
    assert gateway.ark.calls == []
    assert await gateway.store.receipt(answer.headers["x-request-id"]) is None
    await gateway.assert_charged(0)


CALLS = [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
TURNS: dict[str, list[dict[str, Any]]] = {
    "a refusal as the SDK dumps it": [
        {
            "role": "assistant", "content": None, "refusal": "I can't help with that.", "annotations": [], "audio": None,
            "function_call": None, "tool_calls": None,
        }
    ],
    "a thought that was cut": [{"role": "assistant", "content": None, "reasoning_content": "let me think"}],
    "null": [{"role": "assistant", "content": None}],
    "absent": [{"role": "assistant"}],
    "empty": [{"role": "assistant", "content": ""}],
    "no parts": [{"role": "assistant", "content": []}],
    "no tool calls": [{"role": "assistant", "content": None, "tool_calls": []}],
    "a refusal as a part": [{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}],
    "parts of the responses API": [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Hello", "annotations": []}]},
    ],
    "a thought and its tool": [
        {"role": "assistant", "content": "", "reasoning_content": "first I look", "tool_calls": CALLS},
        {"role": "tool", "tool_call_id": "call_1", "content": ""},
    ],
    "a tool without a result": [
        {"role": "assistant", "content": None, "tool_calls": CALLS},
        {"role": "tool", "tool_call_id": "call_1", "content": None},
        {"role": "tool", "tool_call_id": "call_1", "content": []},
    ],
    "a function": [
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": None},
        {"role": "function", "name": "f", "content": "42"},
    ],
}  # fmt: skip


@pytest.mark.parametrize("turns", TURNS.values(), ids=TURNS)
@pytest.mark.parametrize("fields", [{}, {"functions": [{"name": "f", "parameters": {}}]}], ids=["", "functions"])
async def test_a_conversation_of_our_own_is_taken_and_goes_up_untouched(
    gateway: Bench, turns: list[dict[str, Any]], fields: dict[str, Any]
) -> None:
    messages = [HELLO, *turns, HELLO]

    answer = await gateway.chat(messages=messages, max_tokens=100, **fields)

    assert answer.status == 200
    assert gateway.ark.calls[-1].json["messages"] == messages
    assert {name: gateway.ark.calls[-1].json[name] for name in fields} == fields
    receipt = (await gateway.ask(f"/usage/{answer.headers['x-request-id']}")).json
    assert float(receipt["hold"]) < 0.003  # a whole context would be ¥0.026
    await gateway.assert_charged(CHARGE)


@pytest.mark.parametrize("stream", [None, False])
async def test_stream_options_stay_off_a_call_that_does_not_stream(gateway: Bench, stream: bool | None) -> None:
    answer = await gateway.chat(stream=stream, stream_options={"include_usage": True})
    refused = await gateway.chat(stream=stream, stream_options="include_usage")

    assert (answer.status, refused.status, refused.error["param"]) == (200, 400, "stream_options")
    assert "stream_options" not in gateway.ark.calls[-1].json
    await gateway.assert_charged(CHARGE)


UNNAMED = '\n[[models]]\nid = "unnamed"\nkind = "chat"\nupstream = "ark"\nprice = { input = "6", output = "30" }\n'


@pytest.mark.parametrize(
    ("fields", "usage"),
    [
        ({"thinking": {"type": "enabled"}, "max_tokens": 1}, (20, 32_000)),
        (
            {
                "messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "https://x/v.mp4", "fps": 5}}]}],
                "max_completion_tokens": 1,
            },
            (90_000, 1),
        ),
    ],
    ids=["thinking", "a video"],
)
async def test_a_model_that_names_no_bound_is_charged_in_full(tmp_path: Path, fields: dict[str, Any], usage: tuple[int, int]) -> None:
    prompt_tokens, completion_tokens = usage
    async with bench(tmp_path, models=UNNAMED) as gateway:
        gateway.ark.chat.reply = ChatReply(cuts=False, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)

        answer = await gateway.chat(**{"model": "unnamed", **fields})

        assert answer.status == 200
        receipt = (await gateway.ask(f"/usage/{answer.headers['x-request-id']}")).json
        assert receipt["shortfall"] == "0.00"
        await gateway.assert_charged(prompt_tokens * 6_000 + completion_tokens * 30_000)
