"""JSON text before it is parsed: how much work it may make, and repairs of what SDKs write and strict parsers reject. Pure.

A parse holds up the event loop, and its cost depends on what the text holds more than on its length: 4 MB of empty arrays take half a
second. Each function passes over the text a fixed number of times, so its own time grows with the length alone.
"""

import re

BOM = b"\xef\xbb\xbf"
PARSED_BYTES_MAX = 16 * 1024 * 1024
STRUCTURES_MAX = 100_000
VALUES_MAX = 200_000
"""Limits for a text of an upstream's that is parsed in full. Characters inside strings count too: it is a bound, not a count."""
UNCOUNTED_BYTES_MAX = 100_000
"""Shorter text cannot hold more than it may."""
ESCAPES_MAX = 200_000
SURROGATES_MAX = 50_000
"""Most ``\\u``, and most ``\\ud`` among them, in a text that is repaired: up to 0.3 µs each."""
_ESCAPED_BACKSLASH = rb"\\"
_MASK = b"\xff\xff"
"""As long as an escaped backslash; no UTF-8 text contains it."""
_LONE_SURROGATE = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"  # a high one that no low one follows
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"  # a low one that follows no high one
)


def is_crowded(text: bytes, structures_max: int = STRUCTURES_MAX) -> bool:
    """Return whether a text is longer, or may hold more arrays, objects or values, than is parsed on the event loop."""
    if len(text) <= UNCOUNTED_BYTES_MAX:
        return False
    if len(text) > PARSED_BYTES_MAX:
        return True
    structures = text.count(b"[") + text.count(b"{")
    return structures > structures_max or structures + text.count(b",") > VALUES_MAX


def is_utf8(text: bytes | bytearray) -> bool:
    try:
        return text.isascii() or bool(text.decode())
    except UnicodeDecodeError:
        return False


def has_surrogate_escape(text: bytes | bytearray) -> bool:
    """Return whether any escape names a surrogate, lone or not."""
    return text.find(rb"\ud") >= 0 or text.find(rb"\uD") >= 0


def without_lone_surrogates(text: bytes | bytearray) -> bytes | bytearray:
    """Return UTF-8 JSON text with U+FFFD for each escape of half a surrogate pair; the same text if it has too many escapes.

    Text cut in the middle of an emoji leaves half of a pair, which JavaScript and Python write as ``\\ud83d`` (RFC 8259, 8.2).
    ``\\\\ud83d`` is an escaped backslash and five letters: it stays.
    """
    if text.count(rb"\u") > ESCAPES_MAX or text.count(rb"\ud") + text.count(rb"\uD") > SURROGATES_MAX:
        return text
    if _ESCAPED_BACKSLASH not in text:
        return _LONE_SURROGATE.sub(rb"\\ufffd", text)
    masked = text.replace(_ESCAPED_BACKSLASH, _MASK)
    return _LONE_SURROGATE.sub(rb"\\ufffd", masked).replace(_MASK, _ESCAPED_BACKSLASH)
