"""Clients that connect all at once, to a gateway that runs and to one that has just been started again, with nginx beside it.

What a crowd may take follows from what the same gateway answers in the same run: n clients are n requests, so the last first byte is to
come within twice the time that n requests take on open connections. The other half is for accepting, dialling and first heads.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.arena import say
from tests.bench.contenders import Contender, gateway, nginx, serving, stand_in
from tests.bench.crowd import Arrival, CrowdProcess, crowd
from tests.bench.options import Options
from tests.bench.rows import Row
from tests.bench.runs import sample
from tests.bench.throughput import json_job

CROWDS = (200, 1000, 2000)
JSON_SECONDS = 2.0
TIMES_JSON = 2.0
"""The most that a crowd may take, in times of as many JSON requests on open connections."""
NETSTAT = Path("/proc/net/netstat")
QUEUE_COUNTER = "ListenDrops"
"""It counts each of ListenOverflows too."""

Start = Callable[[], AbstractContextManager[Contender]]


@dataclass(slots=True)
class _Seen:
    """What happened to crowds of one size, a figure a round."""

    last_ms: list[float] = field(default_factory=list)
    times_json: list[float] = field(default_factory=list)
    dropped: list[float] = field(default_factory=list)
    failed: list[float] = field(default_factory=list)


def storm_part(options: Options) -> list[Row]:
    """The last first byte of crowds of several sizes, and of the largest one after a restart."""
    rows: list[Row] = []
    with stand_in(options.directory) as upstream, crowd(options.directory) as clients:
        for name, start in _contenders(upstream.target.port, options):
            storm = _Storm(options, upstream, clients, name)
            for _ in range(options.rounds):
                storm.round(start)
            rows += storm.rows()
    return rows


def _contenders(upstream: int, options: Options) -> Iterator[tuple[str, Start]]:
    with gateway(upstream, options.directory) as set_up:
        pass  # it creates its store and key, and stops
    yield "gateway", lambda: serving(set_up)
    if options.alone:
        return
    if shutil.which("nginx"):
        yield "nginx", lambda: nginx(upstream, options.directory)
    else:
        say("nginx is left out: it is not installed")


class _Storm:
    """Crowds on one contender."""

    def __init__(self, options: Options, upstream: Contender, clients: CrowdProcess, name: str) -> None:
        self._options = options
        self._upstream = upstream
        self._clients = clients
        self._name = name
        self._rates: list[float] = []
        self._crowds = {options.count(clients): _Seen() for clients in CROWDS}
        self._restarted = _Seen()

    def round(self, start: Start) -> None:
        with start() as running:
            self._rates.append(self._json_rate(running))
            for clients, seen in self._crowds.items():
                self._come(running, clients, seen)
        with start() as running:
            self._come(running, max(self._crowds), self._restarted)

    def _json_rate(self, running: Contender) -> float:
        job = json_job(running.target, self._options, JSON_SECONDS)
        report = sample(job, running, self._upstream.process, self._options.directory).report
        return report.answers / report.seconds

    def _come(self, running: Contender, clients: int, seen: _Seen) -> None:
        with _counted_drops(seen):
            arrival: Arrival = self._clients.come(running.target, clients)
        running.process.require_alive()
        seen.last_ms.append(arrival.firsts.most)
        seen.times_json.append(arrival.firsts.most / 1000 * self._rates[-1] / clients)
        seen.failed.append(arrival.failed)

    def rows(self) -> list[Row]:
        rows = [Row("storm", "JSON requests a second on 64 open connections", self._name, "/s", tuple(self._rates))]
        for clients, seen in self._crowds.items():
            rows += self._rows(f"storm: {clients:,} clients", seen)
        return rows + self._rows(f"storm: {max(self._crowds):,} clients after a restart", self._restarted)

    def _rows(self, part: str, seen: _Seen) -> list[Row]:
        is_ours = self._name == "gateway"
        none, times = (0.0, TIMES_JSON) if is_ours else (None, None)
        rows = [
            Row(part, "last first byte", self._name, "ms", tuple(seen.last_ms)),
            Row(part, "dropped from the accept queue", self._name, "", tuple(seen.dropped), none),
            Row(part, "failed", self._name, "", tuple(seen.failed), none),
        ]
        if is_ours:
            rows.append(Row(part, "last first byte : as many JSON requests", self._name, "×", tuple(seen.times_json), times))
        return rows


@contextmanager
def _counted_drops(seen: _Seen) -> Iterator[None]:
    """Count the connections that the kernel drops meanwhile, on the whole machine, since an accept queue is full."""
    before = queue_drops()
    yield
    seen.dropped.append(queue_drops() - before)


def queue_drops() -> int:
    """Return the kernel's count of connections that found an accept queue full (netstat's TcpExt)."""
    names, values = (line.split() for line in NETSTAT.read_text(encoding="ascii").splitlines() if line.startswith("TcpExt:"))
    return int(dict(zip(names, values, strict=True))[QUEUE_COUNTER])
