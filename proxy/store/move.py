"""The move of a ledger from one engine to another: in which order the sides are marked, copied, compared and set free.

The target is marked *arriving*, the source *leaving*: from then on neither may be started. One transaction of the target takes in
every table, is compared and audited, and makes it *arrived*. Last the source is marked *left*. So whoever finds a source that is
leaving asks the target whether the transaction was committed, and goes on from there.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, replace
from typing import Protocol

from proxy import ids
from proxy.store.errors import StoreError, StoreRefusedError, StoreUnavailableError
from proxy.store.moves import How, Move, Moved, MovedTable, MoveState, advice, refusal
from proxy.store.progress import Progress, Report
from proxy.store.tables import TABLES, Digest, Row, Table, without_zero_characters
from proxy.store.values import Check

BATCH_ROWS = 2000
"""Rows that are in memory at a time, of each side."""


class Side(Protocol):
    """One of the two ledgers. Raises StoreError whatever fails; no other process opens it meanwhile."""

    @property
    def url(self) -> str:
        """As the configuration has it, without a password."""

    async def mark(self) -> Move | None:
        """Return the move for which nothing may start on it."""

    async def change(self, before: Move | None, after: Move | None) -> None:
        """Replace the mark, durably. Raises: StoreRefusedError: it is not ``before`` any more, or somebody has the ledger open."""

    def rows(self, table: Table) -> AsyncGenerator[Sequence[Row], None]:
        """Yield a table's rows, `BATCH_ROWS` at most at a time, in any order."""

    async def count(self, table: Table) -> int:
        """Return how many rows a table has."""

    async def verify(self, report: Report | None) -> list[Check]:
        """Check every invariant."""


class Target(Side, Protocol):
    """The side that is moved to. All but `mark` is within a `transaction`."""

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """What is done within stands once it ends, durably, or not at all. No other one is under way, not even of a dead process."""

    async def recorded(self, move_id: str) -> Move | None:
        """Return what is recorded of one move."""

    async def require_empty(self) -> None:
        """Raises: StoreRefusedError: there is something that a move would be written over."""

    async def prepare(self) -> None:
        """Make it ready to be written: no rows of any table."""

    async def write(self, table: Table, batches: AsyncIterator[Sequence[Row]]) -> None:
        """Add rows. What is open belongs to an owner who is dead."""

    async def complete(self) -> None:
        """Do what is left once all rows are written."""


async def move(source: Side, target: Target, how: How, now_ms: Callable[[], int], report: Report | None = None) -> Moved:
    """Move a ledger, go on with that, or give it up.

    Raises: StoreError: the message says what became of it, and what to do.
    """
    if how is How.ABANDON:
        return await _abandon(source, target, now_ms)
    mark = await source.mark()
    if mark is None:
        mark = await _begin(source, target, how, now_ms, report)
    elif how is How.BEGIN or mark.state is MoveState.ARRIVING:
        raise refusal(source.url, mark)
    elif mark.target != target.url:
        raise StoreRefusedError(f"{source.url} is not being moved to {target.url}, but to {mark.target}")
    try:
        moved = await _Carriage(source, target, mark, report).carry(now_ms)
        if mark.state is MoveState.LEAVING:
            await source.change(mark, moved.move)
    except StoreError as error:
        kind = StoreRefusedError if isinstance(error, StoreRefusedError) else StoreUnavailableError
        raise kind(f"{error}; the move has not ended: {advice(mark)}") from error
    return moved


async def _begin(source: Side, target: Target, how: How, now_ms: Callable[[], int], report: Report | None) -> Move:
    """Audit the source and mark both sides, the target first: then a source that is leaving is known there."""
    arriving = await target.mark()
    if arriving is not None and not (arriving.state is MoveState.ARRIVING and arriving.source == source.url):
        raise refusal(target.url, arriving)
    if arriving is None and how is How.RESUME:
        raise StoreRefusedError(f"no move from {source.url} to {target.url} has begun: leave out --resume")
    if arriving is None:
        async with target.transaction():
            await target.require_empty()  # before the audit, which may take minutes
    if broken := [check for check in await source.verify(report) if not check.holds]:
        reasons = "; ".join(f"{check.name}: {', '.join(check.offenders)}" for check in broken)
        raise StoreRefusedError(f"the books of {source.url} do not hold ({reasons}): nothing was moved")
    leaving = Move(ids.move_id(), MoveState.LEAVING, source.url, target.url, now_ms())
    async with target.transaction():
        if arriving is None:
            await target.require_empty()
        await target.change(arriving, replace(leaving, state=MoveState.ARRIVING))
    await source.change(None, leaving)
    return leaving


