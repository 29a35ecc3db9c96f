"""The server is there and takes nothing: no connection left, its disk full, or read-only. Gateways wait it out, and none ends."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from tests.cluster.test_failover import nobody_has_ended, set_on
from tests.support.cluster import cluster
from tests.support.cluster_calls import calling
from tests.support.promises import Faults
from tests.support.replicas import USER, Replica, lone_server

OURS = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE application_name = 'llm-proxy'"
PROMISE = "a database that takes no connection, is read-only or out of disk: new work is 503, it recovers by itself, no gateway ends"


@asynccontextmanager
async def too_many_clients(server: Replica) -> AsyncIterator[None]:
    """Take every connection that the server has, those of the gateways too."""
    operator = await asyncpg.connect(server.url)
    taken = []
    while True:
        try:
            taken.append(await asyncpg.connect(server.url))
        except asyncpg.TooManyConnectionsError:
            if not await operator.fetchval(OURS):
                break
    yield
    for connection in (*taken, operator):
        await connection.close()


@asynccontextmanager
async def read_only(server: Replica) -> AsyncIterator[None]:
    await set_on(server, "default_transaction_read_only=on")
    yield
    await server.sql("ALTER SYSTEM RESET default_transaction_read_only")
    await server.sql("SELECT pg_reload_conf()")


@asynccontextmanager
async def disk_full(server: Replica) -> AsyncIterator[None]:
    """Let the database's tables grow no more. Its log is on another disk: without room for that, the server itself would fall."""
    filler = server.folder / "small" / "filler"
    with pytest.raises(OSError, match="No space left"):
        _fill(filler)
    yield
    filler.unlink()


def _fill(file: Path) -> None:
    with file.open("wb", buffering=0) as written:
        while True:
            written.write(bytes(1 << 16))


def _run(*words: str | Path) -> int:
    return subprocess.run(words, capture_output=True, check=False).returncode


@asynccontextmanager
async def on_a_small_disk(server: Replica) -> AsyncIterator[str]:
    """Lend a database on a file system of its own."""
    small = server.folder / "small"
    small.mkdir()
    owner = f",uid={USER},mode=700" if USER is not None else ""
    if await asyncio.to_thread(_run, "mount", "-t", "tmpfs", "-o", f"size=32m{owner}", "tmpfs", small):
        pytest.skip("the tests may not mount a file system here")
    try:
        tables = small / "tables"
        tables.mkdir(mode=0o700)
        if USER is not None:
            os.chown(tables, USER, -1)
        await server.sql(f"CREATE TABLESPACE small LOCATION '{tables}'")
        await server.sql("CREATE DATABASE small TABLESPACE small")
        yield server.url.replace("@/postgres", "@/small")
        await server.end()
    finally:
        await asyncio.to_thread(_run, "umount", "-l", small)


Break = Callable[[Replica], AbstractAsyncContextManager[None]]


@pytest.mark.promise(PROMISE)
@pytest.mark.timeout(180)
@pytest.mark.parametrize("refuses", [too_many_clients, read_only, disk_full])
async def test_gateways_wait_out_a_server_that_refuses(tmp_path: Path, faults: Faults, refuses: Break) -> None:
    async with lone_server() as server:
        await server.start()
        async with on_a_small_disk(server) as small, cluster(tmp_path, 2, at=small) as gateways:
            async with calling(gateways, faults) as customers:
                await customers.more(20)
                async with refuses(server):
                    await customers.told_more(503, 12)
                    faults.injected += 1
                await customers.more(20)
            assert customers.told[500] == 0
            await nobody_has_ended(gateways)
