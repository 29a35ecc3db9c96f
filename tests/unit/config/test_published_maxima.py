"""The chat models that the example, the README and the demonstration sell are held at what Ark publishes that they can cost."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from proxy.config import Config, load
from proxy.config.warnings import warnings
from proxy.core.catalog import ChatPrice, Kind, Model
from proxy.core.chat.request import parse_chat_call
from proxy.core.pricing import charge_for_chat
from proxy.core.settlement import TokenUsage, capped
from proxy.demo import setting

ROOT = Path(__file__).parents[3]
ENV = {"ARK_API_KEY": "ark-canary-1234"}


class Maxima(NamedTuple):
    context: int
    answer: int
    thinking: int


# Model list (82379/1330310): 256k context, 128k answer and 128k chain of thought for 2.0, as `GET /models` of Ark's has them in
# `token_limits`. For 2.1 litellm's model_prices_and_context_window.json (1.109.1, from 82379/1544106) has 256k output in all, and a
# context of 1,024k for the versions of 260915.
K = 1024
SEED_2_0 = Maxima(256 * K, 128 * K, 128 * K)
PUBLISHED = {
    "doubao-seed-2-0-pro-260215": SEED_2_0,
    "doubao-seed-2-0-lite-260428": SEED_2_0,
    "doubao-seed-2-0-mini-260215": SEED_2_0,
    "doubao-seed-2-1-pro-260915": Maxima(1024 * K, 256 * K, 256 * K),
    "doubao-seed-2-1-turbo-260628": Maxima(256 * K, 256 * K, 256 * K),
    "doubao-seed-2-1-lite-260915": Maxima(1024 * K, 256 * K, 256 * K),
}
PICTURE_TOKENS = {"low": 1_312, "high": 5_120, None: 5_120, "auto": 5_120}
"""Picture understanding, "token usage" (82379/1362931)."""
PIXELS_PER_TOKEN = 784


def sold() -> Iterator[tuple[str, Config]]:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    sidecar = next(block for block in re.findall(r"```toml\n(.*?)```", readme, re.DOTALL) if "[[models]]" in block)
    demo = setting._CONFIG.format(port=0, store="sqlite:demo.db", base_url="https://ark.example/api/v3", poll_seconds="1, 2")
    example = (ROOT / "config.example.toml").read_text(encoding="utf-8")
    for name, text in (("example", example), ("README", sidecar), ("demo", demo)):
        models = orjson.dumps(tomllib.loads(text)["models"]).decode()
        ark = {"LLM_PROXY_UPSTREAMS__ARK__BASE_URL": "https://ark.example/api/v3", "LLM_PROXY_UPSTREAMS__ARK__API_KEY": "x"}
        yield name, load(None, {**ark, "LLM_PROXY_MODELS": models})


CHATS = [
    pytest.param(model, id=f"{name} {model.id}")
    for name, config in sold()
    for model in config.catalog.values()
    if model.kind is Kind.CHAT
]


def picture(**image: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": "https://x/i.png", **image}}


VIDEO = {"type": "video_url", "video_url": {"url": "https://x/v.mp4", "fps": 5}}
PROMPTS: list[tuple[str, Any, int]] = [
    # (name, content, tokens that Ark may make of it; no more than its context)
    ("text of one byte a token", "~" * 200_000, 200_000),
    ("20 pictures", [picture()] * 20, 20 * PICTURE_TOKENS[None]),
    ("20 pictures, high", [picture(detail="high")] * 20, 20 * PICTURE_TOKENS["high"]),
    ("20 pictures, low", [picture(detail="low")] * 20, 20 * PICTURE_TOKENS["low"]),
    ("100 pictures, high", [picture(detail="high")] * 100, 100 * PICTURE_TOKENS["high"]),
    # the limit counts over detail
    (
        "20 pictures, limited",
        [picture(detail="low", image_pixel_limit={"max_pixels": 4_014_080})] * 20,
        20 * 4_014_080 // PIXELS_PER_TOKEN,
    ),
    ("20 pictures, xhigh", [picture(detail="xhigh")] * 20, 20 * 36_000_000 // PIXELS_PER_TOKEN),
    ("a video", [VIDEO], 10_000_000),
    ("videos and text", [VIDEO, VIDEO, {"type": "text", "text": "~" * 1_000}], 10_000_000),
]
ON = {"thinking": {"type": "enabled"}}
OUTPUTS: list[tuple[dict[str, Any], bool, int | None]] = [
    # (limits, whether the model may think, tokens of the answer; None: Ark's own default, 4096)
    ({}, False, None),
    ({**ON}, True, None),
    ({**ON, "max_tokens": 1}, True, 1),
    ({**ON, "max_tokens": 1, "n": 2}, True, 1),
    ({"reasoning_effort": "high", "max_tokens": 128 * K}, True, 128 * K),
    ({**ON, "max_completion_tokens": 100}, False, 100),
]


@pytest.mark.parametrize("model", CHATS)
@pytest.mark.parametrize(("prompt", "content", "prompt_tokens"), PROMPTS, ids=[name for name, _, _ in PROMPTS])
def test_nothing_that_ark_can_charge_is_above_its_hold(model: Model, prompt: str, content: Any, prompt_tokens: int) -> None:
    published = PUBLISHED[model.upstream_model]
    assert isinstance(model.price, ChatPrice)
    for limits, thinks, answer in OUTPUTS:
        call = parse_chat_call({"messages": [{"role": "user", "content": content}], **limits}, model)
        thought = published.thinking if thinks or ("max_completion_tokens" not in limits and not model.request_defaults) else 0
        completion = ((4_096 if answer is None else answer) + thought) * limits.get("n", 1)
        usage = TokenUsage(min(prompt_tokens, published.context), completion)

        _, shortfall = capped(charge_for_chat(model.price, usage), call.hold_nanos(model.price))

        assert shortfall == 0, (prompt, limits)


def test_the_examples_models_leave_no_bound_to_a_guess() -> None:
    assert [(name, warnings(config)) for name, config in sold()] == [("example", []), ("README", []), ("demo", [])]


def test_an_ordinary_call_is_held_at_an_ordinary_sum() -> None:
    """What the README sells, thinking off: 293 prompt tokens at 800 and 4,096 at 2,000 nano-yuan, less than a fen."""
    [pro] = [model for name, config in sold() if name == "README" for model in config.catalog.values()]
    assert isinstance(pro.price, ChatPrice)

    held = parse_chat_call({"messages": [{"role": "user", "content": "Hello"}]}, pro).hold_nanos(pro.price)

    assert held == 293 * 800 + 4_096 * 2_000
