"""Costs of a chat call, worst case and actual: price tables in, nano-yuan out.

Every function here is pure. The price that sized the hold also sizes the charge, so a price changed during a call applies from the next
call on. A price is stored with its request as JSON (`freeze`), and the receipt explains the charge from it (`explain`).
"""

from typing import Any

import orjson

from proxy.core.catalog import ChatPrice, ChatTier, ImagePrice, VideoPrice
from proxy.core.money import DISCOUNT_WHOLE, Nanos, format_discount, format_yuan
from proxy.core.settlement import TokenUsage

TOKENS_PER_MESSAGE = 32
"""Upper bound of the tokens that a chat template adds around one message."""
TOKENS_PER_REQUEST = 256
"""Upper bound of the tokens that it adds once: preamble, tool instructions."""
PROMPT_BYTES_PER_TOKEN_MAX = 8
"""For the lower bound of an estimate: no tokenizer in use averages more than about 5 bytes a token on real text."""


def prompt_tokens_max(text_bytes: int, messages: int, media_tokens: int) -> int:
    """Return an upper bound of a prompt's tokens: a byte-level tokenizer never makes more tokens than bytes."""
    return text_bytes + messages * TOKENS_PER_MESSAGE + TOKENS_PER_REQUEST + media_tokens


def prompt_tokens_min(text_bytes: int) -> int:
    """Return a lower bound of a prompt's tokens, for the estimate when no usage came."""
    return text_bytes // PROMPT_BYTES_PER_TOKEN_MAX


def hold_for_chat(price: ChatPrice, prompt_tokens: int, output_tokens: int) -> Nanos:
    """Return the worst case in nano-yuan: these prompt and output tokens at most, at the dearest reachable tier."""
    if len(price.tiers) == 1:
        tier = price.tiers[0]
        dearest = tier.input if tier.input > tier.cached_input else tier.cached_input  # noqa: FURB136 - `max` takes five times as long
        return Nanos(prompt_tokens * dearest + output_tokens * tier.output)
    return Nanos(
        max(prompt_tokens * max(tier.input, tier.cached_input) + output_tokens * tier.output for tier in price.reachable(prompt_tokens))
    )


def charge_for_chat(price: ChatPrice, usage: TokenUsage) -> Nanos:
    """Return what a finished chat call costs, in nano-yuan; exact, nothing is rounded.

    Cached tokens are part of the prompt tokens and are charged at their own price (Ark, price page: "cache hit"). The prompt's
    length decides the tier, which applies to the whole call.

    Args:
        price: the one that the hold was sized with.
        usage: token counts as the upstream reported them, checked to be non-negative.
    """
    tier = price.tier_for(usage.prompt_tokens)
    fresh = usage.prompt_tokens - usage.cached_tokens
    return Nanos(fresh * tier.input + usage.cached_tokens * tier.cached_input + usage.completion_tokens * tier.output)


def is_free(price: ChatPrice | ImagePrice | VideoPrice) -> bool:
    """Return whether nothing that this price sells costs anything."""
    if isinstance(price, ChatPrice):
        return not any(tier.input or tier.output or tier.cached_input for tier in price.tiers)
    if isinstance(price, ImagePrice):
        return not price.image
    return not any(rate.silent or rate.audio for rate in (price.rate, *price.by_resolution.values()))


def freeze(price: ChatPrice | ImagePrice | VideoPrice) -> str:
    """Return a price as JSON in nano-yuan, as it is stored with a request: ``{"tiers": [{"up_to", "input", …}]}``."""
    return orjson.dumps(_plain(price)).decode()


def with_discount(frozen: str, discount: int) -> str:
    """Return a frozen price with what an account pays of it: ``{…, "discount": 8500}``, in ten-thousandths."""
    return f'{frozen[:-1]},"discount":{discount}}}'


def discount_of(frozen: str) -> int:
    """Return the discount of a frozen price, in ten-thousandths; that of most is the whole price."""
    return int(orjson.loads(frozen).get("discount", DISCOUNT_WHOLE))


def list_costs(frozen: str, units: int) -> set[int]:
    """Return each amount that so many images, or video tokens, can cost at a frozen price before its discount, in nano-yuan."""
    price = orjson.loads(frozen)
    if "image" in price:
        return {units * price["image"]}
    tiers = {1000, price["flex_permille"] or 1000}
    return {units * rate * tier // 1000 for rates in price["rates"].values() for rate in rates.values() for tier in tiers}


def thaw_chat(frozen: str) -> ChatPrice:
    """Return the chat price that `freeze` wrote."""
    tiers = orjson.loads(frozen)["tiers"]
    return ChatPrice(tuple(ChatTier(tier["up_to"], tier["input"], tier["output"], tier["cached_input"]) for tier in tiers))


def explain(frozen: str, usage: TokenUsage, charge_nanos: Nanos) -> str:
    """Return the formula of a chat charge in yuan per million tokens: ``20 × ¥0.8/M + 12 × ¥2/M = ¥0.00004``.

    With a discount, ``(20 × ¥0.8/M + 12 × ¥2/M) × 0.85 = ¥0.000034``: of the sum, rounded up to a whole nano-yuan.
    """
    tier = thaw_chat(frozen).tier_for(usage.prompt_tokens)
    fresh = usage.prompt_tokens - usage.cached_tokens
    terms = [(fresh, tier.input, ""), (usage.cached_tokens, tier.cached_input, " cached"), (usage.completion_tokens, tier.output, "")]
    shown = [f"{tokens} × ¥{format_yuan(price * 1_000_000, 0)}/M{what}" for tokens, price, what in terms if tokens]
    sum_, discount = " + ".join(shown) or "0", discount_of(frozen)
    if discount != DISCOUNT_WHOLE:
        sum_ = f"({sum_}) × {format_discount(discount)}"
    return f"{sum_} = ¥{format_yuan(charge_nanos)}"


def _plain(price: ChatPrice | ImagePrice | VideoPrice) -> dict[str, Any]:
    if isinstance(price, ImagePrice):
        return {"image": price.image}
    if isinstance(price, VideoPrice):
        rates = {"": price.rate, **price.by_resolution}
        return {
            "rates": {name: {"silent": rate.silent, "audio": rate.audio} for name, rate in rates.items()},
            "flex_permille": price.flex_permille,
        }
    return {
        "tiers": [
            {"up_to": tier.up_to_tokens, "input": tier.input, "output": tier.output, "cached_input": tier.cached_input}
            for tier in price.tiers
        ]
    }
