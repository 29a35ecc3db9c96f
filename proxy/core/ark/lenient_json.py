"""JSON that orjson refuses and SDKs read all the same: half a surrogate pair, NaN, Infinity, huge numbers, a byte order mark.

What an upstream says so has been made, is billed to the operator, and a customer's SDK would read it. Only figures are taken from here:
what is passed on are the bytes as they came.
"""

import re

import orjson

_BOM = b"\xef\xbb\xbf"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_STRING = rb'("[^"\\]*(?:\\.[^"\\]*)*")'
_HUGE = rb"(?:[1-9][0-9]{308,}+(?:\.[0-9]++)?|(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?=[eE]\+?[0-9]{3}))(?:[eE][+-]?[0-9]++)?"
_NO_NUMBER = re.compile(_STRING + rb"|-?\b(?:NaN|Infinity|" + _HUGE + rb")\b", re.DOTALL)
"""A string, to be passed over; or what Python's `json` writes for a number that JSON has not; or one that may be beyond a double."""


def read_mended(text: bytes) -> object:
    """Return the JSON value of text that orjson refused, or None where it is no JSON for anybody."""
    mended = _SURROGATE.sub(rb"\\ufffd", text.removeprefix(_BOM))
    mended = _NO_NUMBER.sub(lambda found: found[1] or b"null", mended)
    try:
        return orjson.loads(mended)
    except orjson.JSONDecodeError:
        return None
