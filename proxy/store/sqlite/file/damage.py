"""Checks for damage before a file is opened to write: a missing log, unreadable commits in the log, broken pages.

SQLite treats the first two as a file that was closed cleanly, and silently continues with older books. The checks run only if the last
process did not close the file: a start after a clean end costs nothing more.
"""

import os
import sqlite3
import struct
import sys
from pathlib import Path

from proxy.store.errors import StoreRefusedError
from proxy.store.sqlite.file.migrations import RESTORE

CHECKED_BYTES_MAX = 256 * 1024 * 1024
"""A larger file is not checked page by page, which takes about a second for each 100 MB: `ledger verify` does it at any time."""

_HEADER = struct.Struct(">IIIIIIII")
"""A log's header: magic, version, page size, checkpoint, two salts, two sums (sqlite.org/fileformat2.html, 4.1)."""
_MAGIC = 0x377F0682
"""The last bit gives the word order of the sums: 1 is big-endian, 0 little-endian."""
_FRAME_HEAD_BYTES = 24
_LAST_FRAME_AT = 16
"""Offset in the index (``-shm``) of the number of the last readable frame (sqlite.org/walformat.html, 2.1)."""
_SUM_MASK = 0xFFFFFFFF


def require_log(path: Path) -> bool:
    """Return True if the last process left a log, that is, did not close the file.

    SQLite removes the index before the log: an index without a log means that somebody deleted the log.

    Raises: StoreRefusedError: the log is gone, and with it all commits since the last checkpoint.
    """
    log, index = _beside(path, "-wal"), _beside(path, "-shm")
    if index.exists() and not log.exists():
        raise StoreRefusedError(
            f"{log} is gone, though {path.name} was not closed, and with it the latest commits: put it back, or {RESTORE}; "
            f"to go on without them, move {index.name} away"
        )
    return log.exists() and log.stat().st_size > 0


def require_sound(connection: sqlite3.Connection, path: Path) -> None:
    """Check the log and the pages of a file that was not closed. The connection must have read from it already.

    Raises: StoreRefusedError.
    """
    if why := _unreadable(_beside(path, "-wal"), _beside(path, "-shm")):
        raise StoreRefusedError(f"{path}-wal is damaged, {why}: {RESTORE}; to go on without them, move it and {path.name}-shm away")
    if path.stat().st_size > CHECKED_BYTES_MAX:
        return
    (first, *_) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if first != "ok":
        raise StoreRefusedError(f"{path} is damaged ({first.splitlines()[-1]}): {RESTORE}")


def _unreadable(log: Path, index: Path) -> str:
    """Return a text about the part of a log that SQLite skipped, or nothing.

    One commit may follow the last readable frame: the one being written when the power failed. Of two, the first was durable before
    the second began, and its customers have been told.
    """
    if not log.exists() or not index.exists():  # a file that is not in WAL mode yet: SQLite has removed the log
        return ""
    with log.open("rb") as file, index.open("rb") as indexed:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return ""
        if not _is_sound(header):
            return "its head cannot be read, nor the commits in it"
        page_bytes = _HEADER.unpack(header)[2]
        last_frame = int.from_bytes(indexed.read(_LAST_FRAME_AT + 4)[_LAST_FRAME_AT:], sys.byteorder)
        commits = _commits_behind(
            file.fileno(), _HEADER.size + last_frame * (_FRAME_HEAD_BYTES + page_bytes), page_bytes, header[16:24]
        )
    return f"{commits} commits in it cannot be read" if commits > 1 else ""


def _commits_behind(descriptor: int, at: int, page_bytes: int, salts: bytes) -> int:
    """Count the last frames of transactions after an offset; frames with other salts are older than the log's last restart."""
    commits = 0
    while len(head := os.pread(descriptor, _FRAME_HEAD_BYTES, at)) == _FRAME_HEAD_BYTES:
        commits += head[8:16] == salts and head[4:8] != bytes(4)
        at += _FRAME_HEAD_BYTES + page_bytes
    return commits


def _is_sound(header: bytes) -> bool:
    magic, *_, sum_1, sum_2 = _HEADER.unpack(header)
    if magic & ~1 != _MAGIC:
        return False
    words = struct.unpack(">6I" if magic & 1 else "<6I", header[:24])
    one = two = 0
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & _SUM_MASK
        two = (two + second + one) & _SUM_MASK
    return (one, two) == (sum_1, sum_2)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)
