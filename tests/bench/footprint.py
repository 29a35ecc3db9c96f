"""The gateway's footprint: memory of an open stream, time to start, and the store's share of a request."""

import subprocess
import sys

import orjson

from tests.bench.arena import Arena, arena
from tests.bench.contenders import Contender, gateway
from tests.bench.options import Options
from tests.bench.processes import ROOT, SpoiltError
from tests.bench.rows import Row
from tests.bench.runs import loading
from tests.bench.startup import start_once
from tests.bench.throughput import json_job, stream_job

OPEN_STREAMS, OPEN_CHUNK_MS, OPEN_SECONDS = 2000, 1000, 2.0
MEMORY_ROUNDS = 2
START_ROUNDS = 5
SETTLEMENTS, IN_FLIGHT = 20_000, 32
COMMITS_SECONDS = 2.0
COMMITS_AT = (1, 64, 500)
KIB_A_STREAM, START_SECONDS, START_MIB = 32.0, 0.8, 56.0


def memory_part(options: Options) -> list[Row]:
    """Memory of an open stream: that of the process with all of them open, over that of a fresh one that has answered a few."""
    streams = options.count(OPEN_STREAMS)
    found: dict[str, list[float]] = {}
    idle: dict[str, list[float]] = {}
    for _ in range(min(options.rounds, MEMORY_ROUNDS)):
        with arena(options) as running:
            for contender in running.contenders:
                before, after = _memory(running, contender, streams)
                idle.setdefault(contender.name, []).append(before / 1024)
                found.setdefault(contender.name, []).append((after - before) / streams)
    rows = [Row("memory", "idle, backed by no file", name, "MiB", tuple(figures)) for name, figures in idle.items()]
    return rows + [
        Row("memory", "open stream", name, "KiB", tuple(figures), *((KIB_A_STREAM, f"{streams} streams") if name == "gateway" else ()))
        for name, figures in found.items()
    ]


def start_part(options: Options) -> list[Row]:
    """Seconds from the start of the process, with an existing store, to its first 200 of ``/readyz``, and its memory then."""
    with gateway(1, options.directory) as set_up:
        pass  # it creates its store, and stops
    starts = [start_once(set_up) for _ in range(1 if options.quick else START_ROUNDS)]
    return [
        Row("start", "start to ready", "gateway", "s", tuple(one.seconds for one in starts), START_SECONDS),
        Row("start", "memory when ready, PSS", "gateway", "MiB", tuple(one.memory.pss_kib / 1024 for one in starts), START_MIB),
        Row("start", "memory when ready, RSS", "gateway", "MiB", tuple(one.memory.rss_kib / 1024 for one in starts)),
    ]


def store_part(options: Options) -> list[Row]:
    """CPU of a hold and its settlement in the store alone, and commits per request as more are in flight."""
    told = [_settle(options, turn) for turn in range(options.rounds)]
    note = f"{IN_FLIGHT} in flight, synchronous=FULL"
    rows = [
        Row("store", "CPU a hold and settlement", "store", "µs", tuple(one["cpu_us"] for one in told), note=note),
        Row("store", "time a hold and settlement", "store", "µs", tuple(one["us"] for one in told)),
        Row("store", "commits a request", "store", "", tuple(one["commits"] for one in told)),
    ]
    with arena(options, alone=True) as running:
        return rows + [_commits(running, connections) for connections in (COMMITS_AT[:2] if options.quick else COMMITS_AT)]


def _memory(running: Arena, contender: Contender, streams: int) -> tuple[int, int]:
    """Return the memory of the process in KiB, before and with all streams open."""
    options = running.options
    running.sample(json_job(contender.target, options, 1.0, connections=1), contender)
    before = contender.process.memory().own_kib
    with loading(stream_job(contender.target, streams, OPEN_CHUNK_MS, options, OPEN_SECONDS), options.directory) as load:
        spent = load.count(contender.process, running.upstream.process)
        after = contender.process.memory().own_kib
        report = load.sample(spent).report
    if report.failed:
        raise SpoiltError(f"{contender.name}: {report.failed} of {streams} streams failed")
    return before, after


def _settle(options: Options, turn: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.settlements", f"sqlite:{options.directory}/settlements-{turn}.db"]
    words = [*command, str(options.count(SETTLEMENTS)), str(IN_FLIGHT)]
    told: dict[str, float] = orjson.loads(subprocess.run(words, cwd=ROOT, check=True, capture_output=True, timeout=120).stdout)
    return told


def _commits(running: Arena, connections: int) -> Row:
    """Return the commits per JSON request; its hold and its settlement are two operations."""
    admin = running.gateway.admin
    answered, committed = admin.metric("llm_proxy_outcomes_total"), admin.metric("llm_proxy_commit_operations_count")
    running.sample(json_job(running.gateway.target, running.options, COMMITS_SECONDS, connections), running.gateway)
    answered = admin.metric("llm_proxy_outcomes_total") - answered
    committed = admin.metric("llm_proxy_commit_operations_count") - committed
    return Row("store", f"commits a request, {connections} in flight", "gateway", "", (committed / max(1, answered),))
