"""A ledger that is moved: all of it arrives, and of the two sides one at most can be started, whatever goes wrong."""

import asyncio
import shlex
import shutil
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from proxy.core.days import UTC
from proxy.core.money import Nanos
from proxy.store import move_ledger, open_store
from proxy.store import restore as put_in_place
from proxy.store.contract import Store
from proxy.store.errors import StoreError, StoreLockedError, StoreMovedError, StoreRefusedError, StoreVersionError
from proxy.store.moves import MARKED, How, Move, Moved, MoveState
from proxy.store.postgres.connection import Connection, Connector
from proxy.store.postgres.marks import record
from proxy.store.postgres.migrations import lock
from proxy.store.postgres.move import PostgresSide
from proxy.store.progress import Progress
from proxy.store.sqlite.file.migrations import scripts
from proxy.store.sqlite.move import SqliteSource, SqliteTarget
from proxy.store.tables import TABLES, Row, Table
from proxy.store.values import Check
from proxy.tasks import TaskGroup
from tests.support.books import assert_books_balance
from tests.support.postgres import database
from tests.support.postgres_way import way_to
from tests.support.store import NOW_MS, new_key, new_request, settlement
from tests.support.whole_ledger import fill, shown


@dataclass(frozen=True, slots=True)
class Way:
    """From where to where."""

    source: str
    target: str

    @property
    def file(self) -> Path:
        return Path(next(url for url in (self.source, self.target) if url.startswith("sqlite:")).removeprefix("sqlite:"))

    @property
    def database(self) -> str:
        return next(url for url in (self.source, self.target) if url.startswith("postgresql:"))


@pytest.fixture(params=["to postgres", "to sqlite"])
async def way(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Way]:
    file = f"sqlite:{tmp_path}/books.db"
    if request.param == "to postgres":
        async with database(is_empty=True) as url:
            yield Way(file, url)
    else:
        async with database() as url:
            yield Way(url, file)


out = pytest.mark.parametrize("way", ["to postgres"], indirect=True)
back = pytest.mark.parametrize("way", ["to sqlite"], indirect=True)


async def moved(way: Way, how: How = How.BEGIN, **options: Any) -> Moved:
    return await move_ledger(way.source, way.target, how=how, now_ms=lambda: NOW_MS, **options)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    store = await open_store(url)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture(scope="module")
