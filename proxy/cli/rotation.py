"""Dated backups in one directory, of which the newest are kept.

Only files that `Rotation` named itself are removed, by one process at a time, and never the copy that was just verified.
"""

import fcntl
import os
import re
from pathlib import Path
from types import TracebackType
from typing import Self

from proxy.clock import iso

_COPY = re.compile(r"llm-proxy-\d{8}T\d{6}Z\.db")
_PARTIAL = re.compile(r"llm-proxy-\d{8}T\d{6}Z\.db\.partial(-journal)?")
"""The name that `store.sqlite.backup` writes to first."""


class RotationError(Exception):
    """The directory cannot be used, or another backup is being written to it."""


class Rotation:
    """A directory of backups, locked while one is written and old ones are removed. It is created if missing."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> Self:
        """Create and lock the directory and remove partial copies. Raises: RotationError."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise RotationError(f"cannot keep backups in {self._directory}: {error.strerror}") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._remove(self._named(_PARTIAL))  # left by a backup that was cut short: no other process writes while we hold the lock
        except OSError as error:
            os.close(self._descriptor)
            busy = isinstance(error, BlockingIOError)
            reason = "another backup is being written to it" if busy else error.strerror
            raise RotationError(f"cannot keep backups in {self._directory}: {reason}") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._descriptor)

    def path(self, now_ms: int) -> Path:
        """Return the path of a backup that is made in this second."""
        return self._directory / f"llm-proxy-{compact(now_ms)}.db"

    def prune(self, keep: int, newest: Path) -> list[str]:
        """Remove all copies but ``newest`` and the ``keep`` - 1 latest others; return the removed paths, oldest first.

        ``newest`` stays whatever its name says, since the clock may have been set back.

        Raises: RotationError.
        """
        others = [path for path in self._named(_COPY) if path != newest]
        try:
            return self._remove(others[: max(0, len(others) - (keep - 1))])
        except OSError as error:
            raise RotationError(f"wrote {newest}, but cannot remove older backups: {error.strerror}") from None

    def _named(self, pattern: re.Pattern[str]) -> list[Path]:
        """Return the files with names of this pattern, oldest first."""
        return sorted(path for path in self._directory.iterdir() if pattern.fullmatch(path.name))

    def _remove(self, paths: list[Path]) -> list[str]:
        for path in paths:
            path.unlink()
        return [str(path) for path in paths]


def compact(now_ms: int) -> str:
    """Return a time in seconds and UTC for use in a file name: ``20261123T080000Z``."""
    return re.sub(r"[-:]|\.\d+", "", iso(now_ms))
