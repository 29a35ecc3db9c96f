"""The stand-in's chat replies and their reported token counts."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import orjson

_CANNED = "Hello! How can I help you today?"
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class ToolCall:
    name: str
    arguments: str
    id: str = "call_1kfqk3c4mv5l7h2v9ezdoi8t"


@dataclass(frozen=True, slots=True)
class ChatReply:
    """One reply. Deterministic: the same request gets the same bytes, except for ids and times.

    Attributes:
        content: the answer. `echo` replaces it with the text of the last message.
        reasoning: the chain of thought, streamed first; left out if the request disables thinking.
        tool_calls: sent after the content; the finish reason is then "tool_calls".
        prompt_tokens, completion_tokens: reported counts; None: computed, four bytes a token. `completion_tokens` includes
            `reasoning_tokens` and is reported for each of the request's `n` choices.
        finish_reason: None: derived from the reply ("stop", "length", "tool_calls").
        piece_chars: characters of content in each event; None: one word per event.
        cuts: False ignores `max_tokens` and `max_completion_tokens`.
    """

    content: str = _CANNED
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    echo: bool = False
    prompt_tokens: int | None = 20
    completion_tokens: int | None = 12
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    finish_reason: str | None = None
    piece_chars: int | None = None
    cuts: bool = True


def paced_reply(events: int, event_chars: int) -> ChatReply:
    """Return a reply of `events` content events with `event_chars` characters and one token each: a load of known size."""
    return ChatReply(content="x" * (events * event_chars), completion_tokens=events, piece_chars=event_chars, cuts=False)


@dataclass(frozen=True, slots=True)
class Said:
    """A reply adapted to one request: echoed, cut, with its tokens counted."""

    reply: ChatReply
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    choices: int

    def message(self) -> dict[str, Any]:
        message: dict[str, Any] = {"content": self.reply.content}
        if self.reply.reasoning:
            message["reasoning_content"] = self.reply.reasoning
        message["role"] = "assistant"
        if self.reply.tool_calls:
            message["tool_calls"] = [_tool_call(call) for call in self.reply.tool_calls]
        return message

    def deltas(self) -> tuple[bytes, ...]:
        """Return the deltas of one choice as JSON, without the last one, which has the finish reason."""
        return _deltas(self.reply)

    def usage(self) -> dict[str, Any]:
        return self._usage(self.completion_tokens * self.choices)

    def usage_after(self, choice: int, deltas: int | None) -> dict[str, Any]:
        """Return the usage after `deltas` deltas of a choice (None: all). Tokens are spread evenly over the deltas."""
        share = 1.0 if deltas is None else deltas / len(self.deltas())
        return self._usage(choice * self.completion_tokens + int(self.completion_tokens * share))

    def _usage(self, completion_tokens: int) -> dict[str, Any]:
        return {
            "completion_tokens": completion_tokens,
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.reply.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": min(self.reply.reasoning_tokens * self.choices, completion_tokens)},
        }


def say(reply: ChatReply, wanted: dict[str, Any]) -> Said:
    """Return the reply to a valid request, cut to its limits."""
    if reply.echo:
        reply = replace(reply, content=_text_of(wanted["messages"][-1]))
    if reply.reasoning and (wanted.get("thinking") or {}).get("type") == "disabled":
        tokens = None if reply.completion_tokens is None else reply.completion_tokens - reply.reasoning_tokens
        reply = replace(reply, reasoning="", reasoning_tokens=0, completion_tokens=tokens)
    reply, tokens, was_cut = _cut(reply, wanted)
    ending = "length" if was_cut else "tool_calls" if reply.tool_calls else "stop"
    prompt_tokens = reply.prompt_tokens
    if prompt_tokens is None:
        prompt_tokens = tokens_of("".join(_text_of(message) for message in wanted["messages"]))
    return Said(reply, prompt_tokens, tokens, reply.finish_reason or ending, wanted.get("n") or 1)


def tokens_of(text: str) -> int:
    """Return the token count of a text for which no count was set: four bytes a token, rounded up."""
    return -(-len(text.encode()) // _BYTES_PER_TOKEN)


def _cut(reply: ChatReply, wanted: dict[str, Any]) -> tuple[ChatReply, int, bool]:
    """Return the reply cut in proportion to its limit, its tokens, and whether it was cut.

    `max_tokens` limits the answer alone, `max_completion_tokens` the thinking too.
    """
    thinking = reply.reasoning_tokens
    tokens = reply.completion_tokens
    if tokens is None:
        spoken = reply.content + "".join(call.name + call.arguments for call in reply.tool_calls)
        tokens = thinking + tokens_of(spoken)
    answer = max(tokens - thinking, 0)
    limit = wanted.get("max_tokens")
    if wanted.get("max_completion_tokens") is not None:
        limit = wanted["max_completion_tokens"] - thinking
    if not reply.cuts or limit is None or limit >= answer:
        return reply, tokens, False
    kept = max(limit, 0)
    content = reply.content[: len(reply.content) * kept // answer]
    reasoning = reply.reasoning
    if limit < 0:  # not even the thinking fits
        reasoning = reasoning[: len(reasoning) * (thinking + limit) // thinking]
        thinking += limit
    return replace(reply, content=content, reasoning=reasoning, reasoning_tokens=thinking, tool_calls=()), thinking + kept, True


def _text_of(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    return content if isinstance(content, str) else ""


@lru_cache(maxsize=64)
def _deltas(reply: ChatReply) -> tuple[bytes, ...]:
    return tuple(_render_deltas(reply))


def _render_deltas(reply: ChatReply) -> Iterator[bytes]:
    for piece in _pieces(reply.reasoning, reply.piece_chars):
        yield orjson.dumps({"content": "", "reasoning_content": piece, "role": "assistant"})
    for piece in _pieces(reply.content, reply.piece_chars):
        yield orjson.dumps({"content": piece, "role": "assistant"})
    for index, call in enumerate(reply.tool_calls):
        yield orjson.dumps({"content": "", "role": "assistant", "tool_calls": [_tool_call(call) | {"index": index}]})


def _tool_call(call: ToolCall) -> dict[str, Any]:
    return {"function": {"arguments": call.arguments, "name": call.name}, "id": call.id, "type": "function"}


def _pieces(text: str, chars: int | None) -> list[str]:
    if chars is not None:
        return [text[at : at + chars] for at in range(0, len(text), chars)]
    return re.findall(r"\s*\S+\s?|\s+", text)
