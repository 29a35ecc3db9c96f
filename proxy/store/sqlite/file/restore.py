"""Restore of a backup: verify a copy beside the store, then swap it in by renames that a later start can finish.

The database and its write-ahead log are two files, and no rename moves two. So one moment decides the restore: when the verified copy
gets its name, ``<store>.restore-<when>``. Before it, the store is untouched; after it, the next process that takes the lock finishes
(`finish`), so that no process ever sees the new database with the old log, or the old one without its own.
The old files are renamed, never deleted.
"""

import glob
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from proxy.store.errors import StoreLockedError, StoreRefusedError
from proxy.store.progress import Progress, Report
from proxy.store.sqlite import verify
from proxy.store.sqlite.file import damage, migrations
from proxy.store.sqlite.file.lock import FileLock, is_locked
from proxy.store.values import Check, Restored

_DECIDED = ".restore-"
_KEPT = ".before-restore-"
_COMPANIONS = ("-wal", "-shm", "-journal")
"""Suffixes of SQLite's files beside a database. A log of one database beside another would be read into it."""
_DECIDED_NAME = re.compile(re.escape(_DECIDED) + r"[0-9]{8}T[0-9]{6}Z(?:\.[0-9]{1,3})?")
"""Only the names that `restore` writes: an operator's ``store.db.restore-point`` is a copy, not a decided restore."""
_OWN_NAME = re.compile(r"-(?:wal|shm|journal)|\.lock|\.arriving(?:-.*)?|\.(?:restor|before-restore-).*")

_STEP_BYTES = 1_048_576
"""Bytes copied between two reports."""


def restore(path: Path, source: Path, when: str, report: Report | None = None) -> Restored:
    """Replace the store at ``path`` with a verified copy of ``source``.

    Args:
        source: a backup, or a store that no process has open; it is only read.
        when: part of the name that the old store is kept under, such as ``20261123T080000Z``.

    Raises:
        StoreLockedError: a gateway, or another command, has one of the two.
        StoreVersionError: the source is of a newer version of this program.
        StoreRefusedError: the source is not a sound store, or cannot be read, or there is no room. The store is unchanged.
    """
    path, source = path.resolve(), source.resolve()
    _check_source(source, path)
    with _locked(path):
        try:
            finish(path)
            checks, newest_at_ms = _decide(path, source, when, report)
        except (OSError, sqlite3.Error) as error:
            raise StoreRefusedError(f"cannot restore {source}: {error}; the store is as it was") from error
        try:
            kept = finish(path)
        except OSError as error:
            raise StoreRefusedError(f"the restore is not finished: {error}; the next start of the gateway finishes it") from error
    return Restored(kept, newest_at_ms, checks)


def finish(path: Path) -> Path | None:
    """Carry out a decided restore, if there is one, and return the path of the old store. The caller must hold the lock."""
    decided = decided_for(path)
    if decided is None:
        return None
    when = decided.name.removeprefix(path.name + _DECIDED)
    kept = path.with_name(f"{path.name}{_KEPT}{when}")
    # The database first: a reader then finds no store, instead of one without its last transactions.
    for suffix in ("", *_COMPANIONS):
        _set_aside(path.with_name(path.name + suffix), kept.with_name(kept.name + suffix))
    migrations.sync_folder(path.parent)  # durable before the new name: an old log must never be beside a new database
    decided.rename(path)
    migrations.sync_folder(path.parent)
    return kept if kept.exists() else None


def decided_for(path: Path) -> Path | None:
    """Return the copy that an interrupted restore has decided on, or None."""
    found = sorted(path.parent.glob(f"{glob.escape(path.name)}{_DECIDED}*"))
    return next((file for file in found if _DECIDED_NAME.fullmatch(file.name.removeprefix(path.name)) and file.is_file()), None)


def is_own_name(path: Path, file: Path) -> bool:
    """Return True if a file has a name that the store at ``path``, SQLite or a restore uses itself."""
    same_folder = os.path.realpath(file.parent) == os.path.realpath(path.parent)
    return same_folder and file.name.startswith(path.name) and _OWN_NAME.fullmatch(file.name.removeprefix(path.name)) is not None


def _check_source(source: Path, path: Path) -> None:
    if not source.is_file():
        raise StoreRefusedError(f"there is no file {source}")
    if path.exists() and source.samefile(path):
        raise StoreRefusedError(f"{source} is the store itself: name a backup")
    if is_locked(source):
        raise StoreLockedError(f"{source} is in use by another process: copy it with `llm-proxy backup` and restore the copy")
    if source.with_name(source.name + "-journal").exists():
        raise StoreRefusedError(f"{source} was cut off in mid-change, its {source.name}-journal says: name another backup")


