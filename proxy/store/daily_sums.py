"""Which requests may be folded into the sums of their days, what those sums are, and what is left of each. Every engine's SQL.

A slice is one transaction: its requests are added to the sums and deleted, or neither. Their transfers stay, so that the ledger still
shows each charge, and `verify` can compare the sums with it. A request that is still needed is not folded: one with an open hold, a
task that has not ended, or an answer stored under a key.
"""

from collections.abc import Sequence
from typing import Any

from proxy.core.days import Zone
from proxy.core.money import Nanos
from proxy.core.retention import FoldedRequest
from proxy.store.audit.booked import DAY, HOLD_DAY

FOLDABLE = """
    requests.created_at_ms < {before_ms:d} AND settled_at_ms IS NOT NULL
    AND (SELECT request_id FROM idempotency WHERE request_id = requests.id) IS NULL
    AND coalesce((SELECT ended_at_ms IS NOT NULL FROM video_tasks WHERE video_tasks.id = requests.id), true)"""
"""SQL of whether a request that was created before some moment can be folded.

Its two values are looked up for each request. EXISTS would be made a join of whole tables by PostgreSQL.
"""
_KEY = "account_id, day, key_id, model, kind"
_SUMS = (
    "requests", "estimated", "holds", "hold_nanos", "charges", "charge_nanos", "shortfall_nanos", "prompt_tokens", "cached_tokens",
    "completion_tokens", "reasoning_tokens", "units", "refunded_nanos",
)  # fmt: skip
ADD = f"""
    INSERT INTO request_days ({_KEY}, {", ".join(_SUMS)})
    SELECT account_id, {DAY}, coalesce(key_id, ''), model, kind, count(*), count(*) FILTER (WHERE usage_source = 'estimated'),
      count(*) FILTER (WHERE hold_nanos > 0), sum(hold_nanos), count(*) FILTER (WHERE charge_nanos > 0), sum(charge_nanos),
      sum(shortfall_nanos), sum(prompt_tokens), sum(cached_tokens), sum(completion_tokens), sum(reasoning_tokens), sum(units),
      coalesce(sum((SELECT sum(amount_nanos) FROM transfers WHERE request_id = requests.id AND kind = 'reversal')), 0)
    FROM requests WHERE {{chosen}} GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT ({_KEY}) DO UPDATE SET {", ".join(f"{name} = request_days.{name} + excluded.{name}" for name in _SUMS)}"""  # noqa: S608
"""SQL that adds the chosen requests to the sums of their days, in the order of the sums' keys."""
REFUND = f"""
    INSERT INTO refund_days (account_id, day, refunded_nanos)
    SELECT debit_id, {HOLD_DAY}, {{amount_nanos:d}} FROM transfers AS hold
    WHERE request_id = {{request}} AND kind = 'hold' AND NOT EXISTS (SELECT 1 FROM requests WHERE id = hold.request_id)
    ON CONFLICT (account_id, day) DO UPDATE SET refunded_nanos = refund_days.refunded_nanos + excluded.refunded_nanos"""  # noqa: S608
"""SQL: a folded request's refund goes into its day's sums, where an open one's goes with the request when it is folded."""
LEFT = """
    SELECT accounts.id, accounts.name, hold.created_at_ms, hold.amount_nanos,
      CASE ending.kind WHEN 'charge' THEN ending.amount_nanos ELSE 0 END,
      (SELECT coalesce(sum(amount_nanos), 0) FROM transfers WHERE request_id = hold.request_id AND kind = 'reversal')
    FROM transfers AS hold JOIN accounts ON accounts.id = hold.debit_id
    LEFT JOIN transfers AS ending ON ending.request_id = hold.request_id AND ending.kind IN ('charge', 'release')
    WHERE hold.kind = 'hold' AND NOT EXISTS (SELECT 1 FROM requests WHERE id = hold.request_id) AND hold.request_id = """
"""SQL of what the ledger still holds of a folded request; a hold of 0 leaves no transfer. The place of its id follows."""


def require_whole_days(before_ms: int, zone: Zone) -> None:
    """Raises: ValueError: the moment is within a day, whose sum would then be incomplete."""
    if before_ms != zone.begins_ms(zone.day(before_ms)):
        raise ValueError(f"days are folded whole: {before_ms} is not the beginning of one")


def folded_of(request_id: str, row: Sequence[Any], zone: Zone) -> FoldedRequest:
    """Return what is known of a folded request, of the row that `LEFT` finds."""
    account_id, account, created_at_ms, hold, charge, refunded = row
    day_ms = zone.begins_ms(zone.day(created_at_ms))
    return FoldedRequest(request_id, account_id, account, day_ms, Nanos(hold), Nanos(charge), Nanos(int(refunded)))
