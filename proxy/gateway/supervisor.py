"""Several workers of one `serve`: opens the sockets, starts the workers, starts again those that fall, and passes signals on.

It has no store and no loop, and answers nobody. It is one thread, so that it may fork at any time: signals, what workers say and timers
are handled one after the other. A worker is an ordinary gateway that shares its listening sockets with others.
"""

import gc
import logging
import os
import sched
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from proxy import systemd
from proxy.config import Config, ConfigError, Source, UnixAddress
from proxy.config.changes import adopted
from proxy.config.workers import of_worker
from proxy.edge.sockets import ListenError, open_sockets, remove_unix_socket
from proxy.gateway.parent import by_supervisor
from proxy.gateway.process import EXIT_CONFIGURATION, EXIT_REFUSED, prepare, serve
from proxy.gateway.shutdown import EXIT_LEFT
from proxy.gateway.sighup import Hangup
from proxy.gateway.worker import SIGNALS, Worker

logger = logging.getLogger(__name__)

EXIT_WORKERS_FALL = 72
"""Workers fell too often, or one did not survive the stop."""
FALLS_MAX, FALLS_SECONDS = 10, 60.0
"""So many falls of all workers within so many seconds are no accident."""
REFUSED_AGAIN_SECONDS = 10.0
"""Before a worker that refused to start is tried again, while others serve."""
WATCHDOG_SECONDS = 30.0
"""Where systemd names no time: a worker that says nothing for so long hangs."""
ABORT_SECONDS = 5.0
"""A worker that hangs has so long to log where it stands."""
LOOKS_A_PERIOD = 3


def supervise(config: Config, source: Source) -> int:
    """Run the workers of a configuration until a signal ends them; return the process's exit code.

    Args: source: the origin of ``config``, which workers that are started later, and reloads, read again.
    """
    prepare(config)
    server = config.server
    metrics = config.admin.metrics_listen
    every = [*server.listen, *([] if metrics is None else [metrics])]
    sockets: list[socket.socket] = []
    with ExitStack() as stack:
        try:
            for address in server.listen:
                sockets += [stack.enter_context(one) for one in open_sockets(address, mode=server.socket_mode, beside=every)]
                if isinstance(address, UnixAddress):
                    stack.callback(remove_unix_socket, address.path)
        except ListenError as fault:
            logger.error("cannot start: %s", fault)  # noqa: TRY400  the operator's fault, no traceback
            return EXIT_REFUSED
        return Supervisor(config, source, sockets).run()


