"""A chat request: its hold, its upstream body, and that any invalid body leads to a refusal, not to a crash."""

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.catalog import ChatPrice, ChatTier, Kind, Model, Route
from proxy.core.chat.measure import ROLES
from proxy.core.chat.request import asking, parse_chat_call, readdressed, requested_model, upstream_body
from proxy.core.errors import GatewayError, InvalidMessagesError, InvalidParameterError
from proxy.core.money import Nanos

# ¥0.8 and ¥2.0 per million tokens
PRICE = ChatPrice((ChatTier(None, Nanos(800), Nanos(2_000), Nanos(160)),))
MODEL = Model(
    id="chat",
    kind=Kind.CHAT,
    upstream="ark",
    upstream_model="ep-1",
    price=PRICE,
    context_tokens=32_768,
    output_tokens_max=4_096,
    reasoning_tokens_max=0,
    image_tokens=2_048,
)
THINKER = replace(MODEL, reasoning_tokens_max=1_000)
UNNAMED = replace(MODEL, reasoning_tokens_max=None)
QUIET = replace(THINKER, request_defaults={"thinking": {"type": "disabled"}})
HELLO: Any = [{"role": "user", "content": "Hello"}]
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000}}


def say(content: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content, **more}]}


TEXT = [
    # (body, bytes of text, tokens of media and of what a template adds; the context where only that bounds them)
    ({"messages": HELLO}, 5, 0),
    ({"messages": HELLO * 3}, 15, 0),
    (say("你好"), 6, 0),  # three bytes each in UTF-8
    (say("👋"), 4, 0),
    (say(""), 0, 0),
    (say("Hello", name="bob"), 8, 0),
    (say([{"type": "text", "text": "ab"}, {"type": "text", "text": "c"}]), 3, 0),
    (say([PICTURE, {"type": "text", "text": "ab"}]), 2, 2_048 + 4),  # a picture's base64 does not count as text
    (say([PICTURE] * 3), 0, 6_144 + 3 * 4),
    # media without a published limit are bounded by the context
    (say([{"type": "video_url", "video_url": {"url": "https://example.com/"}}]), 0, 32_768),
    (say([{"type": "input_audio", "input_audio": {"data": "AAAA"}}]), 0, 32_768),
    # however many there are, they share it
    (say([{"type": "video_url", "video_url": {"url": "https://example.com/"}}] * 3), 0, 32_768),
    # media in fields that the type does not name count too: the upstream might read them
    (say([{"type": "text", "text": "ab", "image_url": {"url": "x"}}]), 2, 32_768),
    (say([{**PICTURE, "video_url": {"url": "x"}, "file": {}}]), 0, 32_768),
    (say([{"type": "text", "text": "ab", "image_url": None}]), 2, 0),
    (say([{"type": "input_image", "image_url": "https://example.com/", "text": "ab"}]), 2, 32_768),
    (say([{"type": "file_id", "text": "ab"}]), 2, 32_768),
    (say("Hello", audio={"id": "audio_1"}), 5 + 16, 32_768),
    (say("Hello", audio=None, file="a.txt"), 5 + 5, 0),
    # text of any type is text
    (say([{"type": "refusal", "refusal": "no"}, {"type": "thinking", "thinking": "hm"}]), 4, 0),
    (say([{"type": "input_text", "text": "ab"}, {"type": "output_text", "text": "c", "annotations": []}]), 3 + 2, 2),
    (say([{"type": "unheard_of", "text": "ab"}]), 2, 0),
    (say([{"type": "unheard_of"}]), 0, 32_768),
    # [{"id":"1"}] has 12 bytes, and 5 marks with a blank beside them
    ({"messages": [*HELLO, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]}, 17, 5),
    ({"messages": [*HELLO, {"role": "assistant", "tool_calls": [{"id": "1"}]}]}, 17, 5),
    # {"type":"json_object"} has 22 bytes, [{"a":1}] has 9; tools and formats are explained in up to 1,024 tokens, 64 more for each tool
    ({"messages": HELLO, "response_format": {"type": "json_object"}}, 27, 3 + 1_024),
    ({"messages": HELLO, "tools": [{"a": 1}], "functions": [{"a": 1}]}, 23, 2 * (5 + 64) + 1_024),
    ({"messages": HELLO, "unheard_of": {"type": "json_object"}}, 27, 3),
    ({"messages": HELLO, "unheard_of": "你好"}, 5, 6),
    ({"messages": HELLO, "tools": []}, 7, 2 + 1_024),
    # what the upstream finds or fetches itself only the context bounds
    ({"messages": HELLO, "tools": [{"type": "web_search"}]}, 5 + 23, 32_768),
    ({"messages": HELLO, "tools": [{"type": ["function"]}]}, 5 + 23, 32_768),
    ({"messages": HELLO, "tools": [{"type": "custom"}, {"type": None}]}, 5 + 33, 9 + 2 * 64 + 1_024),
    ({"messages": HELLO, "enable_search": True}, 5, 32_768),
    ({"messages": HELLO, "enable_search": False, "plugins": [], "web_search_options": None}, 5 + 2, 2),
    ({"messages": HELLO, "web_search_options": {}}, 5 + 2, 32_768),
    ({"messages": HELLO, "previous_response_id": "resp_1"}, 5, 32_768),
    ({"messages": HELLO, "temperature": 0.7, "user": "somebody"}, 5, 0),
]


