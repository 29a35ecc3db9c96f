"""Prices and holds; each expected number is computed by hand."""

import orjson
import pytest

from proxy.core.catalog import ChatPrice, ChatTier, ImagePrice, Kind, Model, VideoPrice, VideoRate
from proxy.core.chat.request import ChatCall, parse_chat_call, requested_model
from proxy.core.money import Nanos, parse_token_price
from proxy.core.pricing import (
    charge_for_chat,
    explain,
    freeze,
    hold_for_chat,
    is_free,
    prompt_tokens_max,
    prompt_tokens_min,
    thaw_chat,
)
from proxy.core.settlement import TokenUsage, capped


def tier(up_to: int | None, input_price: str, output_price: str, cached: str) -> ChatTier:
    return ChatTier(up_to, parse_token_price(input_price), parse_token_price(output_price), parse_token_price(cached))


FLAT = ChatPrice((tier(None, "0.8", "2.0", "0.16"),))
"""800, 2,000 and 160 nano-yuan a token."""
TIERED = ChatPrice((tier(32_768, "3.2", "16", "0.64"), tier(131_072, "4.8", "24", "0.96"), tier(None, "9.6", "48", "1.92")))
FALLING = ChatPrice((tier(100, "5", "10", "5"), tier(None, "1", "2", "1")))
"""Long prompts are cheaper here."""
RISING = ChatPrice((tier(100, "1", "2", "1"), tier(None, "5", "10", "5")))


@pytest.mark.parametrize(
    ("price", "usage", "nanos"),
    [
        (FLAT, TokenUsage(20, 12), 40_000),  # 20 × 800 + 12 × 2,000 = ¥0.00004
        (FLAT, TokenUsage(0, 0), 0),
        (FLAT, TokenUsage(1, 0), 800),
        (FLAT, TokenUsage(1_000_000, 1_000_000), 2_800_000_000),  # ¥0.8 + ¥2.0
        (FLAT, TokenUsage(1000, 10, cached_tokens=600), 436_000),  # 400 × 800 + 600 × 160 + 10 × 2,000
        (FLAT, TokenUsage(1000, 0, cached_tokens=1000), 160_000),
        (FLAT, TokenUsage(20, 12, reasoning_tokens=9), 40_000),  # reasoning is inside the completion
        (TIERED, TokenUsage(32_767, 1), 104_870_400),  # 32,767 × 3,200 + 16,000
        (TIERED, TokenUsage(32_768, 1), 104_873_600),  # 32,768 × 3,200 + 16,000: the limit belongs to the lower tier
        (TIERED, TokenUsage(32_769, 1), 157_315_200),  # 32,769 × 4,800 + 24,000: one tier applies to the whole call
        (TIERED, TokenUsage(131_072, 0), 629_145_600),  # 131,072 × 4,800
        (TIERED, TokenUsage(131_073, 0), 1_258_300_800),  # 131,073 × 9,600
        (TIERED, TokenUsage(40_000, 100, cached_tokens=30_000), 79_200_000),  # 10,000 × 4,800 + 30,000 × 960 + 100 × 24,000
    ],
)
def test_a_charge_is_exact(price: ChatPrice, usage: TokenUsage, nanos: int) -> None:
    assert charge_for_chat(price, usage) == nanos


@pytest.mark.parametrize(
    ("price", "prompt", "output", "nanos"),
    [
        (FLAT, 293, 100, 434_400),  # 293 × 800 + 100 × 2,000
        (TIERED, 32_768, 10, 105_017_600),  # 32,768 × 3,200 + 10 × 16,000: the next tier is out of reach
        (TIERED, 32_769, 10, 157_531_200),  # 32,769 × 4,800 + 10 × 24,000
        (TIERED, 200_000, 10, 1_920_480_000),  # 200,000 × 9,600 + 10 × 48,000
        (RISING, 100, 10, 120_000),  # 100 × 1,000 + 10 × 2,000: all of it in the lower tier
        (RISING, 101, 10, 605_000),  # 101 × 5,000 + 10 × 10,000
        (FALLING, 1_000, 10, 5_100_000),  # 1,000 × 5,000 + 10 × 10,000: a short prompt costs more a token
    ],
)
def test_a_hold_is_sized_by_the_dearest_tier_in_reach(price: ChatPrice, prompt: int, output: int, nanos: int) -> None:
    assert hold_for_chat(price, prompt, output) == nanos


