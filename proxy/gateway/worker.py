"""One worker as its supervisor sees it: a process made by fork, what it says, and when it may be started again."""

import logging
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress

logger = logging.getLogger(__name__)

AGAIN_SECONDS = (0.1, 4.0)
"""Pause before a worker that fell is started again: the first, doubled each time that it falls soon, up to the last."""
STEADY_SECONDS = 60.0
"""A worker that lived as long did not fall soon."""
EXIT_BROKEN = 1
_LINE_BYTES_MAX = 4096
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
"""What a supervisor handles, and its workers not as it does."""

Run = Callable[[socket.socket], int]
"""Runs in the worker's process with its end of the channel; returns its exit code."""


class Worker:
    """A number, and the process that has it now."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid = 0
        """0: there is none now."""
        self.channel: socket.socket | None = None
        self.is_ready = False
        self.is_reloading = False
        self.is_to_reload = False
        """It was asked to reload before it could be told."""
        self.is_ended_for_hanging = False
        self.has_left = False
        """An operator sent it away: it is not started again."""
        self.beat_at: float | None = None
        """When it last said anything, by the monotonic clock; None: it has no watchdog yet."""
        self._started_at = 0.0
        self._falls = 0
        self._unread = b""

    def __str__(self) -> str:
        return f"worker {self.number} (pid {self.pid})"

    @property
    def runs(self) -> bool:
        return self.pid != 0

    def start(self, run: Run, now: float) -> None:
        """Fork a process that ends with the result of ``run``."""
        ours, its = socket.socketpair()

        def work() -> int:
            ours.close()
            return run(its)

        self.pid = forked(work)
        its.close()
        ours.setblocking(False)
        self.channel = ours
        self._started_at, self.beat_at, self._unread = now, None, b""
        self.is_ready = self.is_reloading = self.is_to_reload = self.is_ended_for_hanging = False

    def said(self, now: float) -> list[str]:
        """Return the lines that it has written since."""
        assert self.channel is not None
        try:
            piece = self.channel.recv(65_536)
        except (BlockingIOError, ConnectionResetError):
            return []
        if piece:
            self.beat_at = now
        *lines, self._unread = (self._unread + piece).split(b"\n")
        self._unread = self._unread[-_LINE_BYTES_MAX:]
        return [line.decode("utf-8", "replace") for line in lines]

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if there is one."""
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def ended(self, now: float) -> None:
        """Note that the process is no more."""
        assert self.channel is not None
        self.channel.close()
        self.channel, self.pid, self.beat_at, self.is_ready, self.is_reloading = None, 0, None, False, False
        self._falls = 0 if now - self._started_at >= STEADY_SECONDS else self._falls

    def fell(self) -> float:
        """Note that it ended by itself; return the seconds to wait before it is started again."""
        first, most = AGAIN_SECONDS
        self._falls += 1
        return float(min(first * 2 ** (self._falls - 1), most))


def forked(run: Callable[[], int]) -> int:
    """Return the pid of a child of this process, which runs a function and ends with its result.

    The child is forked, and not started anew: so it is the same program, by the same words of the command line, also where the files of
    that program have been replaced meanwhile; and start-up's memory is shared. A session of its own keeps a terminal's Ctrl-C and its
    end from the child, as the parent passes them on.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # until the child has the parent's handlers no more
    try:
        if pid := os.fork():
            return pid
        code = EXIT_BROKEN
        try:
            os.setsid()
            _forget_handlers()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            code = run()
        except BaseException:
            logger.critical("a worker ended by a bug", exc_info=True)
        finally:
            logging.shutdown()
            os._exit(code)  # what is above on the stack is the parent's
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _forget_handlers() -> None:
    """Handle signals as a process does that was just started. An ignored SIGHUP (nohup) stays ignored."""
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
