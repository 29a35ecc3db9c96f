"""Upstreams that speak OpenAI's protocol: what they are sent, what their errors mean, and what is charged where they tell no usage."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.demo.ark.script import Step, answer_json, answer_sse
from tests.support.gateway import Bench
from tests.support.routes import ROUTED, Routed, routed

OPENAI = 'dialect = "openai"\n'
TEXT = "你好, hello!"
"""14 bytes of UTF-8, 4 tokens of 4 bytes."""


def chunk(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": more.pop("finish_reason", None)}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice], **more}


def stream_of(*chunks: dict[str, Any]) -> list[Step]:
    return answer_sse(b"".join(b"data: %b\n\n" % orjson.dumps(each) for each in chunks) + b"data: [DONE]\n\n")


def silent_stream() -> list[Step]:
    """Return a stream without a usage: llama.cpp's server ignores the question for it."""
    pieces = [chunk({"content": piece}) for piece in ("你好", ", hel", "lo!")]
    return stream_of(chunk({"role": "assistant"}), *pieces, chunk({}, finish_reason="stop"))


def whole(usage: dict[str, Any] | None) -> list[Step]:
    message = {"role": "assistant", "content": TEXT}
    told = {} if usage is None else {"usage": usage}
    return answer_json(200, {"id": "chatcmpl-1", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], **told})


async def receipt_of_last(house: Routed) -> dict[str, Any]:
    gateway: Bench = house.gateway
    line = (await gateway.log.until_chats(1))[-1]
    return await house.receipt(str(line["request_id"]))


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_where_no_usage_comes_prompt_and_answer_are_charged_by_their_bytes(tmp_path: Path, stream: bool) -> None:
    async with routed(tmp_path, 1, upstream=OPENAI) as house:
        house.arks[0].enqueue(silent_stream() if stream else whole(None))

        reply = await house.gateway.chat(model=ROUTED, stream=stream, messages=[{"role": "user", "content": "x" * 81}])

        assert reply.status == 200
        receipt = await receipt_of_last(house)
        assert receipt["usage_source"] == "estimated"
        assert (receipt["usage"]["prompt_tokens"], receipt["usage"]["completion_tokens"]) == (21, 4)
        await house.gateway.assert_charged(21 * 800 + 4 * 2000)


async def test_a_model_may_say_how_many_bytes_its_tokens_have(tmp_path: Path) -> None:
    async with routed(tmp_path, 1, upstream=OPENAI, model="bytes_per_token = [2, 1.5]\n") as house:
        house.arks[0].enqueue(silent_stream())

        await house.gateway.chat(model=ROUTED, stream=True, messages=[{"role": "user", "content": "x" * 81}])

        usage = (await receipt_of_last(house))["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (41, 10)


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_a_usage_is_charged_with_the_cache_as_deepseek_tells_it(tmp_path: Path, stream: bool) -> None:
    usage = {"prompt_tokens": 20, "completion_tokens": 12, "prompt_cache_hit_tokens": 15, "prompt_cache_miss_tokens": 5}
    async with routed(tmp_path, 1, upstream=OPENAI) as house:
        house.arks[0].enqueue(
            stream_of(chunk({"content": TEXT}), chunk({}, finish_reason="stop", usage=usage)) if stream else whole(usage)
        )

        await house.gateway.chat(model=ROUTED, stream=stream)

        assert (await receipt_of_last(house))["usage_source"] == "reported"
        await house.gateway.assert_charged(5 * 800 + 15 * 160 + 12 * 2000)


@pytest.mark.parametrize("asks", [True, False])
async def test_usage_is_asked_for_unless_the_upstream_refuses_that(tmp_path: Path, asks: bool) -> None:
    more = OPENAI if asks else OPENAI + "asks_usage = false\n"
    async with routed(tmp_path, 1, upstream=more) as house:
        house.arks[0].enqueue(silent_stream())

        await house.gateway.chat(model=ROUTED, stream=True, stream_options={"include_usage": True})

        assert house.arks[0].calls[0].json.get("stream_options") == ({"include_usage": True} if asks else None)
        assert (await receipt_of_last(house))["usage_source"] == "estimated"


@pytest.mark.parametrize(
    ("status", "said", "results"),
    [
        (500, {"message": "The server had an error", "type": "server_error", "code": None}, [("u0", "failed"), ("u1", "answered")]),
        (503, {"message": "Slow down", "type": "server_error"}, [("u0", "failed"), ("u1", "answered")]),
        (429, {"message": "Rate limit reached", "code": "rate_limit_exceeded"}, [("u0", "limited"), ("u1", "answered")]),
        (429, {"message": "You exceeded your quota", "code": "insufficient_quota"}, [("u0", "key_refused"), ("u1", "answered")]),
        (401, {"message": "Incorrect API key", "code": "invalid_api_key"}, [("u0", "key_refused"), ("u1", "answered")]),
        (404, {"message": "The model does not exist", "code": "model_not_found"}, [("u0", "model_refused"), ("u1", "answered")]),
        (500, {"message": "Request timed out", "type": "server_error"}, []),  # it may have run
        (504, {"message": "late", "type": "server_error"}, []),
        (400, {"message": "Unknown parameter: 'foo'", "type": "invalid_request_error", "param": "foo"}, []),
    ],
)
async def test_an_error_in_openais_shape_is_the_upstreams_own_word(
    tmp_path: Path, status: int, said: dict[str, Any], results: list[tuple[str, str]]
) -> None:
    async with routed(tmp_path, 2, upstream=OPENAI) as house:
        house.arks[0].enqueue(answer_json(status, {"error": said}))

        reply = await house.gateway.chat(model=ROUTED)

        assert (reply.status == 200) is bool(results)
        line = (await house.gateway.log.until_chats(1))[-1]
        assert (await house.results(str(line["request_id"]))) == results
        assert house.calls() == ([1, 1] if results else [1, 0])
