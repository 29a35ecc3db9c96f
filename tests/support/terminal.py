"""A controlling terminal for a process, which a test can close: the kernel then sends SIGHUP, as when a window is closed."""

import fcntl
import os
import pty
import termios
from collections.abc import Iterator
from contextlib import contextmanager


class Terminal:
    """Both ends of a pseudo-terminal."""

    def __init__(self) -> None:
        self._master, self._slave = pty.openpty()

    def take(self) -> None:
        """Make it the controlling terminal of this process in a new session; call between fork and exec."""
        os.setsid()
        fcntl.ioctl(self._slave, termios.TIOCSCTTY, 0)
        os.dup2(self._slave, 0)  # without an open descriptor it would not stay the controlling terminal

    def close(self) -> None:
        for end in (self._slave, self._master):
            if end >= 0:
                os.close(end)
        self._master = self._slave = -1


@contextmanager
def terminal() -> Iterator[Terminal]:
    opened = Terminal()
    try:
        yield opened
    finally:
        opened.close()
