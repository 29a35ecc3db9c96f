"""Curves: costs of a chunk and a request with more open streams, more accounts and a longer ledger."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from tests.bench.arena import Arena, arena, saturation, say
from tests.bench.contenders import Gateway, gateway, serving, stand_in
from tests.bench.ledger_rows import extend
from tests.bench.options import Options
from tests.bench.rows import Row, paired
from tests.bench.runs import Sample, loading, sample
from tests.bench.startup import start_once
from tests.bench.throughput import json_job, stream_job

STREAMS = (10, 100, 1000, 4000)
CHUNKS_A_SECOND = 5000
"""In all streams together: a quarter of what one core relays, so that the curve depends on the number of streams alone."""
STREAM_SECONDS, JSON_SECONDS, LEDGER_JSON_SECONDS = 4.0, 2.0, 3.0
JSON_CONNECTIONS = 16
BESIDE_SECONDS = 5.0
"""Time for which streams continue after they were measured, for the JSON requests beside them."""
ACCOUNTS = (1, 10, 100)
HOT_ACCOUNT = 1.1
LEDGER_ROUNDS = 2


def streams_part(options: Options) -> list[Row]:
    """A fresh gateway for each number of open streams: CPU of a chunk, memory and delay; then CPU of JSON requests beside them.

    The references' chunks are measured too: the kernel's part grows with the number of sockets, for every proxy.
    """
    part = "scale: open streams"
    rows: list[Row] = []
    for streams in map(options.count, STREAMS[:1] if options.quick else STREAMS):
        with arena(options) as running:
            seen = _look(running, streams)
            others = {
                other.name: running.sample(stream_job(other.target, streams, _chunk_ms(streams), options, STREAM_SECONDS), other)
                for other in running.contenders[1:]
            }
        chunks = seen.chunks
        mine = chunks.cpu_us(chunks.report.chunks)
        note = "; ".join(filter(None, (f"a chunk each {_chunk_ms(streams)} ms", saturation([chunks]))))
        rows += [
            Row(part, "CPU a chunk", "gateway", "µs", (mine,), note=note, at=streams),
            Row(part, "CPU a JSON request beside them", "gateway", "µs", (seen.request_us,), at=streams),
            Row(part, "memory over idle", "gateway", "KiB a stream", (seen.kib,), at=streams),
            Row(part, "chunk under way, p50", "gateway", "ms", (chunks.report.delays.p50,), at=streams),
            Row(part, "chunk under way, p99", "gateway", "ms", (chunks.report.delays.p99,), at=streams),
        ]
        for name, other in others.items():
            theirs = other.cpu_us(other.report.chunks)
            rows += [
                Row(part, f"CPU a chunk, {name}", name, "µs", (theirs,), note=saturation([other]), at=streams),
                Row(part, "CPU a chunk", f"gateway : {name}", "×", paired((mine,), (theirs,)), at=streams),
            ]
    return rows


def accounts_part(options: Options) -> list[Row]:
    """CPU of a JSON request as more accounts share the load; one hot account must not be slower than many."""
    part = "scale: accounts"
    found: dict[int, list[Sample]] = {accounts: [] for accounts in ACCOUNTS}
    with arena(options, alone=True, accounts=max(ACCOUNTS)) as running:
        for _ in range(options.rounds):
            for accounts in ACCOUNTS:
                target = msgspec.structs.replace(running.gateway.target, keys=running.gateway.target.keys[:accounts])
                found[accounts].append(running.sample(json_job(target, options, LEDGER_JSON_SECONDS), running.gateway))
    cpu = {accounts: [one.cpu_us(one.report.answers) for one in samples] for accounts, samples in found.items()}
    waits = {accounts: [one.report.waits.p99 for one in samples] for accounts, samples in found.items()}
    rows = [Row(part, "CPU a request", "gateway", "µs", tuple(figures), at=at) for at, figures in cpu.items()]
    rows += [Row(part, "request, p99", "gateway", "ms", tuple(figures), at=at) for at, figures in waits.items()]
    one, many = min(ACCOUNTS), max(ACCOUNTS)
    return [*rows, Row(part, "CPU a request", f"{one} account : {many}", "×", paired(cpu[one], cpu[many]), HOT_ACCOUNT)]


def ledger_part(options: Options) -> list[Row]:
    """Cost of a request, a start, an audit and a usage query as the ledger grows. Its rows are transfers."""
    rows: list[Row] = []
    with stand_in(options.directory) as upstream:
        with gateway(upstream.target.port, options.directory, accounts=10) as set_up:
            pass  # it creates its store, and stops
        for shorter, length in pairwise((-1, *options.rows)):
            assert length > shorter, "a ledger only grows"
            say(f"  {length:,} transfers …")
            extend(set_up.store, length, time.time_ns() // 1_000_000)
            rows += _at_rest(set_up, options, length)
            with serving(set_up) as running:
                job = json_job(running.target, options, LEDGER_JSON_SECONDS)
                samples = [sample(job, running, upstream.process, options.directory) for _ in range(min(options.rounds, LEDGER_ROUNDS))]
            cpu = tuple(one.cpu_us(one.report.answers) for one in samples)
            rows.append(Row("scale: ledger", "CPU a JSON request", "gateway", "µs", cpu, note=saturation(samples), at=length))
    return rows


@dataclass(frozen=True, slots=True)
class _Look:
    """Measurements of a gateway with many open streams. `kib` is the memory above idle, per stream."""

    chunks: Sample
    kib: float
    request_us: float


def _chunk_ms(streams: int) -> int:
    return max(1, streams * 1000 // CHUNKS_A_SECOND)


def _look(running: Arena, streams: int) -> _Look:
    options, contender = running.options, running.gateway
    running.sample(json_job(contender.target, options, 1.0, JSON_CONNECTIONS), contender)
    idle = contender.process.memory().own_kib
    beside = BESIDE_SECONDS * (1 + streams / max(STREAMS))
    job = stream_job(contender.target, streams, _chunk_ms(streams), options, STREAM_SECONDS, spare_seconds=beside)
    with loading(job, options.directory) as load:
        spent = load.count(contender.process, running.upstream.process)
        kib = contender.process.memory().own_kib - idle
        requests = running.sample(json_job(contender.target, options, JSON_SECONDS, JSON_CONNECTIONS), contender)
        chunks = load.sample(spent)
    theirs = chunks.share * requests.report.seconds
    return _Look(chunks, kib / streams, max(0.0, requests.cpu_seconds - theirs) * 1e6 / max(1, requests.report.answers))


def _at_rest(set_up: Gateway, options: Options, length: int) -> Sequence[Row]:
    part = "scale: ledger"
    start = start_once(set_up)
    return [
        Row(part, "file", "gateway", "MiB", (set_up.store.stat().st_size / 2**20,), at=length),
        Row(part, "start to ready", "gateway", "s", (start.seconds,), at=length),
        Row(part, "memory when ready, PSS", "gateway", "MiB", (start.memory.pss_kib / 1024,), at=length),
        Row(part, "ledger verify", "gateway", "s", (_seconds(set_up, "ledger", "verify"),), at=length),
        Row(part, "usage", "gateway", "s", (_seconds(set_up, "usage"),), at=length),
        Row(part, "usage --since 1d", "gateway", "s", (_seconds(set_up, "usage", "--since", "1d"),), at=length),
    ]


def _seconds(set_up: Gateway, *words: str) -> float:
    """Return the seconds that a command takes, its start included."""
    began = time.monotonic()
    set_up.ask(*words)
    return time.monotonic() - began
