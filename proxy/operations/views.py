"""Rows of the store as an operator reads them: plain dicts, amounts as decimal strings in yuan, times ISO-8601 in UTC.

The customer reads the formula of a charge too.
"""

import shlex
from collections.abc import Sequence
from typing import Any

import orjson
from msgspec.structs import asdict

from proxy.clock import iso
from proxy.core import pricing
from proxy.core.catalog import Kind
from proxy.core.money import format_yuan
from proxy.core.retention import DAY_MS, FoldedRequest
from proxy.core.settlement import Settlement
from proxy.store.values import Account, Check, Key, NewRequest, Receipt, UsageQuery, UsageRow

_SUMS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "units", "estimated")


def account(row: Account) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "balance": format_yuan(row.balance_nanos),
        "held": format_yuan(row.held_nanos),
        "available": format_yuan(row.available_nanos),
        "currency": "CNY",
        "created_at": iso(row.created_at_ms),
    }


def key(row: Key) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "prefix": row.prefix,
        "account": row.account,
        "created_at": iso(row.created_at_ms),
        "revoked_at": _iso(row.revoked_at_ms),
    }


def usage(query: UsageQuery, rows: Sequence[UsageRow], folded_at_ms: Sequence[int] = ()) -> dict[str, Any]:
    """Return the rows, each with its group under the name of what was grouped by, and their total.

    Args:
        folded_at_ms: bounds of the period that cut through a day of which there are daily sums: they are named.
    """
    return {
        "by": query.by,
        "since": _iso(query.since_ms),
        "until": _iso(query.until_ms),
        "currency": "CNY",
        "rows": [{"account": row.account, query.by: row.group} | _sums([row]) for row in rows],
        "total": _sums(rows),
        "days_not_cut": list(dict.fromkeys(iso(at_ms)[:10] for at_ms in folded_at_ms)),
    }


def folded(row: FoldedRequest) -> str:
    """Return what is left to say of a request whose receipt is gone."""
    day = iso(row.day_ms)[:10]
    return (
        f"request {row.id} of account {row.account} was folded into the daily sums of {day}, its receipt is gone: "
        f"¥{format_yuan(row.hold_nanos)} held, ¥{format_yuan(row.charge_nanos)} charged. "
        f"See `llm-proxy usage --account {shlex.quote(row.account)} --since {day} --until {iso(row.day_ms + DAY_MS)[:10]}`"
    )


def checks(rows: Sequence[Check]) -> dict[str, Any]:
    return {
        "holds": all(row.holds for row in rows),
        "checks": [{"name": row.name, "holds": row.holds, "figures": row.figures, "offenders": list(row.offenders)} for row in rows],
    }


def receipt(row: Receipt) -> dict[str, Any]:
    """Return all that is known of a request; what only a settlement knows is missing while its hold is open."""
    request = row.request
    return {
        "id": request.id,
        "kind": str(request.kind),
        "status": "open" if row.settlement is None else "settled",
        "account": row.account,
        "key_id": request.key_id,
        "model": request.model,
        "upstream": request.upstream,
        "upstream_model": request.upstream_model,
        "stream": request.stream,
        "currency": "CNY",
        "hold": format_yuan(request.hold_nanos),
        "price": orjson.loads(request.price),
        "created_at": iso(request.created_at_ms),
        "settled_at": _iso(row.settled_at_ms),
    } | ({} if row.settlement is None else _settlement(request, row.settlement))


def _settlement(request: NewRequest, settlement: Settlement) -> dict[str, Any]:
    return {
        "outcome": str(settlement.outcome),
        "usage_source": str(settlement.usage_source),
        "usage": asdict(settlement.usage),
        "units": settlement.units,
        "charge": format_yuan(settlement.charge_nanos),
        "shortfall": format_yuan(settlement.shortfall_nanos),
        "formula": formula(request, settlement),
        "http_status": settlement.http_status,
        "upstream_id": settlement.upstream_id,
        "first_byte_ms": settlement.first_byte_ms,
        "total_ms": settlement.total_ms,
        "note": settlement.note,
    }


def formula(request: NewRequest, settlement: Settlement) -> str:
    """Return how the charge came about, such as ``20 × ¥0.8/M + 12 × ¥2/M = ¥0.00004``; empty where nothing was charged."""
    cost = settlement.charge_nanos + settlement.shortfall_nanos
    if cost == 0:
        return ""
    if request.kind is Kind.CHAT:
        shown = pricing.explain(request.price, settlement.usage, type(settlement.charge_nanos)(cost))
    else:
        shown = f"{_per_unit(request, settlement.units, cost)} = ¥{format_yuan(cost)}"
    if settlement.shortfall_nanos:
        shown += f", charged ¥{format_yuan(settlement.charge_nanos)}: never more than the hold"
    return shown


def _per_unit(request: NewRequest, units: int, cost_nanos: int) -> str:
    """Return ``2 × ¥0.18`` for images, ``108000 × ¥8/M`` for video tokens: the rate that was used, with its resolution and tier."""
    if units <= 0 or cost_nanos % units:
        return f"{units} units"
    rate_nanos = cost_nanos // units
    if request.kind is Kind.VIDEO:
        return f"{units} × ¥{format_yuan(rate_nanos * 1_000_000, 0)}/M"
    return f"{units} × ¥{format_yuan(rate_nanos, 0)}"


def _sums(rows: Sequence[UsageRow]) -> dict[str, Any]:
    counts: dict[str, Any] = {name: sum(getattr(row, name) for row in rows) for name in _SUMS}
    return counts | {
        "charge": format_yuan(sum(row.charge_nanos for row in rows)),
        "shortfall": format_yuan(sum(row.shortfall_nanos for row in rows)),
    }


def _iso(at_ms: int | None) -> str | None:
    return None if at_ms is None else iso(at_ms)
