"""An invariant of the books as ``ledger verify`` checks it, and the result of a check. Its SQL is every engine's (`dialect.py`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from proxy.core.money import format_yuan
from proxy.store.values import Check

OFFENDERS_MAX = 20
"""Rows shown for each check; the number of the others is given after them."""
CHECKED = "checks of the books"
"""The unit of progress."""


@dataclass(frozen=True, slots=True)
class Invariant:
    """What must be so of all rows, as two queries on one snapshot."""

    name: str
    figures: str
    """One row; its columns fill `say`."""
    say: str
    offenders: str
    """One row for each offender: a text."""
    yuan: tuple[int, ...] = ()
    """Indexes of the figures that are amounts."""


def result(invariant: Invariant, figures: Sequence[Any], shown: Sequence[str], more: int) -> Check:
    """Return the result of a check. Args: shown: of the offenders, `OFFENDERS_MAX` at most; more: how many others there are."""
    cells = [format_yuan(int(cell)) if place in invariant.yuan else cell for place, cell in enumerate(figures)]
    return Check(invariant.name, invariant.say.format(*cells), [*shown, f"and {more} more"] if more else list(shown))


def unreadable(name: str, error: BaseException) -> Check:
    """Return the result of a check that the database could not carry out, such as over a damaged page."""
    return Check(name, "could not be read", [str(error)])