class Supervisor:
    """The workers of one `serve`."""

    def __init__(self, config: Config, source: Source, sockets: Sequence[socket.socket]) -> None:
        self._config = config
        self._source = source
        self._sockets = sockets
        self._workers = [Worker(number) for number in range(1, config.server.workers + 1)]
        self._watchdog_seconds = systemd.watchdog_seconds() or WATCHDOG_SECONDS
        self._timers = sched.scheduler(time.monotonic)
        self._selector = selectors.DefaultSelector()
        self._fell_at: deque[float] = deque(maxlen=FALLS_MAX)
        self._was_ready = False
        """All have served at once."""
        self._is_reloading = False
        self._code: int | None = None
        """What this process ends with; None: it is not asked to end."""
        self._is_asked = False
        """A signal has asked this process to stop."""
        self._hangup: Hangup | None = None

    def run(self) -> int:
        """Start the workers; return once the last has ended."""
        gc.collect()
        gc.freeze()  # a collection in a worker would write to, and so copy, all memory that it shares
        with self._signals():
            for worker in self._workers:
                self._start(worker)
            self._look()
            seconds: float | None = 0.0
            while self._code is None or any(worker.runs for worker in self._workers):
                for key, _ in self._selector.select(seconds):
                    key.data()
                # After what was said: a supervisor that stood still is no reason to take its workers for hung.
                seconds = self._timers.run(blocking=False)
        logger.info("stopped")
        return self._code

    # the workers' lives

    def _start(self, worker: Worker) -> None:
        if self._code is not None:
            return
        worker.start(lambda channel: self._work(worker, channel), time.monotonic())
        assert worker.channel is not None
        self._selector.register(worker.channel, selectors.EVENT_READ, lambda: self._heard(worker))
        logger.info("%s starts", worker)

    def _work(self, worker: Worker, channel: socket.socket) -> int:
        """Be a worker, in its process; return its exit code."""
        for other in self._workers:
            if other.channel is not None:
                other.channel.close()  # or its end would not be seen while this process lives
        self._selector.close()
        source = Source(self._source.path, self._source.env, self._source.workers, worker.number)
        config = of_worker(self._config, worker.number)
        if self._was_ready:  # since when the file may have been changed, and put in force
            try:
                config = adopted(config, source.read())
            except ConfigError as error:
                logger.error("cannot start: %s", "; ".join(str(error).splitlines()))  # noqa: TRY400  the operator's fault
                return EXIT_CONFIGURATION
        return serve(config, source, by_supervisor(channel, self._sockets, self._watchdog_seconds))

    def _heard(self, worker: Worker) -> None:
        for line in worker.said(time.monotonic()):
            if line == "READY=1":
                self._serves(worker)

    def _serves(self, worker: Worker) -> None:
        if not worker.is_ready:
            logger.info("%s serves", worker)
        worker.is_ready, worker.is_reloading = True, False
        if worker.is_to_reload:
            self._reload_one(worker)
        if not self._was_ready and all(one.is_ready for one in self._workers):
            self._was_ready = True
            systemd.notify("READY=1")
        self._tell()

    def _tell(self) -> None:
        """Tell systemd how it stands, once it knows that this is ready."""
        if not self._was_ready or self._code is not None:
            return
        if self._is_reloading and not any(worker.is_reloading for worker in self._workers):
            self._is_reloading = False
            systemd.notify("READY=1")
        systemd.notify(f"STATUS={sum(worker.is_ready for worker in self._workers)} of {len(self._workers)} workers serve")

    def _reap(self) -> None:
        """See to each worker that has ended."""
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                for worker in self._workers:
                    if worker.pid == ended[0]:
                        self._ended(worker, os.waitstatus_to_exitcode(ended[1]))
                        break

    def _ended(self, worker: Worker, code: int) -> None:
        name, was_ready = str(worker), worker.is_ready
        assert worker.channel is not None
        self._heard(worker)
        self._selector.unregister(worker.channel)
        worker.ended(time.monotonic())
        told = f"by {signal.Signals(-code).name}" if code < 0 else f"with {code}"
        if self._code is not None:
            self._ended_at_stop(name, code, told)
        elif code == EXIT_LEFT:
            logger.warning("%s was sent away by an operator, and is not started again", name)
            worker.has_left = True
            if all(one.has_left for one in self._workers):
                self._stop(EXIT_LEFT)
        elif code in (EXIT_REFUSED, EXIT_CONFIGURATION) and not was_ready:
            self._refused(worker, name, code)
        elif code == 0:
            logger.warning("%s was stopped, and is started again", name)
            self._start(worker)
        else:
            self._fell(worker, name, told)
        self._tell()

    def _ended_at_stop(self, name: str, code: int, told: str) -> None:
        if code in (0, EXIT_LEFT, -signal.SIGTERM, -signal.SIGINT):  # by the signal itself: it had not begun to start
            return
        logger.error("%s ended %s while it was to stop", name, told)
        self._code = self._code or (code if code > 0 else EXIT_WORKERS_FALL)

    def _refused(self, worker: Worker, name: str, code: int) -> None:
        """One did not start. It says why itself; at the start of all that ends all, and later those that serve go on."""
        if not self._was_ready or not any(other.is_ready for other in self._workers):
            self._stop(code)
            return
        logger.error("%s did not start (%d): the others go on, and it is tried again in %g s", name, code, REFUSED_AGAIN_SECONDS)
        self._timers.enter(REFUSED_AGAIN_SECONDS, 0, self._start, (worker,))

    def _fell(self, worker: Worker, name: str, told: str) -> None:
        now, seconds = time.monotonic(), worker.fell()
        self._fell_at.append(now)
        if len(self._fell_at) == FALLS_MAX and now - self._fell_at[0] < FALLS_SECONDS:
            logger.critical("%s ended %s, the %dth fall within a minute: all stop", name, told, FALLS_MAX)
            self._stop(EXIT_WORKERS_FALL)
            return
        logger.error("%s ended %s, and is started again in %g s", name, told, seconds)
        self._timers.enter(seconds, 0, self._start, (worker,))

    # hangs

    def _look(self) -> None:
        """End workers that hang, and tell systemd that this process does not."""
        now = time.monotonic()
        for worker in self._workers:
            if worker.beat_at is not None and now - worker.beat_at > self._watchdog_seconds and not worker.is_ended_for_hanging:
                logger.error("%s gave no sign of life for %g s, and is ended", worker, self._watchdog_seconds)
                worker.is_ended_for_hanging = True
                worker.send(signal.SIGABRT)  # upon which it logs where each thread stands
                self._timers.enter(ABORT_SECONDS, 0, self._kill, (worker, worker.pid))
        if self._was_ready and systemd.watchdog_seconds() is not None:
            systemd.notify("WATCHDOG=1")
        self._timers.enter(self._watchdog_seconds / LOOKS_A_PERIOD, 0, self._look)

    def _kill(self, worker: Worker, pid: int) -> None:
        if worker.pid == pid:
            worker.send(signal.SIGKILL)

    # signals

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Have signals wake the loop in this context, which then handles them one by one."""
        awake, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        has_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # it must outlive its terminal
        before = [(number, signal.signal(number, lambda *_: None)) for number in SIGNALS]
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        self._hangup = Hangup(
            self._reload if has_nohup else self._asked_to_stop,
            self._reload,
            later=lambda seconds, act: self._timers.enter(seconds, 0, act),
        )
        self._selector.register(awake, selectors.EVENT_READ, lambda: self._signalled(os.read(awake, 4096)))
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before:
                signal.signal(number, handler)
            self._selector.close()
            os.close(awake)
            os.close(wakes)

    def _signalled(self, numbers: bytes) -> None:
        assert self._hangup is not None
        for number in numbers:
            match number:
                case signal.SIGTERM | signal.SIGINT:
                    self._asked_to_stop()
                case signal.SIGHUP:
                    self._hangup()
                case signal.SIGCHLD:
                    self._reap()

    def _asked_to_stop(self) -> None:
        """Have all workers drain; asked a second time, have them cut what is under way (`heed_supervisor`)."""
        if self._is_asked:
            for worker in self._workers:
                worker.send(signal.SIGINT)
            return
        self._is_asked = True
        self._stop(self._code or 0)

    def _stop(self, code: int) -> None:
        self._code = code
        for opened in self._sockets:
            opened.close()  # who comes while the workers drain is refused, and does not wait for nobody
        systemd.notify("STOPPING=1")
        for worker in self._workers:
            worker.send(signal.SIGTERM)

    def _reload(self) -> None:
        """Have each worker reload. systemd waits until all have."""
        if self._code is not None:
            return
        self._is_reloading = self._was_ready
        if self._was_ready:
            systemd.notify(systemd.reloading())
        for worker in self._workers:
            self._reload_one(worker)
        self._tell()

    def _reload_one(self, worker: Worker) -> None:
        """Have a worker reload, or note that it shall once it can."""
        worker.is_to_reload = worker.runs and not worker.is_ready
        if worker.is_ready:
            worker.is_reloading = True
            worker.send(signal.SIGHUP)
