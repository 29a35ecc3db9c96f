"""What a file has recorded of moves (`proxy.store.moves`): functions of a connection."""

import sqlite3

from proxy.store.moves import MARKED, Move, MoveState

_COLUMNS = "id, state, source, target, changed_at_ms"


def are_kept(connection: sqlite3.Connection) -> bool:
    """Return whether the file is of a version that records moves."""
    return connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'moves'").fetchone() is not None


def mark(connection: sqlite3.Connection) -> Move | None:
    """Return the move for which nothing may start on this file."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM moves WHERE state <> 'arrived'").fetchone()  # noqa: S608
    return None if row is None else _move(row)


def recorded(connection: sqlite3.Connection, move_id: str) -> Move | None:
    """Return what is recorded of one move."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM moves WHERE id = ?", (move_id,)).fetchone()  # noqa: S608
    return None if row is None else _move(row)


def record(connection: sqlite3.Connection, before: Move | None, after: Move | None) -> bool:
    """Replace the mark, as one transaction, if it is still ``before``; return whether it was. None: there is no mark."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if mark(connection) != before:
            connection.execute("ROLLBACK")
            return False
        if before is not None:
            connection.execute("DELETE FROM moves WHERE id = ?", (before.id,))
        if after is not None:
            connection.execute("INSERT INTO moves VALUES (?, ?, ?, ?, ?)", _row(after))
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        is_marked = after is not None and after.is_mark
        connection.execute(f"PRAGMA user_version = {version % MARKED + (MARKED if is_marked else 0)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return True


def _row(move: Move) -> tuple[object, ...]:
    return move.id, move.state, move.source, move.target, move.changed_at_ms


def _move(row: tuple[str, str, str, str, int]) -> Move:
    return Move(row[0], MoveState(row[1]), *row[2:])
