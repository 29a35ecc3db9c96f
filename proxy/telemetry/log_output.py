"""Output of the log: writes to a descriptor as far as there is room, and never waits for it.

The reader of a log may stop: a terminal after Ctrl-S, a pager, a container's full pipe, a journal that hangs. A write that waits for it
blocks the event loop, and with it every request, every settlement, and SIGTERM.
"""

import os
import socket
import stat
from collections.abc import Callable
from functools import partial

Write = Callable[[bytes], int]
"""Returns the number of bytes taken. Raises: OSError, including BlockingIOError if there is no room at all."""


def never_waiting(descriptor: int) -> Write:
    """Return a function that writes to a descriptor without waiting for its reader.

    O_NONBLOCK is not set on the descriptor itself: it is a mode of the open file, which a shell and all else that was started on the
    same terminal or pipe shares. A socket gets the flag with each write; a pipe or a terminal is opened a second time.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        return partial(_send, socket.socket(fileno=os.dup(descriptor)))
    if stat.S_ISFIFO(mode) or os.isatty(descriptor):
        return partial(os.write, _opened_anew(descriptor, is_pipe=stat.S_ISFIFO(mode)))
    return partial(os.write, descriptor)  # a file always has room


def _send(log: socket.socket, piece: bytes) -> int:
    return log.send(piece, socket.MSG_DONTWAIT)


def _opened_anew(descriptor: int, *, is_pipe: bool) -> int:
    """Return the same pipe or terminal with a mode of its own, or the descriptor itself if it is another user's.

    The mode of such a pipe (a container's, made by root for another user) is changed all the same: hardly anything else writes to it.
    """
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        if is_pipe:
            os.set_blocking(descriptor, False)
        return descriptor
