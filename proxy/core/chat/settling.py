"""The settlement of a chat call, from what was seen of it. Pure.

The upstream's own usage is charged whatever else went wrong. If none came, but part of an answer did, the estimate counts what was
relayed: content events as completion tokens, a lower bound of the prompt; or both by their bytes, where an upstream may tell no usage
at all (``bytes_per_token``). An answer that failed before it began costs nothing. A client that left after the upstream was asked pays
the lower bound of its prompt even where estimates are off: it may have been worked on.
"""

from math import ceil

from msgspec import Struct

from proxy.core.catalog import BytesPerToken, ChatPrice
from proxy.core.money import DISCOUNT_WHOLE, Nanos, discounted
from proxy.core.pricing import charge_for_chat, prompt_tokens_min
from proxy.core.protocol import NOTHING_SEEN, SeenAnswer
from proxy.core.settlement import NO_USAGE, Attempt, Outcome, Settlement, TokenUsage, UsageSource, capped

_REPORTED = UsageSource.REPORTED


class Seen(Struct, frozen=True):
    """The facts of one call."""

    outcome: Outcome
    answer: SeenAnswer = NOTHING_SEEN
    abandoned: bool = False
    """The client left after the upstream was asked, and neither a usage nor an error of the upstream's followed."""
    http_status: int = 0
    first_byte_ms: int | None = None
    total_ms: int | None = None
    note: str = ""
    attempts: tuple[Attempt, ...] = ()
    """All that were asked, in order."""


def conclude(
    text_bytes: int,
    price: ChatPrice,
    hold_nanos: Nanos,
    seen: Seen,
    *,
    estimate: bool,
    bytes_per_token: BytesPerToken | None = None,
    discount: int = DISCOUNT_WHOLE,
) -> Settlement:
    """Return the settlement of a chat call.

    Args:
        text_bytes: the UTF-8 bytes of all text sent upstream.
        estimate: whether a call whose usage never came is charged by estimate (``billing.unknown_usage``), or is free.
        bytes_per_token: what an estimate divides by; None: it is a lower bound, never above the upstream's own bill.
        discount: the one that the hold was sized with, in ten-thousandths.
    """
    usage, source = _usage_of(text_bytes, seen, estimate, bytes_per_token)
    cost = charge_for_chat(price, usage)
    if discount != DISCOUNT_WHOLE:
        cost = discounted(cost, discount)
    charge, shortfall = capped(cost, hold_nanos)
    return Settlement(
        outcome=seen.outcome,
        usage_source=source,
        charge_nanos=charge,
        usage=usage,
        shortfall_nanos=shortfall,
        http_status=seen.http_status,
        upstream_id=seen.answer.upstream_id,
        first_byte_ms=seen.first_byte_ms,
        total_ms=seen.total_ms,
        note=seen.note,
        attempts=seen.attempts,
    )


def _usage_of(text_bytes: int, seen: Seen, estimate: bool, bytes_per_token: BytesPerToken | None) -> tuple[TokenUsage, UsageSource]:
    answer = seen.answer
    if answer.usage is not None:
        return answer.usage, _REPORTED
    if bytes_per_token is not None and estimate and answer.began:
        prompt, completion = (ceil(size / each) for size, each in zip((text_bytes, answer.text_bytes), bytes_per_token, strict=True))
        return TokenUsage(prompt, completion), UsageSource.ESTIMATED
    if (estimate and answer.began) or seen.abandoned:
        written = answer.completion_tokens_min if estimate else 0
        return TokenUsage(prompt_tokens_min(text_bytes), written), UsageSource.ESTIMATED
    return NO_USAGE, UsageSource.NONE
