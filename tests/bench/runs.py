"""One load on one contender, and the CPU time of each process while it counts."""

import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.bench.contenders import Contender
from tests.bench.jobs import BEGIN, END, Job, Report
from tests.bench.processes import ROOT, Running, SpoiltError, machine_cpu_seconds, stop

WORD_SECONDS = 130.0
"""Longer than any phase of a job: opening, counting, running out."""


class Spent(NamedTuple):
    """CPU seconds. When the upstream is measured directly, its time counts as the upstream's only."""

    contender: float
    upstream: float
    load: float
    machine: float


NOTHING = Spent(0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Sample:
    """Measurements while it counted. CPU is user and system time, in seconds; a share is of one core."""

    report: Report
    cpu_seconds: float
    upstream_share: float
    load_share: float
    others_share: float

    @property
    def share(self) -> float:
        return self.cpu_seconds / max(self.report.seconds, 1e-9)

    def cpu_us(self, count: int) -> float:
        """Return the CPU time divided by ``count``, in µs."""
        return self.cpu_seconds * 1e6 / max(1, count)


class LoadProcess:
    """A running load. Every wait has a limit."""

    def __init__(self, running: Running) -> None:
        self.running = running

    def until(self, word: str) -> None:
        """Return when it prints ``word``. Raises: SpoiltError."""
        said = self._line()
        if said != word:
            raise SpoiltError(f"the load said {said!r} instead of {word}")

    def count(self, contender: Running, upstream: Running) -> Spent:
        """Return the CPU seconds of both processes, of the load and of the whole machine, while it counts. Raises: SpoiltError."""
        self.until(BEGIN)
        before = self._spent(contender, upstream)
        self.until(END)
        return Spent(*(now - cpu for now, cpu in zip(self._spent(contender, upstream), before, strict=True)))

    def _spent(self, contender: Running, upstream: Running) -> Spent:
        watched = (0.0 if contender is upstream else contender.cpu_seconds(), upstream.cpu_seconds(), self.running.cpu_seconds())
        return Spent(*watched, machine_cpu_seconds())

    def let_go(self) -> None:
        """Let the clients of held streams leave."""
        assert self.running.process.stdin is not None
        self.running.process.stdin.close()

    def sample(self, spent: Spent) -> Sample:
        """Return the sample, once all requests have run out."""
        self.let_go()
        line = self._line()
        try:
            report = msgspec.json.decode(line, type=Report)
        except msgspec.DecodeError:
            raise SpoiltError(f"the load said {line[:100]!r} instead of its report: {self.running.log_tail()}") from None
        others = spent.machine - spent.contender - spent.upstream - spent.load
        return Sample(report, spent.contender, *(cpu / report.seconds for cpu in (spent.upstream, spent.load, others)))

    def _line(self) -> str:
        assert self.running.process.stdout is not None
        # Unbuffered: select would not see bytes that a buffer had read ahead.
        ready, _, _ = select.select([self.running.process.stdout], [], [], WORD_SECONDS)
        line = self.running.process.stdout.readline().decode().strip() if ready else ""
        if not line:
            raise SpoiltError(f"the load went silent: {self.running.log_tail()}")
        return line


@contextmanager
def loading(job: Job, directory: Path) -> Iterator[LoadProcess]:
    """Run a job in its own process."""
    log = directory / "load.log"
    with log.open("ab") as errors:
        command = [sys.executable, "-m", "tests.bench.load"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, bufsize=0)
    assert process.stdin is not None
    try:
        process.stdin.write(msgspec.json.encode(job) + b"\n")
        yield LoadProcess(Running("load", process, log))
    finally:
        process.stdin.close()
        stop(process)


def sample(job: Job, contender: Contender, upstream: Running, directory: Path) -> Sample:
    """Run a job against a contender and return its cost. Raises: SpoiltError, with the contender's log if the contender died."""
    process = contender.process
    try:
        with loading(job, directory) as load:
            seen = load.sample(load.count(process, upstream))
    except SpoiltError:
        process.require_alive()  # its error says more than the load's
        raise
    process.require_alive()
    if not seen.report.answers and not seen.report.chunks:
        raise SpoiltError(f"{contender.name} answered nothing, {seen.report.failed} requests failed: {process.log_tail()}")
    return seen
