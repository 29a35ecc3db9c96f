"""Where the log goes: a descriptor that is written to as far as there is room, and never waited for.

Whoever reads a log may stand still: a terminal after Ctrl-S, a pager, a container's full pipe, a journal that hangs. A write that
waits for them holds up the event loop, and so every request, every settlement, and SIGTERM.
"""

import os
import socket
import stat
from collections.abc import Callable
from functools import partial

Write = Callable[[bytes], int]
"""Returns how much was taken. Raises: OSError, BlockingIOError among them where there is no room at all."""


def never_waiting(descriptor: int) -> Write:
    """Return what writes to a descriptor without waiting for its reader.

    Not by O_NONBLOCK on the descriptor itself: that is a mode of the open file, which a shell and everything else that was started on
    the same terminal or pipe shares. A socket is told with each piece; a pipe or a terminal is opened once more.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        return partial(_send, socket.socket(fileno=os.dup(descriptor)))
    if stat.S_ISFIFO(mode) or os.isatty(descriptor):
        return partial(os.write, _opened_anew(descriptor, is_pipe=stat.S_ISFIFO(mode)))
    return partial(os.write, descriptor)  # of a file nobody has to make room


def _send(log: socket.socket, piece: bytes) -> int:
    return log.send(piece, socket.MSG_DONTWAIT)


def _opened_anew(descriptor: int, *, is_pipe: bool) -> int:
    """Return the same pipe or terminal with a mode of its own, or, where it is another user's, the descriptor as it is.

    Of such a pipe (a container's, made by root for somebody else) the mode is changed all the same: hardly anybody else writes to it.
    """
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        if is_pipe:
            os.set_blocking(descriptor, False)
        return descriptor
