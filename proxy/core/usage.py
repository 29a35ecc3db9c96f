"""What an upstream says that a chat call used: one JSON value in, `TokenUsage` or nothing out.

An upstream's figures become money, so only what is beyond doubt is taken: a count is a non-negative integer within bounds.
"""

from proxy.core.settlement import TokenUsage

TOKENS_MAX = 10**12
"""Far above any context window; a larger count is a fault, and would overflow a 64-bit product with a price."""


def parse_usage(value: object) -> TokenUsage | None:
    """Return the token counts of an Ark or OpenAI ``usage`` object, or None when it is no usable usage. Zero is zero.

    ``prompt_tokens`` and ``completion_tokens`` are both needed; if either is no count (true and 1.0 are none), nothing of the object
    is trusted. The two details are optional: one that is no count is 0, and one above its total is cut to the total, because a
    part cannot exceed the whole and the totals are what was asked and answered.
    """
    if not isinstance(value, dict):
        return None
    prompt = _count(value.get("prompt_tokens"))
    completion = _count(value.get("completion_tokens"))
    if prompt is None or completion is None:
        return None
    cached = _detail(value.get("prompt_tokens_details"), "cached_tokens")
    reasoning = _detail(value.get("completion_tokens_details"), "reasoning_tokens")
    return TokenUsage(prompt, completion, min(cached, prompt), min(reasoning, completion))


def _count(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= TOKENS_MAX:
        return value
    return None


def _detail(details: object, name: str) -> int:
    return (_count(details.get(name)) or 0) if isinstance(details, dict) else 0
