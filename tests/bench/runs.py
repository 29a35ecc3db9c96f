"""One load on one contender: who spent what while it counted."""

import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.bench.contenders import Contender
from tests.bench.jobs import BEGIN, END, Job, Report
from tests.bench.processes import ROOT, Running, SpoiltError, stop

WORD_SECONDS = 130.0
"""Longer than any job opens, counts or runs out."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen while it counted. CPU is user and system time, in seconds; a share is of one core."""

    report: Report
    cpu_seconds: float
    upstream_share: float
    load_share: float

    @property
    def share(self) -> float:
        return self.cpu_seconds / max(self.report.seconds, 1e-9)

    def cpu_us(self, count: int) -> float:
        """Return the CPU time of each of so many, in µs."""
        return self.cpu_seconds * 1e6 / max(1, count)


class LoadProcess:
    """A load under way. Every wait has a limit."""

    def __init__(self, running: Running) -> None:
        self.running = running

    def until(self, word: str) -> None:
        """Return when it says so. Raises: SpoiltError."""
        said = self._line()
        if said != word:
            raise SpoiltError(f"the load said {said!r} instead of {word}")

    def count(self, *others: Running) -> list[float]:
        """Return the CPU seconds of the others, and of the load itself, while it counts. Raises: SpoiltError."""
        watched = (*others, self.running)
        self.until(BEGIN)
        before = [one.cpu_seconds() for one in watched]
        self.until(END)
        return [one.cpu_seconds() - cpu for one, cpu in zip(watched, before, strict=True)]

    def sample(self, spent: Sequence[float]) -> Sample:
        """Return what was seen, once all has run out. ``spent``: of the contender, the upstream and the load, from `count`."""
        line = self._line()
        try:
            report = msgspec.json.decode(line, type=Report)
        except msgspec.DecodeError:
            raise SpoiltError(f"the load said {line[:100]!r} instead of its report: {self.running.log_tail()}") from None
        ours, upstream, load = spent
        return Sample(report, ours, upstream / report.seconds, load / report.seconds)

    def _line(self) -> str:
        assert self.running.process.stdout is not None
        # Unbuffered: what a buffer had read ahead, select would not see.
        ready, _, _ = select.select([self.running.process.stdout], [], [], WORD_SECONDS)
        line = self.running.process.stdout.readline().decode().strip() if ready else ""
        if not line:
            raise SpoiltError(f"the load went silent: {self.running.log_tail()}")
        return line


@contextmanager
def loading(job: Job, directory: Path) -> Iterator[LoadProcess]:
    """Run a job in a process of its own."""
    log = directory / "load.log"
    with log.open("ab") as errors:
        command = [sys.executable, "-m", "tests.bench.load"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, bufsize=0)
    try:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(job) + b"\n")
        process.stdin.close()
        yield LoadProcess(Running("load", process, log))
    finally:
        stop(process)


def sample(job: Job, contender: Contender, upstream: Running, directory: Path) -> Sample:
    """Run a job against a contender and return what it cost. Raises: SpoiltError, with the contender's log where it was the one."""
    process = contender.process
    try:
        with loading(job, directory) as load:
            seen = load.sample(load.count(process, upstream))
    finally:
        process.require_alive()
    if not seen.report.answers and not seen.report.chunks:
        raise SpoiltError(f"{contender.name} answered nothing, {seen.report.failed} requests failed: {process.log_tail()}")
    return seen
