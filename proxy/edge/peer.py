"""What a connection and the call that it carries know of one another."""

import asyncio
from typing import Protocol


class Watcher(Protocol):
    """Who relays to a client."""

    def client_paused(self) -> None: ...

    def client_resumed(self) -> None: ...

    def client_lost(self) -> None: ...


class Client(Protocol):
    """A client's connection, which tells its `watcher` when it cannot take more, can again, or is gone."""

    watcher: Watcher | None

    def is_lost(self) -> bool: ...

    @property
    def writing_paused(self) -> bool: ...

    @property
    def transport(self) -> asyncio.Transport | None: ...
