"""Errors of system calls, injected into a running process by strace while a context lasts."""

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not there to inject errors of system calls")

ATTACH_SECONDS_MAX = 10.0


@asynccontextmanager
async def injected(pid: int, calls: str, fault: str) -> AsyncIterator[None]:
    """Make these system calls (``fsync,fdatasync``) of a process, its threads and children fail by `fault` (``error=EIO:when=3``)."""
    command = ("strace", "-f", "-qq", "-p", str(pid), "-e", f"trace={calls}", "-e", f"inject={calls}:{fault}", "-o", "/dev/null")
    strace = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    try:
        await _attached(pid, strace)
        yield
    finally:
        if strace.returncode is None:
            strace.send_signal(signal.SIGINT)
        await strace.wait()


async def _attached(pid: int, strace: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(ATTACH_SECONDS_MAX):
        while not _tracers(pid) or 0 in _tracers(pid):
            if strace.returncode is not None:
                pytest.skip("strace may not attach to a process here")
            await asyncio.sleep(0.01)  # there is no event for it


def _tracers(pid: int) -> set[int]:
    """Return the pids that trace the threads of a process; 0 means none."""
    found = set()
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        lines = status.read_text().splitlines()
        found.add(next(int(line.split()[1]) for line in lines if line.startswith("TracerPid")))
    return found
