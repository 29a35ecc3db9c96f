"""A request's receipt, read alike from every engine."""

from collections.abc import Sequence
from typing import Any

import msgspec

from proxy.core.catalog import Kind
from proxy.core.money import Nanos
from proxy.core.settlement import Attempt, Outcome, Settlement, TokenUsage, UsageSource
from proxy.store.values import IdempotencyClaim, NewRequest, Receipt

SELECT = """
    SELECT requests.id, requests.kind, requests.account_id, coalesce(key_id, ''), model, upstream, upstream_model, stream, hold_nanos,
      price, requests.created_at_ms, idempotency.key, body_sha256, accounts.name, settled_at_ms,
      outcome, usage_source, charge_nanos, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, units, shortfall_nanos,
      http_status, upstream_id, first_byte_ms, total_ms, note, coalesce(key_name, ''), attempts,
      (SELECT coalesce(sum(amount_nanos), 0) FROM transfers WHERE request_id = requests.id AND transfers.kind = 'reversal')
    FROM requests JOIN accounts ON accounts.id = requests.account_id LEFT JOIN idempotency ON request_id = requests.id
    WHERE requests.id = """
"""SQL of the row that `receipt_of` reads. The place of the request's id follows it."""
_ATTEMPTS = msgspec.json.Decoder(tuple[Attempt, ...])


def receipt_of(row: Sequence[Any]) -> tuple[Receipt, int]:
    """Return the receipt of a row, and its account's id."""
    identity, kind, account_id, key_id, model, upstream, upstream_model, stream, hold, price, created_at_ms = row[:11]
    key, body_sha256, account, settled_at_ms, *settled, key_name, attempts, refunded = row[11:]
    request = NewRequest(
        id=identity,
        kind=Kind(kind),
        account_id=account_id,
        key_id=key_id,
        model=model,
        upstream=upstream,
        upstream_model=upstream_model,
        stream=bool(stream),
        hold_nanos=Nanos(hold),
        price=price,
        created_at_ms=created_at_ms,
        claim=None if key is None else IdempotencyClaim(key, body_sha256),
        key_name=key_name,
    )
    settlement = None if settled_at_ms is None else _settlement(attempts, *settled)
    return Receipt(request, account, settlement, settled_at_ms, Nanos(int(refunded))), account_id


def _settlement(
    attempts: str | None,
    outcome: str,
    usage_source: str,
    charge_nanos: int,
    prompt_tokens: int,
    completion_tokens: int,
    cached_tokens: int,
    reasoning_tokens: int,
    units: int,
    shortfall_nanos: int,
    http_status: int,
    upstream_id: str,
    first_byte_ms: int | None,
    total_ms: int | None,
    note: str,
) -> Settlement:
    return Settlement(
        outcome=Outcome(outcome),
        usage_source=UsageSource(usage_source),
        charge_nanos=Nanos(charge_nanos),
        usage=TokenUsage(prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens),
        units=units,
        shortfall_nanos=Nanos(shortfall_nanos),
        http_status=http_status,
        upstream_id=upstream_id,
        first_byte_ms=first_byte_ms,
        total_ms=total_ms,
        note=note,
        attempts=() if attempts is None else _ATTEMPTS.decode(attempts),
    )
