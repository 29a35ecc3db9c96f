"""What an operator can do, by name: parameters checked first, then one operation on the store, a JSON-able answer out.

The command line runs these itself or sends them to the admin listener of a running gateway: both are the same operations, with the
same answers. Amounts are decimal strings in yuan, times ISO-8601 in UTC.
"""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeAlias

import msgspec
from msgspec import Meta

from proxy import ids
from proxy.billing.folding import REST, fold
from proxy.clock import Clock, iso
from proxy.config.changes import NotReloadedError, Reloaded
from proxy.core.money import Nanos, parse_yuan
from proxy.core.retention import DAY_MS, REQUEST_DAYS_MAX, REQUEST_DAYS_MIN, keep_from_ms
from proxy.operations import views as operation_views
from proxy.operations.dates import parse_moment
from proxy.store.contract import Store
from proxy.store.errors import StoreError, StoreRefusedError
from proxy.store.progress import Report
from proxy.store.values import NewKey, UsageQuery

AccountName = Annotated[str, Meta(min_length=1, max_length=100)]
Label = Annotated[str, Meta(max_length=200)]
RequestDays = Annotated[int, Meta(ge=REQUEST_DAYS_MIN, le=REQUEST_DAYS_MAX)]
FOLD_SECONDS = 1.0
Answer: TypeAlias = dict[str, Any]


class ParameterError(ValueError):
    """The parameters of an operation are not what it takes: nothing was tried."""


class UnknownOperationError(ParameterError):
    """There is no operation of this name."""


class NotLiveError(StoreError):
    """A change was stored, but the running gateway could not take it over."""


class Reloader(Protocol):
    """Who puts a changed configuration in force. Both raise NotReloadedError."""

    async def reload(self) -> Reloaded: ...

    async def preview(self, candidate: Path | None = None) -> Reloaded: ...


