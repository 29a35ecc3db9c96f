"""Becomes another program, which the kernel ends with its parent: `python -m proxy.demo.bound PARENT_PID PROGRAM WORDS…`.

A demonstration that is killed can stop nothing of what it started; so whatever it started is told by the kernel (prctl(2)).
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent(number: int) -> None:
    """Have the kernel send this process a signal when its parent dies, by kill -9 too. It outlives `execv`."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def main() -> None:
    parent, *program = sys.argv[1:]
    end_with_parent(signal.SIGKILL)
    if os.getppid() != int(parent):  # it was faster
        sys.exit(1)
    os.execv(program[0], program)  # noqa: S606  the words are the caller's


if __name__ == "__main__":
    main()