async def _abandon(source: Side, target: Target, now_ms: Callable[[], int]) -> Moved:
    """Free the source, then the target, unless that has everything."""
    mark = await source.mark()
    if mark is not None and mark.state is not MoveState.LEAVING:
        raise refusal(source.url, mark)
    if mark is not None and mark.target != target.url:
        raise StoreRefusedError(f"{source.url} is not being moved to {target.url}, but to {mark.target}")
    async with target.transaction():
        if mark is not None and (known := await target.recorded(mark.id)) is not None and known.state is MoveState.ARRIVED:
            raise StoreRefusedError(
                f"everything of {source.url} has arrived at {target.url}, so that this is too late: --resume ends the move"
            )
        arriving = await target.mark()
        if arriving is not None and arriving.source != source.url:
            raise refusal(target.url, arriving)
        if arriving is None:
            if mark is None:
                raise StoreRefusedError(f"no move from {source.url} to {target.url} has begun: there is nothing to abandon")
            await target.require_empty()
        if mark is not None:
            await source.change(mark, None)
        if arriving is not None:
            await target.change(arriving, None)
    given_up = mark or arriving
    assert given_up is not None
    return Moved(replace(given_up, changed_at_ms=now_ms()))


@dataclass(slots=True)
class _Carriage:
    """All tables of one move, on their way."""

    source: Side
    target: Target
    move: Move
    report: Report | None
    replaced: int = 0

    async def carry(self, now_ms: Callable[[], int]) -> Moved:
        """Have everything arrive, unless it has."""
        tables: list[MovedTable] = []
        checks: list[Check] = []
        async with self.target.transaction():
            known = await self.target.recorded(self.move.id)
            if known is None:
                raise StoreRefusedError(
                    f"{self.target.url} knows nothing of the move from {self.source.url}, so it is another database than was moved to, "
                    "or that was made anew"
                )
            if known.state is MoveState.ARRIVING:
                tables = await self._copy()
                checks = await self._audit()
                await self.target.change(known, replace(self.move, state=MoveState.ARRIVED, changed_at_ms=now_ms()))
        left = replace(self.move, state=MoveState.LEFT, changed_at_ms=now_ms())
        return Moved(left if self.move.state is MoveState.LEAVING else self.move, tables, checks, self.replaced)

    async def _copy(self) -> list[MovedTable]:
        """Copy every table, then compare each with what was read."""
        total = sum([await self.source.count(table) for table in TABLES])
        await self.target.prepare()
        read = {table.name: Digest() for table in TABLES}
        for table in TABLES:
            async with aclosing(self._leaving(table, read, total)) as batches:
                await self.target.write(table, batches)
        await self.target.complete()
        written = {table.name: Digest() for table in TABLES}
        for table in TABLES:
            async with aclosing(self.target.rows(table)) as batches:
                async for batch in batches:
                    written[table.name].add(batch)
                    self._tell("rows compared", written, total)
            left, came = read[table.name], written[table.name]
            if came != left:
                raise StoreRefusedError(
                    f"{table.name} did not arrive as it left: {left.rows} rows left with the digest {left.text}, "
                    f"{came.rows} arrived with {came.text}"
                )
        return [MovedTable(name, digest.rows, digest.text) for name, digest in read.items()]

    async def _audit(self) -> list[Check]:
        checks = await self.target.verify(self.report)
        if broken := [check for check in checks if not check.holds]:
            reasons = "; ".join(f"{check.name}: {', '.join(check.offenders)}" for check in broken)
            raise StoreRefusedError(f"the books do not hold at {self.target.url} ({reasons})")
        return checks

    async def _leaving(self, table: Table, digests: dict[str, Digest], total: int) -> AsyncGenerator[Sequence[Row], None]:
        async with aclosing(self.source.rows(table)) as batches:
            async for batch in batches:
                rows, replaced = without_zero_characters(table, batch)
                self.replaced += replaced
                digests[table.name].add(rows)
                yield rows
                self._tell("rows copied", digests, total)

    def _tell(self, stage: str, digests: dict[str, Digest], total: int) -> None:
        if self.report is not None:
            self.report(Progress(stage, sum(digest.rows for digest in digests.values()), total))
