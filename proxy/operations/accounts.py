"""Operations on accounts that exist: shown, limited, suspended, closed."""

from typing import ClassVar

from proxy.core.limits import LimitsChange
from proxy.operations import views
from proxy.operations.limits import LimitedOperation, Pausing, Resuming
from proxy.operations.operation import Answer, Operation, Operator
from proxy.operations.parameters import AccountName, discount


class AccountList(Operation, frozen=True, kw_only=True):
    """Show every account, its balance, state and limits."""

    name: ClassVar = "account.list"

    async def run(self, operator: Operator) -> Answer:
        accounts, now_ms = await operator.store.accounts(), operator.clock.now_ms()
        uses = await operator.store.key_use(now_ms, identity="")
        return {"accounts": [views.limited_account(account, uses, now_ms, operator.zone) for account in accounts]}


class AccountShow(Operation, frozen=True, kw_only=True):
    """Show an account, its state and limits, and its keys."""

    name: ClassVar = "account.show"
    account: AccountName

    async def run(self, operator: Operator) -> Answer:
        account = await operator.store.account(self.account)
        keys, now_ms = await operator.store.keys(self.account), operator.clock.now_ms()
        uses = await operator.store.key_use(now_ms, self.account)
        shown = views.limited_account(account, uses, now_ms, operator.zone)
        return shown | {"keys": views.keys(keys, uses, now_ms, operator.zone)}


class AccountClose(Operation, frozen=True, kw_only=True):
    """Close an account for good, revoke its keys, and erase what its customer wrote and got. Nothing is paid out."""

    name: ClassVar = "account.close"
    changes: ClassVar = True
    account: AccountName

    async def run(self, operator: Operator) -> Answer:
        await operator.store.close_account(self.account, operator.clock.now_ms())
        await operator.changed()
        return await _view(operator, self.account)


class AccountSet(LimitedOperation, frozen=True, kw_only=True):
    """Change limits of an account, and what it pays. Of its limits and those of a key the stricter counts."""

    name: ClassVar = "account.set"
    account: AccountName
    discount: str | None = None
    """What it pays of each price, from its next request on. None: as it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.discount is not None:
            discount("discount", self.discount)
        elif self.is_empty:
            raise ValueError("there is nothing to set: name a limit, or a discount")

    async def run(self, operator: Operator) -> Answer:
        change = self.change_now(operator)
        if self.discount is not None:
            await operator.store.set_discount(self.account, discount("discount", self.discount))
        return await _set_limits(operator, self.account, change)


class OfAccount(Operation, frozen=True, kw_only=True):
    """An operation that changes one account's limits."""

    account: AccountName

    async def set_limits(self, operator: Operator, change: LimitsChange) -> Answer:
        return await _set_limits(operator, self.account, change)


class AccountSuspend(OfAccount, Pausing, frozen=True, kw_only=True):
    """Refuse all calls of an account until it is resumed. What streams already goes on."""

    name: ClassVar = "account.suspend"


class AccountResume(OfAccount, Resuming, frozen=True, kw_only=True):
    """Let a suspended account call again."""

    name: ClassVar = "account.resume"


async def _set_limits(operator: Operator, account: str, change: LimitsChange) -> Answer:
    await operator.store.set_account_limits(account, change, operator.clock.now_ms())
    await operator.changed()
    return await _view(operator, account)


async def _view(operator: Operator, name: str) -> Answer:
    account, now_ms = await operator.store.account(name), operator.clock.now_ms()
    uses = await operator.store.key_use(now_ms, name, "")
    return views.limited_account(account, uses, now_ms, operator.zone)
