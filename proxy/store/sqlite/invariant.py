"""An invariant of the books, as `ledger verify` checks it."""

from dataclasses import dataclass


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
