"""The life of the process, from its first signal handler to its exit code."""

import asyncio
import faulthandler
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress

import uvloop

from proxy import systemd
from proxy.clock import Clock, SystemClock
from proxy.config import Config, Source
from proxy.config.changes import NotReloadedError
from proxy.edge.sockets import ListenError
from proxy.gateway.app import running
from proxy.gateway.shutdown import StopSignal
from proxy.gateway.sighup import Hangup
from proxy.live.reload import Reloader
from proxy.store.errors import StoreRefusedError, StoreUnavailableError
from proxy.tasks import TaskGroup
from proxy.telemetry import logs

logger = logging.getLogger(__name__)

EXIT_SCHEDULER_FAILED = 71
GC_ALLOCATIONS = 10_000


def serve(config: Config, source: Source) -> int:
    """Run the gateway until a signal ends it; return the process's exit code.

    Args: source: what ``config`` was read from, and a reload reads again.
    """
    _open_standard_descriptors()
    faulthandler.enable(logs.STANDARD_ERROR)  # systemd ends a process that hangs by SIGABRT: the log then shows where each thread stood
    clock = SystemClock()
    access_log = logs.configure(clock, level=config.log.level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config, source, clock, access_log))


async def _serve(config: Config, source: Source, clock: Clock, access_log: logs.AccessLog) -> int:
    stop, hangup, reloading = StopSignal(), asyncio.Event(), TaskGroup("reload")
    heed_signals(stop, reload=hangup.set)
    try:
        async with running(config, clock=clock, access_log=access_log, stop=stop, source=source) as gateway:
            await _make_threads()
            _settle_memory()
            logger.info("listening on %s", ", ".join(gateway.addresses))
            if gateway.scraped_at:
                logger.info("metrics at %s", ", ".join(f"{address}/metrics" for address in gateway.scraped_at))
            systemd.notify("READY=1")
            reloading.spawn(_reload_at(hangup, gateway.reloader), "at SIGHUP")
            await stop.requested.wait()
            await reloading.cancel()
            systemd.notify("STOPPING=1")
            logger.info("stopping: up to %g s for what is under way", gateway.live.now.config.server.drain_seconds)
    except (ListenError, StoreRefusedError, StoreUnavailableError) as fault:
        logger.error("cannot start: %s", fault)  # noqa: TRY400 - the operator's fault, no traceback
        return 1
    logger.info("stopped")
    return EXIT_SCHEDULER_FAILED if stop.has_failed else 0


def _open_standard_descriptors() -> None:
    """Let descriptors 0 to 2 lead nowhere where the process was started without them.

    Otherwise sockets and the store's files get these numbers, and whatever a library says to "standard error".
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # the lowest number that is free is what it gets; where all stand, as nearly always, no /dev is needed
            os.open(os.devnull, os.O_RDWR)


async def _reload_at(hangup: asyncio.Event, reloader: Reloader) -> None:
    """Reload at each SIGHUP, for ever; those that come while one is under way are one more. systemd waits for both words."""
    while True:
        await hangup.wait()
        hangup.clear()
        systemd.notify(systemd.reloading())
        try:
            await reloader.reload()
        except NotReloadedError:
            pass  # it has been logged
        except Exception:
            logger.exception("the reload failed")
        systemd.notify("READY=1")


def heed_signals(stop: StopSignal, reload: Callable[[], None] | None = None) -> None:
    """Let SIGTERM, Ctrl-C and a terminal that is closed ask to stop, on the running loop, and any other SIGHUP to reload.

    Args: reload: None: there is nothing to reload, and any SIGHUP asks to stop.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.request)
    has_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # it is to outlive its terminal
    if reload is not None:
        loop.add_signal_handler(signal.SIGHUP, Hangup(reload if has_nohup else stop.request, reload))
    elif not has_nohup:
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
