"""One event of a chat stream, judged by parsing it: its data, the error it carries, whether it makes sense. Pure.

The tap comes here only for the few events that their bytes alone do not settle.
"""

import re
from functools import lru_cache
from typing import Any

import orjson

from proxy.core.ark.lenient_json import MENDED_BYTES_MAX, read_mended
from proxy.core.ark.plain_text import is_plain_text
from proxy.core.ark.text import read_error
from proxy.core.chat.measure import utf8_bytes
from proxy.core.json_text import is_crowded

FILTERED = "content_filter"
"""A `finish_reason` that is an answer without text."""

_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")
_CALL_TEXTS = ("name", "arguments")
_COMMENT_BYTES_MAX, _ERROR_CHARACTERS_MAX = 256, 2000
_COMMENTS_MAX = 32
"""Comments within one event; a further one is a stray line. Those between events, as keep-alives are, do not count."""
STRUCTURES_MAX = 50_000
"""Arrays and objects of one event's data; all its text is looked through several times."""
LINES_MAX = 10_000
"""Lines of one event: a few milliseconds. JSON that is indented over as many has more than any chunk."""
_FIELD = re.compile(rb"data(?::.*)?|id(?:: ?[\w.:-]{0,128})?|event(?:: ?[A-Za-z_.-]{0,64})?|retry(?:: ?[0-9]{0,9})?", re.DOTALL)
_TIME = re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.]\d{1,6})?(?:Z|[+-]\d\d:\d\d)?")


def fields_of(event: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the event's name, its data lines joined by LF (WHATWG HTML, "interpreting an event stream"), and all invalid lines."""
    name = b""
    lines: list[bytes] = []
    strays: list[bytes] = []
    comments = 0
    for line in event.splitlines():
        field, _, value = line.partition(b":")
        if field == b"data":
            lines.append(value.removeprefix(b" "))
        elif field == b"event" and _FIELD.fullmatch(line):
            name = value.removeprefix(b" ")
        elif line and not field:
            comments += 1
            if comments > _COMMENTS_MAX or not is_plain_comment(line):
                strays.append(line)
        elif line and not _FIELD.fullmatch(line):
            strays.append(line)
    return name, b"\n".join(lines), b"\n".join(strays)


def told_error(name: bytes, text: bytes, value: object, strays: bytes) -> dict[str, Any] | None:
    """Return the error that an event carries, in any shape: by its name, as JSON in its data, or as JSON on bare lines."""
    if name == b"error":
        return error_of(value, text)
    for found in (value, parsed(strays) if strays else None):
        if isinstance(found, dict) and (found.get("error") or (not found.get("choices") and read_error(200, found) is not None)):
            return error_of(found, text)
    return None


def is_sense(text: bytes, value: object, strays: bytes) -> bool:
    """Return whether an event without an error belongs to a chat stream: a chunk, a usage, or one without data."""
    if strays:
        return False
    if isinstance(value, dict):
        return isinstance(value.get("choices"), list) or (isinstance(value.get("usage"), dict) and "message" not in value)
    # SDKs read what orjson rejects (NaN, Infinity).
    return not text or (value is None and text.startswith(b"{") and b'"choices"' in text and b'"error"' not in text)


def text_bytes_of(event: bytes) -> int:
    """Return the UTF-8 bytes of the text in an event's choices: content, chain of thought, refusals, names and arguments of calls."""
    value = parsed(fields_of(event)[1])
    choices = value.get("choices") if isinstance(value, dict) else None
    return sum(said_bytes(choice.get("delta")) for choice in _list(choices) if isinstance(choice, dict))


def said_bytes(message: object) -> int:
    """Return the UTF-8 bytes of the text in a choice's message, or in its delta."""
    if not isinstance(message, dict):
        return 0
    size = _bytes_in(message, _TEXTS) + _bytes_in(message.get("function_call"), _CALL_TEXTS)
    for call in _list(message.get("tool_calls")):
        if isinstance(call, dict):
            size += _bytes_in(call.get("function"), _CALL_TEXTS)
    return size


def _bytes_in(value: object, keys: tuple[str, ...]) -> int:
    return sum(utf8_bytes(text) for key in keys if isinstance(text := value.get(key), str)) if isinstance(value, dict) else 0


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def is_chunk(event: bytes) -> bool:
    """Return whether a plain event is a chunk when parsed, too: then it is also one with another text in its place.

    If it is not (no JSON, or choices only somewhere within), a text that needs a closer look would turn it into an error.
    """
    text = event.removeprefix(b"data: ")
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return told_error(b"", text, value, b"") is None and is_sense(text, value, b"")


def parsed(text: bytes, *, mend: bool = True) -> object:
    """Return the JSON value; None if it is none, or too much to parse on the event loop.

    SDKs decode a stream even if it is not valid UTF-8.

    Args: mend: False for text that may be cut.
    """
    if is_crowded(text, STRUCTURES_MAX):
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return read_mended(text.decode("utf-8", "replace").encode()) if mend and len(text) <= MENDED_BYTES_MAX else None


def is_plain_comment(line: bytes) -> bool:
    """Return whether a comment may be passed on: a keep-alive in plain words, at most with times."""
    return len(line) <= _COMMENT_BYTES_MAX and _is_plain_comment(line)


@lru_cache(maxsize=256)  # an upstream sends the same one again and again
def _is_plain_comment(line: bytes) -> bool:
    return is_plain_text(_TIME.sub("", line.decode("utf-8", "replace").lstrip(":")))


def has_too_many_lines(event: bytes) -> bool:
    """Return whether an event has so many lines that it is not looked at. A CRLF counts twice."""
    return len(event) > LINES_MAX and event.count(b"\n") + event.count(b"\r") > LINES_MAX


def error_of(value: object, text: bytes) -> dict[str, Any]:
    """Return the upstream's error object, or a substitute of the same shape."""
    found = (value.get("error") or value) if isinstance(value, dict) else value
    if isinstance(found, dict):
        return found
    message = found if isinstance(found, str) else text.decode("utf-8", "replace")
    return {"message": message[:_ERROR_CHARACTERS_MAX]}
