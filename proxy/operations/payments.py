"""Operations that book money: an opening, a credit, a refund. Each is booked once for its reference, however often it is asked for."""

import shlex
from typing import Annotated, ClassVar

from msgspec import Meta

from proxy import ids
from proxy.operations import views
from proxy.operations.operation import MAY_BE_DONE, Answer, Operation, Operator
from proxy.operations.parameters import AccountName, Label, ReferenceText, check_label, check_reference, yuan
from proxy.store.errors import AccountExistsError
from proxy.store.values import Booking, Reference

SOURCE = "cli"
"""Source of the references of all that operators book."""


class Payment(Operation, frozen=True, kw_only=True):
    """An operation that books money under a reference."""

    changes: ClassVar = True
    look: ClassVar[str] = "account show"
    """Command that shows whether it was booked."""
    reference: ReferenceText = ""
    """Name of the payment, which is booked once for ever. Empty: one is made up, and a repeat is another payment."""

    def __post_init__(self) -> None:
        check_reference("reference", self.reference)

    @property
    def is_repeatable(self) -> bool:
        return bool(self.reference)

    @property
    def doubt(self) -> str:
        if not self.reference:
            return f"{MAY_BE_DONE}: look with `llm-proxy {self.look}` before you repeat it"
        return f"{MAY_BE_DONE}: repeat it with --reference {shlex.quote(self.reference)}, under which it is booked once"

    def referred_to(self, now_ms: int) -> Reference:
        """Return the reference that it is booked under."""
        return Reference(SOURCE, self.reference or ids.payment_reference(now_ms))


class AccountCreate(Payment, frozen=True, kw_only=True):
    """Create an account, with an opening credit if one is given."""

    name: ClassVar = "account.create"
    account: AccountName
    credit: str = "0"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_label("account", self.account)
        if yuan("credit", self.credit) < 0:
            raise ValueError("credit: a new account cannot begin in debt")

    async def run(self, operator: Operator) -> Answer:
        now_ms = operator.clock.now_ms()
        reference = self.referred_to(now_ms)
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


class AccountCredit(Payment, frozen=True, kw_only=True):
    """Credit an account, or debit it if the amount is negative, down to what requests in flight hold."""

    name: ClassVar = "account.credit"
    account: AccountName
    amount: str
    note: Label = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if yuan("amount", self.amount) == 0:
            raise ValueError("amount: there is nothing to book in 0")
        check_label("note", self.note)

    async def run(self, operator: Operator) -> Answer:
        now_ms = operator.clock.now_ms()
        reference = self.referred_to(now_ms)
        booking = await operator.store.credit_account(self.account, yuan("amount", self.amount), self.note, now_ms, reference)
        return views.booking(booking, reference.text)


class RequestRefund(Payment, frozen=True, kw_only=True):
    """Give back a part of what a request cost, or all that is left of it."""

    name: ClassVar = "request.refund"
    look: ClassVar = "receipt"
    request: Annotated[str, Meta(min_length=1, max_length=200)]
    amount: str | None = None
    """None: all that has not been given back."""
    account: AccountName | None = None
    """Whose request it has to be."""
    note: Label = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.amount is not None and yuan("amount", self.amount) <= 0:
            raise ValueError("amount: only an amount above 0 can be given back")
        check_label("note", self.note)

    async def run(self, operator: Operator) -> Answer:
        now_ms = operator.clock.now_ms()
        reference = self.referred_to(now_ms)
        amount = None if self.amount is None else yuan("amount", self.amount)
        booking = await operator.store.refund_request(self.request, amount, self.note, now_ms, reference, self.account)
        return views.booking(booking, reference.text) | {"request": self.request}
