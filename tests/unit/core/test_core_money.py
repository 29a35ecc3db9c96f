"""Amounts and prices as people write them: plain decimals, exact, and nothing that only a computer would call a number."""

import pytest

from proxy.core.money import parse_price, parse_token_price, parse_yuan


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("100", 100_000_000_000),
        ("100.00", 100_000_000_000),
        ("+0.5", 500_000_000),
        ("-0.5", -500_000_000),
        ("0", 0),
        ("007", 7_000_000_000),
        ("0.000000001", 1),
        ("1.000000000000", 1_000_000_000),  # finer than a nano-yuan in its notation, not in its value
    ],
)
def test_a_plain_decimal_is_exact(text: str, nanos: int) -> None:
    assert parse_yuan(text) == nanos


@pytest.mark.parametrize(
    "text",
    [
        "1e3",
        "1E3",
        "1e-3",
        "１",
        "٣",
        "1.",
        ".5",
        "",
        "-",
        "+-1",
        "--1",
        "1_000",
        "1,000",
        " 1",
        "1 ",
        "1\n",
        "NaN",
        "inf",
        "0x10",
        "¥1",
        "1" * 41,
    ],
)
def test_what_is_no_plain_decimal_is_neither_an_amount_nor_a_price(text: str) -> None:
    for parse in (parse_yuan, parse_price, parse_token_price):
        with pytest.raises(ValueError, match="no decimal number of yuan"):
            parse(text)


@pytest.mark.parametrize(("text", "reason"), [("0.0000000001", "more than 9 decimals"), ("9999999999", "too large an amount")])
def test_an_amount_that_cannot_be_held_exactly_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_yuan(text)
