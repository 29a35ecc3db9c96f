"""Folding of old requests under load: its effect on other requests, and the growth of log and file. Also beside a long reader."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.bench.arena import say
from tests.bench.contenders import Contender, Gateway, gateway, serving, stand_in
from tests.bench.ledger_rows import extend
from tests.bench.options import Options
from tests.bench.rows import Row
from tests.bench.runs import sample
from tests.bench.throughput import json_job

PART = "folding"
TRANSFERS = 600_000
KEEP_DAYS = 30
"""Out of the 90 days of the ledger: two thirds are folded."""
SECONDS = 6.0
CONNECTIONS = 16
LOOK_SECONDS = 0.1
MIB = 2**20


@dataclass
class _Sizes:
    """The largest sizes seen, in bytes."""

    log: int = 0
    file: int = 0
    curve: list[tuple[float, int, int]] = field(default_factory=list)


def folding_part(options: Options) -> list[Row]:
    """A load alone, beside `retention`, beside `ledger verify`, and alone again."""
    rows: list[Row] = []
    with stand_in(options.directory) as upstream:
        with gateway(upstream.target.port, options.directory, accounts=10) as set_up:
            pass  # it creates its store, and stops
        extend(set_up.store, min(TRANSFERS, max(options.rows)), time.time_ns() // 1_000_000)
        rows.append(_row("before", "file", "MiB", set_up.store.stat().st_size / MIB))
        with serving(set_up) as running:
            for phase, command in (
                ("load alone", None),
                ("beside retention", ("retention", "--days", str(KEEP_DAYS))),
                ("beside verify", ("ledger", "verify")),
                ("load alone again", None),
            ):
                say(f"  {phase} …")
                rows += _phase(running, upstream, options, phase, command)
    return rows


def _phase(running: Gateway, upstream: Contender, options: Options, phase: str, command: tuple[str, ...] | None) -> list[Row]:
    job = json_job(running.target, options, SECONDS, CONNECTIONS)
    with _watched(running) as sizes, ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        beside = None if command is None else pool.submit(lambda: (running.ask(*command), time.monotonic() - began))
        seen = sample(job, running, upstream.process, options.directory)
        answer, seconds = ("", 0.0) if beside is None else beside.result()
    _tell(sizes)
    rows = [
        _row(phase, "requests a second", "1/s", seen.report.answers / seen.report.seconds),
        _row(phase, "request, p50", "ms", seen.report.waits.p50),
        _row(phase, "request, p99", "ms", seen.report.waits.p99),
        _row(phase, "log, at most", "MiB", sizes.log / MIB),
        _row(phase, "log, at the end", "MiB", running.store.with_name(running.store.name + "-wal").stat().st_size / MIB),
        _row(phase, "file, at the end", "MiB", running.store.stat().st_size / MIB),
    ]
    if command is not None:
        rows.append(_row(phase, "the command", "s", seconds))
    if command is not None and command[0] == "retention":
        rows.append(_row(phase, "requests folded", "1/s", int(answer.split("folded")[1]) / seconds))
    return rows


def _row(phase: str, what: str, unit: str, figure: float) -> Row:
    return Row(PART, f"{phase}: {what}", "gateway", unit, (figure,))


@contextmanager
def _watched(running: Gateway) -> Iterator[_Sizes]:
    """Sample the sizes of log and file every `LOOK_SECONDS`."""
    sizes, stopped, began = _Sizes(), threading.Event(), time.monotonic()
    log = running.store.with_name(running.store.name + "-wal")

    def look() -> None:
        while not stopped.wait(LOOK_SECONDS):
            bytes_ = (log.stat().st_size if log.exists() else 0), running.store.stat().st_size
            sizes.log, sizes.file = max(sizes.log, bytes_[0]), max(sizes.file, bytes_[1])
            sizes.curve.append((time.monotonic() - began, *bytes_))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield sizes
    finally:
        stopped.set()
        watcher.join()


def _tell(sizes: _Sizes) -> None:
    """Print log and file, in MiB, about once a second."""
    step = round(1 / LOOK_SECONDS)
    say("    log/file MiB each second: " + " ".join(f"{log / MIB:.1f}/{file / MIB:.0f}" for _, log, file in sizes.curve[::step]))
