"""Minutes of mixed load, to find growth that should not be: of memory, descriptors, tasks, the write-ahead log, log lines."""

import sys
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from tests.bench.arena import say
from tests.bench.contenders import Gateway, gateway, media_stand_in, stand_in
from tests.bench.curves import Curve
from tests.bench.options import Options
from tests.bench.processes import running
from tests.bench.rows import Row
from tests.bench.tables import figure

PART = "soak"
SAMPLE_SECONDS, QUICK_SAMPLES = 10.0, 8
_METRICS = ("process_open_fds", "llm_proxy_tasks", "llm_proxy_wal_bytes", "llm_proxy_store_bytes", "llm_proxy_requests_total")
_MIB = 2**20
REACHES: Mapping[str, tuple[str, float]] = {
    "RSS": ("MiB", 2.0),
    "PSS": ("MiB", 2.0),
    "memory of its own": ("MiB", 2.0),
    "file descriptors": ("", 5.0),
    "tasks": ("", 5.0),
    "WAL": ("MiB", 5.0),
    "log a request": ("B", 3.0),
}
"""Unit, and permitted growth over the second half in percent. Descriptors and tasks follow the number of clients; memory that other
processes map too is in RSS whole, in PSS in part, and not in the memory of its own."""


def soak_part(options: Options) -> list[Row]:
    """Load a gateway for minutes, sample it every `SAMPLE_SECONDS`, and return the growth of each figure."""
    period = options.seconds(SAMPLE_SECONDS)
    samples = QUICK_SAMPLES if options.quick else max(QUICK_SAMPLES, round(options.minutes * 60 / period))
    directory = options.directory
    with (
        stand_in(directory) as chats,
        media_stand_in(directory) as media,
        gateway(chats.target.port, directory, media=media) as measured,
    ):
        command = [sys.executable, "-m", "tests.bench.mixture", f"http://127.0.0.1:{measured.target.port}", *measured.target.keys]
        with running(
            "customers", [*command, str((samples + 1) * period), *([] if options.quick else ["crowd"])], directory / "customers.log"
        ) as customers:
            seen = [_looked_at(measured, at, period, time.monotonic()) for at in range(samples + 1)]
            counts = msgspec.json.decode(customers.first_line(), type=dict[str, dict[str, int]])
        measured.ask("ledger", "verify")
    curves = curves_of(seen)
    draw(curves, counts["answered"], seen)
    failed = float(sum(counts["failed"].values()))
    rows = [Row(PART, f"{curve.name}, growth", "gateway", "%", (curve.growth_percent,), curve.reach) for curve in curves]
    return [*rows, Row(PART, "requests that failed", "gateway", "", (failed,), 0.0)]


def _looked_at(measured: Gateway, at: int, period: float, began: float) -> dict[str, float]:
    """Wait for the next sample's time, and return the sample."""
    time.sleep(max(0.0, began + (period if at else 0.0) - time.monotonic()))
    process = measured.process
    process.require_alive()
    memory = process.memory()
    fds, tasks, wal, store, requests = measured.admin.metrics(*_METRICS)
    return {
        "RSS": memory.rss_kib / 1024,
        "PSS": memory.pss_kib / 1024,
        "memory of its own": memory.own_kib / 1024,
        "file descriptors": fds,
        "tasks": tasks,
        "WAL": wal / _MIB,
        "store": store / _MIB,
        "requests": requests,
        "log bytes": float(Path(process.log).stat().st_size),
    }


def curves_of(seen: Sequence[Mapping[str, float]]) -> list[Curve]:
    """Return a curve for each of the `REACHES`. The first sample is only a starting point."""
    logs = tuple((now["log bytes"] - was["log bytes"]) / max(1.0, now["requests"] - was["requests"]) for was, now in pairwise(seen))
    found = {name: tuple(one[name] for one in seen[1:]) for name in REACHES if name in seen[0]} | {"log a request": logs}
    return [Curve(name, unit, found[name], reach) for name, (unit, reach) in REACHES.items()]


def draw(curves: Sequence[Curve], answered: Mapping[str, int], seen: Sequence[Mapping[str, float]]) -> None:
    """Print the curves to standard error, since the rows may go to standard output as JSON."""
    table = Table(title="soak", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in ("", "begin", "end", "growth", ""):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for curve in curves:
        growth = f"{curve.growth_percent:+.1f} %{'' if curve.is_flat else ' !'}"
        name = f"{curve.name}, {curve.unit}" if curve.unit else curve.name
        table.add_row(name, figure(curve.values[0]), figure(curve.values[-1]), growth, curve.drawn)
    console = Console(stderr=True, highlight=False, width=136)
    console.print(table)
    requests = seen[-1]["requests"] - seen[0]["requests"]
    half = seen[len(seen) // 2]
    grown = (seen[-1]["memory of its own"] - half["memory of its own"]) * _MIB
    later = max(1.0, seen[-1]["requests"] - half["requests"])
    say(f"{requests:,.0f} requests: " + ", ".join(f"{kind} {count:,}" for kind, count in sorted(answered.items())))
    say(f"the store's file grew to {seen[-1]['store']:.1f} MiB; memory by {grown / later:.1f} B a request in the second half")
