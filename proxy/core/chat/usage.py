"""Token usage of a chat call as the upstream reports it: JSON in, `TokenUsage` or None out.

An upstream's figures become money, so only unambiguous ones are accepted: a count is a non-negative integer within bounds.
"""

from typing import Annotated

from msgspec import DecodeError, Meta, Raw, Struct, field
from msgspec.json import Decoder

from proxy.core.settlement import TokenUsage

TOKENS_MAX = 10**12
"""Far above any context window; a larger count is a fault, and would overflow a 64-bit product with a price."""


_Count = Annotated[int, Meta(ge=0, le=TOKENS_MAX)]


class _PromptDetails(Struct):
    cached_tokens: _Count = 0


class _CompletionDetails(Struct):
    reasoning_tokens: _Count = 0


class _PlainUsage(Struct):
    """A usage object without anything odd."""

    prompt_tokens: _Count
    completion_tokens: _Count
    prompt_tokens_details: _PromptDetails | None = None
    prompt_cache_hit_tokens: _Count = 0
    cached_tokens: _Count = 0
    completion_tokens_details: _CompletionDetails | None = None


class PlainAnswer(Struct):
    """The parts of a chat's JSON answer that its settlement needs; the contents of the choices are skipped.

    Nothing else is decoded, whatever stands there: millions of objects under `error` took seconds.
    """

    choices: Raw
    usage: _PlainUsage
    id: str | None = None
    error: None = None
    code: None = None
    metadata: None = field(default=None, name="ResponseMetadata")


_ARRAY = ord("[")
_CHOICES_BYTES_MIN = len("[{}]")
"""Shorter ones hold nothing."""
_decode = Decoder(PlainAnswer).decode


def read_plain_answer(raw: bytes) -> PlainAnswer | None:
    """Return an unambiguous answer: choices, a usage, and no error in any of Ark's shapes. None: it needs a full parse."""
    try:
        answer = _decode(raw)
        if not raw.isascii():
            raw.decode()  # the decoder skipped the choices
    except (DecodeError, RecursionError, UnicodeDecodeError):
        return None
    choices = memoryview(answer.choices)  # not decoded: it could have millions of members
    is_answer = choices[0] == _ARRAY and len(choices) >= _CHOICES_BYTES_MIN
    return answer if is_answer else None


def plain_usage(answer: PlainAnswer) -> TokenUsage:
    """Return the same as `parse_usage`, for a usage that is already decoded."""
    told = answer.usage
    prompt, completion = told.prompt_tokens_details, told.completion_tokens_details
    cached = (0 if prompt is None else prompt.cached_tokens) or told.prompt_cache_hit_tokens or told.cached_tokens
    reasoning = 0 if completion is None else completion.reasoning_tokens
    return TokenUsage(
        told.prompt_tokens,
        told.completion_tokens,
        cached if cached <= told.prompt_tokens else told.prompt_tokens,  # noqa: FURB136 - `min` takes five times as long
        reasoning if reasoning <= told.completion_tokens else told.completion_tokens,  # noqa: FURB136
    )


def parse_usage(value: object) -> TokenUsage | None:
    """Return the token counts of a ``usage`` object, or None if it is not usable. Zero is a valid count.

    What of the prompt came from a cache is told in ``prompt_tokens_details.cached_tokens`` (Ark, OpenAI), in
    ``prompt_cache_hit_tokens`` (DeepSeek's API reference) or in ``cached_tokens`` of the object itself (Moonshot's).
    ``prompt_tokens`` and ``completion_tokens`` are both required; if either is not a count (true and 1.0 are not), nothing of the
    object is trusted. The two details are optional: one that is not a count is 0, and one above its total is cut to the total. A part
    cannot exceed the whole, and the totals are what was asked and answered.
    """
    if not isinstance(value, dict):
        return None
    prompt, completion = value.get("prompt_tokens"), value.get("completion_tokens")
    if type(prompt) is not int or type(completion) is not int or not (0 <= prompt <= TOKENS_MAX and 0 <= completion <= TOKENS_MAX):
        return None
    places = ((value.get("prompt_tokens_details"), "cached_tokens"), (value, "prompt_cache_hit_tokens"), (value, "cached_tokens"))
    cached = next((count for place, name in places if (count := _part(place, name, prompt))), 0)
    return TokenUsage(prompt, completion, cached, _part(value.get("completion_tokens_details"), "reasoning_tokens", completion))


def _part(details: object, name: str, whole: int) -> int:
    count = details.get(name) if isinstance(details, dict) else 0
    if type(count) is not int or not 0 <= count <= TOKENS_MAX:
        return 0
    return min(count, whole)