def test_a_cached_token_that_is_dearer_than_a_fresh_one_sizes_the_hold() -> None:
    odd = ChatPrice((tier(None, "1", "1", "3"),))

    assert hold_for_chat(odd, 10, 0) == 30_000


@pytest.mark.parametrize("price", [FLAT, TIERED, FALLING])
@pytest.mark.parametrize("bound", [0, 1, 99, 100, 101, 32_768, 32_769, 200_000])
def test_no_call_within_its_bounds_costs_more_than_its_hold(price: ChatPrice, bound: int) -> None:
    held = hold_for_chat(price, bound, 50)

    for prompt in {0, 1, 100, 101, 32_768, 32_769, 131_072, 131_073, bound}:
        if prompt <= bound:
            assert charge_for_chat(price, TokenUsage(prompt, 50)) <= held
            assert charge_for_chat(price, TokenUsage(prompt, 50, cached_tokens=prompt)) <= held


def test_prompt_bounds() -> None:
    assert prompt_tokens_max(text_bytes=5, messages=1, media_tokens=0) == 293  # 5 + 32 + 256
    assert prompt_tokens_max(text_bytes=1000, messages=3, media_tokens=4096) == 5448  # 1,000 + 96 + 256 + 4,096
    assert prompt_tokens_min(800) == 100
    assert prompt_tokens_min(7) == 0


@pytest.mark.parametrize(
    ("charge", "hold", "expected"),
    [(10, 20, (10, 0)), (20, 20, (20, 0)), (21, 20, (20, 1)), (0, 0, (0, 0)), (10**20, 5, (5, 10**20 - 5))],
)
def test_a_charge_is_never_above_its_hold(charge: int, hold: int, expected: tuple[int, int]) -> None:
    assert capped(charge, hold) == expected


@pytest.mark.parametrize("price", [FLAT, TIERED])
def test_a_frozen_price_is_the_same_price(price: ChatPrice) -> None:
    assert thaw_chat(freeze(price)) == price


def test_a_charge_explains_itself() -> None:
    assert explain(freeze(FLAT), TokenUsage(20, 12), capped(40_000, 50_000)[0]) == "20 × ¥0.8/M + 12 × ¥2/M = ¥0.00004"


@pytest.mark.parametrize(
    ("usage", "charge", "formula"),
    [
        (TokenUsage(1000, 10, cached_tokens=600), 436_000, "400 × ¥0.8/M + 600 × ¥0.16/M cached + 10 × ¥2/M = ¥0.000436"),
        (TokenUsage(1000, 0, cached_tokens=1000), 160_000, "1000 × ¥0.16/M cached = ¥0.00016"),
        (TokenUsage(0, 0), 0, "0 = ¥0.00"),
    ],
)
def test_a_formula_has_a_term_for_each_kind_of_token_that_there_was(usage: TokenUsage, charge: int, formula: str) -> None:
    assert explain(freeze(FLAT), usage, capped(charge, charge)[0]) == formula


def test_prices_are_frozen_as_receipts_of_old_have_them() -> None:
    """Later versions read the prices in a store, so their names are a contract."""
    video = VideoPrice(VideoRate(Nanos(8_000), Nanos(16_000)), {"1080p": VideoRate(Nanos(9_000), Nanos(18_000))}, 500)

    assert orjson.loads(freeze(FLAT)) == {"tiers": [{"up_to": None, "input": 800, "output": 2000, "cached_input": 160}]}
    assert orjson.loads(freeze(ImagePrice(Nanos(180_000_000)))) == {"image": 180_000_000}
    assert orjson.loads(freeze(video)) == {
        "rates": {"": {"silent": 8_000, "audio": 16_000}, "1080p": {"silent": 9_000, "audio": 18_000}},
        "flex_permille": 500,
    }


