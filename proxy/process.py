"""The life of the process, from its first signal handler to its exit code."""

import asyncio
import gc
import logging
import signal
import socket
from contextlib import suppress

import uvloop

from proxy import logs, systemd
from proxy.app import StopSignal, running
from proxy.clock import Clock, SystemClock
from proxy.config import Config
from proxy.edge.listeners import ListenError
from proxy.store.contract import StoreRefusedError, StoreUnavailableError

logger = logging.getLogger(__name__)

EXIT_SCHEDULER_FAILED = 71
GC_ALLOCATIONS = 10_000


def serve(config: Config) -> int:
    """Run the gateway until a signal ends it; return the process's exit code."""
    clock = SystemClock()
    access_log = logs.configure(clock)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config, clock, access_log))


async def _serve(config: Config, clock: Clock, access_log: logs.AccessLog) -> int:
    stop = StopSignal()
    heed_signals(stop)
    try:
        async with running(config, clock=clock, access_log=access_log, stop=stop) as gateway:
            await _make_threads()
            _settle_memory()
            logger.info("listening on %s", ", ".join(gateway.addresses))
            systemd.notify("READY=1")
            await stop.requested.wait()
            systemd.notify("STOPPING=1")
            logger.info("stopping: up to %g s for what is under way", config.server.drain_seconds)
    except (ListenError, StoreRefusedError, StoreUnavailableError) as fault:
        logger.error("cannot start: %s", fault)  # noqa: TRY400 - the operator's fault, no traceback
        return 1
    logger.info("stopped")
    return EXIT_SCHEDULER_FAILED if stop.has_failed else 0


def heed_signals(stop: StopSignal) -> None:
    """Let SIGTERM, Ctrl-C and a terminal that is closed (SIGHUP) ask to stop, on the running loop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.request)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # started with nohup, it is to outlive its terminal
        loop.add_signal_handler(signal.SIGHUP, stop.request)


async def _make_threads() -> None:
    """Let the loop make the threads that resolve names now: libuv aborts the process where it needs them first when none can be had."""
    with suppress(socket.gaierror):
        await asyncio.get_running_loop().getaddrinfo("no-address", None, flags=socket.AI_NUMERICHOST)  # refused before any lookup


def _settle_memory() -> None:
    """Take what start-up made out of the collector's sight, and let it look less often: a request leaves few cycles behind.

    The collector's default cost 8 % of the CPU of a JSON request.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 20)
