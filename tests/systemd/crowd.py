"""Controls `tests.systemd.customers`: starts them on the machine's loopback, and reads their counts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from tests.systemd.customers import Seen
from tests.systemd.machine import ROOT, Machine

REPORT_SECONDS = 30.0


class Crowd:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def seen(self) -> Seen:
        """Return the counts since the last call, and reset them."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        async with asyncio.timeout(REPORT_SECONDS):
            return msgspec.json.decode(await self._process.stdout.readline(), type=Seen)


@asynccontextmanager
async def crowd(machine: Machine, port: int, key: str) -> AsyncIterator[Crowd]:
    """Run the customers inside this context."""
    process = await asyncio.create_subprocess_exec(
        *machine.on_its_network("-m", "tests.systemd.customers", str(port), key),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Crowd(process)
    finally:
        process.kill()
        await process.wait()
