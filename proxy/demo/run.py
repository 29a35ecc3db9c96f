"""The demonstration: throwaway gateways to try by hand, or a tour that ends by verifying the books; one gateway, or several."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import uvloop
from rich.console import Console
from rich.markup import escape

from proxy.clock import SystemClock
from proxy.core.shown_text import shown, shown_lines
from proxy.demo.cluster import Cluster, NoStartError, cluster
from proxy.demo.failover import Failover
from proxy.demo.paste import paste, paste_nodes
from proxy.demo.postgres import NoServerError
from proxy.demo.setting import Setting, setting
from proxy.demo.tour import Tour, TourError
from proxy.edge.sockets import ListenError
from proxy.gateway.process import heed_signals
from proxy.gateway.shutdown import StopSignal
from proxy.store.errors import StoreError
from proxy.telemetry import logs

ANSWER_SECONDS = 180.0


class _NoLog:
    """Discards the access log: the tour prints its own account of each step."""

    def write(self, line: logs.RequestLine) -> None:
        pass


def run(*, once: bool, port: int = 0, real: bool = False, nodes: int = 1) -> int:
    """Serve until Ctrl-C, or with ``once`` run the tour; return the exit code. Args: nodes: number of gateways."""
    logging.getLogger("proxy").addHandler(logging.NullHandler())  # what Python would print without any: `serve` makes its own
    demo = _Demo(Console(highlight=False, soft_wrap=True), port, real=real, nodes=nodes)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(demo.tour() if once else demo.serve())
    except (TourError, ListenError, NoServerError, NoStartError, StoreError) as fault:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[red]failed:[/red] {escape(shown_lines(str(fault)))}")
        return 1


class _Demo:
    def __init__(self, console: Console, port: int, *, real: bool, nodes: int) -> None:
        self._console = console
        self._port = port
        self._real = real
        self._nodes = nodes

    async def serve(self) -> int:
        stop = StopSignal()
        heed_signals(stop)
        if self._nodes > 1:
            await self._serve_cluster(stop)
        else:
            access_log = logs.configure(SystemClock())
            async with setting(port=self._port, real=self._real, access_log=access_log, stop=stop) as stage:
                self._console.print(paste(stage.base_url, stage.key, real=self._real), markup=False)
                await stop.requested.wait()
        self._console.print("Stopped; everything of the demo is deleted.")
        return 0

    async def _serve_cluster(self, stop: StopSignal) -> None:
        async with cluster(self._nodes, port=self._port, real=self._real, on_line=self._show_line) as made:
            self._console.print(paste(made.setting.base_url, made.setting.key, real=self._real), markup=False, end="")
            gateways = [(member.number, member.address, member.pid) for member in made.members]
            self._console.print(paste_nodes(gateways, str(made.members[0].config), made.database), markup=False)
            await stop.requested.wait()

    async def tour(self) -> int:
        if self._nodes > 1:
            async with cluster(self._nodes, port=self._port, real=self._real, on_line=lambda *_: None) as made:
                await self._walk_cluster(made)
            return 0
        async with (
            setting(port=self._port, real=self._real, access_log=_NoLog(), stop=StopSignal()) as stage,
            _session(stage) as session,
        ):
            await Tour(self._console, stage, session).walk()
        return 0

    async def _walk_cluster(self, made: Cluster) -> None:
        async with _session(made.setting) as session:
            await Failover(Tour(self._console, made.setting, session), made).walk()

    def _show_line(self, number: int, line: str) -> None:
        self._console.print(shown(f"{number} │ {line}"), markup=False)


@asynccontextmanager
async def _session(stage: Setting) -> AsyncIterator[aiohttp.ClientSession]:
    """Lend a client that makes a connection for each request, so that a balancer gives each to the next gateway."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True),
        headers={"Authorization": f"Bearer {stage.key}"},
        timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
    ) as session:
        yield session
