"""Extreme loads: clients that stop reading, requests of 20 MB, a slow disk, and a thousand clients that leave at once."""

import shutil
import time

import msgspec

from tests.bench.arena import Arena, arena, say
from tests.bench.contenders import Contender, gateway, stand_in
from tests.bench.jobs import BEGIN, END, ENDLESS_SECONDS, Job, Target
from tests.bench.options import Options
from tests.bench.processes import SpoiltError
from tests.bench.rows import Row
from tests.bench.runs import NOTHING, Sample, loading, sample
from tests.bench.throughput import WARM_SECONDS, endless, stream_job

READING, STALLED, READING_CHUNK_MS = 3500, 500, 1000
STALLED_CHUNK_MS, STALLED_PADDING_BYTES = 100, 4096
STALL_SECONDS, FILL_SECONDS = 6.0, 6.0
"""A client that reads nothing is sent 40 kB a second: after `FILL_SECONDS` the kernel's buffers are full, and the gateway's fill."""
STALLS_A_SECOND = 100.0
"""One after the other: clients that stall at once fill their buffers at once, and that work comes in one burst."""
KIB_A_STALLED, HURT_MS = 256.0, 5.0

LARGE_BYTES = 20_000_000
LARGE_SECONDS, LARGE_STREAMS, LARGE_CHUNK_MS = 5.0, 100, 10
LARGE_STALL_MS = 50.0

SYNC_MS = 50
SLOW = ("strace", "-D", "-f", "-qq", "--seccomp-bpf", "-e", "trace=fsync,fdatasync", "-o", "/dev/null", "-e")
SLOW_DISK = (*SLOW, f"inject=fsync,fdatasync:delay_enter={SYNC_MS * 1000}")
SLOW_SECONDS = 5.0
SLOW_ALONE_MS, SLOW_CROWD_MS = SYNC_MS + 10.0, 2 * SYNC_MS + 25.0
"""One commit; with many in flight, the rest of the current commit and then one's own."""

LEAVING, LEAVING_CHUNK_MS, LEFT_SECONDS = 1000, 200, 4.0
SETTLED_SECONDS_MAX = 60.0
POLL_SECONDS = 0.05


def stalled_part(options: Options) -> list[Row]:
    """Thousands of streams, of which some hundred clients stop reading: memory of each, and the delay of the others."""
    readers, rows = _stalled_run(options, stalled=False), _stalled_run(options, stalled=True)
    stalled = options.count(STALLED)
    kib = (rows[1] - readers[1]) / stalled
    calm, hurt = (one.report.delays.p99 for one in (readers[0], rows[0]))
    part, note = "cliff: stalled clients", f"{options.count(READING)} read, {stalled} do not"
    return [
        Row(part, "memory of a stalled client", "gateway", "KiB", (kib,), KIB_A_STALLED, note),
        Row(part, "chunk under way of the others, p99, all reading", "gateway", "ms", (calm,)),
        Row(part, "chunk under way of the others, p99, some stalled", "gateway", "ms", (hurt,)),
        Row(part, "p99 of the others, worse by", "gateway", "ms", (hurt - calm,), HURT_MS),
    ]


def large_part(options: Options) -> list[Row]:
    """Streams beside one request of 20 MB after the other: the longest delay of a chunk, compared with that without."""
    with arena(options, alone=True) as running:
        calm = _longest(running, running.gateway, None)
        rows = [Row("cliff: 20 MB requests", "longest chunk, without", "gateway", "ms", (calm,))]
        for kind, picture in (("a picture", True), ("text", False)):
            longest = _longest(running, running.gateway, picture)
            rows += [
                Row("cliff: 20 MB requests", f"longest chunk, beside {kind}", "gateway", "ms", (longest,)),
                Row("cliff: 20 MB requests", f"longer beside {kind}", "gateway", "ms", (longest - calm,), LARGE_STALL_MS),
                Row(
                    "cliff: 20 MB requests",
                    f"longest chunk, beside {kind}",
                    "direct",
                    "ms",
                    (_longest(running, running.upstream, picture),),
                ),
            ]
    return rows


def disk_part(options: Options) -> list[Row]:
    """A disk that takes 50 ms for each sync: the first chunk waits for one commit, whatever the number in flight."""
    if shutil.which("strace") is None:
        say("slow disk is left out: strace is not installed")
        return []
    with stand_in(options.directory) as upstream, gateway(upstream.target.port, options.directory, wrapper=SLOW_DISK) as slow:
        rows = []
        for connections, reach in ((1, SLOW_ALONE_MS), (64, SLOW_CROWD_MS)):
            job = Job(
                kind="firsts",
                target=slow.target,
                connections=connections,
                seconds=options.seconds(SLOW_SECONDS) + SYNC_MS / 100,
                warm_seconds=options.seconds(WARM_SECONDS),
                chunks=2,
                chunk_ms=1,
            )
            waits = sample(job, slow, upstream.process, options.directory).report.waits
            half = (waits.p50,)
            rows += [
                Row("cliff: slow disk", f"first chunk, p50, {connections} in flight", "gateway", "ms", half, reach),
                Row("cliff: slow disk", f"first chunk, p99, {connections} in flight", "gateway", "ms", (waits.p99,)),
            ]
    return rows


