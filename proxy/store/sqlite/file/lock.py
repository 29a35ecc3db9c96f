"""The lock file: it allows one writing process. SQLite's own locks only make writers take turns."""

import fcntl
import os
from pathlib import Path

from proxy.store.errors import StoreLockedError


class FileLock:
    """An exclusive ``flock`` on ``<database>.lock``, with the holder's pid inside. The kernel releases it when the process ends.

    The file stays when the lock is released: removing it would let two processes hold two files of one name.
    """

    def __init__(self, database: Path) -> None:
        """Take the lock. Raises: StoreLockedError, with the path and the holder's pid."""
        self.path = database.with_name(database.name + ".lock")
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            raise StoreLockedError(f"{database} is in use by another process (pid {holder or 'unknown'}, lock {self.path})") from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


def is_locked(database: Path) -> bool:
    """Return True if a process has a database open to write. No lock file is made or written."""
    try:
        descriptor = os.open(database.with_name(database.name + ".lock"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def holder_pid(database: Path) -> int | None:
    """Return the pid of the process that has a database open to write: 0 if the lock file does not say, None if there is none."""
    if not is_locked(database):
        return None
    said = database.with_name(database.name + ".lock").read_text(encoding="ascii", errors="replace").strip()
    return int(said) if said.isdigit() else 0