# The hold of a request.

MODEL = Model(
    "m", Kind.CHAT, "ark", "ep", FLAT, context_tokens=10_000, output_tokens_max=4096, reasoning_tokens_max=1000, image_tokens=2048
)
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}


def call(**fields: object) -> ChatCall:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], **fields}
    assert requested_model(body) == "m"
    return parse_chat_call(body, MODEL)


@pytest.mark.parametrize(
    ("fields", "prompt_tokens", "output_tokens"),
    [
        ({}, 293, 5096),  # no limit: the model's 4,096 and its 1,000 of reasoning
        ({"max_tokens": 100}, 293, 1100),  # `max_tokens` does not limit reasoning
        ({"max_completion_tokens": 100}, 293, 100),  # this one limits both
        ({"max_completion_tokens": 100, "max_tokens": 300}, 293, 300),
        ({"max_tokens": 100, "n": 3}, 293, 3300),
        ({"messages": [{"role": "user", "content": "你好"}]}, 294, 5096),  # 6 bytes
        ({"messages": [{"role": "system", "content": "ab"}, {"role": "user", "content": "cde"}]}, 325, 5096),  # 5 + 2 × 32 + 256
        # a picture counts by its fixed token count, not by its base64: 2 + 2,048 + 4 around it + 32 + 256
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "ab"}, PICTURE]}]}, 2342, 5096),
        # only the context bounds a video, and no prompt is longer
        ({"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "https://x"}}]}]}, 10_000, 5096),
        ({"messages": [{"role": "user", "content": "x" * 20_000}]}, 10_000, 5096),
        # up to 1,024 tokens explain tools and formats, 64 stand around a tool, and one beside each of JSON's marks
        ({"tools": [{"type": "function"}]}, 293 + len('[{"type":"function"}]') + 5 + 64 + 1024, 5096),
        ({"response_format": {"type": "json_object"}}, 293 + len('{"type":"json_object"}') + 3 + 1024, 5096),
        ({"unheard_of": {"prompt": "x" * 100}}, 293 + 113 + 3, 5096),  # {"prompt":"…"}: 100 + 13
        ({"messages": [{"role": "user", "content": "Hello", "name": "Bob"}]}, 296, 5096),
    ],
)
def test_a_request_holds_its_worst_case(fields: dict[str, object], prompt_tokens: int, output_tokens: int) -> None:
    assert call(**fields).hold_nanos(FLAT) == prompt_tokens * 800 + output_tokens * 2_000


_FREE_RATE = VideoRate(silent=Nanos(0), audio=Nanos(0))
_FREE_TIER = tier(None, "0", "0", "0")


@pytest.mark.parametrize(
    ("price", "free"),
    [
        (ChatPrice((_FREE_TIER,)), True),
        (ChatPrice((tier(10, "0", "0", "0"), _FREE_TIER)), True),
        (ChatPrice((tier(None, "0.8", "0", "0"),)), False),
        (ChatPrice((tier(None, "0", "0.8", "0"),)), False),
        (ChatPrice((tier(None, "0", "0", "0.8"),)), False),
        (ChatPrice((tier(10, "0", "0", "0"), tier(None, "0", "1", "0"))), False),
        (ImagePrice(Nanos(0)), True),
        (ImagePrice(Nanos(1)), False),
        (VideoPrice(_FREE_RATE), True),
        (VideoPrice(VideoRate(silent=Nanos(1), audio=Nanos(0))), False),
        (VideoPrice(VideoRate(silent=Nanos(0), audio=Nanos(1))), False),
        (VideoPrice(_FREE_RATE, {"1080p": VideoRate(silent=Nanos(0), audio=Nanos(1))}), False),
    ],
)
def test_a_price_is_free_only_if_nothing_that_it_sells_costs_anything(price: ChatPrice | ImagePrice | VideoPrice, free: bool) -> None:
    assert is_free(price) is free
