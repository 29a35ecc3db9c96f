"""Receipts of single requests. The operator sees everything; the owner sees nothing about the upstream.

Amounts are decimal strings in yuan, times ISO-8601 in UTC. Fields of the settlement are missing while the hold is open.
"""

from typing import Any

import orjson
from msgspec.structs import asdict

from proxy.core import pricing
from proxy.core.catalog import Kind
from proxy.core.money import DISCOUNT_WHOLE, discounted, format_discount, format_yuan
from proxy.core.settlement import Settlement
from proxy.core.timestamps import iso, iso_or_none
from proxy.store.values import NewRequest, Receipt


def operator_receipt(row: Receipt) -> dict[str, Any]:
    """Return everything known about a request."""
    request, settlement = row.request, row.settlement
    shown = _request(row) | {
        "account": row.account,
        "key_id": request.key_id,
        "upstream": request.upstream,
        "upstream_model": request.upstream_model,
        "route": f"{request.upstream}/{request.upstream_model}",
        "key_name": request.key_name,
        "price": orjson.loads(request.price),
        "settled_at": iso_or_none(row.settled_at_ms),
    }
    if settlement is None:
        return shown
    return shown | {
        **_settlement(request, settlement),
        "charge": format_yuan(settlement.charge_nanos),
        "refunded": format_yuan(row.refunded_nanos),
        "upstream_id": settlement.upstream_id,
        "note": settlement.note,
        "attempts": [asdict(attempt) for attempt in settlement.attempts],
    }


def owner_receipt(row: Receipt) -> dict[str, Any]:
    """Return a request's receipt for the customer who made it.

    ``formula`` shows quantities, prices and charge; ``shortfall`` is the cost above the hold, which is never charged.
    ``refunded`` is what of the cost has been given back since.
    """
    shown = {"object": "usage"} | _request(row)
    if row.settlement is None or row.settled_at_ms is None:
        return shown
    return shown | {
        "settled_at": iso(row.settled_at_ms),
        **_settlement(row.request, row.settlement),
        "cost": format_yuan(row.settlement.charge_nanos),
        "refunded": format_yuan(row.refunded_nanos),
    }


def _request(row: Receipt) -> dict[str, Any]:
    request = row.request
    return {
        "id": request.id,
        "kind": str(request.kind),
        "status": "open" if row.settlement is None else "settled",
        "model": request.model,
        "stream": request.stream,
        "created_at": iso(request.created_at_ms),
        "currency": "CNY",
        "hold": format_yuan(request.hold_nanos),
        "discount": format_discount(pricing.discount_of(request.price)),
    }


def _settlement(request: NewRequest, settlement: Settlement) -> dict[str, Any]:
    return {
        "outcome": str(settlement.outcome),
        "usage_source": str(settlement.usage_source),
        "usage": asdict(settlement.usage),
        "units": settlement.units,
        "shortfall": format_yuan(settlement.shortfall_nanos),
        "formula": formula(request, settlement),
        "http_status": settlement.http_status,
        "first_byte_ms": settlement.first_byte_ms,
        "total_ms": settlement.total_ms,
    }


def formula(request: NewRequest, settlement: Settlement) -> str:
    """Return the charge's formula, such as ``20 × ¥0.8/M + 12 × ¥2/M = ¥0.00004``; empty if nothing was charged."""
    cost = settlement.charge_nanos + settlement.shortfall_nanos
    if cost == 0:
        return ""
    if request.kind is Kind.CHAT:
        shown = pricing.explain(request.price, settlement.usage, type(settlement.charge_nanos)(cost))
    elif (discount := pricing.discount_of(request.price)) != DISCOUNT_WHOLE:
        shown = f"{_list_price(request, settlement.units, cost, discount)} × {format_discount(discount)} = ¥{format_yuan(cost)}"
    else:
        shown = f"{_per_unit(request, settlement.units, cost)} = ¥{format_yuan(cost)}"
    if settlement.shortfall_nanos:
        shown += f", charged ¥{format_yuan(settlement.charge_nanos)}: never more than the hold"
    return shown


def _list_price(request: NewRequest, units: int, cost_nanos: int, discount: int) -> str:
    """Return `_per_unit` of what the units cost without their discount: the one price that comes to this cost with it."""
    fitting = [nanos for nanos in pricing.list_costs(request.price, units) if discounted(nanos, discount) == cost_nanos]
    return _per_unit(request, units, fitting[0]) if len(fitting) == 1 else f"{units} units"


def _per_unit(request: NewRequest, units: int, cost_nanos: int) -> str:
    """Return ``2 × ¥0.18`` for images, ``108000 × ¥8/M`` for video tokens: the rate for the resolution and tier that were used."""
    if units <= 0 or cost_nanos % units:
        return f"{units} units"
    rate_nanos = cost_nanos // units
    if request.kind is Kind.VIDEO:
        return f"{units} × ¥{format_yuan(rate_nanos * 1_000_000, 0)}/M"
    return f"{units} × ¥{format_yuan(rate_nanos, 0)}"
