"""Moves of a ledger from one engine to another: how far one has come, and what a start of either side is told of it.

Rule: of the two sides of a move, one at most may be started, at every moment. So the side that is still empty is marked first, then the
one that is left, which is marked for good once the other has everything.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum

from proxy.core.timestamps import iso
from proxy.store.errors import StoreMovedError
from proxy.store.values import Check

MARKED = 1_000_000
"""Added to the version of a ledger that may not be started: a program that knows nothing of moves refuses it, too."""


class How(Enum):
    """What is asked of a move."""

    BEGIN = "begin"
    RESUME = "resume"
    ABANDON = "abandon"


class MoveState(StrEnum):
    """What one side is."""

    ARRIVING = "arriving"
    """It is moved to, and does not have everything: nothing may start on it."""
    ARRIVED = "arrived"
    """It has everything, and may be started: from then on it is a ledger like any other."""
    LEAVING = "leaving"
    """It is moved from. Whether the other side has everything, only that knows."""
    LEFT = "left"
    """It was moved from; the other side has everything."""


@dataclass(frozen=True, slots=True)
class Move:
    """A move, as one of its sides has recorded it."""

    id: str
    state: MoveState
    source: str
    """URL, without a password."""
    target: str
    changed_at_ms: int

    @property
    def is_mark(self) -> bool:
        """Whether nothing may start on the side that has recorded it."""
        return self.state is not MoveState.ARRIVED


@dataclass(frozen=True, slots=True)
class MovedTable:
    """What arrived of one table: as many rows as left, and the same ones."""

    name: str
    rows: int
    digest: str
    """Sum of the rows' hashes, as 32 hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of a move."""

    move: Move
    """As the source has recorded it last."""
    tables: Sequence[MovedTable] = ()
    """None where everything had arrived before, and where the move was given up."""
    checks: Sequence[Check] = ()
    """Of the target."""
    replaced: int = 0
    """Texts in which a zero character, which PostgreSQL cannot keep, became U+FFFD."""


def refusal(name: str, move: Move) -> StoreMovedError:
    """Return why a marked ledger is not opened, with the command that goes on. ``name`` is what messages call it."""
    if move.state is MoveState.LEFT:
        return StoreMovedError(
            f"{name} was moved to {move.target} at {iso(move.changed_at_ms)}, and all that happened since then is there: "
            f'set store.url = "{move.target}"'
        )
    what = (
        f"is being moved to {move.target}, and the move has not ended"
        if move.state is MoveState.LEAVING
        else f"is what {move.source} is being moved to, and the move has not ended"
    )
    return StoreMovedError(f"{name} {what}: {advice(move)}")


def advice(move: Move) -> str:
    """Return the commands that end a move which was begun."""
    command = f"llm-proxy store move --from {shlex.quote(move.source)} --to {shlex.quote(move.target)}"
    return f"`{command} --resume` goes on with it, the same with --abandon gives it up"
