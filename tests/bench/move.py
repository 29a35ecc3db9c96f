"""`llm-proxy store move` of a long ledger, to PostgreSQL and back: minutes, memory, and that every row is the same."""

import asyncio
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import orjson

from proxy.core.money import Nanos
from proxy.store.sqlite import open_store
from tests.bench.arena import say
from tests.bench.ledger_rows import TRANSFERS_A_REQUEST, extend
from tests.bench.options import Options
from tests.bench.rows import Row
from tests.support.postgres import Server, start
from tests.support.store import new_key

PART = "move"
REQUESTS = 1_000_000
ACCOUNTS = 20
MINUTES_MAX = 15
"""Allowed for five times as many transfers."""
MIB_MAX = 256
LOOK_SECONDS = 0.1
_CREDIT = Nanos(10**15)


def move_part(options: Options) -> list[Row]:
    """Move a ledger out and back, each as the operator does. Every table must come back with the digest that it left with."""
    requests = min(REQUESTS, max(options.rows) // TRANSFERS_A_REQUEST)
    there, back = options.directory / "there.db", options.directory / "back.db"
    asyncio.run(_begin(there))
    extend(there, requests * TRANSFERS_A_REQUEST, time.time_ns() // 1_000_000)
    server = start("--durable")
    rows = [_row("file", "MiB", there.stat().st_size / 2**20)]
    out, its_rows = _moved("to PostgreSQL", f"sqlite:{there}", server.url)
    home, other_rows = _moved("to SQLite", server.url, f"sqlite:{back}")
    if out != home:
        raise AssertionError(f"what came back is not what left: {out} and {home}")
    say(f"    {out['requests'][0]:,} requests and {out['transfers'][0]:,} transfers came back with the digests that they left with")
    return [*rows, *its_rows, *other_rows, _row("database", "MiB", _database_bytes(server) / 2**20)]


async def _begin(path: Path) -> None:
    store = await open_store(path)
    for number in range(ACCOUNTS):
        await store.create_account(f"bench-{number}", _CREDIT, 0)
        await store.create_key(f"bench-{number}", new_key(f"key_{number}"))
    await store.close()


def _moved(way: str, source: str, target: str) -> tuple[dict[str, tuple[int, str]], list[Row]]:
    """Run the command; return rows and digest of each table, and what was measured."""
    command = [sys.executable, "-m", "proxy", "store", "move", "--from", source, "--to", target, "--json"]
    say(f"  {way} …")
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        most, cpu = _watch(process)
        said, _ = process.communicate()
    seconds = time.monotonic() - began
    if process.returncode:
        raise AssertionError(f"store move ended with {process.returncode}")
    answer = orjson.loads(said)
    assert answer["holds"], answer["checks"]
    measured = [
        _row(f"{way}: the command", "min", seconds / 60, reach=MINUTES_MAX),
        _row(f"{way}: its CPU", "min", cpu / 60),
        _row(f"{way}: its memory at most", "MiB", most / 2**20, reach=MIB_MAX),
        _row(f"{way}: load of the machine at the end", "", os.getloadavg()[0]),
    ]
    return {table["table"]: (table["rows"], table["digest"]) for table in answer["tables"]}, measured


def _watch(process: "subprocess.Popen[bytes]") -> tuple[int, float]:
    """Return the most memory of a process in bytes, and its CPU in seconds, as they were last seen.

    What `wait4` says of its memory begins with that of this process.
    """
    most, cpu = 0, 0.0
    place = Path(f"/proc/{process.pid}")
    while process.poll() is None:
        with suppress(OSError, StopIteration, ValueError):
            line = next(line for line in (place / "status").read_text().splitlines() if line.startswith("VmHWM"))
            most = max(most, int(line.split()[1]) * 1024)
            cpu = sum(int(ticks) for ticks in (place / "stat").read_text().rpartition(")")[2].split()[11:13]) / os.sysconf("SC_CLK_TCK")
        time.sleep(LOOK_SECONDS)
    return most, cpu


def _database_bytes(server: Server) -> int:
    async def ask() -> int:
        from proxy.store.postgres.connection import Connector  # noqa: PLC0415

        connection = await Connector(server.url).connect()
        size = int(await connection.fetchval("SELECT pg_database_size(current_database())"))
        await connection.close()
        return size

    return asyncio.run(ask())


def _row(what: str, unit: str, figure: float, reach: float | None = None) -> Row:
    return Row(PART, what, "store move", unit, (figure,), reach)
