"""Metrics of the process, under the names that every dashboard knows (``process_*``), read from /proc at a scrape.

This replaces prometheus_client's own collector. That one needs /proc/stat, which a hardened unit hides (``ProcSubset=pid``), and then
puts the start in 1970. It also lists every descriptor by name: 5 ms with ten thousand of them, during which no stream moves.
"""

import asyncio
import os
import platform
import resource
import sqlite3
import time
from pathlib import Path

from proxy import __version__
from proxy.clock import Clock
from proxy.telemetry.metrics import Metrics

_PROC = Path("/proc/self")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_STARTTIME = 19
"""Index of the start time among the fields behind the name in /proc/self/stat (man 5 proc: field 22)."""


def watch_process(metrics: Metrics, clock: Clock) -> None:
    """Register the metrics of this process, and the versions that it is made of."""
    made_of = (__version__, platform.python_version(), sqlite3.sqlite_version)
    metrics.gauges("llm_proxy_build_info", "What runs; always 1.", ("version", "python", "sqlite"), lambda: {made_of: 1.0})
    started_at = _started_at(clock)
    metrics.gauge("process_start_time_seconds", "Start of the process, in unix seconds.", lambda: started_at)
    metrics.counter("process_cpu_seconds", "User and system CPU time, in seconds.", _cpu_seconds)
    metrics.gauge("process_resident_memory_bytes", "Memory in use, with what is shared.", lambda: _memory_pages(1) * _PAGE_BYTES)
    metrics.gauge("process_virtual_memory_bytes", "Address space.", lambda: _memory_pages(0) * _PAGE_BYTES)
    metrics.gauge("process_open_fds", "Open file descriptors.", open_descriptors)
    metrics.gauge("process_max_fds", "How many there may be.", _descriptors_max)
    metrics.gauge("llm_proxy_tasks", "Tasks of the event loop that are not done.", lambda: len(asyncio.all_tasks()))


def open_descriptors() -> int:
    """Return how many descriptors are open. Linux 6.2 and later gives it as the size of the directory; before, the size is 0."""
    return (_PROC / "fd").stat().st_size or len([*(_PROC / "fd").iterdir()])


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _memory_pages(field: int) -> int:
    return int((_PROC / "statm").read_bytes().split()[field])


def _descriptors_max() -> float:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return float("inf") if soft == resource.RLIM_INFINITY else soft


def _started_at(clock: Clock) -> float:
    """Return the start time of the process in unix seconds; without /proc, the present time."""
    try:
        fields = (_PROC / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return clock.now_ms() / 1000
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[_STARTTIME]) / _TICKS_PER_SECOND
    return clock.now_ms() / 1000 - age
