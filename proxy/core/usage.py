"""What an upstream says that a chat call used: JSON in, `TokenUsage` or nothing out.

An upstream's figures become money, so only what is beyond doubt is taken: a count is a non-negative integer within bounds.
"""

from typing import Any, TypeGuard

from msgspec import DecodeError, Raw, Struct, field
from msgspec.json import Decoder

from proxy.core.settlement import TokenUsage

TOKENS_MAX = 10**12
"""Far above any context window; a larger count is a fault, and would overflow a 64-bit product with a price."""


class PlainAnswer(Struct):
    """Of a chat's JSON answer, what its settlement needs; what the choices say is passed over."""

    choices: list[Raw]
    id: Any = None
    usage: Any = None
    error: Any = None
    code: Any = None
    metadata: Any = field(default=None, name="ResponseMetadata")


_decode = Decoder(PlainAnswer).decode


def read_plain_answer(raw: bytes) -> PlainAnswer | None:
    """Return an answer that is one beyond doubt: choices, and no error in any of Ark's shapes. None: look closer."""
    try:
        answer = _decode(raw)
        if not raw.isascii():
            raw.decode()  # the choices were passed over
    except (DecodeError, RecursionError, UnicodeDecodeError):
        return None
    return None if answer.error or answer.code or answer.metadata else answer


def parse_usage(value: object) -> TokenUsage | None:
    """Return the token counts of an Ark or OpenAI ``usage`` object, or None when it is no usable usage. Zero is zero.

    ``prompt_tokens`` and ``completion_tokens`` are both needed; if either is no count (true and 1.0 are none), nothing of the object
    is trusted. The two details are optional: one that is no count is 0, and one above its total is cut to the total, because a
    part cannot exceed the whole and the totals are what was asked and answered.
    """
    if not isinstance(value, dict):
        return None
    prompt, completion = value.get("prompt_tokens"), value.get("completion_tokens")
    if not (_is_count(prompt) and _is_count(completion)):
        return None
    cached = _detail(value.get("prompt_tokens_details"), "cached_tokens")
    reasoning = _detail(value.get("completion_tokens_details"), "reasoning_tokens")
    return TokenUsage(prompt, completion, min(cached, prompt), min(reasoning, completion))


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= TOKENS_MAX


def _detail(details: object, name: str) -> int:
    count = details.get(name) if isinstance(details, dict) else 0
    return count if _is_count(count) else 0
