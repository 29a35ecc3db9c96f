"""What a chat is held at: pictures by their detail, a prompt by its context; and what a customer is told who cannot pay that."""

from dataclasses import replace
from typing import Any

import pytest

from proxy.core.catalog import ChatPrice, ChatTier, Kind, Model
from proxy.core.chat.request import parse_chat_call
from proxy.core.errors import ContextLengthError, InvalidMessagesError
from proxy.core.money import Nanos

FLAT = ChatPrice((ChatTier(None, Nanos(800), Nanos(2_000), Nanos(160)),))
# ¥3.2, 4.8 and 9.6 in, ¥16, 24 and 48 out per million tokens
TIERED = ChatPrice(
    (
        ChatTier(32_768, Nanos(3_200), Nanos(16_000), Nanos(640)),
        ChatTier(131_072, Nanos(4_800), Nanos(24_000), Nanos(4_800)),
        ChatTier(None, Nanos(9_600), Nanos(48_000), Nanos(9_600)),
    )
)
MODEL = Model("m", Kind.CHAT, "ark", "ep", FLAT, context_tokens=262_144, reasoning_tokens_max=0)
AROUND = 32 + 256
"""Tokens of the chat template around one message, and once."""


def say(content: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **fields}


def prompt_tokens(content: Any, model: Model = MODEL) -> int:
    return parse_chat_call(say(content), model).prompt.tokens


PICTURES = [
    # (image_url beside its url, fields of the part, tokens)
    ({"detail": "low"}, {}, 1_312),
    ({"detail": "high"}, {}, 5_120),
    ({"detail": "auto"}, {}, 5_120),
    ({"detail": None}, {}, 5_120),
    ({}, {}, 5_120),
    # nothing is published for these: 36,000,000 pixels, the most that Ark takes, / 784
    ({"detail": "xhigh"}, {}, 45_919),
    ({"detail": "LOW"}, {}, 45_919),
    ({"detail": ["low"]}, {}, 45_919),
    # a limit in pixels counts over the detail: 1,000,000 / 784 = 1,275.5, and 4,014,080 / 784 = 5,120
    ({"detail": "high", "image_pixel_limit": {"max_pixels": 1_000_000}}, {}, 1_276),
    ({"detail": "low", "image_pixel_limit": {"max_pixels": 4_014_080}}, {}, 5_120),
    ({"detail": "low", "image_pixel_limit": {"min_pixels": 3_136}}, {}, 1_312),
    ({"detail": "low", "image_pixel_limit": {"min_pixels": 3_000_000}}, {}, 3_827),
    ({"detail": "low", "image_pixel_limit": None}, {}, 1_312),
    ({"image_pixel_limit": {"max_pixels": 10**12}}, {}, 45_919),
    ({"image_pixel_limit": {"max_pixels": "1000000"}}, {}, 45_919),
    ({"image_pixel_limit": {"max_pixels": -1}}, {}, 45_919),
    # less than Ark takes: whoever takes it does not obey it
    ({"image_pixel_limit": {"max_pixels": 3_136}}, {}, 4),
    ({"image_pixel_limit": {"max_pixels": 3_135}}, {}, 45_919),
    ({"image_pixel_limit": {"max_pixels": 1}}, {}, 45_919),
    ({"image_pixel_limit": []}, {}, 45_919),
    # where a page or an SDK of Ark's has it elsewhere it does not lower the bound
    ({"detail": "high"}, {"image_pixel_limit": {"max_pixels": 1_000_000}}, 5_120),
    ({"detail": "low"}, {"image_pixel_limit": {"max_pixels": 4_014_080}}, 5_120),
    ({"detail": "high", "max_pixels": 1_000_000}, {}, 5_120),
    ({"detail": "low", "max_pixels": 4_014_080}, {}, 5_120),
]


@pytest.mark.parametrize(("image", "beside", "tokens"), PICTURES)
def test_a_picture_is_held_by_its_detail_and_its_pixels(image: dict[str, Any], beside: dict[str, Any], tokens: int) -> None:
    part = {"type": "image_url", "image_url": {"url": "https://x/i.png", **image}, **beside}

    assert parse_chat_call(say([part]), MODEL).prompt.picture_tokens == tokens
    assert parse_chat_call(say([part] * 3), replace(MODEL, image_tokens=100)).prompt.picture_tokens == 300


VIDEO = {"type": "video_url", "video_url": {"url": "https://x"}}
PICTURE = {"type": "image_url", "image_url": {"url": "https://x"}}
ALIAS = replace(MODEL, context_tokens=32_768, upstream_context_tokens=262_144)
UNKNOWN = replace(MODEL, context_tokens=0, context_tokens_assumed=100_000)
PROMPTS = [
    # (content, model, tokens)
    ("x" * 300_000, MODEL, 262_144),
    ([PICTURE] * 100, MODEL, 262_144),
    ([PICTURE] * 2, MODEL, 10_240 + 2 * 4 + AROUND),
    ([VIDEO], MODEL, 262_144),
    ([VIDEO, VIDEO, PICTURE, {"type": "text", "text": "x" * 9_000}], MODEL, 262_144),
    # more is taken upstream than is sold: what passes is held in full
    ("x" * 100_000, ALIAS, 100_000 + AROUND),
    ([PICTURE] * 20, ALIAS, 102_400 + 20 * 4 + AROUND),
    ([VIDEO], ALIAS, 262_144),
    # without a context what can be counted is not capped
    ("x" * 300_000, UNKNOWN, 300_000 + AROUND),
    ([PICTURE] * 100, UNKNOWN, 512_000 + 100 * 4 + AROUND),
    ([VIDEO, VIDEO], UNKNOWN, 100_000 + AROUND),
]