def full_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with everything: made once, since each of its commits waits for the disk."""
    path = tmp_path_factory.mktemp("full") / "books.db"

    async def make() -> None:
        async with opened(f"sqlite:{path}") as store:
            await fill(store)
            await assert_books_balance(store)

    asyncio.run(make())
    return path


@pytest.fixture
async def before(way: Way, full_file: Path) -> dict[str, Any]:
    """Make everything at the source; return all that it says."""
    if way.source.startswith("sqlite"):
        shutil.copyfile(full_file, way.file)
    async with opened(way.source) as store:
        if not way.source.startswith("sqlite"):
            await fill(store)
            await assert_books_balance(store)
        return await shown(store)


async def one_account(url: str) -> None:
    async with opened(url) as store:
        await store.create_account("alice", Nanos(1000), NOW_MS)


async def of_target(way: Way) -> dict[str, Any]:
    async with opened(way.target) as store:
        await assert_books_balance(store)
        return await shown(store)


async def starts(url: str) -> bool:
    """Return whether a gateway may start there. Any other refusal than that of a move fails the test."""
    try:
        store = await open_store(url)
    except StoreMovedError:
        return False
    await store.close()
    return True


async def sql(url: str) -> Connection:
    return await Connector(url).connect()


# all of it


async def test_everything_arrives_and_only_the_target_starts_then(way: Way, before: dict[str, Any]) -> None:
    stages: list[Progress] = []

    told = await moved(way, report=stages.append)

    assert await of_target(way) == before
    with pytest.raises(StoreMovedError, match="was moved to"):
        await open_store(way.source)
    assert {table.name: table.rows for table in told.tables}["requests"] == len([r for r in before["receipts"].values() if r])
    assert all(table.rows for table in told.tables), "a table was empty: nothing of it was tried"
    assert {check.holds for check in told.checks} == {True}
    rows = sum(table.rows for table in told.tables)
    assert {stage.stage for stage in stages} == {"checks of the books", "rows copied", "rows compared"}
    assert max(stage.done for stage in stages if stage.stage == "rows copied") == rows


@out
async def test_a_ledger_that_comes_back_is_the_same(way: Way, before: dict[str, Any], tmp_path: Path) -> None:
    there = await moved(way)
    again = Way(way.target, f"sqlite:{tmp_path}/again.db")

    home = await moved(again)

    assert await of_target(again) == before
    assert home.tables == there.tables  # digests too
    assert (await starts(way.source), await starts(way.target)) == (False, False)


async def test_what_was_open_is_a_dead_owners_and_ids_go_on(way: Way, before: dict[str, Any]) -> None:
    await moved(way)

    async with opened(way.target) as store:
        orphaned = {request.id for request in await store.orphaned_requests()}
        tasks = {task.id for task in await store.orphaned_tasks()}
        await store.settle("req_open_1", settlement(5), NOW_MS)
        new = await store.create_account("dora", Nanos(50), NOW_MS)
        await store.create_key("dora", new_key("key_dora", created_at_ms=NOW_MS + 1))
        await store.place_hold(new_request("req_new", account_id=new.id, key_id="key_dora", hold_nanos=20))

        assert orphaned == {request.id for request in before["open"]}
        assert tasks == {"vreq_submitting", "vreq_lost", "vreq_pending", "vreq_processing", "vreq_polled_in_vain"}
        assert new.id == max(account.id for account in before["accounts"]) + 1
        assert [key.id for key in await store.keys()] == [*(key.id for key in before["keys"]), "key_dora"]
        await assert_books_balance(store)


async def test_an_empty_ledger_moves_too(way: Way) -> None:
    await (await open_store(way.source)).close()

    await moved(way)

    async with opened(way.target) as store:
        assert (await store.create_account("first", Nanos(0), NOW_MS)).id == 3


@out
@pytest.mark.usefixtures("before")
async def test_a_zero_character_is_replaced_and_counted(way: Way) -> None:
    with closing(sqlite3.connect(way.file)) as connection, connection:
        connection.execute("UPDATE requests SET note = 'a' || char(0) || 'b' WHERE id = 'req_routed'")

    told = await moved(way)

    assert told.replaced == 1
    async with opened(way.target) as store:
        receipt = await store.receipt("req_routed")
    assert receipt is not None
    assert receipt[0].settlement is not None
    assert receipt[0].settlement.note == "a�b"


@out
@pytest.mark.usefixtures("before")
async def test_a_gateways_time_zone_is_that_of_the_ledger(way: Way) -> None:
    await moved(way)

    with pytest.raises(StoreRefusedError, match=r'folded into days of the time zone "\+08:00"'):
        await open_store(way.target, zone=UTC)


# refusals: nothing has happened


async def test_two_of_a_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreRefusedError, match="from a file to a database server, or back"):
        await moved(Way(f"sqlite:{tmp_path}/a.db", f"sqlite:{tmp_path}/b.db"))


@out
async def test_a_file_that_a_gateway_has_open_is_not_moved(way: Way) -> None:
    async with opened(way.source) as store:
        with pytest.raises(StoreLockedError, match="in use by another process"):
            await moved(way)

        await store.create_account("alice", Nanos(1), NOW_MS)


@back
@pytest.mark.timeout(60)
async def test_a_database_that_a_gateway_has_open_is_not_moved(way: Way) -> None:
    async with opened(way.source) as store:
        with pytest.raises(StoreRefusedError, match=r"is in use by \S+ \d+: stop every gateway and command first"):
            await moved(way)

        await store.create_account("alice", Nanos(1), NOW_MS)  # it was not taken for dead
    assert not way.file.exists()


@back
@pytest.mark.timeout(90)
async def test_a_gateway_that_was_killed_is_waited_for_a_lease(way: Way) -> None:
    await one_account(way.source)
    connection = await sql(way.source)
    await connection.execute("SELECT enter_node('killed 1', '', true)")  # beats no more
    waited: list[Progress] = []

    await moved(way, report=waited.append)

    assert await connection.fetchval("SELECT count(*) FROM nodes WHERE dead_at IS NULL") == 0
    assert any(one.stage == "seconds that gateways are silent" and one.done >= 18 for one in waited)
    await connection.close()


async def test_a_target_that_is_not_empty_is_refused(way: Way) -> None:
    await one_account(way.source)
    await one_account(way.target)

    with pytest.raises(StoreRefusedError, match=r"is not empty, it has accounts|exists: a ledger is moved into a new file"):
        await moved(way)

    assert (await starts(way.source), await starts(way.target)) == (True, True)


@out
async def test_a_database_that_a_gateway_was_started_on_for_nothing_is_empty(way: Way, before: dict[str, Any]) -> None:
    await (await open_store(way.target)).close()

    await moved(way)

    assert await of_target(way) == before


@back
@pytest.mark.parametrize("beside", ["-wal", "-journal", "-shm"])
async def test_a_log_that_lies_beside_the_new_file_is_refused(way: Way, beside: str) -> None:
    await one_account(way.source)
    way.file.with_name(way.file.name + beside).write_bytes(b"somebody's")

    with pytest.raises(StoreRefusedError, match=f"books.db{beside} exists"):
        await moved(way)

    assert await starts(way.source)


@out
async def test_books_that_do_not_hold_are_not_moved(way: Way) -> None:
    await one_account(way.source)
    with closing(sqlite3.connect(way.file)) as connection, connection:
        connection.execute("UPDATE accounts SET balance_nanos = 7 WHERE name = 'alice'")

    with pytest.raises(
        StoreRefusedError, match=r"books of sqlite:\S+ do not hold \(.*account alice: balance 7, its transfers say 1000\): nothing"
    ):
        await moved(way)

    assert await starts(way.source)


async def test_a_target_of_a_newer_program_is_refused(way: Way) -> None:
    await one_account(way.source)
    await (await open_store(way.target)).close()
    if way.target.startswith("sqlite"):
        with closing(sqlite3.connect(way.file)) as connection, connection:
            connection.execute("PRAGMA user_version = 999")
    else:
        connection_ = await sql(way.target)
        await connection_.execute("UPDATE llm_proxy_schema SET version = 999, compatible_from = 999")
        await connection_.close()

    with pytest.raises(StoreVersionError, match="has version 999"):
        await moved(way)

    assert await starts(way.source)


@out
async def test_a_role_that_may_not_make_tables_is_refused_in_words(way: Way) -> None:
    await one_account(way.source)
    role = f"reader_{way.target.partition('test_')[2].partition('?')[0]}"
    owner = await sql(way.target)
    await owner.execute(f"CREATE ROLE {role} LOGIN; REVOKE CREATE ON SCHEMA public FROM public")
    try:
        with pytest.raises(StoreRefusedError, match="permission denied for schema public"):
            await moved(Way(way.source, way.target.replace("postgres@", f"{role}@")))
    finally:
        await owner.execute(f"DROP ROLE {role}")
        await owner.close()
    assert await starts(way.source)


@out
async def test_a_role_that_may_not_write_is_refused_before_the_source_is_marked(way: Way) -> None:
    await one_account(way.source)
    await (await open_store(way.target)).close()
    role = f"writer_{way.target.partition('test_')[2].partition('?')[0]}"
    owner = await sql(way.target)
    await owner.execute(f"CREATE ROLE {role} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    try:
        with pytest.raises(StoreRefusedError, match="permission denied for table moves"):
            await moved(Way(way.source, way.target.replace("postgres@", f"{role}@")))
    finally:
        await owner.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await owner.close()
    assert await starts(way.source)


@pytest.mark.parametrize("how", [How.RESUME, How.ABANDON])
async def test_what_was_not_begun_is_neither_resumed_nor_abandoned(way: Way, how: How) -> None:
    await one_account(way.source)

    with pytest.raises(StoreRefusedError, match=r"no move from \S+ to \S+ has begun"):
        await moved(way, how)

    assert await starts(way.source)


# what arrives is looked at before it counts


@pytest.mark.usefixtures("before")
@pytest.mark.parametrize("table", ["accounts", "keys", "requests", "video_tasks", "idempotency"])
async def test_a_cell_that_arrives_otherwise_is_found(way: Way, table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    side = PostgresSide if way.target.startswith("postgres") else SqliteTarget
    written = side.write

    async def write(self: Any, its: Table, batches: AsyncIterator[Sequence[Row]]) -> None:
        async def changed() -> AsyncIterator[Sequence[Row]]:
            async for rows in batches:
                place = its.columns.index("created_at_ms")
                yield [(*rows[0][:place], 7, *rows[0][place + 1 :]), *rows[1:]]

        await written(self, its, changed() if its.name == table else batches)

    monkeypatch.setattr(side, "write", write)

    with pytest.raises(StoreRefusedError, match=f"^{table} did not arrive as it left"):
        await moved(way)

    assert (await starts(way.source), await starts(way.target)) == (False, False)


@pytest.mark.usefixtures("before")
async def test_a_row_that_does_not_arrive_is_found(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    side = PostgresSide if way.target.startswith("postgres") else SqliteTarget
    written = side.write

    async def write(self: Any, its: Table, batches: AsyncIterator[Sequence[Row]]) -> None:
        async def fewer() -> AsyncIterator[Sequence[Row]]:
            async for rows in batches:
                yield rows[:-1]

        await written(self, its, fewer() if its.name == "request_days" else batches)

    monkeypatch.setattr(side, "write", write)

    with pytest.raises(StoreRefusedError, match=r"^request_days did not arrive as it left: \d+ rows left"):
        await moved(way)


@pytest.mark.usefixtures("before")
async def test_books_that_do_not_hold_where_they_arrived_do_not_count(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """An audit of the target that finds what that of the source did not."""
    side = PostgresSide if way.target.startswith("postgres") else SqliteTarget

    async def verify(*_: object) -> list[Check]:
        return [Check("held = sum of open holds", "1", ["account alice"])]

    monkeypatch.setattr(side, "verify", verify)

    with pytest.raises(
        StoreRefusedError, match=r"the books do not hold at \S+ \(held = sum of open holds: account alice\); the move has"
    ):
        await moved(way)

    assert (await starts(way.source), await starts(way.target)) == (False, False)


@back
async def test_a_gateway_that_starts_just_as_a_move_begins_is_refused(way: Way) -> None:
    """It has looked before the mark was made, and waits for the lock."""
    await one_account(way.source)
    connection = await sql(way.source)
    leaving = Move("mov_1", MoveState.LEAVING, way.source, way.target, NOW_MS)
    tasks = TaskGroup("test")
    async with connection.transaction():
        await lock(connection)
        starting = tasks.spawn(open_store(way.source), "start")
        other = await sql(way.source)
        while not await other.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
            await other.execute("SELECT pg_sleep(0.01)")
        await other.close()
        await record(connection, None, leaving)

    with pytest.raises(StoreMovedError, match="is being moved to"):
        await starting
    assert await connection.fetchval("SELECT count(*) FROM nodes WHERE dead_at IS NULL") == 0
    await connection.close()


# cut off, gone on with, given up


class CutError(Exception):
    """Raised by a progress callback: the move ends in the midst."""


def cut_at(stage: str, nth: int = 1) -> Any:
    """Return a callback that ends a move at the nth report of a stage."""
    seen = 0

    def tell(progress: Progress) -> None:
        nonlocal seen
        seen += progress.stage == stage
        if seen == nth:
            raise CutError

    return tell


@pytest.mark.parametrize(("stage", "nth"), [("rows copied", 1), ("rows copied", 9), ("rows compared", 1)])
async def test_a_move_that_is_cut_off_starts_nowhere_until_it_is_resumed(
    way: Way, before: dict[str, Any], stage: str, nth: int
) -> None:
    with pytest.raises(CutError):
        await moved(way, report=cut_at(stage, nth))

    assert (await starts(way.source), await starts(way.target)) == (False, False)
    with pytest.raises(StoreMovedError) as refused:
        await moved(way)
    assert f"llm-proxy store move --from {shlex.quote(way.source)} --to {shlex.quote(way.target)} --resume`" in str(refused.value)
    await moved(way, How.RESUME)

    assert await of_target(way) == before
    assert not await starts(way.source)


async def test_a_move_that_is_cut_off_can_be_given_up(way: Way, before: dict[str, Any]) -> None:
    with pytest.raises(CutError):
        await moved(way, report=cut_at("rows copied", 3))

    await moved(way, How.ABANDON)

    async with opened(way.source) as store:
        assert await shown(store) == before
    with pytest.raises(StoreRefusedError, match="there is nothing to abandon"):
        await moved(way, How.ABANDON)
    await moved(way)  # and begun anew
    assert await of_target(way) == before


async def test_a_move_cut_between_the_marks_is_begun_anew_or_given_up(
    way: Way, before: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target is marked, the source not yet: it starts, and the target does not."""
    side = SqliteSource if way.source.startswith("sqlite") else PostgresSide
    with monkeypatch.context() as patched:

        async def cut(*_: object) -> None:
            raise CutError

        if side is SqliteSource:
            patched.setattr(side, "change", cut)
        else:
            # the target is a file: the one change of a database is the source's
            patched.setattr(PostgresSide, "change", cut)
        with pytest.raises(CutError):
            await moved(way)

    assert await starts(way.source)
    assert not await starts(way.target)
    await moved(way, How.ABANDON)
    assert await starts(way.source)
    await moved(way)
    assert await of_target(way) == before


