"""What a database has recorded of moves (`proxy.store.moves`)."""

from proxy.store.moves import MARKED, Move, MoveState
from proxy.store.postgres.connection import Connection

_COLUMNS = "id, state, source, target, changed_at_ms"


async def mark(connection: Connection) -> Move | None:
    """Return the move for which nothing may start on this database."""
    row = await connection.fetchrow(f"SELECT {_COLUMNS} FROM moves WHERE state <> 'arrived'")  # noqa: S608
    return None if row is None else Move(row[0], MoveState(row[1]), *row[2:])


async def recorded(connection: Connection, move_id: str) -> Move | None:
    """Return what is recorded of one move."""
    row = await connection.fetchrow(f"SELECT {_COLUMNS} FROM moves WHERE id = $1", move_id)  # noqa: S608
    return None if row is None else Move(row[0], MoveState(row[1]), *row[2:])


async def record(connection: Connection, before: Move | None, after: Move | None) -> bool:
    """Replace the mark if it is still ``before``; return whether it was. None: there is no mark.

    In a transaction that has `migrations.lock`: so no gateway is about to start.
    """
    if await mark(connection) != before:
        return False
    if before is not None:
        await connection.execute("DELETE FROM moves WHERE id = $1", before.id)
    if after is not None:
        await connection.execute(
            f"INSERT INTO moves ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5)",  # noqa: S608
            *(after.id, str(after.state), after.source, after.target, after.changed_at_ms),
        )
    is_marked = after is not None and after.is_mark
    await connection.execute(
        "UPDATE llm_proxy_schema SET version = version % $1 + $2, compatible_from = compatible_from % $1 + $2",
        MARKED,
        MARKED if is_marked else 0,
    )
    return True
