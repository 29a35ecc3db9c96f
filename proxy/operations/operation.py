"""The base of every operation: parameters are checked when it is made; it runs one step on the store and returns JSON.

The command line runs operations itself, or sends them to the admin listener of a running gateway: the answers are the same. Amounts
are decimal strings in yuan, times ISO-8601 in UTC; where a day begins, by the clock of `Operator.zone`.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias

import msgspec

from proxy.clock import Clock
from proxy.config.changes import Reloaded
from proxy.core.days import Zone
from proxy.store.contract import Accounts, Books, Engine
from proxy.store.errors import NotSeenError, StoreError
from proxy.store.progress import Report

Answer: TypeAlias = dict[str, Any]

MAY_BE_DONE = "the change may have been made, or may be yet"


class Operation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One operation with its parameters, checked when it is made."""

    name: ClassVar[str]
    changes: ClassVar[bool] = False
    """True if it writes to the store: only the process that has the store open may run it."""

    @property
    def is_repeatable(self) -> bool:
        """Return whether carrying it out twice does no more than once: a command then repeats it after a lost answer."""
        return True

    @property
    def doubt(self) -> str:
        """Return what an operator is told if its answer is lost: what may have happened, and what to do."""
        return f"{MAY_BE_DONE}: repeat it, which does no harm"

    async def run(self, operator: "Operator") -> Answer:
        """Carry it out. Raises: StoreError; as a refusal, StoreRefusedError."""
        raise NotImplementedError


class OperatedStore(Accounts, Books, Engine, Protocol):
    """The parts of a store that operations use."""


class Operator:
    """Has what operations need: store, clock and, inside a running gateway, what applies a change and what reloads."""

    def __init__(
        self,
        store: OperatedStore,
        clock: Clock,
        zone: Zone,
        on_change: Callable[[], Awaitable[None]] | None = None,
        reloader: "Reloader | None" = None,
        report: Report | None = None,
    ) -> None:
        """Make it.

        Args:
            zone: the ledger's, by which dates are read and shown.
            on_change: returns once every gateway acts on a change of accounts or keys; None: none runs.
            report: told a long operation's progress.
        """
        self.store = store
        self.clock = clock
        self.zone = zone
        self.reloader = reloader
        self.report = report
        self._on_change = on_change

    @property
    def is_serving(self) -> bool:
        """True where gateways may run beside it, so that long work must leave time for requests."""
        return self._on_change is not None

    async def changed(self) -> None:
        """Return once every running gateway acts on the change.

        Raises:
            NotLiveError: one could not read what was stored, or has not said that it has.
        """
        if self._on_change is None:
            return
        try:
            await self._on_change()
        except NotSeenError as error:
            raise NotLiveError(f"stored, but {error}") from error
        except StoreError as error:
            raise NotLiveError(f"stored, but the running gateway could not take it over, restart it: {error}") from error


class Reloader(Protocol):
    """Puts a changed configuration in force. Both methods raise NotReloadedError."""

    async def reload(self) -> Reloaded: ...

    async def preview(self, candidate: Path | None = None) -> Reloaded: ...


class NotLiveError(StoreError):
    """A change was stored, but the running gateway could not apply it."""
