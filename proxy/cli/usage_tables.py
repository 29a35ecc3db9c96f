"""What was used and charged, as text: a table where it fits the terminal, else slim rows with lines beneath; or CSV."""

import sys
from collections.abc import Iterator, Sequence

from proxy.cli.layout import Block, Detail, width_of
from proxy.cli.printing import Answer, plain, print_blocks, print_note, print_table, terminal_columns
from proxy.core.shown_text import csv_cell

_TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens")
_FIGURES = ("requests", *_TOKENS, "units", "charge", "shortfall", "estimated", "refunded")
_SLIM = ("requests", "charge", "refunded")
"""Figures that stand in the row of a narrow terminal; the others stand beneath, where there is something in them."""


def print_usage(answer: Answer) -> None:
    names = ("account", answer["by"])
    rows = [*answer["rows"], {"account": "total", answer["by"]: ""} | answer["total"]]
    width = terminal_columns()
    if width is None:
        print_table((*names, *_FIGURES), rows, right=_FIGURES)
    else:
        titles: Sequence[str] = (*names, *_FIGURES)
        blocks = _blocks(rows, titles)
        if width_of(titles, blocks) > width:
            titles = (*names, *_SLIM)
            blocks = _blocks(rows, titles)
        print_blocks(titles, blocks, width, right=_FIGURES, folding=names)
    _note_days_not_cut(answer)


def print_usage_csv(answer: Answer) -> None:
    """Write a header line and the rows, without their total. A name that a spreadsheet would compute has an apostrophe in front."""
    names = ("account", answer["by"])
    sys.stdout.write(",".join((*names, *_FIGURES)) + "\n")
    for row in answer["rows"]:
        cells = (*(csv_cell(plain(row[name])) for name in names), *(plain(row[name]) for name in _FIGURES))
        sys.stdout.write(",".join(cells) + "\n")
    _note_days_not_cut(answer)


def _blocks(rows: Sequence[Answer], titles: Sequence[str]) -> list[Block]:
    """Return the rows; beneath each what is in it and in none of the columns."""
    return [Block([plain(row[title]) for title in titles], list(_beneath(row, titles))) for row in rows]


def _beneath(row: Answer, titles: Sequence[str]) -> Iterator[Detail]:
    told = [name for name in _FIGURES if name not in titles and row[name] not in (0, "0.00")]
    for label, names in (("tokens", [n for n in told if n in _TOKENS]), ("and", [n for n in told if n not in _TOKENS])):
        if names:
            yield label, [f"{plain(row[name])} {name.removesuffix('_tokens')}" for name in names]


def _note_days_not_cut(answer: Answer) -> None:
    for day in answer.get("days_not_cut", ()):
        begin = f"its 00:00 (UTC{answer['time_zone']})"
        print_note(f"Of {day} there are daily sums: they count whole if the period includes {begin}, else not at all.")
