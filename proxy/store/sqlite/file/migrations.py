"""The file's identity and version: checked before anything is written, then updated by numbered SQL files."""

import os
import sqlite3
from importlib import resources
from pathlib import Path

from proxy.store import moves
from proxy.store.errors import StoreRefusedError, StoreVersionError
from proxy.store.moves import MARKED
from proxy.store.sqlite.file import marks

APPLICATION_ID = int.from_bytes(b"LMPP", "big")
"""Set by the first migration; it distinguishes our file from another program's."""

FIRST_PAGE_BYTES = 4096

LOG_BYTES_KEPT = 67_108_864

RESTORE = "restore from a backup: llm-proxy restore BACKUP"
"""Advice for a damaged file."""


def scripts() -> list[str]:
    """Return the migrations in order; script n leads to version n. They are package data, so a wheel includes them."""
    folder = resources.files("proxy.store.sqlite").joinpath("schema")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    for number, file in enumerate(files, start=1):
        if not file.name.startswith(f"{number:04d}_"):
            raise RuntimeError(f"migration {number} is missing or out of order: {file.name}")
    return [file.read_text("utf-8") for file in files]


def create_file(path: Path) -> None:
    """Create an empty file with mode 0600, unless it exists; SQLite's -wal and -shm take its mode."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    except OSError as error:
        raise StoreRefusedError(f"cannot create {path}: {error.strerror}") from error
    os.close(descriptor)
    sync_folder(path.parent)


def require_file(path: Path) -> None:
    """Check that the file exists. Raises: StoreRefusedError, with a clearer text than SQLite's."""
    if not path.is_file():
        raise StoreRefusedError(f"there is no store at {path}")


def sync_folder(folder: Path) -> None:
    """Make a new or renamed name durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def version_of(connection: sqlite3.Connection, path: Path, *, is_of_move: bool = False) -> int:
    """Return the file's version, 0 for an empty one; nothing is written.

    Args: is_of_move: whoever asks moves the file's ledger, and goes by its marks.

    Raises: StoreMovedError, StoreVersionError, or StoreRefusedError if the file is another program's or no database.
    """
    try:
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (objects,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorname == "SQLITE_NOTADB":
            raise StoreRefusedError(f"{path} is not an SQLite database: if it was the store, {RESTORE}") from error
        raise
    if application_id == APPLICATION_ID:
        if version >= MARKED:
            version %= MARKED
            if version <= len(scripts()) and not is_of_move and (move := marks.mark(connection)) is not None:
                raise moves.refusal(str(path), move)
        if version > len(scripts()):
            raise StoreVersionError(f"{path} has version {version}, this program knows up to {len(scripts())}: update the program")
        return int(version)
    if application_id or version or objects:
        raise StoreRefusedError(f"{path} is an SQLite database of another program")
    return 0


def was_cut_while_made(path: Path, error: sqlite3.OperationalError) -> bool:
    """Return True if a file cannot be read because a process ended during the first write to it: it is still empty.

    Switching an empty file to WAL writes one page and its journal, which only a connection that may write can undo.
    """
    return error.sqlite_errorname == "SQLITE_READONLY_ROLLBACK" and path.stat().st_size <= FIRST_PAGE_BYTES


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Set the file's modes and bring it from `version` to the newest, each step one transaction."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    (stored,) = connection.execute("PRAGMA user_version").fetchone()
    for number, script in enumerate(scripts()[version:], start=stored - stored % MARKED + version + 1):  # a mark stays
        try:
            connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    # Off until here, as a migration that rebuilds a table needs it; a no-op inside a transaction.
    connection.execute("PRAGMA foreign_keys = ON")
    # The writer checkpoints by hand: SQLite's automatic checkpoint hides its errors, a failed fsync among them.
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    # A log that grew during a long read is truncated to this size when it restarts.
    connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES_KEPT}").fetchall()
