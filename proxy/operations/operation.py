"""What an operator can do, by name: parameters checked first, then one operation on the store, a JSON-able answer out.

The command line runs these itself or sends them to the admin listener of a running gateway: both are the same operations, with the
same answers. Amounts are decimal strings in yuan, times ISO-8601 in UTC.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias

import msgspec

from proxy.clock import Clock
from proxy.config.changes import Reloaded
from proxy.store.contract import Accounts, Books, Engine
from proxy.store.errors import StoreError
from proxy.store.progress import Report

Answer: TypeAlias = dict[str, Any]


class NotLiveError(StoreError):
    """A change was stored, but the running gateway could not take it over."""


class Reloader(Protocol):
    """Who puts a changed configuration in force. Both raise NotReloadedError."""

    async def reload(self) -> Reloaded: ...

    async def preview(self, candidate: Path | None = None) -> Reloaded: ...


class OperatedStore(Accounts, Books, Engine, Protocol):
    """The parts of a store that operations use."""


class Operator:
    """Where operations are carried out: the store, the clock, whom to tell of a change of accounts or keys, and who reloads."""

    def __init__(
        self,
        store: OperatedStore,
        clock: Clock,
        on_change: Callable[[], Awaitable[None]] | None = None,
        reloader: Reloader | None = None,
        report: Report | None = None,
    ) -> None:
        self.store = store
        self.clock = clock
        self.reloader = reloader
        self.report = report
        """Whom to tell how far a long operation has come."""
        self._on_change = on_change

    @property
    def serves(self) -> bool:
        """Whether a running gateway is operated, which has others to serve."""
        return self._on_change is not None

    async def changed(self) -> None:
        """Return once the running gateway, if there is one, acts on the change.

        Raises:
            NotLiveError: it could not read what was stored.
        """
        if self._on_change is None:
            return
        try:
            await self._on_change()
        except StoreError as error:
            raise NotLiveError(f"stored, but the running gateway could not take it over, restart it: {error}") from error


class Operation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One operation with its parameters, checked when it is made."""

    name: ClassVar[str]
    changes: ClassVar[bool] = False
    """Whether it writes to the store, and so is the business of the process that holds it."""

    async def run(self, operator: Operator) -> Answer:
        """Carry it out. Raises: StoreError, and as its refusals StoreRefusedError."""
        raise NotImplementedError
