"""Gateways that share a ledger in PostgreSQL, beside one with a file: CPU of both sides, the first chunk, and a death's holds."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import orjson

from proxy.store import open_store
from tests.bench import settlements
from tests.bench.arena import Arena, say
from tests.bench.contenders import gateway, stand_in
from tests.bench.options import Options
from tests.bench.processes import ROOT, TICKS_PER_SECOND, SpoiltError, running, tree
from tests.bench.rows import Row, added, paired
from tests.bench.throughput import figures, paced_job
from tests.support.postgres import Server, start

PART = "cluster"
COUNT, IN_FLIGHT, NODES, ACCOUNTS = 20_000, 64, 4, 100
LEFT_OPEN = 10_000
SYNCS, SYNC_BYTES = 200, 8192
QUICK_LEASE_SECONDS = 3.0
RELEASE_SECONDS = 60.0
WITHIN_SQLITE, BOTH_WITHIN_SQLITE, GROWTH = 0.45, 1.6, 1.25
RELEASED_SECONDS = 1.0
"""The reaches of the design of many gateways, §7."""


@dataclass(frozen=True, slots=True)
class Settled:
    """One run: CPU in µs a hold and its settlement, of a node and of the database's processes; percentiles of a hold in ms."""

    node_us: float
    database_us: float
    p50: float
    p99: float
    a_second: float

    @property
    def both_us(self) -> float:
        return self.node_us + self.database_us


def cluster_part(options: Options) -> list[Row]:
    """Run holds and settlements through both engines in turn, whole gateways at a fixed rate, and a node's death."""
    server = start("--durable")
    try:
        return [*_settling(options, server), *_first_chunks(options, server), _released(options, server)]
    finally:
        server.stop()


def _settling(options: Options, server: Server) -> list[Row]:
    """CPU a hold and settlement with 64 in flight a node: of SQLite, of one node, and of four."""
    count = options.count(COUNT)
    names = ["SQLite", "PostgreSQL, 1 node", f"PostgreSQL, {NODES} nodes"]
    found: dict[str, list[Settled]] = {name: [] for name in names}
    for turn in range(options.rounds):
        file = f"sqlite:{options.directory}/cluster-{turn}.db"
        database = _database(server, f"cluster_{turn}")
        for url in (file, database):
            asyncio.run(_accounts(url))
        say(f"  round {turn + 1} of {options.rounds} …")
        found[names[0]].append(_run(file, count, 1, None))
        found[names[1]].append(_run(database, count, 1, server))
        found[names[2]].append(_run(database, count, NODES, server))
    rows = [row for name, runs in found.items() for row in _settled_rows(name, runs)]
    sqlite, one, many = found.values()
    alone = paired([run.node_us for run in one], [run.node_us for run in sqlite])
    both = paired([run.both_us for run in one], [run.both_us for run in sqlite])
    grown = paired([run.both_us for run in many], [run.both_us for run in one])
    return [
        *rows,
        Row(PART, "CPU of a node", "1 node : SQLite", "×", alone, WITHIN_SQLITE),
        Row(PART, "CPU of node and database", "1 node : SQLite", "×", both, BOTH_WITHIN_SQLITE),
        Row(PART, "CPU of node and database", f"{NODES} nodes : 1 node", "×", grown, GROWTH),
    ]


def _settled_rows(name: str, runs: Sequence[Settled]) -> list[Row]:
    return [
        Row(PART, "CPU a hold and settlement: of a node", name, "µs", tuple(run.node_us for run in runs)),
        Row(PART, "CPU a hold and settlement: of the database", name, "µs", tuple(run.database_us for run in runs)),
        Row(PART, "holds and settlements a second", name, "/s", tuple(run.a_second for run in runs)),
        Row(PART, "hold, p50", name, "ms", tuple(run.p50 for run in runs)),
        Row(PART, "hold, p99", name, "ms", tuple(run.p99 for run in runs)),
    ]


async def _accounts(url: str) -> None:
    store = await open_store(url)
    for number in range(ACCOUNTS):
        await store.create_account(f"bench-{number}", settlements.CREDIT, settlements.NOW_MS)
    await store.close()


def _run(url: str, count: int, nodes: int, server: Server | None) -> Settled:
    """Run ``count`` requests through each of so many processes, which begin together."""
    command = [sys.executable, "-m", "tests.bench.settlements", url, str(count), str(IN_FLIGHT), "--held"]
    with ExitStack() as stack:
        processes = [stack.enter_context(_piped(command)) for _ in range(nodes)]
        for process in processes:
            _line(process, settlements.READY)
        before, began = _database_cpu(server), time.monotonic()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
        told = [orjson.loads(_line(process)) for process in processes]
        seconds, spent = time.monotonic() - began, _database_cpu(server) - before
    requests = count * nodes
    return Settled(
        node_us=sum(one["cpu_us"] for one in told) / nodes,
        database_us=spent * 1e6 / requests,
        p50=sum(one["p50"] for one in told) / nodes,
        p99=max(one["p99"] for one in told),
        a_second=requests / seconds,
    )


