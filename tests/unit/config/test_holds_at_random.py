"""Any chat request against a plain model of what Ark, or a server like it, may bill it at: no hold is less."""

import re
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.catalog import ChatPrice, Model
from proxy.core.chat.request import parse_chat_call
from proxy.core.errors import ContextLengthError
from proxy.core.pricing import charge_for_chat
from proxy.core.settlement import TokenUsage, capped
from tests.unit.config.test_published_maxima import CHATS, PICTURE_TOKENS, PIXELS_PER_TOKEN, PUBLISHED, VIDEO, picture

MODELS: list[Model] = [param.values[0] for param in CHATS]  # type: ignore[misc]
WHOLE_PICTURE = 36_000_000 // PIXELS_PER_TOKEN
BEYOND = 10**9
"""Tokens of what only the context bounds."""

TEXTS = st.text(max_size=300)
JSON = st.recursive(
    st.one_of(st.integers(-9, 9), TEXTS, st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=20), st.dictionaries(st.text(max_size=3), inner, max_size=5)),
    max_leaves=60,
)
SEARCHES: list[dict[str, Any]] = [{}, {}, {}, {"enable_search": True}, {"web_search_options": {}}, {"context_id": "ctx-1"}]
THINKING: list[dict[str, Any]] = [{}, {"thinking": None}, *({"thinking": {"type": kind}} for kind in ("enabled", "auto", "disabled"))]
ASKED: list[dict[str, Any]] = [{}, {}, {"reasoning_effort": "high"}, {"reasoning": {"effort": "high"}}, {"enable_thinking": True}]
SCHEMAS = st.one_of(JSON, st.integers(0, 3_000).map(lambda count: {"enum": [1] * count}))


def written_tokens(value: Any) -> int:
    """Return the tokens of a value written as indented JSON: one for each byte, and for each break with its indentation."""
    if isinstance(value, dict):
        return 3 + sum(3 + len(orjson.dumps(key)) + 1 + written_tokens(inner) for key, inner in value.items())
    if isinstance(value, list):
        return 3 + sum(2 + written_tokens(inner) for inner in value)
    return len(orjson.dumps(value))


