"""Printing: text to stdout as tables and lines, notes to stderr. Nothing is cut off, neither in a pipe nor on a terminal.

Every cell and line passes through `core/shown_text.py`: names, findings and figures may hold what a customer or an upstream wrote.
"""

import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from proxy.cli.layout import Block, Column, Detail, described, laid_out
from proxy.core.shown_text import shown

Answer = Mapping[str, Any]

_PIPE_COLUMNS = 10_000
"""Width without a terminal, since a reader of a pipe wants whole lines."""


def terminal_columns() -> int | None:
    """Return how wide the terminal is; None where stdout is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_table(columns: Sequence[str], rows: Iterable[Answer], right: Sequence[str] = ()) -> None:
    from rich.console import Console  # noqa: PLC0415  the import takes 40 ms and megabytes, which `serve` does not need
    from rich.table import Table  # noqa: PLC0415

    to_terminal = sys.stdout.isatty()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=not to_terminal, overflow="fold")
    for row in rows:
        table.add_row(*(shown(cell(column, row[column])) for column in columns))
    if to_terminal:
        Console(markup=False, highlight=False, emoji=False).print(table)
        return
    console = Console(file=sys.stdout, width=_PIPE_COLUMNS, markup=False, highlight=False, emoji=False)
    for line in console.render_lines(table, pad=False):
        print_line("".join(segment.text for segment in line))


def print_blocks(
    titles: Sequence[str], blocks: Sequence[Block], width: int, right: Sequence[str] = (), folding: Sequence[str] = ()
) -> None:
    """Print a row for each block and its details beneath, for a terminal of this width; the columns in ``folding`` may be folded."""
    columns = [Column(title, title in right, title in folding) for title in titles]
    safe = [Block([shown(text) for text in block.cells], [_safe(detail) for detail in block.details]) for block in blocks]
    for line in laid_out(columns, safe, width):
        print_line(line)


def print_described(details: Sequence[Detail], width: int) -> None:
    """Print a line for each label with its parts, for a terminal of this width."""
    for line in described([_safe(detail) for detail in details], width):
        print_line(line)


def _safe(detail: Detail) -> Detail:
    """Escape before it is measured: what is escaped is longer."""
    label, parts = detail
    return label, [shown(part) for part in parts]


def print_lines(values: Answer) -> None:
    width = max(len(name) for name in values)
    for name, value in values.items():
        print_line(f"{name:<{width}} ", cell(name, value))


def print_line(*words: str) -> None:
    sys.stdout.write(shown(" ".join(words).rstrip()) + "\n")


def print_note(text: str) -> None:
    sys.stderr.write(shown(text) + "\n")


def cell(name: str, value: object) -> str:
    if name.endswith("_at") and isinstance(value, str):  # as in 2026-11-23T08:00:00.000Z, or +08:00 where days begin
        return f"{value[:10]} {value[11:23]} UTC{value[23:].removesuffix('Z')}"
    return plain(value)


def plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(plain(part) for part in value)
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value)
