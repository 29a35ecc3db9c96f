"""Operations on accounts and keys."""

from typing import Annotated, ClassVar

from msgspec import Meta

from proxy import ids
from proxy.operations import views
from proxy.operations.operation import Answer, Operation, Operator
from proxy.operations.parameters import AccountName, Label, check_label, yuan
from proxy.store.values import NewKey


class AccountCreate(Operation, frozen=True, kw_only=True):
    """Create an account, with an opening credit if one is given."""

    name: ClassVar = "account.create"
    changes: ClassVar = True
    account: AccountName
    credit: str = "0"

    def __post_init__(self) -> None:
        check_label("account", self.account)
        if yuan("credit", self.credit) < 0:
            raise ValueError("credit: a new account cannot begin in debt")

    async def run(self, operator: Operator) -> Answer:
        account = await operator.store.create_account(self.account, yuan("credit", self.credit), operator.clock.now_ms())
        await operator.changed()
        return views.account(account)


class AccountList(Operation, frozen=True, kw_only=True):
    """Show every account and its balance."""

    name: ClassVar = "account.list"

    async def run(self, operator: Operator) -> Answer:
        return {"accounts": [views.account(account) for account in await operator.store.accounts()]}


class AccountShow(Operation, frozen=True, kw_only=True):
    """Show an account and its keys."""

    name: ClassVar = "account.show"
    account: AccountName

    async def run(self, operator: Operator) -> Answer:
        account = await operator.store.account(self.account)
        keys = await operator.store.keys(self.account)
        return views.account(account) | {"keys": [views.key(key) for key in keys]}


class AccountCredit(Operation, frozen=True, kw_only=True):
    """Credit an account, or debit it if the amount is negative, down to what requests in flight hold."""

    name: ClassVar = "account.credit"
    changes: ClassVar = True
    account: AccountName
    amount: str
    note: Label = ""

    def __post_init__(self) -> None:
        if yuan("amount", self.amount) == 0:
            raise ValueError("amount: there is nothing to book in 0")
        check_label("note", self.note)

    async def run(self, operator: Operator) -> Answer:
        account = await operator.store.credit_account(self.account, yuan("amount", self.amount), self.note, operator.clock.now_ms())
        return views.account(account)


class KeyCreate(Operation, frozen=True, kw_only=True):
    """Make a key. Its secret is in the answer and nowhere else."""

    name: ClassVar = "key.create"
    changes: ClassVar = True
    account: AccountName
    label: Label = ""

    def __post_init__(self) -> None:
        check_label("label", self.label)

    async def run(self, operator: Operator) -> Answer:
        secret = ids.new_secret()
        new = NewKey(ids.key_id(), self.label, secret.prefix, secret.sha256, operator.clock.now_ms())
        key = await operator.store.create_key(self.account, new)
        await operator.changed()
        return {"id": key.id, "key": secret.text, "account": key.account, "name": key.name}


class KeyList(Operation, frozen=True, kw_only=True):
    """Show the keys of an account, or of all."""

    name: ClassVar = "key.list"
    account: AccountName | None = None

    async def run(self, operator: Operator) -> Answer:
        return {"keys": [views.key(key) for key in await operator.store.keys(self.account)]}


class KeyRevoke(Operation, frozen=True, kw_only=True):
    """Revoke a key for good. The gateway refuses it from the next request on."""

    name: ClassVar = "key.revoke"
    changes: ClassVar = True
    id: Annotated[str, Meta(min_length=1, max_length=100)]

    async def run(self, operator: Operator) -> Answer:
        key = await operator.store.revoke_key(self.id, operator.clock.now_ms())
        await operator.changed()
        return views.key(key)
