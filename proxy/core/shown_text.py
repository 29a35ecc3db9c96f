"""Text that others wrote, made safe to show: on a terminal, as JSON that a terminal shows, in a cell of a spreadsheet. Pure.

A customer's name, an upstream's answer or a path may hold an escape sequence that moves the cursor, a mark that turns the direction of
writing, or a character that is not seen. Each is shown as Python writes it: ``\\x1b``, ``\\u202e``. Letters of every language, accents,
spaces and emoji stay. A backslash stays one, so that paths can be copied: the two cannot be told apart, and nothing here is read back.
"""

import re

INVISIBLE = (
    r"\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""Control characters but white space, Unicode's Default_Ignorable_Code_Point, and the marks of annotations; inside of ``[…]``."""
_LINES = r"\u2028\u2029"
_PICTURES = (
    r"\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u23ff\u2460-\u27bf\u2900-\u297f\u2b00-\u2bff\u3030\u303d\u3297\u3299"
    r"\U0001f000-\U0001faff"
)
"""Symbols that an emoji is made of."""
_OUTSIDE_OF_AN_EMOJI = (
    rf"(?<!(?<=[{_PICTURES}])[\ufe0e\ufe0f])"  # as text, or as a picture
    rf"(?<!(?<=[0-9#*])\ufe0f(?=\u20e3))"  # a keycap
    rf"(?<!(?<=[{_PICTURES}\ufe0f])\u200d(?=[{_PICTURES}]))"  # 👩 joined with 💻
)
"""Within an emoji invisible characters hide nothing."""
_UNSAFE = re.compile(rf"[^ -~](?<=[{INVISIBLE}\t-\r{_LINES}\ud800-\udfff]){_OUTSIDE_OF_AN_EMOJI}")
"""The small set comes first: `re` passes over it in a tenth of the time."""
_UNSAFE_IN_JSON = re.compile(rf"[^ -~](?<=[{INVISIBLE}{_LINES}]){_OUTSIDE_OF_AN_EMOJI}")
"""JSON has escaped the control characters below U+0020 itself; its own line breaks stand between values."""
_DELETE = b"\x7f"

_FORMULA_STARTS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Also full-width, which a Japanese or Chinese Excel reads alike."""
_LINE_STARTS = ("\t", "\r", "\n")
_QUOTED_IN_CSV = re.compile("[\",;']")
"""The semicolon too: Excel divides by it where the comma is the decimal point."""


def shown(text: str) -> str:
    """Return text on one line and without effect on a terminal: what is not seen, or acts, is escaped."""
    return _UNSAFE.sub(_escape, text)


def shown_lines(text: str) -> str:
    """Return text of several lines, such as a traceback, each as `shown` returns it."""
    return "\n".join(map(shown, text.split("\n")))


def first_unseen(text: str) -> int | None:
    """Return the index of the first character that a new name must not have: one that is not seen, or not printable to Python."""
    return next((at for at, char in enumerate(text) if not char.isprintable() or _UNSAFE.match(text, at)), None)


def is_plain(text: str) -> bool:
    """Return whether `shown` changes nothing."""
    return _UNSAFE.search(text) is None


def shown_json(text: bytes) -> bytes:
    """Return UTF-8 JSON text that means the same and has no effect on a terminal: JSON leaves DEL, C1 and U+202E as they are."""
    if text.isascii() and _DELETE not in text:
        return text
    return _UNSAFE_IN_JSON.sub(_json_escape, text.decode()).encode()


def csv_cell(text: str) -> str:
    """Return a text as a cell of a CSV line (RFC 4180), safe in a spreadsheet.

    Text that a spreadsheet would compute gets an apostrophe in front, which makes it text (OWASP, "CSV Injection"). Not for numbers.
    """
    risky = text.lstrip().startswith(_FORMULA_STARTS) or text.startswith(_LINE_STARTS)
    cell = shown(f"'{text}" if risky else text)
    return '"' + cell.replace('"', '""') + '"' if _QUOTED_IN_CSV.search(cell) else cell


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _json_escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
