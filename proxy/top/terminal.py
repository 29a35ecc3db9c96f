"""The terminal's mode for `top`: keys without Enter and no echo. It is restored however the program ends."""

import asyncio
import os
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

QUIT_KEYS = b"qQ\x1b\x04"
"""q, Escape, Ctrl-D."""


@contextmanager
def keys_and_signals(stop: asyncio.Event, redraw: Callable[[], None]) -> Iterator[None]:
    """Set ``stop`` at a quit key, Ctrl-C, SIGTERM, or when the terminal is gone; call ``redraw`` when its size has changed."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGWINCH, redraw)
    try:
        with _keys(stop):
            yield
    finally:
        for number in (*numbers, signal.SIGWINCH):
            loop.remove_signal_handler(number)


@contextmanager
def _keys(stop: asyncio.Event) -> Iterator[None]:
    if not sys.stdin.isatty():
        yield
        return
    loop, descriptor = asyncio.get_running_loop(), sys.stdin.fileno()

    def pressed() -> None:
        try:
            keys = os.read(descriptor, 64)
        except OSError:
            keys = b""
        if not keys or any(key in QUIT_KEYS for key in keys[:1]):  # an arrow key also begins with an Escape
            stop.set()

    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        loop.add_reader(descriptor, pressed)
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
