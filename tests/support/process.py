"""A gateway in a separate process, as an operator runs it: `python -m proxy serve`, signals, kill -9."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from proxy import ids
from proxy.core.money import Nanos
from proxy.store.sqlite import open_store
from proxy.store.sqlite.store import SqliteStore
from proxy.store.values import NewKey
from tests.support.gateway import CANARY_KEY, CONFIG, DEFAULTS
from tests.support.raw import connect, request

START_SECONDS = 30.0
GROWTH_SECONDS, GROWTH_LOOKS = 10.0, 50


class GatewayProcess:
    """A directory with a configuration, a store and an account with its key, and after `start` a process."""

    def __init__(self, directory: Path, base_url: str, **options: Any) -> None:
        self.directory = directory
        self.config = directory / "config.toml"
        self.log = directory / "gateway.log"
        self.origin = f"http://127.0.0.1:{free_port()}"
        text = CONFIG.format(**{**DEFAULTS, "base_url": base_url, **options})
        self.config.write_text(text.replace("127.0.0.1:0", self.origin.removeprefix("http://")))
        self.key = ""
        self.process: asyncio.subprocess.Process | None = None

    async def set_up(self, balance: Nanos) -> None:
        """Create the store, the account "acme" and its key, before the first start."""
        store = await open_store(self.directory / "gateway.db")
        secret = ids.new_secret()
        self.key = secret.text
        await store.create_account("acme", balance, 0)
        await store.create_key("acme", NewKey(ids.key_id(), "test", secret.prefix, secret.sha256, 0))
        await store.close()

    async def start(
        self, before_exec: Callable[[], None] | None = None, *, stderr: int | None = None, under: tuple[str, ...] = ()
    ) -> None:
        """Start the process and wait until it has sent READY=1, as it does to systemd.

        Args: stderr: destination of its log instead of `log`; under: words of a command that executes the rest of the command line.
        """
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified, self.log.open("ab") as log:
            address = self.directory / "notify"
            address.unlink(missing_ok=True)
            notified.bind(str(address))
            notified.setblocking(False)
            self.process = await asyncio.create_subprocess_exec(
                *under,
                *self.command("serve"),
                stderr=log if stderr is None else stderr,
                stdout=log,
                env=self.environment(NOTIFY_SOCKET=str(address)),
                preexec_fn=before_exec,
            )
            async with asyncio.timeout(START_SECONDS):
                assert await loop.sock_recv(notified, 100) == b"READY=1", self.log.read_text()

    async def kill(self) -> None:
        """Kill the process with kill -9."""
        await self.end_by(signal.SIGKILL)

    async def end_by(self, number: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return await self.exit_code()

    async def exit_code(self) -> int:
        assert self.process is not None
        return await self.process.wait()

    @asynccontextmanager
    async def looked_into(self) -> AsyncIterator[SqliteStore]:
        """Open the store read-only, beside the process."""
        store = await open_store(self.directory / "gateway.db", read_only=True)
        try:
            yield store
        finally:
            await store.close()

    async def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run one command of `llm-proxy`."""
        return await asyncio.to_thread(
            subprocess.run, self.command(*words), capture_output=True, text=True, timeout=60, env=self.environment()
        )

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "proxy", *words, "--config", str(self.config)]

    def environment(self, **more: str) -> dict[str, str]:
        return os.environ | {"ARK_API_KEY": CANARY_KEY} | more


@asynccontextmanager
async def gateway_process(directory: Path, base_url: str, *, balance: Nanos, **options: Any) -> AsyncIterator[GatewayProcess]:
    """Set up a gateway; kill it at the end if it still runs."""
    gateway = GatewayProcess(directory, base_url, **options)
    await gateway.set_up(balance)
    try:
        yield gateway
    finally:
        if gateway.process is not None and gateway.process.returncode is None:
            await gateway.kill()


async def resident_bytes(gateway: GatewayProcess) -> int:
    """Return the memory that a gateway takes, once its loop has had some turns: until then it may not know what it has sent."""
    assert gateway.process is not None
    async with connect(gateway.origin) as client:
        for _ in range(3):
            await client.ask(request("GET", "/healthz"))
    return _resident_bytes(gateway.process.pid)


async def growth_bytes(gateway: GatewayProcess, before: int, most: int) -> int:
    """Return by how much a gateway takes more memory than ``before``: at once if that is under ``most``, else what stays of it.

    On a busy machine the last body of some megabytes may be on its way still when its upstream has seen all of it.
    """
    grown = most
    for _ in range(GROWTH_LOOKS):
        grown = await resident_bytes(gateway) - before
        if grown < most:
            break
        await asyncio.sleep(GROWTH_SECONDS / GROWTH_LOOKS)
    return grown


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port: int = asked.getsockname()[1]
        return port
