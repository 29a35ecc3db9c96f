"""Sums of settled requests, of those that are folded into days too: one statement, asked alike of every engine."""

from collections.abc import Sequence
from typing import Any

from proxy.core.days import Zone, date_of
from proxy.core.money import Nanos
from proxy.store.values import UsageQuery, UsageRow

_GROUPS = {
    "model": ("requests.model", "request_days.model", "''"),
    "key": ("coalesce(requests.key_id, '')", "request_days.key_id", "''"),
    "day": ("(requests.created_at_ms + {}) / 86400000", "request_days.day", "refund_days.day"),
}
"""SQL expressions of each group: for a request, for a daily sum, and for a day's refunds of requests that were folded before."""
_SUMMED = ("prompt_tokens", "cached_tokens", "completion_tokens", "units", "charge_nanos", "shortfall_nanos")
_NOTHING = ", ".join("0" for _ in ("requests", *_SUMMED, "estimated"))
_SUMS = ", ".join(f"sum({name}) AS {name}" for name in _SUMMED)
_TIME_MAX_MS = 2**62


def statement(query: UsageQuery, zone: Zone, account_id: int, ordered_join: str, reversals: str) -> str:
    """Return the SQL of a query. All that is put into it are numbers and constants.

    Args:
        account_id: of the query's account; 0: of all accounts.
        ordered_join: the join that keeps the order of its tables: account by account, each a range of the index on account and time.
        reversals: the table of transfers, with the name of the index of refunds where an engine wants to be told.
    """
    since_ms = 0 if query.since_ms is None else query.since_ms
    until_ms = _TIME_MAX_MS if query.until_ms is None else query.until_ms
    first, end = zone.day(since_ms - 1) + 1, zone.day(until_ms - 1) + 1  # a folded day counts whole, if it begins within the period
    whose = f"accounts.id = {account_id:d}" if account_id else "accounts.kind = 'customer'"
    of_request, of_day, of_refunds = _GROUPS[query.by]
    of_request = of_request.format(zone.minutes * 60_000)
    return f"""
        SELECT account, part, sum(requests), {", ".join(f"sum({name})" for name in _SUMMED)}, sum(estimated), sum(refunded) FROM (
          SELECT accounts.name AS account, {of_request} AS part, count(*) AS requests, {_SUMS},
            count(*) FILTER (WHERE usage_source = 'estimated') AS estimated, 0 AS refunded
          FROM accounts {ordered_join} requests ON requests.account_id = accounts.id
            AND requests.created_at_ms >= {since_ms:d} AND requests.created_at_ms < {until_ms:d}
          WHERE settled_at_ms IS NOT NULL AND {whose} GROUP BY 1, 2
          UNION ALL
          SELECT accounts.name, {of_day}, sum(requests), {_SUMS}, sum(estimated), sum(refunded_nanos)
          FROM accounts {ordered_join} request_days ON request_days.account_id = accounts.id AND day >= {first:d} AND day < {end:d}
          WHERE {whose} GROUP BY 1, 2
          UNION ALL
          SELECT accounts.name, {of_request}, {_NOTHING}, amount_nanos
          FROM {reversals} {ordered_join} requests ON requests.id = transfers.request_id
            AND requests.created_at_ms >= {since_ms:d} AND requests.created_at_ms < {until_ms:d}
          {ordered_join} accounts ON accounts.id = requests.account_id WHERE transfers.kind = 'reversal' AND {whose}
          UNION ALL
          SELECT accounts.name, {of_refunds}, {_NOTHING}, refunded_nanos
          FROM accounts {ordered_join} refund_days ON refund_days.account_id = accounts.id AND day >= {first:d} AND day < {end:d}
          WHERE {whose}) AS parts
        GROUP BY 1, 2 ORDER BY 1, 2"""  # noqa: S608


def usage_row(query: UsageQuery, row: Sequence[Any]) -> UsageRow:
    """Return a row's sums."""
    account, part, *sums = row
    requests, prompt, cached, completion, units, charge, shortfall, estimated, refunded = map(int, sums)
    group = date_of(part).isoformat() if query.by == "day" else part
    counts = (requests, prompt, cached, completion, units)
    return UsageRow(account, group, *counts, Nanos(charge), Nanos(shortfall), estimated, Nanos(refunded))
