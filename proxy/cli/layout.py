"""Rows, each with lines of its own beneath, laid out for a terminal. Pure: text in, lines out.

Widths are columns of the terminal, of which a Chinese letter takes two. Nothing is cut off: what is too wide goes on in the next line.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

GAP = "  "
INDENT = "    "
FOLDED_MIN = 10
"""Columns that a foldable column keeps, however narrow the terminal."""
TEXT_MIN = 16

Detail = tuple[str, Sequence[str]]
"""A label and its parts, which stand on one line as far as they fit."""


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    is_right: bool = False
    folds: bool = False
    """Whether its text may be folded where the terminal is narrow: names, not figures."""


@dataclass(frozen=True, slots=True)
class Block:
    """A row, and what stands beneath it."""

    cells: Sequence[str]
    details: Sequence[Detail] = ()


def width_of(titles: Sequence[str], blocks: Sequence[Block]) -> int:
    """Return how wide the rows are if nothing is folded."""
    return sum(_widths([Column(title) for title in titles], blocks)) + len(GAP) * (len(titles) - 1)


def laid_out(columns: Sequence[Column], blocks: Sequence[Block], width: int) -> Iterator[str]:
    """Yield the titles, then each row with its details."""
    widths = _fitted(columns, _widths(columns, blocks), width)
    yield from _row([column.title for column in columns], columns, widths)
    margin = max((_width(label) for block in blocks for label, _ in block.details), default=0)
    for block in blocks:
        yield from _row(block.cells, columns, widths)
        yield from described(block.details, width, INDENT, margin)


def described(details: Sequence[Detail], width: int, indent: str = "", margin: int = 0) -> Iterator[str]:
    """Yield a line for each label with its parts, and more where they do not fit; a label that repeats is left out.

    Args: margin: columns that the labels take at least.
    """
    margin = max((_width(label) for label, _ in details), default=0) if margin == 0 else margin
    before = None
    for label, parts in details:
        head = "" if label == before else label
        for line in _wrapped(parts, max(TEXT_MIN, width - len(indent) - margin - len(GAP))):
            yield (indent + _padded(head, margin) + GAP + line).rstrip()
            head = ""
        before = label


def _widths(columns: Sequence[Column], blocks: Sequence[Block]) -> list[int]:
    return [max(_width(column.title), *(_width(block.cells[at]) for block in blocks), 0) for at, column in enumerate(columns)]


def _fitted(columns: Sequence[Column], widths: list[int], width: int) -> list[int]:
    """Take what is too much from the widest of the columns that may be folded."""
    fitted = list(widths)
    foldable = [at for at, column in enumerate(columns) if column.folds]
    room = width - len(GAP) * (len(columns) - 1)
    while foldable and sum(fitted) > room:
        widest = max(foldable, key=lambda at: fitted[at])
        if fitted[widest] <= FOLDED_MIN:
            break
        fitted[widest] -= 1
    return fitted


def _row(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> Iterator[str]:
    folded = [_chopped(text, width) for text, width in zip(cells, widths, strict=True)]
    for line in zip_longest(*folded, fillvalue=""):
        padded = (_padded(text, width, column.is_right) for text, column, width in zip(line, columns, widths, strict=True))
        yield GAP.join(padded).rstrip()


def _wrapped(parts: Sequence[str], width: int) -> Iterator[str]:
    """Yield the parts with commas between them, as many on a line as fit; a part that fits on none is folded."""
    line = ""
    for number, part in enumerate(parts, start=1):
        text = part if number == len(parts) else f"{part},"
        if line and _width(line) + 1 + _width(text) > width:
            yield line
            line = ""
        line = f"{line} {text}" if line else text
        *full, line = _chopped(line, width)
        yield from full
    yield line


def _padded(text: str, width: int, is_right: bool = False) -> str:
    space = " " * (width - _width(text))
    return space + text if is_right else text + space


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # noqa: PLC0415  the import takes 10 ms, which `serve` does not need

    return cell_len(text)


def _chopped(text: str, width: int) -> list[str]:
    """Return pieces of a text, each as wide as fits."""
    if _width(text) <= width:
        return [text]
    from rich.cells import chop_cells  # noqa: PLC0415  as above

    return chop_cells(text, width)
