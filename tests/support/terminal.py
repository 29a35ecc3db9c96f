"""Terminals: a controlling one for a process, which a test can close as a window is, and one to see what a command says.

When the first is closed, the kernel sends SIGHUP.
"""

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

SECONDS_MAX = 30


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


def said_on_a_terminal(line: Sequence[str], env: Mapping[str, str], columns: int) -> str:
    """Return all that a command writes to a terminal of so many columns, styles included."""
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    with subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=slave, stderr=slave, env=dict(env)) as process:
        os.close(slave)
        said = b""
        with suppress(OSError):  # no process has the terminal open any more
            while piece := os.read(master, 65_536):
                said += piece
        process.wait(SECONDS_MAX)
    os.close(master)
    return said.decode()
