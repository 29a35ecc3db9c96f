"""A request's body on its way to an upstream."""

from collections.abc import Callable

from msgspec import Struct

REPEATABLE_BYTES_MAX = 256 * 1024
"""A longer body is sent once, over a new connection: kept for a second try it would cost memory for as long as the upstream thinks."""


class Upload(Struct, eq=False):
    """A body that the pool takes and lets go of as soon as no further try can need it, so that no caller keeps it alive."""

    body: bytes
    """Empty once the pool has taken it; there again where no connection could be made for it."""
    sent: Callable[[], None] | None = None
    """Called once a body too long to be repeated has left this process, or its connection is gone."""
    is_asked: bool = False
    """True once a connection was given the request: the upstream may have read it, whatever follows."""