@pytest.mark.parametrize(("content", "model", "tokens"), PROMPTS, ids=range(len(PROMPTS)))
def test_a_prompt_is_held_at_no_more_than_its_context(content: Any, model: Model, tokens: int) -> None:
    assert prompt_tokens(content, model) == tokens


def test_a_long_chinese_prompt_is_held_at_its_context_in_the_dearest_tier() -> None:
    call = parse_chat_call(say("中" * 260_000, max_completion_tokens=1_000), MODEL)  # 780,000 bytes

    assert call.hold_nanos(TIERED) == 262_144 * 9_600 + 1_000 * 48_000


@pytest.mark.parametrize(
    ("content", "earlier"),
    [
        ("x" * 262_152, {}),
        ([{"type": "text", "text": "x" * 262_152}], {}),
        ([{"type": "text", "text": "x" * 131_076}, {"type": "input_text", "text": "中" * 43_692}], {}),
        ("x" * 131_076, {"content": "x" * 131_076}),
    ],
)
def test_a_text_that_is_surely_longer_than_the_context_is_refused(content: Any, earlier: dict[str, Any]) -> None:
    """Eight bytes a token at least: 262,152 bytes are more than 32,768 tokens."""
    messages = [{"role": "assistant", "content": None, **earlier}, {"role": "user", "content": content}]

    with pytest.raises(
        ContextLengthError, match=r"^This model's maximum context length is 32768 tokens\. Please reduce the length of the messages\.$"
    ) as refused:
        parse_chat_call({"messages": messages}, replace(MODEL, context_tokens=32_768))

    assert refused.value.param == "messages"


@pytest.mark.parametrize(
    ("fields", "model"),
    [
        ({}, ALIAS),
        ({"reasoning_content": "x" * 9_000_000}, ALIAS),  # Ark may leave earlier thoughts out
        ({"content": "x" * 9_000_000}, UNKNOWN),
    ],
)
def test_a_text_that_may_fit_is_not_refused(fields: dict[str, Any], model: Model) -> None:
    parse_chat_call({"messages": [{"role": "assistant", "content": "x" * 262_151, **fields}]}, model)


def test_only_the_first_of_a_crowd_of_fields_are_looked_at() -> None:
    part = {"type": "text", "text": "x", **{f"ẞ{number}": 1 for number in range(980_000)}}

    with pytest.raises(InvalidMessagesError, match="more than 256 fields"):
        parse_chat_call(say([part]), MODEL)


THINKER = replace(MODEL, reasoning_tokens_max=32_768)
THINKING_OFF = "turn thinking off (up to 32768 tokens) by 'thinking': {'type': 'disabled'}, or bound it by 'max_completion_tokens'"
NO_LIMIT = "set 'max_tokens' (without it the model's own limit of 4096 counts)"
MEDIA = "leave out videos, audio, files and searches, whose tokens nobody can count beforehand"
ADVICE: list[tuple[dict[str, Any], int, int, list[str]]] = [
    # (body, prompt tokens, output tokens, ways to need less)
    (say("Hello"), 293, 36_864, [THINKING_OFF, NO_LIMIT]),
    (say("Hello", max_tokens=100_000, thinking={"type": "disabled"}), 293, 100_000, ["lower 'max_tokens' (100000)"]),
    (say("Hello", max_completion_tokens=5_000, n=4), 293, 20_000, ["lower 'n' (4)", "lower 'max_completion_tokens' (5000)"]),
    (say("Hello", max_completion_tokens=7, max_tokens=50_000), 293, 50_000, ["lower 'max_tokens' and 'max_completion_tokens' (50000)"]),
    # what asks for thinking must go too, and Ark refuses one limit beside the other
    (
        say("Hello", max_tokens=100, reasoning_effort="high"),
        293,
        32_868,
        [THINKING_OFF.replace(", or", " and no 'reasoning_effort', or") + " (in place of 'max_tokens')"],
    ),
    (
        say([PICTURE] * 20, max_completion_tokens=10),
        102_768,
        10,
        ["send fewer pictures (up to 102400 tokens), or with 'detail': 'low'"],
    ),
    (say([VIDEO], max_completion_tokens=10), 262_144, 10, [MEDIA]),
    (say("x" * 200_000, max_completion_tokens=10), 200_288, 10, ["shorten the messages"]),
]


@pytest.mark.parametrize("price", [FLAT, TIERED], ids=["flat", "tiered"])
@pytest.mark.parametrize(("body", "prompt", "output", "ways"), ADVICE, ids=range(len(ADVICE)))
def test_a_customer_is_told_what_makes_the_hold_and_how_to_lower_it(
    body: dict[str, Any], prompt: int, output: int, ways: list[str], price: ChatPrice
) -> None:
    told = parse_chat_call(body, THINKER).hold_advice(price, 0)

    assert told == f"It holds up to {prompt} prompt tokens and {output} output tokens. To need less: {'; '.join(ways)}"
