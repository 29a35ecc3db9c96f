"""Throwaway gateways that share a ledger: a PostgreSQL server, each gateway a process of its own, and one address before them."""

import asyncio
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from proxy.clock import SystemClock
from proxy.demo.balancer import Balancer, balancing
from proxy.demo.postgres import find_binaries, throwaway_server
from proxy.demo.setting import Setting, Upstream, make_customer, upstreams, write_config
from proxy.store import inspect, open_store
from proxy.store.contract import Store
from proxy.tasks import TaskGroup

START_SECONDS = 60.0
STOP_SECONDS = 15.0
"""The demonstration's drain takes 5 s at most."""
_LOOK_SECONDS = 0.05
_LINES_KEPT = 20

OnLine = Callable[[int, str], None]
"""Called with a gateway's number and a line of its log."""


class NoStartError(Exception):
    """A gateway of the demonstration ended before it served."""


class Member:
    """One gateway: a process, started as `llm-proxy serve`."""

    def __init__(self, number: int, process: asyncio.subprocess.Process, config: Path, on_line: OnLine) -> None:
        self.number = number
        self.config = config
        self.address = ""
        self._process = process
        self._on_line = on_line
        self._last: deque[str] = deque(maxlen=_LINES_KEPT)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.returncode is not None

    @property
    def last_lines(self) -> str:
        return "\n".join(self._last)

    @property
    def place(self) -> tuple[str, int]:
        """Return host and port where it listens."""
        parts = urlsplit(self.address)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    async def read_log(self) -> None:
        """Hand on each line of its log, until its end."""
        assert self._process.stderr is not None
        while line := await self._process.stderr.readline():
            text = line.decode(errors="replace").rstrip("\n")
            self._last.append(text)
            self._on_line(self.number, text)

    async def kill(self) -> None:
        """End it by kill -9, as a machine that loses power does."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        """End it by SIGTERM; by kill -9 where it takes longer than its drain may."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            await self.kill()


@dataclass(frozen=True, slots=True)
class Cluster:
    """All of it."""

    setting: Setting
    """As of one gateway: its base URL is the balancer's."""
    upstream: Upstream
    members: Sequence[Member]
    balancer: Balancer
    database: str
    """Name and version of the server."""

    @property
    def newest(self) -> Member:
        """Return the gateway that got the newest connection."""
        return self.members[self.balancer.newest]


@asynccontextmanager
async def cluster(count: int, *, port: int, real: bool, on_line: OnLine) -> AsyncIterator[Cluster]:
    """Start everything; on exit, stop and delete it. A demonstration that is killed leaves nothing, either.

    Raises: NoServerError: no PostgreSQL can be started; NoStartError; ListenError.
    """
    binaries = find_binaries()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(throwaway_server(binaries))
        upstream = await stack.enter_async_context(upstreams(real=real))
        store = await open_store(server.url)
        stack.push_async_callback(store.close)
        key = await make_customer(store)
        members = await stack.enter_async_context(_members(count, server.folder, server.url, upstream, on_line))
        await _until_all_serve(members, store)
        balancer = await stack.enter_async_context(balancing([member.place for member in members], port))
        facts = await inspect(server.url, "", SystemClock().now_ms)
        setting = Setting(f"{balancer.url}/api/v1", key, store)
        yield Cluster(setting, upstream, members, balancer, f"PostgreSQL {facts.version}")


@asynccontextmanager
async def _members(count: int, folder: Path, store_url: str, upstream: Upstream, on_line: OnLine) -> AsyncIterator[list[Member]]:
    """Start the gateways, each in a directory of its own; at the end stop those that run."""
    reading, members = TaskGroup("log"), []
    try:
        for number in range(1, count + 1):
            directory = folder / f"gateway{number}"
            directory.mkdir()
            config = write_config(directory, upstream, port=0, store=store_url)
            member = Member(number, await _started(config, upstream.env), config, on_line)
            members.append(member)
            reading.spawn(member.read_log(), f"of gateway {number}")
        yield members
    finally:
        await asyncio.gather(*(member.stop() for member in members))
        await reading.drain()


async def _started(config: Path, env: Mapping[str, str]) -> asyncio.subprocess.Process:
    serve = (sys.executable, "-m", "proxy", "serve", "--config", config)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy.demo.bound", str(os.getpid()), *serve),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=env,
        start_new_session=True,  # Ctrl-C is for this process, which stops them
    )


async def _until_all_serve(members: Sequence[Member], store: Store) -> None:
    """Wait until each gateway has told where it listens. Raises: NoStartError."""
    async with asyncio.timeout(START_SECONDS):
        while not all(member.address for member in members):
            told = {node.name.rpartition(" ")[2]: node.introduction.address for node in await store.nodes() or ()}
            for member in members:
                member.address = told.get(str(member.pid), "")
                if member.has_ended:
                    raise NoStartError(f"gateway {member.number} ended at its start:\n{member.last_lines}")
            await asyncio.sleep(_LOOK_SECONDS)
