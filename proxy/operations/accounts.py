"""Operations on accounts and keys."""

import shlex
from typing import Annotated, ClassVar

from msgspec import Meta

from proxy import ids
from proxy.core.limits import NO_LIMITS, LimitsChange
from proxy.operations import views
from proxy.operations.limits import LimitedOperation
from proxy.operations.operation import MAY_BE_DONE, Answer, Operation, Operator
from proxy.operations.parameters import (
    AccountName,
    KeyId,
    KeySecret,
    Label,
    ReferenceText,
    check_label,
    check_reference,
    discount,
    yuan,
)
from proxy.store.errors import AccountExistsError
from proxy.store.values import Booking, NewKey, Reference

SOURCE = "cli"
"""Source of the references of all that operators book."""


class AccountCreate(Operation, frozen=True, kw_only=True):
    """Create an account, with an opening credit if one is given."""

    name: ClassVar = "account.create"
    changes: ClassVar = True
    account: AccountName
    credit: str = "0"
    reference: ReferenceText = ""
    """Name of the opening. The same account and credit under it are a repeat, not another opening. Empty: one is made up."""

    def __post_init__(self) -> None:
        check_label("account", self.account)
        check_reference("reference", self.reference)
        if yuan("credit", self.credit) < 0:
            raise ValueError("credit: a new account cannot begin in debt")

    @property
    def is_repeatable(self) -> bool:
        return bool(self.reference)

    @property
    def doubt(self) -> str:
        return _doubt(self.reference)

    async def run(self, operator: Operator) -> Answer:
        now_ms = operator.clock.now_ms()
        reference = _reference(self.reference, now_ms)
        try:
            account = await operator.store.create_account(self.account, yuan("credit", self.credit), now_ms, reference)
        except AccountExistsError as error:
            if error.repeated is None:
                raise
            booking = error.repeated
        else:
            booking = Booking(account, is_new=True, booked_at_ms=now_ms)
        await operator.changed()
        return views.booking(booking, reference.text)


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
        keys, now_ms = await operator.store.keys(self.account), operator.clock.now_ms()
        uses = await operator.store.key_use(now_ms, self.account)
        its = [use for use in uses if not use.identity]
        shown = views.account(account) | views.limits(account.limits, its, operator.zone)
        return shown | {"keys": views.keys(keys, uses, now_ms, operator.zone)}


class AccountCredit(Operation, frozen=True, kw_only=True):
    """Credit an account, or debit it if the amount is negative, down to what requests in flight hold."""

    name: ClassVar = "account.credit"
    changes: ClassVar = True
    account: AccountName
    amount: str
    note: Label = ""
    reference: ReferenceText = ""
    """Name of the payment, which is booked once for ever. Empty: one is made up, and a repeat is another payment."""

    def __post_init__(self) -> None:
        if yuan("amount", self.amount) == 0:
            raise ValueError("amount: there is nothing to book in 0")
        check_label("note", self.note)
        check_reference("reference", self.reference)

    @property
    def is_repeatable(self) -> bool:
        return bool(self.reference)

    @property
    def doubt(self) -> str:
        return _doubt(self.reference)

    async def run(self, operator: Operator) -> Answer:
        now_ms = operator.clock.now_ms()
        reference = _reference(self.reference, now_ms)
        booking = await operator.store.credit_account(self.account, yuan("amount", self.amount), self.note, now_ms, reference)
        return views.booking(booking, reference.text)


class RequestRefund(Operation, frozen=True, kw_only=True):
    """Give back a part of what a request cost, or all that is left of it."""

    name: ClassVar = "request.refund"
    changes: ClassVar = True
    request: Annotated[str, Meta(min_length=1, max_length=200)]
    amount: str | None = None
    """None: all that has not been given back."""
    account: AccountName | None = None
    """Whose request it has to be."""
    note: Label = ""
    reference: ReferenceText = ""
    """Name of the payment, which is booked once for ever. Empty: one is made up, and a repeat is another payment."""

    def __post_init__(self) -> None:
        if self.amount is not None and yuan("amount", self.amount) <= 0:
            raise ValueError("amount: only an amount above 0 can be given back")
        check_label("note", self.note)
        check_reference("reference", self.reference)

    @property
    def is_repeatable(self) -> bool:
        return bool(self.reference)

    @property
    def doubt(self) -> str:
        return _doubt(self.reference, look="receipt")

    async def run(self, operator: Operator) -> Answer:
        now_ms = operator.clock.now_ms()
        reference = _reference(self.reference, now_ms)
        amount = None if self.amount is None else yuan("amount", self.amount)
        booking = await operator.store.refund_request(self.request, amount, self.note, now_ms, reference, self.account)
        return views.booking(booking, reference.text) | {"request": self.request}


