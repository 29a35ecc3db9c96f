"""JSON that orjson rejects and SDKs accept: half a surrogate pair, NaN, Infinity, huge numbers, a byte order mark.

Such an answer was made, is billed to the operator, and is readable for a customer's SDK. Only figures are taken from the mended text:
the bytes are passed on as they came.
"""

import re

import orjson

_BOM = b"\xef\xbb\xbf"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_STRING = rb'("[^"\\]*(?:\\.[^"\\]*)*")'
_HUGE = rb"(?:[1-9][0-9]{308,}+(?:\.[0-9]++)?|(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?=[eE]\+?[0-9]{3}))(?:[eE][+-]?[0-9]++)?"
_NO_NUMBER = re.compile(_STRING + rb"|-?\b(?:NaN|Infinity|" + _HUGE + rb")\b", re.DOTALL)
"""A string, which is skipped; or a number that Python's `json` writes and JSON does not have; or one that may exceed a double."""


def read_mended(text: bytes) -> object:
    """Return the JSON value of text that orjson rejected, or None if it is not JSON for SDKs either."""
    mended = _SURROGATE.sub(rb"\\ufffd", text.removeprefix(_BOM))
    mended = _NO_NUMBER.sub(lambda found: found[1] or b"null", mended)
    try:
        return orjson.loads(mended)
    except orjson.JSONDecodeError:
        return None
