"""The two meanings of SIGHUP: the terminal was closed, or somebody asks for a reload.

The kernel removes a session's terminal before it sends SIGHUP. So a SIGHUP that comes while the terminal is still there, or where there
never was one, was sent by somebody.
"""

import asyncio
import os
from collections.abc import Callable

LOOK_SECONDS = 5.0
"""A terminal may also go without a SIGHUP (a disowned job). Two looks later no SIGHUP is taken for its end any more."""


Later = Callable[[float, Callable[[], None]], object]


class Hangup:
    """Handles SIGHUP."""

    def __init__(
        self,
        on_closed: Callable[[], None],
        on_reload: Callable[[], None],
        *,
        has_terminal: Callable[[], bool] | None = None,
        look_seconds: float = LOOK_SECONDS,
        later: Later | None = None,
    ) -> None:
        """Args: later: what calls a function after some seconds; None: the running loop."""
        self._on_closed = on_closed
        self._on_reload = on_reload
        self._is_there = has_terminal or has_controlling_terminal
        self._look_seconds = look_seconds
        self._later = later or _on_the_loop
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
        if self._is_there():
            self._later(self._look_seconds, self._look_later)
        else:
            self._later(self._look_seconds, self._forget)  # a shell may be about to pass its SIGHUP on

    def _forget(self) -> None:
        self._had_terminal = False


def _on_the_loop(seconds: float, act: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(seconds, act)


def has_controlling_terminal() -> bool:
    """Return whether this process has a controlling terminal: without one, ``/dev/tty`` cannot be opened (tty(4))."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
