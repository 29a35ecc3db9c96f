"""One event of a chat stream, judged by its bytes alone, at the cost of a few C-level searches; `events` parses the others. Pure."""

import re

LF, CR, _QUOTE, COLON, _BACKSLASH = b'\n\r":\\'
LINE_END = re.compile(rb"\r\n?|\n")
BLANK_LINE = re.compile(rb"[\r\n](?:\r\n?|(?<=\n)\n)")
"""The end of a line and the empty line after it, in LF, CR, CRLF or any mix; a single CRLF is not two ends."""
_CONTENT = re.compile(rb'(?:content|arguments|name|refusal|transcript|data)": ?"[^"]')
_STRING = rb'[ !#-[\]-\xff]*+(?:\\["\\/bfnrt][ !#-[\]-\xff]*+)*'
"""Contents of a JSON string without numeric escapes. An event with another one in its place is otherwise the same."""
_TOLD_TEXT = re.compile(_STRING)
TOLD = re.compile(rb'content":"(?!")(' + _STRING + rb')"')


def is_told(text: bytes) -> bool:
    """Return whether these bytes, within a JSON string, can replace the event's text without changing anything else."""
    if _QUOTE not in text and _BACKSLASH not in text and LF not in text and CR not in text:
        return len(text) > 0
    return _TOLD_TEXT.fullmatch(text) is not None


def is_plain(event: bytes) -> bool:
    """Return whether this is one whole event: one line, a JSON object with choices, no usage, error or end. False: look closer.

    Ark ends ordinary events with ``"usage":null}``. The last brace closes the outermost object, and of a repeated key the last counts,
    so no search is needed then. `find` instead of `in` saves 0.2 µs a search, a byte as an integer 0.1 µs. Keys can be written with
    escapes (``"err\\u006fr"``); those of all letters begin with ``\\u00``.
    """
    return (
        (event.endswith(b'"usage":null}\n\n') or (event.endswith(b"}\n\n") and event.find(b'"usage"') < 0))
        and event.find(LF) == len(event) - 2
        and event.find(CR) < 0
        and event.find(b'"error"') < 0
        and event.find(b'finish_reason":"') < 0
        and event.find(b'finish_reason": "') < 0
        and event.find(b"\\u00") < 0
        and (event.startswith(b'data: {"choices":[{') or (event.startswith(b"data: {") and _has_choices(event)))
    )


def is_ordinary(event: bytes) -> bool:
    """Return the same as `is_plain`, also for other line ends and white space, at a higher cost."""
    if is_plain(event):
        return True
    line = event.rstrip(b"\r\n")
    return (
        line.startswith((b"data: {", b"data:{"))
        and line.endswith(b"}")
        and line.find(CR) < 0
        and line.find(LF) < 0
        and line.count(b'"usage"') == line.count(b'"usage":null')
        and line.find(b'"error"') < 0
        and line.find(b'finish_reason":"') < 0
        and line.find(b'finish_reason": "') < 0
        and line.find(b"\\u00") < 0
        and _has_choices(line)
    )


def _has_choices(event: bytes) -> bool:
    """Return whether this is certainly a chunk: it has choices, and is not an error that happens to hold some."""
    return (event.find(b'"choices":[{') >= 0 or event.find(b'"choices": [{') >= 0) and event.find(b'essage"') < 0


def unit_end(piece: bytes, begin: int, has_cr: bool) -> int:
    """Return the end of the unit at `begin` (an event, a stray empty line, or a comment line before an event), or -1.

    A comment is a unit of its own, so that a keep-alive without an empty line after it is not held back.
    """
    if begin >= len(piece):
        return -1
    first = piece[begin]
    if first == LF:
        return begin + 1
    if first in (COLON, CR):
        match = LINE_END.search(piece, begin)
    elif has_cr:
        match = BLANK_LINE.search(piece, begin)
    else:
        found = piece.find(b"\n\n", begin)
        return found + 2 if found >= 0 else -1
    return match.end() if match else -1


def has_content(event: bytes) -> bool:
    """Return whether an event carries a non-empty string of content, reasoning (``reasoning_content`` ends the same) or arguments."""
    found = event.find(b'content":"')
    if found >= 0 and event[found + 10 : found + 11] != b'"':
        return True
    return _CONTENT.search(event) is not None
