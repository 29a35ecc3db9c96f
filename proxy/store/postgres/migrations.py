"""The schema and its version: numbered SQL files, run in one transaction under one lock, however many gateways start at once.

Rolling upgrades go by "expand, then contract". A migration that gateways of the version before can live with, because it only adds what
they may leave alone, is the ordinary case. One that they cannot live with says so in its first line, ``-- compatible from N``: programs
below version N are refused from then on, so it belongs into a release after the one that stopped using what it takes away. A function
whose parameters change gets a new name, and the old one goes with such a contraction.
"""

import re
from importlib import resources

import asyncpg

from proxy.store import moves
from proxy.store.errors import StoreRefusedError, StoreVersionError
from proxy.store.moves import MARKED
from proxy.store.postgres import marks
from proxy.store.postgres.connection import Connection

_LOCK = int.from_bytes(b"llmproxy", "big")
"""Key of the advisory lock. Of a transaction, since a pooler would hand one of a session on to others."""
_COMPATIBLE_FROM = re.compile(r"-- compatible from (\d+)\n")
_TABLES = "SELECT tablename::text FROM pg_tables WHERE schemaname = ANY (current_schemas(false))"
MINIMUM = 150_000
"""PostgreSQL 15, as ``server_version_num`` writes it."""


def scripts() -> list[str]:
    """Return the migrations in order; script n leads to version n. They are package data, so a wheel includes them."""
    folder = resources.files("proxy.store.postgres").joinpath("schema")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    for number, file in enumerate(files, start=1):
        if not file.name.startswith(f"{number:04d}_"):
            raise RuntimeError(f"migration {number} is missing or out of order: {file.name}")
    return [file.read_text("utf-8") for file in files]


async def require_current(connection: Connection, name: str) -> None:
    """Check that a database has a schema that this program can read, and change nothing. ``name`` is for the message.

    Raises: StoreRefusedError, StoreVersionError.
    """
    version = await version_of(connection, name)
    if version < len(scripts()):
        raise StoreRefusedError(f"{name} has not been brought up to date yet: start the gateway once")


async def require_unmarked(connection: Connection, name: str) -> None:
    """Check, under the lock, that no move has begun since the last look. Raises: as `migrate`."""
    await version_of(connection, name)


async def migrate(connection: Connection, name: str, *, is_of_move: bool = False) -> None:
    """Bring a database to the newest version; an empty one gets the whole schema.

    Args: is_of_move: whoever asks moves the database's ledger, and goes by its marks.

    Raises: StoreMovedError; StoreVersionError: a newer program has it; StoreRefusedError: it is another program's, its server too old.
    """
    if int(await connection.fetchval("SHOW server_version_num")) < MINIMUM:
        raise StoreRefusedError(f"{name} is on a server older than PostgreSQL {MINIMUM // 10_000}, which this program needs")
    if await version_of(connection, name, is_of_move=is_of_move) >= len(scripts()):
        return  # without the lock: a start beside others waits for nobody
    async with connection.transaction():
        await lock(connection)
        version = await version_of(connection, name, is_of_move=is_of_move)  # another gateway may have been first
        for number, script in enumerate(scripts()[version:], start=version + 1):
            await connection.execute(script)
            await _record(connection, number, script)


async def lock(connection: Connection) -> None:
    """Wait until no other process opens this database, and keep others waiting until the transaction ends."""
    await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")


async def _record(connection: Connection, number: int, script: str) -> None:
    if number == 1:
        await connection.execute("INSERT INTO llm_proxy_schema (version, compatible_from) VALUES (1, 1)")
    breaking = _COMPATIBLE_FROM.match(script)
    await connection.execute(
        "UPDATE llm_proxy_schema SET version = version - version % $3 + $1, "
        "compatible_from = compatible_from - compatible_from % $3 + greatest(compatible_from % $3, $2)",
        number,
        int(breaking[1]) if breaking else 1,
        MARKED,
    )


async def version_of(connection: Connection, name: str, *, is_of_move: bool = False) -> int:
    """Return the version of a database, 0 for an empty one. Raises: StoreMovedError, StoreVersionError, StoreRefusedError."""
    # One look at the catalogue as rows: `to_regclass` may answer from a cache of what was not there before the lock was waited for.
    tables = {table for (table,) in await connection.fetch(_TABLES)}
    if "llm_proxy_schema" not in tables:
        if tables:
            raise StoreRefusedError(
                f"{name} is the database of another program: it has a table {min(tables)}. Give this one a database of its own"
            )
        return 0
    try:
        version, compatible_from = await connection.fetchrow("SELECT version, compatible_from FROM llm_proxy_schema")
    except asyncpg.InsufficientPrivilegeError as error:
        raise StoreRefusedError(f"{name} cannot be read: {error}") from error
    known = len(scripts())
    if compatible_from >= MARKED:
        version, compatible_from = version % MARKED, compatible_from % MARKED
        if compatible_from <= known and not is_of_move and (move := await marks.mark(connection)) is not None:
            raise moves.refusal(name, move)
    if compatible_from > known:
        raise StoreVersionError(
            f"{name} has version {version}, which programs from {compatible_from} on can write, this program knows up to {known}: "
            "update the program"
        )
    return int(version)
