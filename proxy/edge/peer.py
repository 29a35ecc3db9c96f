"""The interfaces by which a connection and the call on it know each other."""

import asyncio
from typing import Protocol


class Watcher(Protocol):
    """A relay to a client, told about the state of the client's connection."""

    def client_paused(self) -> None: ...

    def client_resumed(self) -> None: ...

    def client_lost(self) -> None: ...


class Client(Protocol):
    """A client's connection. It tells its `watcher` when it is paused, resumed or lost."""

    watcher: Watcher | None

    def is_lost(self) -> bool: ...

    @property
    def writing_paused(self) -> bool: ...

    @property
    def transport(self) -> asyncio.Transport | None: ...
