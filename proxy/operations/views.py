"""The operator's view of the store's rows: plain dicts, amounts as decimal strings in yuan, times ISO-8601 in UTC.

Days are those of the ledger's zone, and so is the offset of the times at which periods begin.

Customers are shown less, by their handlers and `billing.receipts`; these import nothing from here.
"""

import shlex
from collections.abc import Sequence
from typing import Any

from proxy.core.days import Zone, date_of
from proxy.core.limits import NO_LIMITS, Limits, Period
from proxy.core.money import Nanos, format_discount, format_yuan
from proxy.core.retention import FoldedRequest
from proxy.core.timestamps import iso, iso_or_none, local_iso
from proxy.store.peers import NodeState
from proxy.store.values import Account, Booking, Check, Key, KeyUse, Spent, UsageQuery, UsageRow

_SUMS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "units", "estimated")


def account(row: Account) -> dict[str, Any]:
    """Return an account with its balance, what is held of it, and what is left to spend."""
    return {
        "id": row.id,
        "name": row.name,
        "balance": format_yuan(row.balance_nanos),
        "held": format_yuan(row.held_nanos),
        "available": format_yuan(row.available_nanos),
        "currency": "CNY",
        "discount": format_discount(row.discount),
        "created_at": iso(row.created_at_ms),
        "closed_at": iso_or_none(row.closed_at_ms),
    }


def limited_account(row: Account, uses: Sequence[KeyUse], now_ms: int, zone: Zone) -> dict[str, Any]:
    """Return an account with its state, its limits, and what of ``uses`` (of any account or key) is spent of these."""
    its = [use for use in uses if use.account == row.name and not use.identity]
    return account(row) | {"state": _account_state(row, now_ms)} | limits(row.limits, its, zone)


def booking(row: Booking, reference: str) -> dict[str, Any]:
    """Return the account with the payment's reference, and whether it was booked now or had been before."""
    return account(row.account) | {"reference": reference, "booked": row.is_new, "booked_at": iso(row.booked_at_ms)}


def node(row: NodeState) -> dict[str, Any]:
    """Return a node of the store: a gateway, or a command under way."""
    told = row.introduction
    return {
        "id": row.id,
        "name": row.name,
        "state": _state_of_node(row),
        "version": row.program,
        "address": told.address,
        "since_at": iso(row.entered_at_ms),
        "beats": not row.is_still,
        "silent_seconds": round(row.silent_seconds, 1),
        "keys_behind": row.keys_behind,
        "configuration": told.settings,
    }


def _state_of_node(row: NodeState) -> str:
    if not row.serves:
        return "command"
    if row.introduction.is_draining:
        return "draining"
    return "serving" if row.introduction.address else "starting"


def keys(rows: Sequence[Key], uses: Sequence[KeyUse], now_ms: int, zone: Zone) -> list[dict[str, Any]]:
    """Return keys without their secrets, which are not stored: whether each lives, its limits, and what is spent of these."""
    of_identity: dict[str, list[KeyUse]] = {}
    for use in uses:
        of_identity.setdefault(use.identity, []).append(use)
    return [
        {
            "id": row.id,
            "name": row.name,
            "prefix": row.prefix,
            "account": row.account,
            "state": _state(row, now_ms),
            "created_at": iso(row.created_at_ms),
            "last_used_at": iso_or_none(row.last_used_at_ms),
            "rolled_from": row.identity if row.identity != row.id else None,
            "ends_at": iso_or_none(row.ends_at_ms),
            **limits(row.limits, of_identity.get(row.identity, []), zone),
            "revoked_at": iso_or_none(row.revoked_at_ms),
        }
        for row in rows
    ]