class AccountClose(Operation, frozen=True, kw_only=True):
    """Close an account for good, revoke its keys, and erase what its customer wrote and got. Nothing is paid out."""

    name: ClassVar = "account.close"
    changes: ClassVar = True
    account: AccountName

    async def run(self, operator: Operator) -> Answer:
        account = await operator.store.close_account(self.account, operator.clock.now_ms())
        await operator.changed()
        return views.account(account)


class AccountSet(LimitedOperation, frozen=True, kw_only=True):
    """Change limits of an account, and what it pays. Of its limits and those of a key the stricter counts."""

    name: ClassVar = "account.set"
    changes: ClassVar = True
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
        return await _set(operator, self.account, change)


class AccountSuspend(Operation, frozen=True, kw_only=True):
    """Refuse all calls of an account until it is resumed. What streams already goes on."""

    name: ClassVar = "account.suspend"
    changes: ClassVar = True
    account: AccountName

    async def run(self, operator: Operator) -> Answer:
        return await _set(operator, self.account, LimitsChange(paused_at_ms=operator.clock.now_ms()))


class AccountResume(Operation, frozen=True, kw_only=True):
    """Let a suspended account call again."""

    name: ClassVar = "account.resume"
    changes: ClassVar = True
    account: AccountName

    async def run(self, operator: Operator) -> Answer:
        return await _set(operator, self.account, LimitsChange(paused_at_ms=None))


class KeyCreate(LimitedOperation, frozen=True, kw_only=True):
    """Make a key. Its secret is in the answer and nowhere else."""

    name: ClassVar = "key.create"
    changes: ClassVar = True
    account: AccountName
    label: Label = ""
    id: KeyId = ""
    secret: KeySecret = ""
    """Id and secret that the caller has drawn, so that it can ask again for this very key. Empty: both are drawn here."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_label("label", self.label)
        if bool(self.id) != bool(self.secret):
            raise ValueError("id: goes with a secret, and a secret with an id")

    @property
    def is_repeatable(self) -> bool:
        return bool(self.id)

    @property
    def doubt(self) -> str:
        key = self.id or "ID"
        return (
            f"{MAY_BE_DONE}, and nobody has the key's secret: look with `llm-proxy key list`, revoke it with "
            f"`llm-proxy key revoke {key}`, and make another"
        )

    async def run(self, operator: Operator) -> Answer:
        secret = ids.secret_from(self.secret) if self.secret else ids.new_secret()
        now_ms = operator.clock.now_ms()
        limits = self.change_now(operator).of(NO_LIMITS)
        new = NewKey(self.id or ids.key_id(), self.label, secret.prefix, secret.sha256, now_ms, limits)
        key = await operator.store.create_key(self.account, new)
        await operator.changed()
        return {"id": key.id, "key": secret.text, "account": key.account, "name": key.name}


async def _set(operator: Operator, account: str, change: LimitsChange) -> Answer:
    now_ms = operator.clock.now_ms()
    changed = await operator.store.set_account_limits(account, change, now_ms)
    await operator.changed()
    uses = await operator.store.key_use(now_ms, account, "")
    return views.account(changed) | views.limits(changed.limits, uses, operator.zone)


def _reference(text: str, now_ms: int) -> Reference:
    return Reference(SOURCE, text or ids.payment_reference(now_ms))


def _doubt(reference: str, look: str = "account show") -> str:
    if not reference:
        return f"{MAY_BE_DONE}: look with `llm-proxy {look}` before you repeat it"
    return f"{MAY_BE_DONE}: repeat it with --reference {shlex.quote(reference)}, under which it is booked once"
