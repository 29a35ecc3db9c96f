"""The life of the process, from its first signal handler to its exit code."""

import asyncio
import ctypes
import faulthandler
import gc
import logging
import os
import resource
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
from proxy.gateway.parent import Parent, by_systemd
from proxy.gateway.shutdown import EXIT_LEFT, StopSignal
from proxy.gateway.sighup import Hangup
from proxy.live.reload import Reloader
from proxy.store.errors import StoreRefusedError, StoreUnavailableError
from proxy.tasks import TaskGroup
from proxy.telemetry import logs

logger = logging.getLogger(__name__)

EXIT_REFUSED = 1
"""It cannot start; the log says why."""
EXIT_SCHEDULER_FAILED = 71
EXIT_CONFIGURATION = 78
"""EX_CONFIG of sysexits.h: starting `serve` again will not help. systemd is told not to (RestartPreventExitStatus=)."""
GC_ALLOCATIONS = 10_000
LARGE_BLOCK_BYTES = 1_048_576
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""glibc's names, malloc.h."""


def serve(config: Config, source: Source, parent: Parent | None = None) -> int:
    """Run the gateway until a signal ends it; return the process's exit code.

    Args: source: the origin of ``config``, which a reload reads again; parent: who started this process; None: systemd, or nobody.
    """
    clock, access_log = prepare(config)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config, source, clock, access_log, parent))


def prepare(config: Config) -> tuple[Clock, logs.AccessLog]:
    """Make this process fit to serve: descriptors, memory, the log of which it returns that of requests."""
    _open_standard_descriptors()
    _raise_descriptors_limit()
    _return_large_blocks()
    faulthandler.enable(logs.STANDARD_ERROR)  # systemd ends a hung process by SIGABRT: the log then shows each thread's stack
    clock = SystemClock()
    return clock, logs.configure(clock, level=config.log.level)


async def _serve(config: Config, source: Source, clock: Clock, access_log: logs.AccessLog, parent: Parent | None = None) -> int:
    parent = parent or by_systemd()
    stop, hangup, reloading = StopSignal(), asyncio.Event(), TaskGroup("reload")
    heed_signals(stop, reload=hangup.set)
    if parent.channel is not None:
        heed_supervisor(stop)
        parent.watch(stop.drain)
    try:
        async with running(config, clock=clock, access_log=access_log, stop=stop, source=source, parent=parent) as gateway:
            await _make_threads()
            _settle_memory()
            logger.info("listening on %s", ", ".join(gateway.addresses))
            if gateway.scraped_at:
                logger.info("metrics at %s", ", ".join(f"{address}/metrics" for address in gateway.scraped_at))
            parent.tell("READY=1")
            reloading.spawn(_reload_at(hangup, gateway.reloader, parent), "at SIGHUP")
            await stop.requested.wait()
            await reloading.cancel()
            parent.tell("STOPPING=1")
            logger.info("stopping: up to %g s for what is under way", gateway.live.now.config.server.drain_seconds)
    except (ListenError, StoreRefusedError, StoreUnavailableError) as fault:
        logger.error("cannot start: %s", fault)  # noqa: TRY400 - the operator's fault, no traceback
        return EXIT_REFUSED
    logger.info("stopped")
    if stop.has_failed:
        return EXIT_SCHEDULER_FAILED
    return EXIT_LEFT if stop.is_leaving else 0


def _open_standard_descriptors() -> None:
    """Open ``/dev/null`` as any of descriptors 0 to 2 that the process was not given.

    Otherwise sockets and the store's files get these numbers, and receive what a library writes to "standard error".
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # it gets the lowest free number; if all three are open, as nearly always, no /dev is needed
            os.open(os.devnull, os.O_RDWR)


def _raise_descriptors_limit() -> None:
    """Raise the soft limit of file descriptors to the hard one. Shells set 1024, for programs that call select(): 500 streams."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # some systems have a limit of their own below an unlimited hard one
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _return_large_blocks() -> None:
    """Have the C library give each large block back to the system when it is freed, as the bodies of some megabytes are made of.

    glibc's default learns from the first freed block of up to 32 MiB to keep such blocks in its heap, where what is freed below a block
    in use stays: of four bodies of 8 MB that were sent, two or more stayed for good, now and then.
    """
    change = getattr(ctypes.CDLL(None), "mallopt", None)
    if change is not None:
        change(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        change(_M_TRIM_THRESHOLD, 2 * LARGE_BLOCK_BYTES)  # the ratio that the default keeps between both


async def _reload_at(hangup: asyncio.Event, reloader: Reloader, parent: Parent) -> None:
    """Reload at each SIGHUP, for ever. All that come during a reload cause one more. systemd waits for both notices."""
    while True:
        await hangup.wait()
        hangup.clear()
        parent.tell(systemd.reloading())
        try:
            await reloader.reload()
        except NotReloadedError:
            pass  # it has been logged
        except Exception:
            logger.exception("the reload failed")
        parent.tell("READY=1")


def heed_signals(stop: StopSignal, reload: Callable[[], None] | None = None) -> None:
    """Handle signals on the running loop: SIGTERM, Ctrl-C and a closed terminal ask to stop, any other SIGHUP to reload.

    Args: reload: None: there is nothing to reload, and any SIGHUP asks to stop.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.request)
    has_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # it must outlive its terminal
    if reload is not None:
        loop.add_signal_handler(signal.SIGHUP, Hangup(reload if has_nohup else stop.request, reload))
    elif not has_nohup:
        loop.add_signal_handler(signal.SIGHUP, stop.request)


def heed_supervisor(stop: StopSignal) -> None:
    """Handle a worker's signals: however often SIGTERM comes, it drains, and only SIGINT cuts what is under way.

    A service manager sends SIGTERM to all processes of a service, and the supervisor passes its own on: the second is no impatience.
    """
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.drain)
    loop.add_signal_handler(signal.SIGINT, stop.cut)


async def _make_threads() -> None:
    """Make the loop's resolver threads now: libuv aborts the process if it cannot make them when they are first needed."""
    with suppress(socket.gaierror):
        await asyncio.get_running_loop().getaddrinfo("no-address", None, flags=socket.AI_NUMERICHOST)  # refused before any lookup


def _settle_memory() -> None:
    """Exempt start-up's objects from garbage collection, and collect less often: a request leaves few cycles behind.

    The collector's default cost 8 % of the CPU of a JSON request.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 20)