def limits(row: Limits | None, uses: Sequence[KeyUse], zone: Zone) -> dict[str, Any]:
    """Return limits field by field, None or empty where there is none; of money also what is spent, held and left, as ``uses`` says."""
    its = row or NO_LIMITS
    return {
        "expires_at": None if its.expires_at_ms is None else local_iso(its.expires_at_ms, zone),
        "paused_at": iso_or_none(its.paused_at_ms),
        "models": list(its.models),
        "networks": list(its.networks),
        "rpm": its.requests_per_minute,
        "tpm": its.tokens_per_minute,
        "concurrent": its.concurrent,
        "spend": [
            {
                "per": period.value,
                "limit": format_yuan(limit),
                "spent": format_yuan(spent.spent_nanos),
                "held": format_yuan(spent.held_nanos),
                "left": format_yuan(max(0, limit - spent.spent_nanos - spent.held_nanos)),
            }
            for period, limit, spent in _money(its, uses)
        ],
    }


def _money(its: Limits, uses: Sequence[KeyUse]) -> list[tuple[Period, Nanos, Spent]]:
    use = uses[0] if uses else None
    of_period = (
        (Period.DAY, its.spend.day, use and use.day),
        (Period.MONTH, its.spend.month, use and use.month),
        (Period.TOTAL, its.spend.total, use and use.total),
    )
    return [(period, limit, spent or Spent(Nanos(0), Nanos(0))) for period, limit, spent in of_period if limit is not None]


def _account_state(row: Account, now_ms: int) -> str:
    if row.closed_at_ms is not None:
        return "closed"
    state = _limited_state(row.limits, now_ms)
    return {"live": "open", "paused": "suspended"}.get(state, state)


def _state(row: Key, now_ms: int) -> str:
    if row.revoked_at_ms is not None:
        return "revoked"
    if row.ends_at_ms is not None and row.ends_at_ms <= now_ms:
        return "rolled"
    return _limited_state(row.limits, now_ms)


def _limited_state(row: Limits | None, now_ms: int) -> str:
    its = row or NO_LIMITS
    if its.expires_at_ms is not None and its.expires_at_ms <= now_ms:
        return "expired"
    return "live" if its.paused_at_ms is None else "paused"


def usage(query: UsageQuery, rows: Sequence[UsageRow], zone: Zone, folded_at_ms: Sequence[int] = ()) -> dict[str, Any]:
    """Return the rows, each with its group under ``query.by``, and their total.

    Args:
        folded_at_ms: bounds of the period that cut through a day with daily sums; these days are named.
    """
    return {
        "by": query.by,
        "since": None if query.since_ms is None else local_iso(query.since_ms, zone),
        "until": None if query.until_ms is None else local_iso(query.until_ms, zone),
        "time_zone": str(zone),
        "currency": "CNY",
        "rows": [{"account": row.account, query.by: row.group} | _sums([row]) for row in rows],
        "total": _sums(rows),
        "days_not_cut": list(dict.fromkeys(str(date_of(zone.day(at_ms))) for at_ms in folded_at_ms)),
    }


def folded(row: FoldedRequest, zone: Zone) -> str:
    """Return a text for a folded request, whose receipt is gone."""
    day = zone.day(row.day_ms)
    first, following = date_of(day), date_of(day + 1)
    refunded = f", ¥{format_yuan(row.refunded_nanos)} given back" if row.refunded_nanos else ""
    return (
        f"request {row.id} of account {row.account} was folded into the daily sums of {first}, its receipt is gone: "
        f"¥{format_yuan(row.hold_nanos)} held, ¥{format_yuan(row.charge_nanos)} charged{refunded}. "
        f"See `llm-proxy usage --account {shlex.quote(row.account)} --since {first} --until {following}`"
    )


def checks(rows: Sequence[Check]) -> dict[str, Any]:
    """Return each check of the books, and whether all hold."""
    return {
        "holds": all(row.holds for row in rows),
        "checks": [{"name": row.name, "holds": row.holds, "figures": row.figures, "offenders": list(row.offenders)} for row in rows],
    }


def _sums(rows: Sequence[UsageRow]) -> dict[str, Any]:
    counts: dict[str, Any] = {name: sum(getattr(row, name) for row in rows) for name in _SUMS}
    return counts | {
        "charge": format_yuan(sum(row.charge_nanos for row in rows)),
        "shortfall": format_yuan(sum(row.shortfall_nanos for row in rows)),
        "refunded": format_yuan(sum(row.refunded_nanos for row in rows)),
    }
