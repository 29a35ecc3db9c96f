"""The log's output. Its descriptor's mode is shared with other programs: a shell, a supervisor, the next program on the terminal."""

import os
import pty
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from typing import NoReturn, cast

import pytest

from proxy.telemetry.log_output import Write, never_waiting


def pair(kind: str, stack: ExitStack) -> tuple[int, int]:
    """Return the reader's and the writer's descriptor of a log."""
    if kind == "socket":
        ends = tuple(end.detach() for end in socket.socketpair())
    else:
        ends = pty.openpty() if kind == "terminal" else os.pipe()
    for end in ends:
        stack.callback(os.close, end)
    return ends[0], ends[1]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def until_full(write: Write) -> None:
    """Write until the log is full; a write that waited would never return."""
    with suppress(BlockingIOError):
        while True:
            write(b"x" * 1000)


@pytest.mark.parametrize("kind", ["pipe", "socket", "terminal"])
def test_a_full_log_is_not_waited_for_and_nobody_elses_mode_is_changed(kind: str, stack: ExitStack) -> None:
    reader, descriptor = pair(kind, stack)
    write = never_waiting(descriptor)
    if kind == "socket":
        stack.callback(cast("partial[int]", write).args[0].close)

    assert write(b"one\n") == 4
    assert os.read(reader, 100).split() == [b"one"]
    until_full(write)
    assert os.get_blocking(descriptor)


def test_a_pipe_that_cannot_be_opened_anew_is_not_waited_for_either(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:  # as for a container's user, whose standard error belongs to root
        raise PermissionError

    _, descriptor = pair("pipe", stack)
    monkeypatch.setattr(os, "open", refuse)

    until_full(never_waiting(descriptor))


def test_a_terminal_that_cannot_be_opened_anew_keeps_the_mode_that_its_shell_needs(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise PermissionError

    _, descriptor = pair("terminal", stack)
    monkeypatch.setattr(os, "open", refuse)

    assert never_waiting(descriptor)(b"one\n") == 4
    assert os.get_blocking(descriptor)