def _decide(path: Path, source: Path, when: str, report: Report | None) -> tuple[list[Check], int | None]:
    """Make the verified copy and give it its name: from then on the restore is decided, even after a crash."""
    partial = path.with_name(f"{path.name}.restoring")
    with _unlinked_at_the_end(partial):
        checks, newest_at_ms = _verified_copy(source, partial, report)
        give_to_the_owner_of(path, partial, path.with_name(f"{path.name}.lock"))
        partial.rename(path.with_name(f"{path.name}{_DECIDED}{_unused(path, when)}"))
        migrations.sync_folder(path.parent)
    return checks, newest_at_ms


def _verified_copy(source: Path, partial: Path, report: Report | None) -> tuple[list[Check], int | None]:
    """Write the copy that will be the store, and check the copy: the source could change between a check and a copy."""
    log = source.with_name(source.name + "-wal")
    _copy(source, partial, report)
    if log.exists():
        _copy(log, partial.with_name(partial.name + "-wal"), None)
    try:
        checks, newest_at_ms = _checked(partial, source, report)
    except sqlite3.DatabaseError as error:
        raise StoreRefusedError(f"{source} is damaged: {error}; nothing was changed: name another backup") from error
    if broken := [check for check in checks if not check.holds]:
        reasons = "; ".join(f"{check.name}: {', '.join(check.offenders)}" for check in broken)
        raise StoreRefusedError(f"{source} does not hold ({reasons}); nothing was changed: name another backup")
    sync(partial)
    return checks, newest_at_ms


def _checked(partial: Path, source: Path, report: Report | None) -> tuple[list[Check], int | None]:
    with closing(sqlite3.connect(partial, isolation_level=None)) as copy:
        version = migrations.version_of(copy, source)
        if version == 0:
            raise StoreRefusedError(f"{source} holds no store")
        if copy.execute("PRAGMA journal_mode").fetchone() == ("wal",):
            _require_whole_log(copy, partial, source)
        migrations.migrate(copy, version)  # the invariants are those of the newest version
        checks = verify.verify(copy, report)
        (newest_at_ms,) = copy.execute(
            "SELECT max((SELECT coalesce(max(created_at_ms), 0) FROM transfers), (SELECT max(created_at_ms) FROM accounts))"
        ).fetchone()
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, complete without a log beside it
    return checks, newest_at_ms or None


def _copy(source: Path, partial: Path, report: Report | None) -> None:
    """Copy a file with mode 0600 from the start: copying a large one takes a while."""
    created = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with source.open("rb") as read, os.fdopen(created, "wb") as written:
        total = os.fstat(read.fileno()).st_size
        while piece := read.read(_STEP_BYTES):
            written.write(piece)
            if report is not None:
                report(Progress("bytes copied", written.tell(), total))


def _require_whole_log(copy: sqlite3.Connection, partial: Path, source: Path) -> None:
    """Refuse a source whose log SQLite would silently skip: the restored books would be older than the backup."""
    try:
        damage.require_sound(copy, partial)
    except StoreRefusedError as error:
        raise StoreRefusedError(f"{source}, or its {source.name}-wal, is damaged; nothing was changed: name another backup") from error


def give_to_the_owner_of(path: Path, *files: Path) -> None:
    """Give files to the store's owner: otherwise a service could not open a store restored by root."""
    if os.geteuid() != 0:
        return
    owner = (path if path.exists() else path.parent).stat()
    for file in files:
        os.chown(file, owner.st_uid, owner.st_gid)


def _unused(path: Path, when: str) -> str:
    """Return the first of ``when``, ``when.2`` … that no earlier restore used."""
    names = (when, *(f"{when}.{number}" for number in range(2, 1000)))
    return next(name for name in names if not path.with_name(f"{path.name}{_KEPT}{name}").exists())


def _set_aside(file: Path, kept: Path) -> None:
    if not file.exists():
        return
    if kept.exists():
        raise StoreRefusedError(f"a restore was cut short, and both {file} and {kept} are there: move {file} away")
    file.rename(kept)


def sync(file: Path) -> None:
    """Make a file's content durable."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        lock = FileLock(path)
    except StoreLockedError as error:
        raise StoreLockedError(f"{error}: stop it first, nothing was changed") from None
    except OSError as error:
        raise StoreRefusedError(f"cannot restore to {path}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _unlinked_at_the_end(partial: Path) -> Iterator[None]:
    """Remove the unfinished copy, including one left by an earlier, killed command."""
    files = [partial.with_name(partial.name + suffix) for suffix in ("", *_COMPANIONS)]
    for file in files:
        file.unlink(missing_ok=True)
    try:
        yield
    finally:
        for file in files:
            with suppress(OSError):
                file.unlink(missing_ok=True)