def leaving_part(options: Options) -> list[Row]:
    """A thousand clients that leave at once: each of their calls is settled, and the books hold."""
    streams = options.count(LEAVING)
    with arena(options, alone=True) as running:
        admin = running.gateway.admin
        job = stream_job(running.gateway.target, streams, LEAVING_CHUNK_MS, options, 1.0, spare_seconds=LEFT_SECONDS)
        job = msgspec.structs.replace(job, leaves=True)
        with loading(job, options.directory) as load:
            load.until(BEGIN)
            load.until(END)
            left = time.monotonic()
            at_once = _settled(running, streams, 1.0)
            settled = _settled(running, streams, SETTLED_SECONDS_MAX)
            seconds = time.monotonic() - left
        held = float(admin.operate("account.show", account="bench-0")["held"])
        running.gateway.ask("ledger", "verify")
    part = "cliff: clients that leave"
    limit = streams / job.opened_a_second * 1.5 + options.seconds(LEFT_SECONDS) + 2.0
    return [
        Row(part, "clients", "gateway", "", (streams,)),
        Row(part, "settled within a second", "gateway", "", (at_once,)),
        Row(part, "settled in the end", "gateway", "", (settled,)),
        Row(part, "left unsettled", "gateway", "", (streams - settled,), 0.0),
        Row(part, "held in the end", "gateway", "yuan", (held,), 0.0),
        Row(part, "until all were settled", "gateway", "s", (seconds,), limit, "the reach: the rest of the streams, and 2 s"),
    ]


def _stalled_run(options: Options, *, stalled: bool) -> tuple[Sample, float]:
    """Return the readers' sample, and the gateway's memory in KiB when the others have stalled for a while, or read too."""
    reading, others = options.count(READING), options.count(STALLED)
    with arena(options, alone=True) as running:
        target = running.gateway.target
        job = endless(stream_job(target, reading, READING_CHUNK_MS, options, STALL_SECONDS))
        with loading(_others(target, others, stalled=stalled), running.options.directory) as load:
            load.until(BEGIN)
            time.sleep(options.seconds(FILL_SECONDS))
            with loading(job, running.options.directory) as readers:
                spent = readers.count(running.gateway.process, running.upstream.process)
                kib = running.gateway.process.memory().own_kib
                still_open = running.gateway.admin.metric("llm_proxy_open_streams")
                seen = readers.sample(spent)
    if still_open < reading + others:
        failed = f"{seen.report.failed} of those that are read had failed"
        raise SpoiltError(f"only {still_open:.0f} of {reading + others} streams were still open; {failed}")
    return seen, kib


def _others(target: Target, streams: int, *, stalled: bool) -> Job:
    """Return a job of endless streams whose clients stop reading, or do not."""
    return Job(
        kind="streams",
        target=target,
        connections=streams,
        seconds=ENDLESS_SECONDS,
        warm_seconds=0.0,
        chunks=int(ENDLESS_SECONDS * 1000 / STALLED_CHUNK_MS),
        chunk_ms=STALLED_CHUNK_MS,
        padding_bytes=STALLED_PADDING_BYTES,
        opened_a_second=STALLS_A_SECOND,
        stalled=streams if stalled else 0,
    )


def _longest(running: Arena, contender: Contender, picture: bool | None) -> float:
    """Return the longest delay of a chunk, in ms, beside large requests with a picture or with text, or (None) without any."""
    options = running.options
    job = stream_job(contender.target, options.count(LARGE_STREAMS), LARGE_CHUNK_MS, options, LARGE_SECONDS)
    if picture is None:
        return running.sample(job, contender).report.delays.most
    large = Job(
        kind="json",
        target=contender.target,
        connections=1,
        seconds=job.seconds + job.warm_seconds,
        warm_seconds=0.0,
        filler_bytes=options.count(LARGE_BYTES),
        picture=picture,
    )
    with loading(job, options.directory) as load, loading(large, options.directory) as beside:
        spent = load.count(contender.process, running.upstream.process)
        longest = load.sample(spent).report.delays.most
        beside.until(BEGIN)
        beside.until(END)
        answered = beside.sample(NOTHING).report
    if answered.failed or not answered.answers:
        raise SpoiltError(f"{contender.name}: of the large requests {answered.failed} failed, {answered.answers} were answered")
    return longest


def _settled(running: Arena, expected: int, seconds: float) -> float:
    """Return the number of settled calls, once all are settled or ``seconds`` have passed."""
    deadline = time.monotonic() + seconds
    while (settled := running.gateway.admin.metric("llm_proxy_outcomes_total")) < expected and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return settled
