"""Answers that their clients have not read yet: bounded in all and by key, since a stored answer can be asked for again for nothing."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

ALL_BYTES_MAX = 256 * 1024 * 1024
"""One key gets at most half."""


class Unread:
    """The answers of all connections that do not fit into their sockets."""

    def __init__(self) -> None:
        self._bytes: Counter[bytes | None] = Counter()

    @contextmanager
    def waiting(self, credential: bytes | None, size_bytes: int) -> Iterator[bool]:
        """Count one answer meanwhile; yield whether there is room for it.

        Args: credential: the SHA-256 of the key it was asked for with, if any.
        """
        has_room = self._bytes.total() + size_bytes <= ALL_BYTES_MAX and self._bytes[credential] + size_bytes <= ALL_BYTES_MAX // 2
        if has_room:
            self._bytes[credential] += size_bytes
        try:
            yield has_room
        finally:
            if has_room:
                self._bytes[credential] -= size_bytes
            if not self._bytes[credential]:
                del self._bytes[credential]
