"""What SIGHUP means: that the terminal has been closed, or that somebody asks for a reload.

The kernel takes a session's terminal away before it says so. So a SIGHUP that comes while it is still there, or where there never was
one, was sent by somebody.
"""

import asyncio
import os
from collections.abc import Callable

LOOK_SECONDS = 5.0
"""A terminal may also go without a word (a job that was disowned). Two looks later no SIGHUP is taken for its end any more."""


class Hangup:
    """Handles SIGHUP on the running loop."""

    def __init__(
        self,
        on_closed: Callable[[], None],
        on_reload: Callable[[], None],
        *,
        has_terminal: Callable[[], bool] | None = None,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._on_closed = on_closed
        self._on_reload = on_reload
        self._is_there = has_terminal or has_controlling_terminal
        self._look_seconds = look_seconds
        self._had_terminal = self._is_there()
        if self._had_terminal:
            self._look_later()

    def __call__(self) -> None:
        if self._had_terminal and not self._is_there():
            self._had_terminal = False
            self._on_closed()
        else:
            self._on_reload()

    def _look_later(self) -> None:
        loop = asyncio.get_running_loop()
        if self._is_there():
            loop.call_later(self._look_seconds, self._look_later)
        else:
            loop.call_later(self._look_seconds, self._forget)  # its SIGHUP may be on its way, from a shell that passes it on

    def _forget(self) -> None:
        self._had_terminal = False


def has_controlling_terminal() -> bool:
    """Tell whether this process has a controlling terminal: without one, ``/dev/tty`` cannot be opened (tty(4))."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
