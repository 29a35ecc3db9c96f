"""Cost and delay of a request and a chunk: the parts that put every contender under the same load."""

import math
from collections.abc import Callable, Mapping, Sequence

import msgspec

from tests.bench.arena import Samples, arena, saturation
from tests.bench.contenders import Contender
from tests.bench.jobs import ENDLESS_SECONDS, Job, Target
from tests.bench.options import Options
from tests.bench.rows import Row, added, paired
from tests.bench.runs import Sample

CONNECTIONS = 64
JSON_SECONDS, STREAM_SECONDS, PACED_SECONDS = 4.0, 5.0, 8.0
SPARE_SECONDS = 1.0
"""Time for which streams continue after counting, in case the first ones began early."""
WARM_SECONDS = 0.5
QUICK_CHUNK_MS = 100
RATE = 50.0
PACED_CHUNKS, PACED_CHUNK_MS = 5, 10
JSON_WITHIN_BARE, WITHIN_BARE, WITHIN_NGINX = 0.7, 0.65, 1.5
FIRST_MS = {"p50": 3.0, "p99": 10.0}
"""Delay that the gateway may add to the first chunk."""


def json_part(options: Options) -> list[Row]:
    """CPU of a JSON chat request, and requests a second, with all connections busy."""

    def job(contender: Contender) -> Job:
        return json_job(contender.target, options, JSON_SECONDS)

    with arena(options) as running:
        samples = running.rounds(job)
    cpu = {name: [one.cpu_us(one.report.answers) for one in found] for name, found in samples.items()}
    return [
        *_costs("json", "CPU a request", cpu, samples),
        *figures(samples, "json", "requests a second", "/s", lambda one: one.report.answers / one.report.seconds),
        *figures(samples, "json", "request, p50", "ms", lambda one: one.report.waits.p50),
        *figures(samples, "json", "request, p99", "ms", lambda one: one.report.waits.p99),
        *_ratios("json", "CPU a request", cpu, {"bare aiohttp": JSON_WITHIN_BARE}),
    ]


def stream_part(options: Options) -> list[Row]:
    """CPU of a streamed chunk, and the delay of chunks, with all streams open."""
    streams = options.count(options.streams)

    def job(contender: Contender) -> Job:
        return stream_job(contender.target, streams, options.chunk_ms, options, STREAM_SECONDS)

    with arena(options) as running:
        samples = running.rounds(job, direct=True)
    cpu = {name: [one.cpu_us(one.report.chunks) for one in found] for name, found in samples.items() if name != "direct"}
    return [
        *_costs("stream", "CPU a chunk", cpu, samples),
        *figures(samples, "stream", "chunks a second", "/s", lambda one: one.report.chunks / one.report.seconds),
        *figures({name: samples[name] for name in cpu}, "stream", "core in use", "%", lambda one: one.share * 100),
        *figures(samples, "stream", "reads of several chunks", "%", lambda one: one.report.joined_share * 100),
        *figures(samples, "stream", "chunk under way, p50", "ms", lambda one: one.report.delays.p50),
        *figures(samples, "stream", "chunk under way, p99", "ms", lambda one: one.report.delays.p99),
        *_ratios("stream", "CPU a chunk", cpu, {"bare aiohttp": WITHIN_BARE, "nginx": WITHIN_NGINX}),
    ]


def ttfb_part(options: Options) -> list[Row]:
    """Time to the first chunk of streams begun at a fixed rate, compared with the upstream asked directly."""
    with arena(options) as running:
        samples = running.rounds(lambda contender: paced_job(contender.target, options), direct=True)
    return [
        *figures(samples, "ttfb", "first chunk, p50", "ms", lambda one: one.report.waits.p50),
        *figures(samples, "ttfb", "first chunk, p99", "ms", lambda one: one.report.waits.p99),
        *_added(samples, "p50", lambda one: one.report.waits.p50),
        *_added(samples, "p99", lambda one: one.report.waits.p99),
    ]


def paced_job(target: Target, options: Options) -> Job:
    """Return a job of short streams, begun at a fixed rate."""
    return Job(
        kind="paced",
        target=target,
        connections=CONNECTIONS,
        seconds=options.seconds(PACED_SECONDS),
        warm_seconds=options.seconds(WARM_SECONDS),
        chunks=PACED_CHUNKS,
        chunk_ms=PACED_CHUNK_MS,
        rate=RATE,
    )


def json_job(target: Target, options: Options, seconds: float, connections: int = CONNECTIONS) -> Job:
    """Return a job of JSON chats on ``connections`` connections, all busy."""
    warm_seconds = options.seconds(WARM_SECONDS)
    return Job(kind="json", target=target, connections=connections, seconds=options.seconds(seconds), warm_seconds=warm_seconds)


def stream_job(
    target: Target, streams: int, chunk_ms: int, options: Options, seconds: float, *, spare_seconds: float = SPARE_SECONDS
) -> Job:
    """Return a job of streams that all continue while it counts, and then for ``spare_seconds``."""
    counted, warm, spare = (options.seconds(some) for some in (seconds, WARM_SECONDS, spare_seconds))
    pace_ms = min(chunk_ms, QUICK_CHUNK_MS) if options.quick else chunk_ms
    job = Job(kind="streams", target=target, connections=streams, seconds=counted, warm_seconds=warm, chunk_ms=pace_ms)
    lasts = streams / job.opened_a_second * 1.5 + warm + counted + spare
    # The first chunk is sent at once, the second at any point of its period.
    return msgspec.structs.replace(job, chunks=math.ceil(lasts * 1000 / pace_ms) + 2)


def endless(job: Job) -> Job:
    """Return a job of streams that continue until the load is let go: even on a slow machine all are open while measured."""
    return msgspec.structs.replace(job, chunks=math.ceil(ENDLESS_SECONDS * 1000 / job.chunk_ms), held=True)


def figures(samples: Samples, part: str, what: str, unit: str, of: Callable[[Sample], float]) -> list[Row]:
    """Return a row for each contender."""
    return [Row(part, what, name, unit, tuple(of(one) for one in found)) for name, found in samples.items()]


def _costs(part: str, what: str, cpu: Mapping[str, Sequence[float]], samples: Samples) -> list[Row]:
    return [Row(part, what, name, "µs", tuple(spent), note=saturation(samples[name])) for name, spent in cpu.items()]


def _ratios(part: str, what: str, cpu: Mapping[str, Sequence[float]], reach: Mapping[str, float]) -> list[Row]:
    """Return the ratio of the gateway's cost to each reference's."""
    others = {name: paired(cpu["gateway"], theirs) for name, theirs in cpu.items() if name != "gateway"}
    return [Row(part, what, f"gateway : {name}", "×", ratios, reach.get(name)) for name, ratios in others.items()]


def _added(samples: Samples, percentile: str, of: Callable[[Sample], float]) -> list[Row]:
    """Return the delay that each contender adds to the first chunk, compared with the upstream itself."""
    direct = [of(one) for one in samples["direct"]]
    rows = []
    for name, found in samples.items():
        if name != "direct":
            later = added([of(one) for one in found], direct)
            reach = FIRST_MS[percentile] if name == "gateway" else None
            rows.append(Row("ttfb", f"added to the first chunk, {percentile}", name, "ms", later, reach, saturation(found)))
    return rows
