"""A chat's JSON answer in hand: usage, a lower bound without it, or a refusal."""

from typing import Any

import orjson
import pytest

from proxy.core.ark.refusal import OUTAGE_RETRY_AFTER_SECONDS, RETRY_AFTER_SECONDS, Refusal
from proxy.core.catalog import ChatPrice, ChatTier, Kind, Model
from proxy.core.chat.answer import read_answer
from proxy.core.json_text import PARSED_BYTES_MAX, STRUCTURES_MAX
from proxy.core.money import Nanos
from proxy.core.protocol import SeenAnswer
from proxy.core.settlement import Outcome, TokenUsage

UPSTREAM_MODEL = "ep-canary"
MODEL = Model(
    id="m",
    kind=Kind.CHAT,
    upstream="ark",
    upstream_model=UPSTREAM_MODEL,
    price=ChatPrice((ChatTier(None, Nanos(800), Nanos(2_000), Nanos(800)),)),
)
USAGE = {"prompt_tokens": 20, "completion_tokens": 12, "prompt_tokens_details": {"cached_tokens": 5}}


def answer(**changed: Any) -> bytes:
    body = {"id": "0217", "choices": [{"message": {"role": "assistant", "content": "Hello"}}], "usage": USAGE} | changed
    return orjson.dumps({key: value for key, value in body.items() if value is not None})


def seen(raw: bytes) -> SeenAnswer:
    found = read_answer(raw, MODEL)
    assert isinstance(found, SeenAnswer)
    return found


def test_a_plain_answer_tells_its_usage_and_its_id() -> None:
    assert seen(answer()) == SeenAnswer(TokenUsage(20, 12, 5), upstream_id="0217")


def test_an_answer_with_nothing_wrong_but_an_odd_usage_tells_the_same() -> None:
    """A detail that is no count is 0, and the plain decoder leaves it to the other one."""
    odd = USAGE | {"prompt_tokens_details": {"cached_tokens": "5"}}

    assert seen(answer(usage=odd)) == SeenAnswer(TokenUsage(20, 12, 0), upstream_id="0217")


def test_without_a_usage_the_text_bounds_what_was_written() -> None:
    """16 bytes of reasoning and 24 of content are 40 bytes: at 8 a token at most, 5 tokens at least."""
    choices = [{"message": {"content": "你好你好你好你好", "reasoning_content": "sixteen letters!"}}, {"message": None}, "no choice"]

    assert seen(answer(usage=None, choices=choices)) == SeenAnswer(None, completion_tokens_min=5, text_bytes=40, upstream_id="0217")


@pytest.mark.parametrize(("told", "kept"), [("x" * 500, "x" * 128), (7, ""), (None, ""), ({}, "")])
def test_an_id_is_kept_only_if_it_is_one_and_not_for_ever(told: object, kept: str) -> None:
    assert seen(answer(id=told)).upstream_id == kept


@pytest.mark.parametrize("field", ["id", "error", "code", "ResponseMetadata"])
def test_nothing_is_decoded_for_a_field_that_holds_a_crowd(field: str) -> None:
    """Millions of objects took seconds, and most of the memory."""
    crowd = answer(**{field: [{}] * (STRUCTURES_MAX + 1)})

    refusal = read_answer(crowd, MODEL)

    assert isinstance(refusal, Refusal)
    assert refusal.outcome is Outcome.UPSTREAM_ERROR


@pytest.mark.parametrize("nothing", [{}, [], "", 0, False])
@pytest.mark.parametrize("field", ["error", "code", "ResponseMetadata"])
def test_a_field_of_an_error_that_holds_nothing_is_none(field: str, nothing: object) -> None:
    assert seen(answer(**{field: nothing})) == SeenAnswer(TokenUsage(20, 12, 5), upstream_id="0217")


def test_a_text_of_more_than_16_mib_is_read_for_its_usage_alone() -> None:
    long = "x" * PARSED_BYTES_MAX

    assert seen(answer(choices=[{"message": {"content": long}}])).usage == TokenUsage(20, 12, 5)
    assert isinstance(read_answer(answer(choices=[{"message": {"content": long}}], usage=None), MODEL), Refusal)


def test_an_answer_that_orjson_does_not_read_is_read_as_clients_would() -> None:
    raw = answer().replace(b'"Hello"', b'"Hello", "logprobs": NaN')

    assert seen(raw).usage == TokenUsage(20, 12, 5)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>",
        b"[]",
        answer(choices=None),
        answer(choices="none"),
        answer(choices=[]),
        answer(choices=[], usage=None),
        answer().replace(b'[{"message":{"role":"assistant","content":"Hello"}}]', b"[ ]"),
        answer(choices=[{"message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}], usage=None),
        answer(choices=[{"message": {"role": "assistant"}}, {"message": None}, "no choice"], usage=None),
        answer(error={"code": "InternalServiceError", "message": "of ep-canary"}),
        orjson.dumps({"error": {"code": "InvalidParameter", "message": "no"}}),
    ],
)
def test_what_is_no_answer_is_a_refusal_that_tells_nothing_of_the_upstream(raw: bytes) -> None:
    found = read_answer(raw, MODEL)

    assert isinstance(found, Refusal)
    assert found.outcome in (Outcome.UPSTREAM_ERROR, Outcome.REFUSED)
    assert UPSTREAM_MODEL not in found.error.message


@pytest.mark.parametrize(
    ("choice", "text_bytes"),
    [
        ({"message": {"tool_calls": [{"id": "call_a"}], "content": None}}, 0),
        ({"message": {"tool_calls": [{"function": {"name": "now", "arguments": "{}"}}, 5], "content": None}}, 5),
        ({"message": {"function_call": {"name": "now"}}}, 3),
        ({"message": {"refusal": "No."}}, 3),
        ({"message": {"reasoning_content": "Hm."}}, 3),
        ({"message": {"audio": {"data": "UklG"}}}, 0),
        ({"message": {"content": ""}, "finish_reason": "content_filter"}, 0),
    ],
)
def test_an_answer_may_have_no_text_and_no_usage(choice: object, text_bytes: int) -> None:
    assert seen(answer(choices=[{"message": {}}, choice], usage=None)) == SeenAnswer(None, text_bytes=text_bytes, upstream_id="0217")


def test_with_a_usage_an_empty_text_is_an_answer() -> None:
    assert seen(answer(choices=[{"message": {"content": ""}}])).usage == TokenUsage(20, 12, 5)


@pytest.mark.parametrize(
    ("raw", "retry_after"),
    [
        (answer(error={"code": "RateLimitExceeded", "message": "slow down"}), RETRY_AFTER_SECONDS),
        (orjson.dumps({"error": {"code": "RateLimitExceeded", "message": "slow down"}}), RETRY_AFTER_SECONDS),
        (orjson.dumps({"error": {"code": "InternalServiceError", "message": "later"}}), OUTAGE_RETRY_AFTER_SECONDS),
        (answer(choices=None), None),
    ],
)
def test_an_error_behind_a_200_is_mapped_as_one_with_its_own_status(raw: bytes, retry_after: float | None) -> None:
    found = read_answer(raw, MODEL)

    assert isinstance(found, Refusal)
    assert found.error.retry_after_seconds == retry_after
    assert found.note.startswith("upstream 200")