@pytest.mark.parametrize(("body", "text_bytes", "media_tokens"), TEXT)
def test_all_that_may_end_in_the_prompt_is_counted(body: dict[str, Any], text_bytes: int, media_tokens: int) -> None:
    call = parse_chat_call(body, MODEL)

    # 32 tokens a message and 256 a request are the chat template's; no prompt is longer than the context
    assert call.text_bytes == text_bytes
    assert call.prompt.tokens == min(text_bytes + 32 * len(body["messages"]) + 256 + media_tokens, 32_768)


OUTPUT: list[tuple[Model, dict[str, Any], int]] = [
    # (model, limits, tokens)
    (MODEL, {}, 4_096),
    (MODEL, {"max_tokens": 100}, 100),
    (MODEL, {"max_tokens": None}, 4_096),
    (MODEL, {"max_tokens": 100, "n": 3}, 300),
    (MODEL, {"n": 3}, 12_288),
    (MODEL, {"max_completion_tokens": 50}, 50),
    (MODEL, {"max_tokens": 100, "max_completion_tokens": 50}, 100),
    (MODEL, {"max_tokens": 50, "max_completion_tokens": 100}, 100),
    # max_tokens limits the answer alone, max_completion_tokens the chain of thought too
    (THINKER, {}, 5_096),
    (THINKER, {"max_tokens": 100}, 1_100),
    (THINKER, {"max_tokens": 100, "n": 2}, 2_200),
    (THINKER, {"max_completion_tokens": 50}, 50),
    # the chain of thought counts unless thinking is explicitly disabled
    (THINKER, {"max_tokens": 100, "thinking": {"type": "disabled"}}, 100),
    (THINKER, {"max_tokens": 100, "thinking": {"type": "disabled"}, "reasoning_effort": "high"}, 1_100),
    (QUIET, {"max_tokens": 100}, 100),
    (QUIET, {"max_tokens": 100, "thinking": {"type": "enabled"}}, 1_100),
    (QUIET, {"max_tokens": 100, "thinking": None}, 1_100),
    (QUIET, {"max_tokens": 100, "reasoning_effort": "minimal"}, 1_100),
    (QUIET, {"max_tokens": 100, "reasoning_effort": None}, 100),
    (QUIET, {"max_tokens": 100, "reasoning": {"effort": "high"}}, 1_100),
    (QUIET, {"max_tokens": 100, "thinking": {"type": "disabled"}, "enable_thinking": True}, 1_100),
    # fields from the operator's defaults are bounded like the client's own
    (replace(MODEL, request_defaults={"max_tokens": 9_000, "n": 2}), {}, 18_000),
    (replace(MODEL, request_defaults={"max_tokens": 9_000}), {"max_tokens": 10}, 10),
    # a chain of thought that the model's table does not name is held at what is left of the context: 32,768 less 5 bytes / 8
    (UNNAMED, {"max_tokens": 1}, 1 + 32_768),
    (UNNAMED, {"max_tokens": 1, "messages": say("x" * 80_000)["messages"]}, 1 + 22_768),
    (UNNAMED, {"max_tokens": 1, "n": 2}, 2 * (1 + 32_768)),
    (UNNAMED, {"max_tokens": 1, "thinking": {"type": "disabled"}}, 1),
    (UNNAMED, {"max_completion_tokens": 50}, 50),
    (replace(UNNAMED, upstream_context_tokens=262_144), {"max_tokens": 1}, 1 + 262_144),
    # ... or at what the operator assumes where no context is known either
    (replace(UNNAMED, context_tokens=0, context_tokens_assumed=100_000), {"max_tokens": 1}, 1 + 100_000),
]


