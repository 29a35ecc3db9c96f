"""JSON that orjson rejects and SDKs accept: half a surrogate pair, NaN, Infinity, huge numbers, a byte order mark.

Such an answer was made, is billed to the operator, and is readable for a customer's SDK. Only figures are taken from the mended text:
the bytes are passed on as they came. What was cut is not mended: no reader could read it either.

Time grows with the length alone: strings are told from what is around them by counting quotes, each of which is counted once.
"""

import re

import orjson

from proxy.core.json_text import BOM, is_crowded, without_lone_surrogates

MENDED_BYTES_MAX = 2 * 1024 * 1024
ESCAPES_MAX = 100_000
"""Backslashes of a text that is mended."""
ODD_NUMBERS_MAX = 20_000
"""Words such as NaN in a text that is mended, within its strings too. These limits bound the time on the event loop to 50 ms."""
HUGE_BYTES_MAX = 128 * 1024
"""In longer text huge numbers are not looked for: each number costs more than all else."""
_SPACES = b" \t\r\n"
_HUGE = rb"(?:[1-9][0-9]{308,}+(?:\.[0-9]++)?|(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?=[eE]\+?[0-9]{3}))(?:[eE][+-]?[0-9]++)?"
_NAMED_NUMBER = re.compile(rb"\b(?:NaN|Infinity)\b")
"""A number that Python's `json` writes and JSON does not have."""
_ODD_NUMBER = re.compile(rb"\b(?:NaN|Infinity|" + _HUGE + rb")\b")
"""The same, or one that may exceed a double."""


def read_mended(text: bytes) -> object:
    """Return the JSON object of text that orjson rejected; None if it is none for SDKs either, is cut, or is too much to mend."""
    if len(text) > MENDED_BYTES_MAX:
        return None
    text = text.removeprefix(BOM).strip(_SPACES)
    if not (text.startswith(b"{") and text.endswith(b"}")) or text.count(b"\\") > ESCAPES_MAX or is_crowded(text):
        return None
    mended = _without_odd_numbers(bytes(without_lone_surrogates(text)))
    try:
        return None if mended is None else orjson.loads(mended)
    except orjson.JSONDecodeError:
        return None


def _without_odd_numbers(text: bytes) -> bytes | None:
    """Return the text with null in place of what orjson takes for no number, except within strings; None if there are too many."""
    masked = text.replace(rb"\\", b"__").replace(rb"\"", b"__")  # as long as the text, with the quotes that begin or end a string
    pieces = []
    copied_to = counted_to = quotes = 0
    pattern = _ODD_NUMBER if len(text) <= HUGE_BYTES_MAX else _NAMED_NUMBER
    for seen, found in enumerate(pattern.finditer(masked)):
        if seen == ODD_NUMBERS_MAX:
            return None
        begin, end = found.span()
        quotes += masked.count(b'"', counted_to, begin)
        counted_to = begin
        if quotes % 2 == 0:
            begin -= masked.startswith(b"-", begin - 1)
            pieces += [text[copied_to:begin], b"null"]
            copied_to = end
    return b"".join(pieces) + text[copied_to:]
