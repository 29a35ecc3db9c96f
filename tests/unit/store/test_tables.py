"""What a move carries is what both engines have, column by column, and each difference has its reason."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from proxy.store.postgres.connection import Connector
from proxy.store.sqlite import open_store
from proxy.store.tables import IDENTITIES, OWN, TABLES, Digest, Table, without_zero_characters
from tests.support.postgres import database

CARRIED = {f"{table.name}.{column}" for table in TABLES for column in table.columns}
FLAGS = {f"{table.name}.{column}" for table in TABLES for column in table.flags}
EXACT = {f"{table.name}.{column}" for table in TABLES for column in table.exact}


async def of_sqlite(directory: Path) -> dict[str, str]:
    """Return the type of each column of the newest schema."""
    await (await open_store(directory / "books.db")).close()
    with closing(sqlite3.connect(directory / "books.db")) as connection:
        return {
            f"{table}.{column}": kind
            for table, column, kind in connection.execute(
                """SELECT t.name, c.name, c.type FROM sqlite_schema AS t JOIN pragma_table_info(t.name) AS c
                   WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%'"""
            )
        }


async def of_postgres() -> dict[str, str]:
    async with database() as url:
        connection = await Connector(url).connect()
        rows = await connection.fetch(
            "SELECT table_name || '.' || column_name, data_type, identity_generation FROM information_schema.columns "
            "WHERE table_schema = 'public'"
        )
        await connection.close()
    return {name: f"{kind}{' identity' if identity else ''}" for name, kind, identity in rows}


def strangers(columns: dict[str, str], own: dict[str, str]) -> set[str]:
    return {name for name in columns if name not in CARRIED and name not in own and name.partition(".")[0] not in own}


async def test_every_column_is_carried_or_has_a_reason_to_stay(tmp_path: Path) -> None:
    sqlite, postgres = await of_sqlite(tmp_path), await of_postgres()

    assert strangers(sqlite, dict(OWN["sqlite"])) == set(), "carry it, or say in OWN why not"
    assert strangers(postgres, dict(OWN["postgres"])) == set(), "carry it, or say in OWN why not"
    assert CARRIED - set(postgres) == set()
    assert CARRIED - set(sqlite) == {"keys.number"}  # SQLite's rowid


async def test_no_reason_is_of_a_column_that_is_gone(tmp_path: Path) -> None:
    for columns, own in ((await of_sqlite(tmp_path), OWN["sqlite"]), (await of_postgres(), OWN["postgres"])):
        there = set(columns) | {name.partition(".")[0] for name in columns}

        assert set(own) - there == set()


async def test_flags_texts_and_identities_are_those_of_the_schema(tmp_path: Path) -> None:
    sqlite, postgres = await of_sqlite(tmp_path), await of_postgres()

    assert {name for name in CARRIED if postgres[name] == "boolean"} == FLAGS
    assert {name for name in CARRIED if postgres[name] == "bytea" and sqlite[name] == "TEXT"} == EXACT
    counted = {name for name in CARRIED if postgres[name].endswith("identity")}
    assert counted == {f"{table}.{column}" for table, column in IDENTITIES.items()}


def test_a_digest_is_of_the_rows_in_any_order() -> None:
    one, other = Digest(), Digest()
    one.add([(1, "a", None), (2, "b", b"\x00")])
    other.add([(2, "b", b"\x00")])
    other.add([(1, "a", None)])

    assert one == other
    assert len(one.text) == 32


@pytest.mark.parametrize(
    "rows",
    [[(1, "a", None)], [(1, "a", None), (2, "b", b"\x01")], [("1", "a", None), (2, "b", b"\x00")], [(1, "a", ""), (2, "b", b"\x00")]],
)
def test_a_digest_is_of_those_rows_alone(rows: list[tuple[int | str | bytes | None, ...]]) -> None:
    one, other = Digest(), Digest()
    one.add([(1, "a", None), (2, "b", b"\x00")])
    other.add(rows)

    assert one != other


def test_a_zero_character_is_replaced_and_counted() -> None:
    table = Table("t", ("id", "note", "answer", "prompt"), exact=frozenset({"prompt"}))
    rows = [(1, "a\0b", b"\0", "\0"), (2, "c", None, ""), (3, "\0\0", None, "")]

    assert without_zero_characters(table, rows) == ([(1, "a�b", b"\0", "\0"), (2, "c", None, ""), (3, "��", None, "")], 2)
    assert without_zero_characters(table, rows[1:2]) == (rows[1:2], 0)