@pytest.mark.parametrize(("model", "limits", "tokens"), OUTPUT)
def test_the_output_is_bounded_for_all_choices_together(model: Model, limits: dict[str, Any], tokens: int) -> None:
    assert parse_chat_call({"messages": HELLO, **limits}, model).output.tokens == tokens


def test_thinking_in_another_case_is_refused() -> None:
    with pytest.raises(InvalidParameterError):
        parse_chat_call({"messages": HELLO, "thinking": {"type": "disabled", "Type": "enabled"}}, THINKER)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 5_001}] * 2},
        {"messages": [{"role": "user", "content": "", **{f"x{number}": [] for number in range(255)}}]},
        {"messages": HELLO * 10_001},
        say([{"type": "text", "text": "", **{f"x{number}": 1 for number in range(255)}}]),
        say([{"type": "image_url", "image_url": {"url": "x", **{f"x{number}": 1 for number in range(256)}}}]),
        {"messages": [{"role": "user", "content": "", **{f"x{number}": 1 for number in range(250)}}] * 200},
        say([{"type": "image_url", "image_url": {"url": "x", **{f"x{number}": 1 for number in range(250)}}}] * 200),
        say([PICTURE] * 10_000),
    ],
)
def test_what_would_take_long_to_measure_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidMessagesError):
        parse_chat_call(body, MODEL)


def test_the_hold_is_the_worst_case() -> None:
    call = parse_chat_call({"messages": HELLO, "max_tokens": 100}, MODEL)

    # 5 bytes + 32 for the message + 256 = 293 tokens at 800, and 100 tokens at 2,000
    assert call.hold_nanos(PRICE) == 234_400 + 200_000


def up(body: dict[str, Any], model: Model = MODEL) -> dict[str, Any]:
    sent: dict[str, Any] = orjson.loads(upstream_body(parse_chat_call(body, model), model))
    return sent


def test_what_is_not_ours_to_judge_goes_up_untouched() -> None:
    odd = {"temperature": "hot", "seed": 2**63 - 1, "metadata": {"Model": None}, "stop": ["\u0000", "🤖"], "logit_bias": {"1": -100}}

    assert up({"model": "chat", "messages": HELLO, **odd}) == {"model": "ep-1", "messages": HELLO, **odd}


def test_a_developer_goes_up_as_system_and_the_clients_body_stays_as_it_was() -> None:
    messages = [{"role": "developer", "content": "x", "name": "a"}, *HELLO]

    assert up({"messages": messages})["messages"] == [{"role": "system", "content": "x", "name": "a"}, *HELLO]
    assert messages[0]["role"] == "developer"


ROUTES = (Route("ark", "ep-1"), Route("ark", "ep-22"), Route("local", "tiny", dialect="openai", asks_usage=False))
SEVERAL = replace(MODEL, routes=ROUTES, request_defaults={"thinking": {"type": "disabled"}})
_OPTIONS = st.none() | st.fixed_dictionaries(
    {}, optional={"include_usage": st.booleans(), "chunk_include_usage": st.booleans(), "x": st.just({"a": 1, "stream_options": {}})}
)
_STREAMED = st.fixed_dictionaries(
    {"messages": st.just([{"role": "developer", "content": ',"stream_options":{"include_usage":true}}'}, *HELLO])},
    optional={"model": st.just("chat"), "stream": st.booleans(), "stream_options": _OPTIONS, "n": st.just(2), "user": st.text()},
)


