"""The most that a chat can cost, in tokens, and what to tell a customer who cannot pay that.

A bound is capped by what it bounds: no prompt is longer than what the upstream's model takes, however many bytes and pictures it has.
At Ark the context holds question, chain of thought and answer (Ark, deep thinking, 82379/1449737); the answer has a limit of its own.
"""

from msgspec import Struct

from proxy.core.ark.context_length import Overflow, overflow_error
from proxy.core.catalog import ChatPrice, ChatTier, Model
from proxy.core.chat.measure import Measure
from proxy.core.pricing import prompt_tokens_max, prompt_tokens_min

OUTPUT_TOKENS_MAX = 10_000_000
"""The most that a client may ask for."""
_SHARE_TOLD = 10
"""What makes less than a tenth of a hold is not worth a customer's while."""


class PromptBound(Struct, frozen=True, gc=False):
    """Upper bounds of a prompt, in tokens."""

    tokens: int
    text_tokens: int
    """Not capped by the context; so are pictures."""
    picture_tokens: int
    uncounted: int
    """Number of videos, audio, files, searches and other things that only the context bounds."""


class OutputBound(Struct, frozen=True, gc=False):
    """Upper bounds of the output, in tokens."""

    tokens: int
    """Of all choices together."""
    answer_tokens: int
    """Of one choice."""
    thinking_tokens: int
    """Of one choice, beside its answer."""
    choices: int
    limit: str
    """Field by which the client limits it, both with what stands between their quotes; empty: the model's own limit counts."""
    asked_by: str = ""
    """Field that asks for thinking whatever `thinking` says, several likewise; empty: none does."""


def prompt_bound(measure: Measure, text_bytes: int, messages: int, model: Model) -> PromptBound:
    """Return the bounds of a prompt. ``text_bytes``: UTF-8 bytes of all text, tools and formats too.

    Where no context is known, what can be counted is, and what cannot together costs `context_tokens_assumed`.
    """
    text = prompt_tokens_max(text_bytes, messages, measure.added_tokens)
    counted = text + measure.picture_tokens
    limit = model.prompt_limit_tokens
    if not limit:
        tokens = counted + (model.context_tokens_assumed if measure.uncounted else 0)
    elif measure.uncounted or counted > limit:
        tokens = limit
    else:
        tokens = counted
    return PromptBound(tokens, text, measure.picture_tokens, measure.uncounted)


def refuse_longer(content_bytes: int, model: Model) -> None:
    """Refuse a text that is surely longer than the model's context.

    Raises:
        ContextLengthError: by the lower bound of its tokens.
    """
    if model.context_tokens and prompt_tokens_min(content_bytes) > model.context_tokens:
        raise overflow_error(Overflow(), model.context_tokens)


def thinking_tokens_max(model: Model, content_bytes: int) -> int:
    """Return the most tokens of a chain of thought; where the model's table names none, what is left of its context."""
    if model.reasoning_tokens_max is not None:
        return model.reasoning_tokens_max
    return max(0, (model.prompt_limit_tokens or model.context_tokens_assumed) - prompt_tokens_min(content_bytes))


def advice(prompt: PromptBound, output: OutputBound, price: ChatPrice, available_nanos: int) -> str:
    """Return what a hold consists of and how to lower it: a limit that would be enough, if one is, then the dearest first.

    ``It holds up to 294 prompt tokens and 36864 output tokens. To need less: turn thinking off (…); set 'max_tokens' (…)``
    """
    tier = max(price.reachable(prompt.tokens), key=lambda tier: _cost(tier, prompt, output))
    told = [
        how for nanos, how in sorted(_ways(prompt, output, tier), reverse=True) if nanos * _SHARE_TOLD >= _cost(tier, prompt, output)
    ]
    if enough := _payable_tokens(prompt, price, available_nanos) // output.choices:
        told.insert(0, f"set {_whole_limit(output)} to {min(enough, OUTPUT_TOKENS_MAX)} at most, which is enough")
    held = f"It holds up to {prompt.tokens} prompt tokens and {output.tokens} output tokens"
    return f"{held}. To need less: {'; '.join(told)}" if told else held


def _cost(tier: ChatTier, prompt: PromptBound, output: OutputBound) -> int:
    return prompt.tokens * max(tier.input, tier.cached_input) + output.tokens * tier.output


def _payable_tokens(prompt: PromptBound, price: ChatPrice, available_nanos: int) -> int:
    """Return how many output tokens can be paid beside the prompt, in the dearest tier that it can reach; 0 if not one can."""
    return min(
        max(0, available_nanos - prompt.tokens * max(tier.input, tier.cached_input)) // max(1, tier.output)
        for tier in price.reachable(prompt.tokens)
    )


def _whole_limit(output: OutputBound) -> str:
    """Return the field that limits all output of a choice, as this request can have it. Ark refuses both limits beside each other."""
    if output.thinking_tokens:
        return "'max_completion_tokens' (in place of 'max_tokens')" if output.limit else "'max_completion_tokens'"
    return f"'{output.limit or 'max_tokens'}'"


def _ways(prompt: PromptBound, output: OutputBound, tier: ChatTier) -> list[tuple[int, str]]:
    """Return for each way to lower the hold what it is about, in nano-yuan."""
    per_prompt_token = max(tier.input, tier.cached_input)
    answer = output.answer_tokens * output.choices * tier.output
    ways: list[tuple[int, str]] = []
    if output.thinking_tokens:
        without = f" and no '{output.asked_by}'" if output.asked_by else ""
        off = f"by 'thinking': {{'type': 'disabled'}}{without}, or bound it by {_whole_limit(output)}"
        thinking = output.thinking_tokens * output.choices * tier.output
        ways.append((thinking, f"turn thinking off (up to {output.thinking_tokens} tokens) {off}"))
    if output.limit:
        ways.append((answer, f"lower '{output.limit}' ({output.answer_tokens})"))
    else:
        ways.append((answer, f"set 'max_tokens' (without it the model's own limit of {output.answer_tokens} counts)"))
    if output.choices > 1:
        ways.append((output.tokens * tier.output, f"lower 'n' ({output.choices})"))
    if prompt.uncounted:
        ways.append(
            (prompt.tokens * per_prompt_token, "leave out videos, audio, files and searches, whose tokens nobody can count beforehand")
        )
    if prompt.picture_tokens:
        pictures = min(prompt.picture_tokens, prompt.tokens)
        ways.append((pictures * per_prompt_token, f"send fewer pictures (up to {pictures} tokens), or with 'detail': 'low'"))
    if not prompt.uncounted:
        ways.append((min(prompt.text_tokens, prompt.tokens) * per_prompt_token, "shorten the messages"))
    return ways
