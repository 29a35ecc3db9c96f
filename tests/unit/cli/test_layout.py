"""Rows and details for a terminal: what fits stands in columns, what does not goes on in the next line, and nothing is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from proxy.cli.layout import Block, Column, described, laid_out

COLUMNS = (Column("name", folds=True), Column("held", is_right=True), Column("state"))


def test_rows_stand_in_columns_and_details_beneath() -> None:
    blocks = [
        Block(["acme", "1.00", "open"], [("until", ["2027"]), ("rates", ["60 rpm", "4 concurrent"])]),
        Block(["深圳", "100.00", "closed"]),
    ]

    assert list(laid_out(COLUMNS, blocks, 80)) == [
        "name    held  state",
        "acme    1.00  open",
        "    until  2027",
        "    rates  60 rpm, 4 concurrent",
        "深圳  100.00  closed",
    ]


def test_names_are_folded_and_figures_never() -> None:
    blocks = [Block(["a-customer-with-a-long-name", "123456.00", "suspended"])]

    assert list(laid_out(COLUMNS, blocks, 34)) == [
        "name               held  state",
        "a-customer-w  123456.00  suspended",
        "ith-a-long-n",
        "ame",
    ]


def test_a_chinese_name_is_folded_by_its_columns() -> None:
    lines = list(laid_out(COLUMNS, [Block(["深圳市前海智能科技", "1.00", "open"])], 24))

    assert lines == ["name         held  state", "深圳市前海   1.00  open", "智能科技"]


def test_parts_go_on_in_the_next_line_under_the_first() -> None:
    lines = list(described([("models", ["doubao-seed-*", "doubao-pro-32k", "deepseek-*"]), ("until", ["never"])], 40))

    assert lines == ["models  doubao-seed-*, doubao-pro-32k,", "        deepseek-*", "until   never"]


def test_a_label_that_repeats_is_said_once() -> None:
    assert list(described([("spend", ["5/day"]), ("spend", ["50/month"])], 80)) == ["spend  5/day", "       50/month"]


def test_no_rows_are_the_titles_alone() -> None:
    assert list(laid_out(COLUMNS, [], 80)) == ["name  held  state"]


texts = st.text(st.sampled_from("ab-1深圳技é "), max_size=60)


@given(st.lists(st.tuples(texts, st.lists(texts, max_size=6)), max_size=5), st.integers(40, 160))
def test_whatever_it_is_every_letter_is_there_and_no_line_is_wider_than_the_terminal(
    told: list[tuple[str, list[str]]], width: int
) -> None:
    blocks = [Block([name, "1.00", "open"], [("models", parts)]) for name, parts in told]

    lines = list(laid_out(COLUMNS, blocks, width))

    assert max(map(cell_len, lines)) <= width
    said = "".join(lines)
    for name, parts in told:
        for letter in set("".join([name, *parts])) - {" "}:
            assert said.count(letter) >= (name + "".join(parts)).count(letter)


@pytest.mark.parametrize("width", [1, 20])
def test_a_terminal_too_narrow_for_anything_still_shows_all_of_it(width: int) -> None:
    lines = list(laid_out(COLUMNS, [Block(["a-customer-with-a-long-name", "1.00", "open"], [("models", ["doubao-pro-32k"])])], width))

    assert "doubao-pro-32k" in "".join(lines)
    assert all(part in "".join(lines) for part in ("a-customer", "-with-a-lo", "ng-name"))
