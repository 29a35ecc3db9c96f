"""A chat's whole JSON answer: bytes in, the facts for its settlement or a refusal out. Pure.

Of a plain answer only what a settlement needs is decoded. Others are read in full: an error behind a 200, an answer without its usage,
JSON that some clients read and orjson does not.
"""

from collections.abc import Collection
from typing import Any

import orjson

from proxy.core.ark.lenient_json import read_mended
from proxy.core.ark.refusal import Refusal
from proxy.core.ark.text import read_error
from proxy.core.catalog import Model
from proxy.core.chat.events import FILTERED, said_bytes
from proxy.core.chat.refusal import chat_refusal
from proxy.core.chat.usage import parse_usage, plain_usage, read_plain_answer
from proxy.core.json_text import is_crowded
from proxy.core.pricing import PROMPT_BYTES_PER_TOKEN_MAX
from proxy.core.protocol import SeenAnswer

_UPSTREAM_ID_CHARACTERS_MAX = 128
_SAYINGS = ("content", "reasoning_content", "tool_calls", "function_call", "refusal", "audio")


def read_answer(raw: bytes, model: Model, names: Collection[str] = ()) -> SeenAnswer | Refusal:
    """Return the facts of an answer of status 200, or its refusal.

    Args: names: the call's `chosen_names`, for a refusal.
    """
    plain = read_plain_answer(raw)
    if plain is not None:
        return SeenAnswer(plain_usage(plain), upstream_id=_upstream_id(plain.id))
    parsed = _parse(raw)
    choices = parsed.get("choices") if isinstance(parsed, dict) else None
    if not isinstance(choices, list) or not choices or parsed.get("error") or read_error(200, parsed) is not None:
        return chat_refusal(200, parsed or {}, model, names)
    usage = parse_usage(parsed.get("usage"))
    if usage is None and not any(map(_says_something, choices)):
        return chat_refusal(200, {}, model)
    size = _text_bytes(parsed) if usage is None else 0
    tokens_min = size // PROMPT_BYTES_PER_TOKEN_MAX
    return SeenAnswer(usage, completion_tokens_min=tokens_min, text_bytes=size, upstream_id=_upstream_id(parsed.get("id")))


def _parse(raw: bytes) -> Any:
    """Return the JSON value of an answer; None if it is none, or too much to parse on the event loop."""
    if is_crowded(raw):
        return None
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return read_mended(raw)


def _upstream_id(value: object) -> str:
    return value[:_UPSTREAM_ID_CHARACTERS_MAX] if isinstance(value, str) else ""


def _says_something(choice: object) -> bool:
    """Return whether a choice holds more than a role and an end."""
    if not isinstance(choice, dict):
        return False
    message = choice.get("message")
    return choice.get("finish_reason") == FILTERED or (isinstance(message, dict) and any(message.get(key) for key in _SAYINGS))


def _text_bytes(answer: dict[str, Any]) -> int:
    """Return the UTF-8 bytes of all text in the choices."""
    return sum(said_bytes(choice.get("message")) for choice in answer["choices"] if isinstance(choice, dict))
