"""Processes: started, measured through /proc with all their children, and stopped by pid."""

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
STOP_SECONDS = 1.0
START_SECONDS = 120.0
"""Time limit for a start: a busy machine may take half a minute."""
LOG_TAIL_BYTES = 2000
ROOT = Path(__file__).parent.parent.parent


class SpoiltError(Exception):
    """The measurement is invalid: a process ended or never started (the message has the tail of its log), or requests failed."""


@dataclass(frozen=True, slots=True)
class Running:
    """A process that was started here."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def cpu_seconds(self) -> float:
        """Return the user and system time of the process and its children so far."""
        return sum(_cpu_ticks(pid) for pid in tree(self.process.pid)) / TICKS_PER_SECOND

    def memory(self) -> "Memory":
        """Return the present memory of the process and its children."""
        found = [_memory(pid) for pid in tree(self.process.pid)]
        return Memory(*(sum(kib) for kib in zip(*(astuple(one) for one in found), strict=True)))

    def require_alive(self) -> None:
        """Raises: SpoiltError."""
        if self.process.poll() is not None:
            raise SpoiltError(f"{self.name} ended with {self.process.returncode}: {self.log_tail()}")

    def log_tail(self) -> str:
        return self.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip() if self.log.exists() else ""

    def first_line(self) -> str:
        """Return the first line that the process prints. Raises: SpoiltError."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], START_SECONDS)
        line = self.process.stdout.readline().decode().strip() if ready else ""
        if not line:
            raise SpoiltError(f"{self.name} said nothing: {self.log_tail()}")
        return line


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a process tree, in KiB.

    `pss_kib` divides memory that several processes map among them, `rss_kib` counts it whole; `own_kib` is backed by no file, and so
    does not change when another process maps the same libraries.
    """

    pss_kib: int
    rss_kib: int
    own_kib: int


@contextmanager
def running(name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Run a command from the top of the repository, with its standard error in ``log``; stop it at the end."""
    with log.open("ab") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
        )
    try:
        yield Running(name, process, log)
    finally:
        stop(process)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop a process: SIGTERM; a second one, which cuts a drain short; then SIGKILL, for its children too."""
    children = tree(process.pid)
    for _ in range(2):
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            break
    else:
        for pid in {*children, process.pid}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(START_SECONDS)
    if process.stdout is not None:
        process.stdout.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(of: Running, port: int) -> None:
    """Return once the port accepts connections. Raises: SpoiltError."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        of.require_alive()
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.02)
    raise SpoiltError(f"{of.name} never listened on {port}: {of.log_tail()}")


def tree(pid: int) -> list[int]:
    """Return the process and its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(below for child in children for below in tree(int(child)))]


def machine_cpu_seconds() -> float:
    """Return the CPU seconds of all processes on the machine so far, steal time included."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND


def _cpu_ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def _memory(pid: int) -> Memory:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return Memory(0, 0, 0)
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return Memory(kib["Pss"], kib["Rss"], kib["Pss_Anon"])