@given(_STREAMED, st.sampled_from(ROUTES), st.sampled_from(ROUTES))
def test_a_body_for_another_route_is_the_one_that_it_would_have_got_at_first(body: dict[str, Any], first: Route, then: Route) -> None:
    call = parse_chat_call(body, SEVERAL)
    before, after = SEVERAL.by(first), SEVERAL.by(then)

    assert readdressed(upstream_body(call, before), before, after, asking(call)) == upstream_body(call, after)


STREAMS: list[tuple[dict[str, Any], dict[str, Any] | None, bool]] = [
    # (fields from the client, stream options sent upstream, whether the client asked for usage)
    ({}, None, False),
    ({"stream": False}, None, False),
    ({"stream": None}, None, False),
    ({"stream": True}, {"include_usage": True}, False),
    ({"stream": True, "stream_options": None}, {"include_usage": True}, False),
    ({"stream": True, "stream_options": {}}, {"include_usage": True}, False),
    ({"stream": True, "stream_options": {"include_usage": False}}, {"include_usage": True}, False),
    ({"stream": True, "stream_options": {"include_usage": True}}, {"include_usage": True}, True),
    ({"stream": True, "stream_options": {"x": 1}}, {"include_usage": True, "x": 1}, False),
    # OpenAI and Ark refuse them on a call that does not stream
    ({"stream_options": {"include_usage": True}}, None, False),
    ({"stream": False, "stream_options": {"include_usage": True}}, None, False),
    ({"stream": None, "stream_options": None}, None, False),
]


@pytest.mark.parametrize(("fields", "options", "asked"), STREAMS)
def test_a_stream_is_always_asked_for_its_usage(fields: dict[str, Any], options: dict[str, Any] | None, asked: bool) -> None:
    body = {"messages": HELLO, **fields}

    assert up(body).get("stream_options") == options
    assert parse_chat_call(body, MODEL).include_usage is asked


def test_defaults_fill_in_what_the_client_left_out_and_never_the_model() -> None:
    model = replace(MODEL, request_defaults={"thinking": {"type": "disabled"}, "top_p": 0.5, "model": "another"})

    assert up({"messages": HELLO, "top_p": 0.9}, model) == {
        "messages": HELLO, "thinking": {"type": "disabled"}, "top_p": 0.9, "model": "ep-1",
    }  # fmt: skip


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PARTS = st.fixed_dictionaries({}, optional=dict.fromkeys(("type", "text", "image_url", "video_url", "file"), JSON))
TYPED = st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url", "x"])}, optional={"text": JSON, "image_url": JSON})
MESSAGE = st.fixed_dictionaries(
    {"role": JSON | st.sampled_from(sorted(ROLES))},
    optional={"content": JSON | st.text() | st.lists(PARTS | TYPED, max_size=2), "tool_calls": JSON},
)
PRICED = ("stream", "stream_options", "max_tokens", "n", "service_tier", "tools", "Model")
BODY = JSON | st.fixed_dictionaries(
    {"model": st.just("chat"), "messages": JSON | st.lists(MESSAGE, min_size=1, max_size=2)}, optional=dict.fromkeys(PRICED, JSON)
)


def tried(body: Any) -> GatewayError | dict[str, Any]:
    """Return the upstream body, or the refusal."""
    try:
        requested_model(body)
        return up(body)
    except GatewayError as refusal:
        return refusal


@given(BODY)
def test_no_body_is_more_than_a_refusal(body: Any) -> None:
    result = tried(body)

    if isinstance(result, GatewayError):
        assert result.status == 400
        assert orjson.dumps(result.body())
    else:
        assert result["model"] == "ep-1"


def test_a_picture_that_is_a_bare_url_is_told_the_object_it_should_be() -> None:
    with pytest.raises(InvalidMessagesError, match=r"image_url' must be an object, \{\"url\": \"…\"\}$"):
        parse_chat_call(say([{"type": "image_url", "image_url": "https://example.com/i.png"}]), MODEL)
