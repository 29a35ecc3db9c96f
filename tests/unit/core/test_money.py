"""Amounts and prices as people write them: exact plain decimals; other notations of numbers are refused."""

import pytest

from proxy.core.money import DISCOUNT_WHOLE, NANOS_MAX, discounted, format_yuan, parse_price, parse_token_price, parse_yuan


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
        ("1.000000000000", 1_000_000_000),  # more digits than nano-yuan have, but the same value
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


def test_the_largest_amount_is_taken_and_two_of_them_fit_the_stores_integers() -> None:
    assert parse_yuan("4611686018") == 4_611_686_018_000_000_000
    assert parse_yuan("-4611686018") == -4_611_686_018_000_000_000
    assert NANOS_MAX + NANOS_MAX - 1 == 2**63 - 1
    for beyond in ("4611686018.000000001", "4611686019", "-4611686019"):
        with pytest.raises(ValueError, match="too large an amount"):
            parse_yuan(beyond)


def test_forty_characters_are_a_number_and_one_more_are_none() -> None:
    assert parse_yuan("0" * 38 + "12") == 12_000_000_000
    with pytest.raises(ValueError, match="no decimal number"):
        parse_yuan("0" * 39 + "12")


def test_a_price_of_nothing_is_a_price_and_one_below_is_none() -> None:
    assert (parse_price("0"), parse_price("0.001"), parse_token_price("0.001")) == (0, 1_000_000, 1)
    with pytest.raises(ValueError, match="cannot be negative"):
        parse_price("-0.001")


@pytest.mark.parametrize(
    ("nanos", "decimals", "text"),
    [
        (0, 2, "0.00"),
        (0, 0, "0"),
        (1, 2, "0.000000001"),
        (-1, 2, "-0.000000001"),
        (-5_000_000_000, 2, "-5.00"),
        (-1_500_000_000, 0, "-1.5"),
        (864_000_000, 4, "0.8640"),
        (100_000_000_000, 2, "100.00"),
        (1_000_000_000, 0, "1"),
        (10_000_000_000, 0, "10"),
    ],
)
def test_an_amount_is_written_exactly(nanos: int, decimals: int, text: str) -> None:
    assert format_yuan(nanos, decimals) == text
    if decimals == 2:
        assert format_yuan(nanos) == text


@pytest.mark.parametrize(
    ("cost", "discount", "paid"), [(100, 8500, 85), (1, 8500, 1), (101, 8500, 86), (0, 1, 0), (7, DISCOUNT_WHOLE, 7)]
)
def test_a_discount_rounds_up_to_a_whole_nano_yuan(cost: int, discount: int, paid: int) -> None:
    assert discounted(cost, discount) == paid


def test_what_is_within_its_hold_stays_within_it_discounted() -> None:
    for cost in range(300):
        for discount in (1, 3333, 8500, 9999):
            assert discounted(cost, discount) <= discounted(cost + 1, discount) <= cost + 1