@st.composite
def pictures(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    detail = draw(st.sampled_from([None, "auto", "low", "high", "xhigh"]))
    limit = draw(
        st.sampled_from([None, {}, {"max_pixels": 1}, {"max_pixels": 50_000}, {"max_pixels": 4_014_080}, {"min_pixels": 3_000_000}])
    )
    tokens = PICTURE_TOKENS.get(detail, WHOLE_PICTURE) if detail else PICTURE_TOKENS[None]
    for pixels in (limit or {}).values():
        of_limit = -(-pixels // PIXELS_PER_TOKEN)
        # Ark refuses a limit of less than 3,136 pixels: who takes it knows nothing of it
        tokens = tokens if pixels < 3_136 else of_limit if limit == {"max_pixels": pixels} else max(tokens, of_limit)
    image = {} if limit is None else {"image_pixel_limit": limit}
    return picture(**({} if detail is None else {"detail": detail}), **image), tokens + 2  # one before it, one behind


PARTS = st.one_of(
    TEXTS.map(lambda text: ({"type": "text", "text": text}, len(text.encode()))),
    pictures(),
    st.sampled_from([(VIDEO, BEYOND), ({"type": "file", "file": {"file_id": "f"}}, BEYOND)]),
)


@st.composite
def messages(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """Draw a message and the most tokens that it may come to, with 16 of the template's."""
    match draw(st.sampled_from(["text", "parts", "calls", "result"])):
        case "text":
            text = draw(TEXTS)
            return {"role": draw(st.sampled_from(["user", "system"])), "content": text}, 16 + len(text.encode())
        case "parts":
            parts = draw(st.lists(PARTS, min_size=1, max_size=30))
            return {"role": "user", "content": [part for part, _ in parts]}, 16 + sum(tokens for _, tokens in parts)
        case "calls":
            arguments, thought = orjson.dumps(draw(SCHEMAS)).decode(), draw(TEXTS)
            called: dict[str, Any] = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": arguments}}
            read = {**called, "function": {"name": "f", "arguments": orjson.loads(arguments)}}
            spoken = {"role": "assistant", "content": None, "reasoning_content": thought, "tool_calls": [called]}
            return spoken, 16 + len(thought.encode()) + max(written_tokens([called]), written_tokens([read]))
    text = draw(TEXTS)
    return {"role": "tool", "tool_call_id": "call_1", "content": text}, 16 + 6 + len(text.encode())


@st.composite
def calls(draw: st.DrawFn) -> tuple[Model, dict[str, Any], TokenUsage]:
    """Draw a model, a request, and the dearest usage that its upstream may report."""
    model = draw(st.sampled_from(MODELS))
    most = PUBLISHED[model.upstream_model]
    said = draw(st.lists(messages(), min_size=1, max_size=12))
    body: dict[str, Any] = {"messages": [message for message, _ in said]}
    prompt = 128 + sum(tokens for _, tokens in said)
    if draw(st.booleans()):
        kinds = st.sampled_from(["function"] * 9 + ["web_search"])
        tools = draw(
            st.lists(
                st.fixed_dictionaries({"type": kinds, "function": st.fixed_dictionaries({"name": TEXTS, "parameters": SCHEMAS})}),
                max_size=5,
            )
        )
        body["tools"] = tools
        prompt += 530 + sum(24 + written_tokens(tool) for tool in tools)  # Anthropic's instructions are the longest published
        prompt += BEYOND * any(tool["type"] == "web_search" for tool in tools)
    if draw(st.booleans()):
        body["functions"] = [{"name": "f"}] * draw(st.integers(0, 100))
        prompt += 530 + len(body["functions"]) * written_tokens({"type": "function", "function": {"name": "f"}})
    if draw(st.booleans()):
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "s", "schema": draw(SCHEMAS)}}
        prompt += 100 + written_tokens(body["response_format"])
    body |= (searches := draw(st.sampled_from(SEARCHES)))
    prompt = min(prompt + BEYOND * bool(searches), most.context)
    return model, body, TokenUsage(prompt, draw(completions(body, model)), draw(st.sampled_from([0, prompt])))


@st.composite
def completions(draw: st.DrawFn, body: dict[str, Any], model: Model) -> int:
    """Add what a request may say of its output, and return the most tokens of that."""
    most = PUBLISHED[model.upstream_model]
    thinking, asked = draw(st.sampled_from(THINKING)), draw(st.sampled_from(ASKED))
    body |= thinking | asked
    is_off = (thinking or dict(model.request_defaults)).get("thinking") == {"type": "disabled"}
    answer, thought = 4_096, 0 if is_off and not asked else most.thinking
    if (limit := draw(st.sampled_from([None, "max_tokens", "max_completion_tokens"]))) is not None:
        answer = body[limit] = draw(st.integers(1, most.answer))
    if draw(st.booleans()):
        body["n"] = draw(st.integers(1, 4))
    return (answer + (0 if limit == "max_completion_tokens" else thought)) * int(body.get("n", 1))


@settings(max_examples=200, deadline=None)
@given(calls())
def test_no_request_may_be_billed_above_its_hold(drawn: tuple[Model, dict[str, Any], TokenUsage]) -> None:
    model, body, usage = drawn
    assert isinstance(model.price, ChatPrice)
    try:
        call = parse_chat_call(body, model)
    except ContextLengthError:
        return  # refused before anything is held or asked

    _, shortfall = capped(charge_for_chat(model.price, usage), call.hold_nanos(model.price))

    assert shortfall == 0, (call.prompt, call.output, usage)


ENOUGH = re.compile(r"set (?P<limits>'.*?) to (?P<tokens>[0-9]+) at most, which is enough")


@settings(max_examples=200, deadline=None)
@given(calls(), st.integers(1, 1_000))
def test_what_a_402_says_is_enough_is(drawn: tuple[Model, dict[str, Any], TokenUsage], permille: int) -> None:
    """And where it says nothing, not one token of output could be paid beside the prompt."""
    model, body, _ = drawn
    assert isinstance(model.price, ChatPrice)
    try:
        call = parse_chat_call(body, model)
    except ContextLengthError:
        return
    available = call.hold_nanos(model.price) * permille // 1_000 - 1

    if (told := ENOUGH.search(call.hold_advice(model.price, available))) is not None:
        limits, tokens = told["limits"].split(" (in place of ")[0], int(told["tokens"])
        fields = dict.fromkeys(re.findall(r"'([a-z_]+)'", limits), tokens)
    else:
        fields = {"max_completion_tokens": 1}
    asked = {key: value for key, value in body.items() if key not in ("max_tokens", "max_completion_tokens")} | fields
    held = parse_chat_call(asked, model).hold_nanos(model.price)

    assert (held <= available) == (told is not None), told
