"""What others wrote, shown: nothing of it acts on a terminal or in a spreadsheet, nothing is hidden, and ordinary text stays."""

import csv
import io
import unicodedata

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.shown_text import csv_cell, first_unseen, is_plain, shown, shown_json, shown_lines

ORDINARY = (
    "acme",
    "王小明 的 账户",
    "café Łódź Ελλάδα привет",
    "👩‍💻 👨‍👩‍👧 👩🏽‍💻 ❤️ ☎︎ 1️⃣",  # joined, coloured, as a picture, as text, a keycap
    "¥12.50 → ok",
    "C:\\keys\\x1b",
    "全角　空格",
    "-0.5",
)
HOSTILE = {
    "\x1b[31mred": "\\x1b[31mred",
    "\x9b31m": "\\x9b31m",
    "a\r\nb\tc\x07\x7f": "a\\r\\nb\\tc\\x07\\x7f",
    "moc\u202egpj.exe": "moc\\u202egpj.exe",
    "\u2066x\u2069\u200e\u200f\u061c": "\\u2066x\\u2069\\u200e\\u200f\\u061c",
    "ac\u200bme ac\u200dme ac\ufe0fme ac\u00adme": "ac\\u200bme ac\\u200dme ac\\ufe0fme ac\\xadme",
    "❤\ufe0f\ufe0f": "❤\ufe0f\\ufe0f",
    "a\u2028b\u2029c\x85d": "a\\u2028b\\u2029c\\x85d",
    "\udcff": "\\udcff",
    "\U000e0001\U000e0061": "\\U000e0001\\U000e0061",
    "\u3164\u115f\u034f": "\\u3164\\u115f\\u034f",
}
SIGNS = st.one_of(
    st.characters(),
    st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp"]),
    st.sampled_from("\u200d\ufe0e\ufe0f\u20e3👩💻❤1#=+-@\t\r\n\",;'"),
)
TEXTS = st.text(SIGNS, max_size=40)
UTF8_TEXTS = TEXTS.filter(lambda text: not any("\ud800" <= char <= "\udfff" for char in text))


def acting(text: str) -> list[str]:
    """Return the characters that a terminal obeys or that are not seen, by Unicode's own categories."""
    return [char for char in text if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or is_hidden_format(char)]


def is_hidden_format(char: str) -> bool:
    """Return whether it is a format character that is not seen. Arabic, Kaithi and Egyptian signs of that category are seen."""
    seen = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
    return unicodedata.category(char) == "Cf" and char not in seen and not "\U00013430" <= char <= "\U0001343f" and char != "\u200d"


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert shown(text) == text
    assert is_plain(text)


@pytest.mark.parametrize(("text", "told"), HOSTILE.items())
def test_what_acts_or_hides_is_escaped(text: str, told: str) -> None:
    assert shown(text) == told
    assert not is_plain(text)
    assert first_unseen(text) is not None


@given(TEXTS)
def test_no_text_acts_on_a_terminal_once_it_is_shown(text: str) -> None:
    told = shown(text)

    assert acting(told) == []
    assert shown(told) == told
    assert is_plain(text) == (told == text)
    assert told.encode().decode() == told


@given(TEXTS, TEXTS)
def test_lines_are_those_of_the_text_and_of_nobody_else(first: str, second: str) -> None:
    text = f"{first}\n{second}"

    told = shown_lines(text)

    assert f"{told}.".splitlines() == [shown(line) for line in f"{text}.".split("\n")]
    assert acting(told.replace("\n", "")) == []


@given(st.dictionaries(UTF8_TEXTS, st.one_of(UTF8_TEXTS, st.floats(allow_nan=False, allow_infinity=False), st.none()), max_size=4))
def test_json_means_the_same_and_acts_on_no_terminal(value: dict[str, object]) -> None:
    for option in (0, orjson.OPT_INDENT_2):
        written = orjson.dumps(value, option=option)

        told = shown_json(written)

        assert orjson.loads(told) == orjson.loads(written)
        assert acting(told.decode().replace("\n", "")) == []


def test_json_without_such_characters_is_the_same_object() -> None:
    plain = orjson.dumps({"model": "doubao-pro-32k"})

    assert shown_json(plain) is plain


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("acme", "acme"),
        ("acme ltd", "acme ltd"),
        ("a,b", '"a,b"'),
        ("a;=1+1", '"a;=1+1"'),
        ('say "hi"', '"say ""hi"""'),
        ('=HYPERLINK("http://x","y")', '"\'=HYPERLINK(""http://x"",""y"")"'),
        ("+1", '"\'+1"'),
        ("-2+3", '"\'-2+3"'),
        ("@SUM(1)", '"\'@SUM(1)"'),
        (" =1", '"\' =1"'),
        ("\t=1", '"\'\\t=1"'),
        ("\r=1", '"\'\\r=1"'),
        ("\uff1d1", '"\'\uff1d1"'),
        ("a\n=1", "a\\n=1"),
        ("", ""),
    ],
)
def test_a_cell_is_quoted_and_never_computed(text: str, cell: str) -> None:
    assert csv_cell(text) == cell


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_each_cell_is_read_back_as_one_that_begins_no_formula(texts: list[str]) -> None:
    line = ",".join(map(csv_cell, texts))

    (read,) = csv.reader(io.StringIO(line)) if line else [[""]]

    assert len(read) == len(texts)
    for text, cell in zip(texts, read, strict=True):
        assert cell.removeprefix("'") == shown(text).removeprefix("'")
        assert not cell.lstrip().startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20"))


@pytest.mark.parametrize("text", ["acme", "王小明", "a-b_c.d", "café"])
def test_an_ordinary_name_is_taken(text: str) -> None:
    assert first_unseen(text) is None
