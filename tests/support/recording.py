"""A disk that records every write and sync in order, and a simulation of what a power failure may leave of them.

Rule of the simulated disk: writes before a sync of their file survive. Of later writes any part may survive, in any order; each sector
survives whole or not at all.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True)
class Write:
    file: str
    at: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    file: str
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    file: str


@dataclass(frozen=True, slots=True)
class Delete:
    file: str


@dataclass(frozen=True, slots=True)
class FolderSync:
    """A sync of the folder by the store itself. SQLite's own syncs of the folder do not pass through a VFS."""


Event = Write | Truncate | Sync | Delete | FolderSync


class RecordingDisk(apsw.VFS):
    """A VFS on top of the default one. `events` records all operations so far."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "")
        self.name = name
        self.events: list[Event] = []

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802  SQLite's own name
        return _File(self.events, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        super().xDelete(filename, syncdir)
        self.events.append(Delete(Path(filename).name))


class _File(apsw.VFSFile):
    def __init__(self, events: list[Event], name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._name = Path(path).name if path else "temporary"
        self._events = events

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        super().xWrite(data, offset)
        self._events.append(Write(self._name, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        super().xTruncate(newsize)
        self._events.append(Truncate(self._name, newsize))

    def xSync(self, flags: int) -> None:  # noqa: N802
        super().xSync(flags)
        self._events.append(Sync(self._name))


def left_by_a_lost_power(events: Sequence[Event], chance: random.Random) -> dict[str, bytearray]:
    """Return the files after these events and a power failure: all synced writes and some of the others."""
    synced_up_to = {event.file: index for index, event in enumerate(events) if isinstance(event, Sync)}
    files: dict[str, bytearray] = {}
    keeps = chance.choice((0.0, 0.5, 0.9, 1.0))
    for index, event in enumerate(events):
        if isinstance(event, Sync | FolderSync):
            continue
        if isinstance(event, Delete):
            if FolderSync() in events[index:] or chance.random() < keeps:
                files.pop(event.file, None)
            continue
        content = files.setdefault(event.file, bytearray())
        is_durable = index < synced_up_to.get(event.file, -1)
        if isinstance(event, Truncate):
            if is_durable or chance.random() < keeps:
                del content[event.size :]
            continue
        for begin in range(0, len(event.payload), SECTOR_BYTES):
            if is_durable or chance.random() < keeps:
                _put(content, event.at + begin, event.payload[begin : begin + SECTOR_BYTES])
    return files


def write_files(files: dict[str, bytearray], directory: Path) -> None:
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_bytes(content)


def _put(content: bytearray, at: int, piece: bytes) -> None:
    if len(content) < at:
        content.extend(bytes(at - len(content)))
    content[at : at + len(piece)] = piece


class Cursor:
    """A cursor like `sqlite3`'s, as far as the store uses it."""

    def __init__(self, rows: list[Any], rowcount: int) -> None:
        self._rows = iter(rows)
        self.rowcount = rowcount

    def fetchone(self) -> Any:
        return next(self._rows, None)

    def fetchall(self) -> list[Any]:
        return list(self._rows)

    def __iter__(self) -> Any:
        return self._rows


class Connection:
    """An apsw connection with the interface of `sqlite3`, so that the store's own functions run on it."""

    def __init__(self, path: Path, disk: str) -> None:
        self._connection = apsw.Connection(str(path), vfs=disk)

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Cursor:
        before = self._connection.total_changes()
        rows = list(self._connection.execute(statement, parameters))
        return Cursor(rows, self._connection.total_changes() - before)

    def executescript(self, script: str) -> None:
        list(self._connection.execute(script))

    def close(self) -> None:
        self._connection.close()
