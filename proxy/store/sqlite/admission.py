"""Decides if new paid work is accepted: not while the disk may lack room for open settlements, nor while a commit is stuck.

If a hold fits on the disk but its settlement does not, the customer waits for an answer that may not be sent. So some room is reserved
for settlements, and no new work is accepted while a settlement waits for the disk.
"""

import asyncio
import logging
import os
from pathlib import Path
from typing import Protocol

logger = logging.getLogger(__name__)

RESERVE_BYTES = 32 * 2**20
"""Free bytes reserved for settlements. One takes 28 KiB of log if committed alone, 0.5 KiB in a full batch; the log is checkpointed,
and reused, at about 4 MiB."""
LOOK_SECONDS = 1.0
STILL_SECONDS = 5.0
"""A commit that takes longer is stuck: its thread gets no CPU, or its disk hangs. Later calls are refused, to be sent elsewhere."""


class Committing(Protocol):
    """The component that commits."""

    def seconds_under_way(self) -> float:
        """Return how long the current commit has taken so far, or 0."""

    def shed(self, refusal: str) -> None:
        """Refuse the new paid work that waits behind the current commit."""


class Admission:
    """Checks the file system every `LOOK_SECONDS`, on the loop: 2 µs each time, and none a request. `close` it at the end."""

    __slots__ = ("_committing", "_due_at", "_folder", "_handle", "_loop", "_owed", "_shortage", "refusal")

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._committing: Committing | None = None
        self._due_at = self._loop.time()
        self._shortage = ""
        self._owed: set[str] = set()
        self.refusal = ""
        """The reason why new work is refused; empty while it is accepted."""
        self._look()

    @property
    def is_owed(self) -> bool:
        """True while a failed settlement has not been written since."""
        return bool(self._owed)

    def watch(self, committing: Committing) -> None:
        self._committing = committing

    def owe(self, request_id: str) -> None:
        """Note a settlement that the disk refused."""
        self._owed.add(request_id)
        self._decide()

    def paid(self, request_id: str) -> None:
        """Note that a settlement was written, or never will be."""
        self._owed.discard(request_id)
        self._decide()

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _look(self) -> None:
        self._shortage = self._standstill() or _shortage(self._folder)
        self._decide()
        self._due_at = self._loop.time() + LOOK_SECONDS
        self._handle = self._loop.call_at(self._due_at, self._look)

    def _standstill(self) -> str:
        """Return a refusal if a commit is stuck; not if the loop itself was, as it has yet to hear from the thread."""
        is_late = self._loop.time() - self._due_at > LOOK_SECONDS
        if is_late or self._committing is None or (seconds := self._committing.seconds_under_way()) < STILL_SECONDS:
            return ""
        refusal = f"a commit has not ended for {seconds:.0f} s"
        self._committing.shed(refusal)
        return refusal

    def _decide(self) -> None:
        refusal = self._shortage or (f"{len(self._owed)} settlements wait for the disk" if self._owed else "")
        if refusal and not self.refusal:
            logger.error("paid calls are refused: %s", refusal)
        elif self.refusal and not refusal:
            logger.warning("paid calls are taken again")
        self.refusal = refusal


def _shortage(folder: Path) -> str:
    """Return a refusal if the file system is full or read-only, else ``""``; if it cannot be asked, a write will tell."""
    try:
        room = os.statvfs(folder)
    except OSError:
        return ""
    if room.f_flag & os.ST_RDONLY:
        return f"the file system of {folder} is read-only"
    free = room.f_bavail * room.f_frsize
    if room.f_blocks and free < RESERVE_BYTES:
        return f"{free >> 20} MiB are free in {folder}, and {RESERVE_BYTES >> 20} MiB are kept for settlements"
    return ""
