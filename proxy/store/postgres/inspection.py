"""One look at a server and its database, which changes nothing: the facts that `doctor` judges."""

import re
from collections.abc import Callable, Mapping

from proxy.store.errors import StoreRefusedError
from proxy.store.peers import NodeState
from proxy.store.postgres import migrations, peers
from proxy.store.postgres.clocks import clock_offset
from proxy.store.postgres.connection import CONNECT_SECONDS, FAILURES, Connection, Connector, words_of
from proxy.store.postgres.opening import name_of
from proxy.store.server_facts import SchemaFacts, ServerFacts

SETTINGS = ("fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names", "max_connections")
_ORDINARY = ("SELECT", "INSERT", "UPDATE")
_DELETING = (*_ORDINARY, "DELETE")
_OTHERS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("idempotency", "limits", "node_writes", "nodes", "requests", "spend", "video_tasks"), _DELETING),
    "transfers": ("SELECT", "INSERT"),
    "llm_proxy_schema": ("SELECT",),
}
"""Tables of which a gateway needs more or fewer privileges."""


async def inspect(url: str, password: str, now_ms: Callable[[], int]) -> ServerFacts:
    """Look at a database. Raises: StoreRefusedError: it cannot be reached; StoreVersionError: a newer program has it."""
    connector, name = Connector(url, password), name_of(url)
    try:
        connection = await connector.connect()
        try:
            return await _facts(connection, connector, name, now_ms)
        finally:
            await connection.close(timeout=CONNECT_SECONDS)
    except FAILURES as error:
        raise StoreRefusedError(f"cannot open {name}: {words_of(error)}") from error


def privileges() -> dict[str, tuple[str, ...]]:
    """Return what a gateway needs of each table, where another role owns them."""
    return {table: _OTHERS.get(table, _ORDINARY) for table in _made("TABLE")}


def _made(kind: str) -> list[str]:
    """Return the names of all tables or functions that the schema makes."""
    return re.findall(rf"^CREATE {kind} (\w+)", "\n".join(migrations.scripts()), re.MULTILINE)


async def _facts(connection: Connection, connector: Connector, name: str, now_ms: Callable[[], int]) -> ServerFacts:
    clock, round_trip_seconds = await clock_offset(connection, now_ms)
    version_number = int(await connection.fetchval("SHOW server_version_num"))
    role, is_superuser = await connection.fetchrow("SELECT rolname::text, rolsuper FROM pg_roles WHERE rolname = current_user")
    is_supported = version_number >= migrations.MINIMUM
    version = await migrations.version_of(connection, name) if is_supported else 0
    return ServerFacts(
        name=name,
        version=await connection.fetchval("SELECT split_part(current_setting('server_version'), ' ', 1)"),
        is_supported=is_supported,
        version_min=str(migrations.MINIMUM // 10_000),
        is_standby=await connection.fetchval("SELECT pg_is_in_recovery()"),
        settings={setting: await connection.fetchval("SELECT current_setting($1)", setting) for setting in SETTINGS},
        standbys=await connection.fetchval("SELECT count(*) FROM pg_stat_replication WHERE state IS DISTINCT FROM 'backup'"),
        connections=await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL"),
        is_pooled=connector.is_pooled,
        round_trip_seconds=round_trip_seconds,
        clock=clock,
        role=role,
        is_superuser=is_superuser,
        schema=SchemaFacts(version, len(migrations.scripts())),
        lacking=tuple(await _lacking(connection)) if version else (),
        may_migrate=await _may_migrate(connection),
        nodes=tuple(await _nodes(connection)) if version >= len(migrations.scripts()) else (),
    )


async def _nodes(connection: Connection) -> list[NodeState]:
    may_read = await connection.fetchval("SELECT has_table_privilege('nodes', 'SELECT') AND has_table_privilege('versions', 'SELECT')")
    return await peers.nodes(connection) if may_read else []


async def _lacking(connection: Connection) -> list[str]:
    """Return the privileges that this role should have on tables and functions of the schema, and has not."""
    there = {table for (table,) in await connection.fetch("SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema()")}
    wanted = [(table, privilege) for table, needed in privileges().items() if table in there for privilege in needed]
    held = await connection.fetch(
        "SELECT has_table_privilege(t, p) FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w (t, p, n) ORDER BY n",
        *([table for table, _ in wanted], [privilege for _, privilege in wanted]),
    )
    lacking = [f"{privilege} on {table}" for (table, privilege), (has,) in zip(wanted, held, strict=True) if not has]
    functions = await connection.fetch(
        """SELECT proname::text FROM pg_proc WHERE pronamespace = current_schema()::regnamespace AND proname = ANY ($1)
           AND prorettype <> 'trigger'::regtype AND NOT has_function_privilege(oid, 'EXECUTE') ORDER BY 1""",
        _made("FUNCTION"),
    )
    return lacking + [f"EXECUTE on {name}" for (name,) in functions]


async def _may_migrate(connection: Connection) -> bool:
    """Return whether this role may make tables, and change those that are there."""
    may: bool = await connection.fetchval(
        """SELECT coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AND NOT EXISTS (
             SELECT 1 FROM pg_tables WHERE schemaname = current_schema() AND NOT pg_has_role(tableowner, 'USAGE'))"""
    )
    return may