class Operator:
    """Where operations are carried out: the store, the clock, whom to tell of a change of accounts or keys, and who reloads."""

    def __init__(
        self,
        store: Store,
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

    async def run(self, name: str, parameters: object) -> Answer:
        """Carry out an operation by name. Raises: ParameterError, StoreError."""
        return await prepare(name, parameters).run(self)

    @property
    def serves(self) -> bool:
        """Whether this is the desk of a running gateway, which has others to serve."""
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


class AccountCreate(Operation, frozen=True, kw_only=True):
    name: ClassVar = "account.create"
    changes: ClassVar = True
    account: AccountName
    credit: str = "0"

    def __post_init__(self) -> None:
        _check_label("account", self.account)
        if _yuan("credit", self.credit) < 0:
            raise ValueError("credit: a new account cannot begin in debt")

    async def run(self, operator: Operator) -> Answer:
        account = await operator.store.create_account(self.account, _yuan("credit", self.credit), operator.clock.now_ms())
        await operator.changed()
        return operation_views.account(account)


class AccountList(Operation, frozen=True, kw_only=True):
    name: ClassVar = "account.list"

    async def run(self, operator: Operator) -> Answer:
        return {"accounts": [operation_views.account(account) for account in await operator.store.accounts()]}


class AccountShow(Operation, frozen=True, kw_only=True):
    name: ClassVar = "account.show"
    account: AccountName

    async def run(self, operator: Operator) -> Answer:
        account = await operator.store.account(self.account)
        keys = await operator.store.keys(self.account)
        return operation_views.account(account) | {"keys": [operation_views.key(key) for key in keys]}


class AccountCredit(Operation, frozen=True, kw_only=True):
    """Book money in, or out again where the amount is negative, down to what is held by requests in flight."""

    name: ClassVar = "account.credit"
    changes: ClassVar = True
    account: AccountName
    amount: str
    note: Label = ""

    def __post_init__(self) -> None:
        if _yuan("amount", self.amount) == 0:
            raise ValueError("amount: there is nothing to book in 0")
        _check_label("note", self.note)

    async def run(self, operator: Operator) -> Answer:
        account = await operator.store.credit_account(self.account, _yuan("amount", self.amount), self.note, operator.clock.now_ms())
        return operation_views.account(account)


class KeyCreate(Operation, frozen=True, kw_only=True):
    """Make a key. Its secret is in the answer and nowhere else."""

    name: ClassVar = "key.create"
    changes: ClassVar = True
    account: AccountName
    label: Label = ""

    def __post_init__(self) -> None:
        _check_label("label", self.label)

    async def run(self, operator: Operator) -> Answer:
        secret = ids.new_secret()
        new = NewKey(ids.key_id(), self.label, secret.prefix, secret.sha256, operator.clock.now_ms())
        key = await operator.store.create_key(self.account, new)
        await operator.changed()
        return {"id": key.id, "key": secret.text, "account": key.account, "name": key.name}


class KeyList(Operation, frozen=True, kw_only=True):
    name: ClassVar = "key.list"
    account: AccountName | None = None

    async def run(self, operator: Operator) -> Answer:
        return {"keys": [operation_views.key(key) for key in await operator.store.keys(self.account)]}


class KeyRevoke(Operation, frozen=True, kw_only=True):
    name: ClassVar = "key.revoke"
    changes: ClassVar = True
    id: Annotated[str, Meta(min_length=1, max_length=100)]

    async def run(self, operator: Operator) -> Answer:
        key = await operator.store.revoke_key(self.id, operator.clock.now_ms())
        await operator.changed()
        return operation_views.key(key)


class Usage(Operation, frozen=True, kw_only=True):
    """Sum what was settled. `since` and `until` are moments (see `parse_moment`), the second exclusive."""

    name: ClassVar = "usage"
    by: Literal["model", "key", "day"] = "model"
    account: AccountName | None = None
    since: str | None = None
    until: str | None = None

    def __post_init__(self) -> None:
        _moment("since", self.since, now_ms=0)
        _moment("until", self.until, now_ms=0)

    async def run(self, operator: Operator) -> Answer:
        now_ms = operator.clock.now_ms()
        since_ms, until_ms = _moment("since", self.since, now_ms), _moment("until", self.until, now_ms)
        if since_ms is not None and until_ms is not None and since_ms > until_ms:  # an age and a date can be compared only now
            raise ParameterError("since: is after until")
        query = UsageQuery(self.by, self.account, since_ms, until_ms)
        folded = [at_ms for at_ms in (since_ms, until_ms) if at_ms and at_ms % DAY_MS and await operator.store.has_daily_sums(at_ms)]
        return operation_views.usage(query, await operator.store.usage(query), folded)


class ShowReceipt(Operation, frozen=True, kw_only=True):
    name: ClassVar = "receipt"
    id: Annotated[str, Meta(min_length=1, max_length=200)]

    async def run(self, operator: Operator) -> Answer:
        found = await operator.store.receipt(self.id)
        if found is None:
            folded = await operator.store.folded(self.id)
            raise StoreRefusedError(f"there is no request {self.id}" if folded is None else operation_views.folded(folded))
        return operation_views.receipt(found[0])


class LedgerVerify(Operation, frozen=True, kw_only=True):
    name: ClassVar = "ledger.verify"

    async def run(self, operator: Operator) -> Answer:
        return operation_views.checks(await operator.store.verify(operator.report))


class Backup(Operation, frozen=True, kw_only=True):
    name: ClassVar = "backup"
    destination: Annotated[str, Meta(min_length=1, max_length=4096)]

    def __post_init__(self) -> None:
        _check_path("destination", self.destination)

    async def run(self, operator: Operator) -> Answer:
        checks = await operator.store.backup(Path(self.destination), operator.report)
        return {"destination": self.destination} | operation_views.checks(checks)


class Reload(Operation, frozen=True, kw_only=True):
    """Put the configuration in force as it is now, or with ``preview`` only tell what that would change.

    ``file`` is looked at as if it stood in the place of the gateway's own, in a preview alone.
    """

    name: ClassVar = "reload"
    preview: bool = False
    file: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None

    def __post_init__(self) -> None:
        if self.file is not None:
            _check_path("file", self.file)
            if not self.preview:
                raise ValueError("file: a gateway reloads its own file; another can only be previewed")

    async def run(self, operator: Operator) -> Answer:
        if operator.reloader is None:
            raise StoreRefusedError("no gateway runs here that could reload")
        candidate = None if self.file is None else Path(self.file)
        try:
            reloaded = await (operator.reloader.preview(candidate) if self.preview else operator.reloader.reload())
        except NotReloadedError as fault:
            prefix = "a reload would be refused" if self.preview else "not reloaded, nothing has changed"
            raise StoreRefusedError(f"{prefix}:\n{fault}") from None
        return reloaded.view()


class RetentionLook(Operation, frozen=True, kw_only=True):
    """Count the requests that are older than so many days."""

    name: ClassVar = "retention.look"
    days: RequestDays

    async def run(self, operator: Operator) -> Answer:
        before_ms = keep_from_ms(operator.clock.now_ms(), self.days)
        counts = await operator.store.old_requests(before_ms)
        return {"kept_from_at": iso(before_ms), "accounts": len(counts), "requests": sum(counts.values())}


class RetentionFold(Operation, frozen=True, kw_only=True):
    """Fold some of them, for `FOLD_SECONDS` at most: whoever asks asks again until it is done, and sees how far it has come."""

    name: ClassVar = "retention.fold"
    changes: ClassVar = True
    days: RequestDays

    async def run(self, operator: Operator) -> Answer:
        before_ms = keep_from_ms(operator.clock.now_ms(), self.days)
        folded, is_done = await fold(operator.store, before_ms, FOLD_SECONDS, rest=REST if operator.serves else 0.0)
        return {"kept_from_at": iso(before_ms), "folded": folded, "done": is_done}


OPERATIONS: Mapping[str, type[Operation]] = {
    operation.name: operation
    for operation in (
        AccountCreate,
        AccountList,
        AccountShow,
        AccountCredit,
        KeyCreate,
        KeyList,
        KeyRevoke,
        Usage,
        ShowReceipt,
        LedgerVerify,
        Backup,
        Reload,
        RetentionLook,
        RetentionFold,
    )
}


def prepare(name: str, parameters: object) -> Operation:
    """Return the operation of this name with its parameters, a JSON object.

    Raises:
        ParameterError: no such operation, or a parameter that it does not take; the text names it.
    """
    operation = OPERATIONS.get(name)
    if operation is None:
        raise UnknownOperationError(f"there is no operation {name!r}: there are {', '.join(OPERATIONS)}")
    try:
        return msgspec.convert(parameters, type=operation)
    except msgspec.ValidationError as error:
        raise ParameterError(str(error).replace(" - at `$.", " - at `")) from None


def _yuan(parameter: str, amount: str) -> Nanos:
    try:
        return parse_yuan(amount)
    except ValueError as error:
        raise ValueError(f"{parameter}: {error}") from None


def _moment(parameter: str, text: str | None, now_ms: int) -> int | None:
    try:
        return None if text is None else parse_moment(text, now_ms)
    except ValueError as error:
        raise ValueError(f"{parameter}: {error}") from None


def _check_path(parameter: str, text: str) -> None:
    if "\0" in text or not Path(text).is_absolute():
        raise ValueError(f"{parameter}: must be an absolute path")


def _check_label(parameter: str, text: str) -> None:
    if not all(char.isprintable() for char in text):
        raise ValueError(f"{parameter}: must have no control characters")
