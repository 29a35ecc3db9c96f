"""Backup of a running store: copy one snapshot, verify it, and only then give it its name."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from proxy.store.errors import StoreRefusedError
from proxy.store.progress import Progress, Report
from proxy.store.sqlite import verify
from proxy.store.sqlite.file import restore
from proxy.store.sqlite.file.migrations import sync_folder
from proxy.store.values import Check

STEP_PAGES = 4096
"""Pages copied between two reports: 16 MB."""


def backup(connection: sqlite3.Connection, report: Report | None, store: Path, destination: Path) -> list[Check]:
    """Write ``destination`` by way of ``<destination>.partial`` and return the checks of the copy.

    ``store``: the file that ``connection`` reads.

    Books that do not balance are copied unchanged, and the checks show it; a copy that SQLite finds damaged is refused.

    Raises: StoreRefusedError: the destination exists, cannot be written, is a name of the store's own, or the copy is damaged.
    """
    if restore.is_own_name(store, destination):
        raise StoreRefusedError(
            f"{destination} is a name that the store uses itself: choose another, or the copy is taken for a part of it"
        )
    if destination.exists():
        raise StoreRefusedError(f"{destination} exists: a backup is never written over a file")
    if not destination.parent.is_dir():
        raise StoreRefusedError(f"cannot write {destination}: there is no folder {destination.parent}")
    partial = destination.with_name(destination.name + ".partial")
    try:
        partial.unlink(missing_ok=True)  # left by an interrupted backup
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))  # never through a symbolic link
        checks = _copy(connection, partial, report)
        if not checks[0].holds:
            raise StoreRefusedError(f"the copy is damaged and was not kept: {'; '.join(checks[0].offenders)}")
        _publish(partial, destination)
    except (OSError, sqlite3.Error) as error:
        raise StoreRefusedError(f"cannot write {destination}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return checks


def _copy(connection: sqlite3.Connection, partial: Path, report: Report | None) -> list[Check]:
    with closing(sqlite3.connect(partial, isolation_level=None)) as copy:
        _copy_pages(connection, copy, report)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, complete without a -wal beside it
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    with closing(sqlite3.connect(f"{partial.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)) as copy:
        return verify.verify(copy, report)


def _copy_pages(connection: sqlite3.Connection, copy: sqlite3.Connection, report: Report | None) -> None:
    """Copy one snapshot; no writer waits for it. Without the transaction each commit would restart the copy."""

    def told(_status: int, left: int, pages: int) -> None:
        if report is not None:
            report(Progress("pages copied", pages - left, pages))

    connection.execute("BEGIN")
    try:
        connection.execute("SELECT 1 FROM accounts LIMIT 1").fetchone()
        connection.backup(copy, pages=STEP_PAGES, progress=told)
    finally:
        connection.execute("ROLLBACK")


def _publish(partial: Path, destination: Path) -> None:
    """Name the copy. A link fails if the name is taken; a rename would replace a file created meanwhile."""
    try:
        os.link(partial, destination)
    except FileExistsError:
        raise StoreRefusedError(f"{destination} exists: a backup is never written over a file") from None
    sync_folder(destination.parent)
