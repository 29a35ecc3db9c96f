"""``GET /account`` and ``GET /usage/{request_id}``: what a customer may know of its own money."""

from typing import Any

from proxy.clock import iso
from proxy.core.errors import NotFoundError
from proxy.core.money import format_yuan
from proxy.edge.context import Context
from proxy.edge.response import Response
from proxy.operations.views import formula
from proxy.store.contract import Store
from proxy.store.values import Receipt


class AccountHandlers:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def account(self, context: Context) -> Response:
        account = await self._store.account_by_id(context.account_id)
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
        """Answer with a request's receipt. Another account's request is, to the byte, an unknown one."""
        found = await self._store.receipt(context.tail)
        if found is None:
            await self._refuse_folded(context)
        if found is None or found[1] != context.account_id:
            raise NotFoundError("There is no such request")
        return context.json(receipt(found[0]))

    async def _refuse_folded(self, context: Context) -> None:
        """Raises: NotFoundError where the request is one of this account's whose receipt is no longer kept."""
        folded = await self._store.folded(context.tail)
        if folded is not None and folded.account_id == context.account_id:
            day, cost = iso(folded.day_ms)[:10], format_yuan(folded.charge_nanos)
            raise NotFoundError(f"The receipt of this request of {day} is no longer kept. It cost {cost} CNY")


def receipt(receipt: Receipt) -> dict[str, Any]:
    """Return a receipt for its owner: amounts as decimal strings in yuan; nothing of the upstream's.

    ``formula`` says in words at which price what was charged; ``shortfall`` is what the usage cost above the hold: never charged.
    """
    request, settlement = receipt.request, receipt.settlement
    shown: dict[str, Any] = {
        "object": "usage",
        "id": request.id,
        "kind": request.kind,
        "model": request.model,
        "stream": request.stream,
        "status": "open" if settlement is None else "settled",
        "created_at": iso(request.created_at_ms),
        "hold": format_yuan(request.hold_nanos),
        "currency": "CNY",
    }
    if settlement is None or receipt.settled_at_ms is None:
        return shown
    usage = settlement.usage
    return shown | {
        "settled_at": iso(receipt.settled_at_ms),
        "outcome": settlement.outcome,
        "usage_source": settlement.usage_source,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
        },
        "units": settlement.units,
        "cost": format_yuan(settlement.charge_nanos),
        "shortfall": format_yuan(settlement.shortfall_nanos),
        "formula": formula(request, settlement),
        "http_status": settlement.http_status,
        "first_byte_ms": settlement.first_byte_ms,
        "total_ms": settlement.total_ms,
    }
