"""``GET /account`` and ``GET /usage/{request_id}``: a customer's own balance, limits and receipts."""

from proxy.billing.own_limits import told_limits
from proxy.billing.receipts import owner_receipt
from proxy.clock import Clock, iso
from proxy.core.days import Zone, date_of
from proxy.core.errors import NotFoundError
from proxy.core.money import format_yuan
from proxy.edge.context import Context
from proxy.edge.response import Response
from proxy.store.contract import Accounts, Books


class AccountHandlers:
    def __init__(self, accounts: Accounts, books: Books, clock: Clock, zone: Zone) -> None:
        self._accounts = accounts
        self._books = books
        self._clock = clock
        self._zone = zone

    async def account(self, context: Context) -> Response:
        """Answer with the account's balance and, as far as there are any, with its limits and those of the key that asks."""
        account = await self._accounts.account_by_id(context.account_id)
        return context.json(
            {
                "object": "account",
                "name": account.name,
                "balance": format_yuan(account.balance_nanos),
                "held": format_yuan(account.held_nanos),
                "available": format_yuan(account.available_nanos),
                "currency": "CNY",
                **await self._bounds(context),
            }
        )

    async def _bounds(self, context: Context) -> dict[str, object]:
        """Return ``key`` and ``limits``: what bounds the key, and what bounds the account."""
        grant, bounds = context.grant, context.bounds
        assert grant is not None
        spent = {}
        if bounds is not None and (bounds.limits.spend or bounds.account_limits.spend):
            spent = {use.identity: use for use in await self._accounts.key_use(context.received_at_ms, grant.account_name)}
        now_ms, now = context.received_at_ms, self._clock.monotonic()
        told = {
            whose: [] if bounds is None else told_limits(bounds, whose, spent.get(identity), zone=self._zone, now_ms=now_ms, now=now)
            for whose, identity in (("key", grant.identity), ("account", ""))
        }
        key = None
        if grant.key_id:
            ends_at_ms = None if bounds is None else bounds.ends_at_ms
            key = {
                "id": grant.key_id,
                "name": grant.key_name,
                "expires_at": None if ends_at_ms is None else iso(ends_at_ms),
                "models": [] if bounds is None else list(bounds.limits.models),
                "limits": told["key"],
            }
        return {"key": key, "limits": told["account"]}

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
