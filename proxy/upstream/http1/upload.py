"""A request's body on its way to an upstream."""

from collections.abc import Callable

REPEATABLE_BYTES_MAX = 256 * 1024
"""A longer body is sent once, over a new connection: kept for a second try it would cost memory for as long as the upstream thinks."""


class Upload:
    """A body that the pool takes and lets go of as soon as no further try can need it, so that no caller keeps it alive."""

    __slots__ = ("_body", "_let_go", "is_asked")

    def __init__(self, body: bytes, let_go: Callable[[], None] | None = None) -> None:
        """``let_go`` is called once the body is no longer kept: when it is sent, or with the answer's head where it may be repeated."""
        self._body = body
        self._let_go = let_go
        self.is_asked = False
        """True once a connection was given the request: the upstream may have read it, whatever follows."""

    def take(self) -> bytes:
        """Return the body, once."""
        body, self._body = self._body, b""
        return body

    def let_go(self) -> None:
        """Say that the body is no longer kept; only the first call counts."""
        let_go, self._let_go = self._let_go, None
        if let_go is not None:
            let_go()
