"""``GET /account`` and ``GET /usage/{request_id}``: a customer's own balance and receipts."""

from proxy.billing.receipts import owner_receipt
from proxy.core.days import Zone, date_of
from proxy.core.errors import NotFoundError
from proxy.core.money import format_yuan
from proxy.edge.context import Context
from proxy.edge.response import Response
from proxy.store.contract import Accounts, Books


class AccountHandlers:
    def __init__(self, accounts: Accounts, books: Books, zone: Zone) -> None:
        self._accounts = accounts
        self._books = books
        self._zone = zone

    async def account(self, context: Context) -> Response:
        account = await self._accounts.account_by_id(context.account_id)
        return context.json(
            {
                "object": "account",
                "name": account.name,
                "balance": format_yuan(account.balance_nanos),
                "held": format_yuan(account.held_nanos),
                "available": format_yuan(account.available_nanos),
                "currency": "CNY",
            }
        )

    async def usage(self, context: Context) -> Response:
        """Answer with a request's receipt. Another account's is refused byte for byte as an unknown one."""
        found = await self._books.receipt(context.tail)
        if found is None:
            await self._refuse_folded(context)
        if found is None or found[1] != context.account_id:
            raise NotFoundError("There is no such request")
        return context.json(owner_receipt(found[0]))

    async def _refuse_folded(self, context: Context) -> None:
        """Refuse a request of this account's whose receipt is no longer kept. Raises: NotFoundError."""
        folded = await self._books.folded(context.tail)
        if folded is not None and folded.account_id == context.account_id:
            day, cost = date_of(self._zone.day(folded.day_ms)), format_yuan(folded.charge_nanos)
            refunded = f", of which {format_yuan(folded.refunded_nanos)} were given back" if folded.refunded_nanos else ""
            raise NotFoundError(f"The receipt of this request of {day} is no longer kept. It cost {cost} CNY{refunded}")
