"""Rows as printed tables, and as JSON."""

from collections.abc import Sequence
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

from tests.bench.rows import Row


def show(rows: Sequence[Row], console: Console) -> None:
    """Print one table for each part, and then the verdicts."""
    for part in dict.fromkeys(row.part for row in rows):
        _show_part(part, [row for row in rows if row.part == part and not row.is_ratio], console)
    compared = [row for row in rows if row.is_ratio or row.reach is not None]
    if compared:
        console.print(_verdicts(compared))


def write_json(rows: Sequence[Row], destination: str) -> None:
    """Write the rows to a file, or (``-``) to standard output."""
    text = orjson.dumps([row.as_json() for row in rows], option=orjson.OPT_INDENT_2).decode()
    if destination == "-":
        print(text)
    else:
        Path(destination).write_text(text + "\n", encoding="utf-8")


def figure(value: float) -> str:
    """Return a figure with three significant digits, or as an integer from 1000 on."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _show_part(part: str, rows: Sequence[Row], console: Console) -> None:
    """Print one part: a column for each contender or position on a curve, and the notes below."""
    heads = list(dict.fromkeys(_head(row) for row in rows))
    table = Table(title=part, title_justify="left", title_style="bold")
    table.add_column("median (least … most)")
    for head in heads:
        table.add_column(head, justify="right")
    for what, unit in dict.fromkeys((row.what, row.unit) for row in rows):
        cells = {_head(row): _cell(row) for row in rows if (row.what, row.unit) == (what, unit)}
        table.add_row(f"{what}, {unit}" if unit else what, *(cells.get(head, "") for head in heads))
    console.print(table)
    for note in dict.fromkeys(f"{_head(row)}: {row.note}" for row in rows if row.note):
        console.print(f"  {note}", highlight=False)


def _head(row: Row) -> str:
    return row.who if row.at is None else f"{row.at:,.0f}"


def _cell(row: Row) -> str:
    if len(row.figures) == 1:
        return figure(row.value)
    return f"{figure(row.value)} ({figure(min(row.figures))} … {figure(max(row.figures))})"


def _verdicts(rows: Sequence[Row]) -> Table:
    table = Table(title="compared", title_justify="left", title_style="bold")
    for column in ("part", "what", "of", "reach", "measured", "verdict"):
        table.add_column(column, justify="right" if column in ("reach", "measured") else "left")
    for row in rows:
        style = "red" if row.is_missed else "green"
        reach = "" if row.reach is None else f"≤ {figure(row.reach)} {row.unit}"
        of = row.who if row.at is None else f"{row.who}, {_head(row)}"
        table.add_row(row.part, row.what, of, reach, f"{figure(row.value)} {row.unit}", f"[{style}]{row.verdict}[/]")
    return table
