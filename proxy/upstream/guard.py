"""Nothing is bought by a process that the others may have taken for dead: they release what it holds, and nobody would pay.

Where several processes write to one store, `LeaseGuard` looks immediately before each request that creates something is sent, once its
connection is there. Elsewhere none of this exists, and costs nothing.
"""

from collections.abc import Callable
from typing import Any, Protocol

import aiohttp
from aiohttp.connector import Connection as AiohttpConnection

from proxy.upstream.failures import UnconfirmedError
from proxy.upstream.http1.connection import Connection
from proxy.upstream.http1.pool import Pool, Upload
from proxy.upstream.tunnel import TunnelConnector

Guard = Callable[[], None]
"""Raises: UnconfirmedError."""


class Lease(Protocol):
    """What proves that this process lives."""

    @property
    def lease_seconds(self) -> float: ...

    @property
    def unconfirmed_seconds(self) -> float: ...


class LeaseGuard:
    """Refuses from half a lease on since this process was last known to live. ``lease`` None: the store is not open yet."""

    def __init__(self) -> None:
        self.lease: Lease | None = None

    def __call__(self) -> None:
        """Raises: UnconfirmedError."""
        lease = self.lease
        if lease is None:
            raise UnconfirmedError("nothing is bought before the store is open")
        unconfirmed = lease.unconfirmed_seconds
        if unconfirmed >= lease.lease_seconds / 2:
            raise UnconfirmedError(
                f"nothing is bought: the last sign of life that the database took is {unconfirmed:.1f} s old, "
                f"of a lease of {lease.lease_seconds:g} s"
            )


class GuardedPool(Pool):
    """A pool that asks the guard before it sends anything."""

    def __init__(self, *args: Any, guard: Guard, **options: Any) -> None:
        super().__init__(*args, **options)
        self._guard = guard

    def _kept(self) -> Connection | None:
        self._guard()
        return super()._kept()

    async def _dial_for(self, upload: Upload, body: bytes) -> Connection:
        connection = await super()._dial_for(upload, body)
        try:
            self._guard()
        except UnconfirmedError:
            connection.abort()
            raise
        return connection


class _Guarded(aiohttp.BaseConnector):
    """Asks the guard when a connection is there, and nothing is sent over it yet."""

    guard: Guard

    async def connect(self, *args: Any, **options: Any) -> AiohttpConnection:
        connection = await super().connect(*args, **options)
        try:
            self.guard()
        except UnconfirmedError:
            connection.close()
            raise
        return connection


class GuardedConnector(_Guarded, aiohttp.TCPConnector):
    pass


class GuardedTunnelConnector(_Guarded, TunnelConnector):
    pass