@contextmanager
def _piped(command: Sequence[str]) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(RELEASE_SECONDS)


def _line(process: "subprocess.Popen[bytes]", expected: bytes = b"") -> bytes:
    """Return the next line. Raises: SpoiltError."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line or (expected and line != expected):
        raise SpoiltError(f"the settlements said {line!r}")
    return line


def _database_cpu(server: Server | None) -> float:
    """Return the CPU seconds of all the server's processes so far, those that have ended too."""
    if server is None:
        return 0.0
    ticks = 0
    for pid in tree(server.pid):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(int(field) for field in fields[11:15])  # utime stime, and cutime cstime of children that were waited for
    return ticks / TICKS_PER_SECOND


def _database(server: Server, name: str) -> str:
    asyncio.run(_create(server, name))
    return server.database(name)


async def _create(server: Server, name: str) -> None:
    from proxy.store.postgres.connection import Connector  # noqa: PLC0415  the other parts need no asyncpg

    connection = await Connector(server.url).connect()
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()


def _first_chunks(options: Options, server: Server) -> list[Row]:
    """Time to the first chunk of streams begun at 50 a second: what each engine adds, and what a commit of this disk takes."""
    place = options.directory / "both"
    for name in ("sqlite", "postgres"):
        (place / name).mkdir(parents=True)
    with ExitStack() as stack:
        upstream = stack.enter_context(stand_in(place))
        port = upstream.target.port
        of_file = stack.enter_context(gateway(port, place / "sqlite"))
        shared = stack.enter_context(gateway(port, place / "postgres", store=_database(server, "first_chunks")))
        contenders = [replace(of_file, name="SQLite"), replace(shared, name="PostgreSQL")]
        arena = Arena(replace(options, directory=place), upstream, contenders)
        samples = arena.rounds(lambda contender: paced_job(contender.target, options), direct=True)
    sync_ms = [_sync_ms(place / "synced") for _ in range(options.rounds)]
    p50 = {name: [one.report.waits.p50 for one in found] for name, found in samples.items()}
    later, reach = added(p50["PostgreSQL"], p50["SQLite"]), 2 * median(sync_ms)
    return [
        *figures(samples, PART, "first chunk at 50/s, p50", "ms", lambda one: one.report.waits.p50),
        *figures(samples, PART, "first chunk at 50/s, p99", "ms", lambda one: one.report.waits.p99),
        *(
            Row(PART, "CPU of a gateway a stream at 50/s", name, "µs", tuple(one.cpu_us(one.report.answers) for one in found))
            for name, found in samples.items()
            if name != "direct"
        ),
        Row(PART, "a sync of the disk, p50", "disk", "ms", tuple(sync_ms)),
        Row(PART, "first chunk, p50: added to SQLite's", "PostgreSQL", "ms", later, reach, "two syncs"),
    ]


def _sync_ms(path: Path) -> float:
    """Return the median time of appending a page of the log and syncing it."""
    times = []
    with path.open("ab") as file:
        for _ in range(SYNCS):
            began = time.monotonic()
            file.write(bytes(SYNC_BYTES))
            file.flush()
            os.fdatasync(file.fileno())
            times.append((time.monotonic() - began) * 1000)
    return median(times)


def _released(options: Options, server: Server) -> Row:
    """Time from a node's death, as its row says, to the release of the last hold that it left, by the gateway that heard of it."""
    left = options.count(LEFT_OPEN)
    place = options.directory / "death"
    place.mkdir()
    url = _database(server, "death")
    lease = (sys.executable, "-m", "tests.support.quick_lease", str(QUICK_LEASE_SECONDS))
    with ExitStack() as stack:
        upstream = stack.enter_context(stand_in(place))
        stack.enter_context(gateway(upstream.target.port, place, store=url, program=lease))
        dying = stack.enter_context(
            running("dying", [sys.executable, "-m", "tests.bench.left_open", url, str(left)], place / "dying.log")
        )
        dying.first_line()
        dying.process.kill()
        dying.process.wait()
        seconds = asyncio.run(_until_released(url, left))
    return Row(PART, f"{left:,} holds of a dead node: released after its death was seen", "gateway", "s", (seconds,), RELEASED_SECONDS)


async def _until_released(url: str, left: int) -> float:
    from proxy.store.postgres.connection import Connector  # noqa: PLC0415

    connection = await Connector(url).connect()
    deadline = time.monotonic() + RELEASE_SECONDS
    while await connection.fetchval("SELECT count(*) FROM requests WHERE settled_at_ms IS NULL"):
        if time.monotonic() > deadline:
            raise SpoiltError("the holds of the dead node are still open")
        await connection.fetchval("SELECT pg_sleep(0.2)")
    released, seconds = await connection.fetchrow(
        "SELECT count(*), (max(settled_at_ms) / 1000.0 - extract(epoch FROM (SELECT max(dead_at) FROM nodes)))::float8 FROM requests"
    )
    await connection.close()
    assert released == left, f"{released} of {left}"
    return float(seconds)