@pytest.mark.usefixtures("before")
async def test_a_source_that_is_begun_twice_moves_once(way: Way) -> None:
    results = await asyncio.gather(moved(way), moved(way), return_exceptions=True)

    (refused,) = [result for result in results if isinstance(result, Exception)]
    assert isinstance(refused, StoreLockedError)
    assert (await starts(way.source), await starts(way.target)) == (False, True)


@out
@pytest.mark.usefixtures("before")
async def test_two_files_are_not_moved_into_one_database(way: Way, tmp_path: Path) -> None:
    other = Way(f"sqlite:{tmp_path}/other.db", way.target)
    await one_account(other.source)

    results = await asyncio.gather(moved(way), moved(other), return_exceptions=True)

    assert len([result for result in results if isinstance(result, StoreRefusedError)]) == 1, results
    won, lost = (way, other) if isinstance(results[0], Moved) else (other, way)
    assert (await starts(won.source), await starts(lost.source), await starts(way.target)) == (False, True, True)


@out
async def test_what_has_arrived_can_no_longer_be_given_up(way: Way, before: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut between the target's commit and the source's last mark."""
    original = SqliteSource.change
    with monkeypatch.context() as patched:

        async def cut(self: SqliteSource, was: Any, now: Any) -> None:
            if was is not None:
                raise StoreRefusedError("the disk is full")
            await original(self, was, now)

        patched.setattr(SqliteSource, "change", cut)
        with pytest.raises(StoreRefusedError, match=r"the disk is full; the move has not ended: `llm-proxy store move .* --resume`"):
            await moved(way)

    assert (await starts(way.source), await starts(way.target)) == (False, True)
    with pytest.raises(StoreRefusedError, match=r"has arrived at .* too late"):
        await moved(way, How.ABANDON)
    told = await moved(way, How.RESUME)
    assert (told.tables, (await of_target(way))) == ([], before)
    assert (await moved(way, How.RESUME)).move.state == "left"  # once more changes nothing
    with pytest.raises(StoreMovedError, match=f'was moved to .* set store.url = "{way.target}"'.replace("?", r"\?")):
        await open_store(way.source)


@out
async def test_an_arrival_that_the_target_lost_is_carried_again(way: Way, before: dict[str, Any]) -> None:
    """A failover to a standby that did not have the commit: the source still has everything."""
    await moved(way)
    connection = await sql(way.target)
    await connection.execute("SET session_replication_role = replica; UPDATE moves SET state = 'arriving'")
    await connection.execute("; ".join(f"DELETE FROM {table.name}" for table in TABLES))
    await connection.execute("UPDATE llm_proxy_schema SET version = version + $1, compatible_from = compatible_from + $1", MARKED)
    await connection.close()

    assert (await starts(way.source), await starts(way.target)) == (False, False)
    await moved(way, How.RESUME)

    assert await of_target(way) == before


@out
@pytest.mark.usefixtures("before")
async def test_another_database_than_was_moved_to_gets_nothing(way: Way) -> None:
    with pytest.raises(CutError):
        await moved(way, report=cut_at("rows copied"))
    async with database(is_empty=True) as other:
        with pytest.raises(StoreRefusedError, match=f"is not being moved to .*, but to {way.target}".replace("?", r"\?")):
            await moved(Way(way.source, other), How.RESUME)
    connection = await sql(way.target)  # of the same name, but made anew
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await connection.close()

    with pytest.raises(StoreRefusedError, match="knows nothing of the move"):
        await moved(way, How.RESUME)

    await moved(way, How.ABANDON)
    assert await starts(way.source)


@out
@pytest.mark.usefixtures("before")
async def test_no_copy_of_what_was_moved_is_restored(way: Way, tmp_path: Path) -> None:
    await moved(way)

    with pytest.raises(StoreMovedError, match="was moved to"):
        put_in_place(f"sqlite:{tmp_path}/other.db", way.file, "20261123T080000Z")


@out
@pytest.mark.usefixtures("before")
async def test_programs_that_know_nothing_of_moves_refuse_a_moved_file(way: Way) -> None:
    await moved(way)

    with closing(sqlite3.connect(way.file)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (MARKED + len(scripts()),)


@pytest.mark.usefixtures("before")
async def test_a_reader_of_what_was_moved_is_told_where_it_is(way: Way) -> None:
    await moved(way)

    with pytest.raises(StoreMovedError, match="was moved to"):
        await open_store(way.source, read_only=True)


# the way to the database breaks


async def cut_way(way: Way, tmp_path: Path, message: bytes, *, answer: bool = False) -> str:
    """Have a move's way to the database cut before a message, or before its answer; return what the move said."""
    folder = tmp_path / "w"
    folder.mkdir()
    async with way_to(way.database, folder) as cut:
        own = Way(*(cut.url if url == way.database else url for url in (way.source, way.target)))
        setattr(cut, "cut_answer" if answer else "cut_before", message)
        with pytest.raises(StoreError) as failed:
            await moved(own)
        assert cut.cuts == 1, f"nothing was sent with {message!r}: {failed.value}"
    return str(failed.value)


@out
@pytest.mark.parametrize("table", [table.name for table in TABLES])
async def test_a_connection_that_is_cut_while_a_table_is_copied_leaves_nothing(
    way: Way, before: dict[str, Any], tmp_path: Path, table: str
) -> None:

    said = await cut_way(way, tmp_path, f'COPY "{table}"'.encode())

    assert "the move has not ended: `llm-proxy store move" in said
    assert (await starts(way.source), await starts(way.target)) == (False, False)
    async with way_to(way.database, tmp_path / "w") as healed:
        await moved(Way(way.source, healed.url), How.RESUME)
    assert await of_target(way) == before


@out
async def test_a_commit_whose_answer_is_lost_is_found_by_resume(way: Way, before: dict[str, Any], tmp_path: Path) -> None:

    folder = tmp_path / "w"
    folder.mkdir()
    async with way_to(way.database, folder) as cut:
        own = Way(way.source, cut.url)

        def cut_the_last_commit(progress: Progress) -> None:
            if progress.stage == "rows compared":
                cut.cut_answer = b"COMMIT"

        with pytest.raises(StoreError, match="the move has not ended"):
            await moved(own, report=cut_the_last_commit)

        assert cut.cuts == 1
        assert (await starts(way.source), await starts(way.target)) == (False, True)
        told = await moved(own, How.RESUME)

    assert told.tables == []  # nothing was copied again
    assert not await starts(way.source)
    assert await of_target(way) == before
