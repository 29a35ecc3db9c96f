"""Small builders of what a store takes: name what the test is about, the rest is ordinary."""

import hashlib

from proxy.core.catalog import Kind
from proxy.core.money import Nanos
from proxy.core.settlement import NO_USAGE, Outcome, Settlement, TokenUsage, UsageSource
from proxy.store.contract import NewKey, NewRequest

NOW_MS = 1_764_000_000_000
"""2025-11-24T16:00:00Z."""


def new_request(
    request_id: str = "req_1",
    *,
    account_id: int,
    hold_nanos: int = 100,
    kind: Kind = Kind.CHAT,
    key_id: str = "",
    model: str = "doubao-pro-32k",
    stream: bool = False,
    created_at_ms: int = NOW_MS,
) -> NewRequest:
    return NewRequest(
        id=request_id,
        kind=kind,
        account_id=account_id,
        key_id=key_id,
        model=model,
        upstream="ark",
        upstream_model="ep-20240101-abcde",
        stream=stream,
        hold_nanos=Nanos(hold_nanos),
        price='{"input":800,"output":2000}',
        created_at_ms=created_at_ms,
    )


def settlement(
    charge_nanos: int = 0,
    *,
    outcome: Outcome = Outcome.COMPLETE,
    usage_source: UsageSource = UsageSource.REPORTED,
    usage: TokenUsage = NO_USAGE,
    units: int = 0,
    shortfall_nanos: int = 0,
) -> Settlement:
    return Settlement(
        outcome=outcome,
        usage_source=usage_source,
        charge_nanos=Nanos(charge_nanos),
        usage=usage,
        units=units,
        shortfall_nanos=Nanos(shortfall_nanos),
        http_status=200,
    )


def new_key(key_id: str = "key_1", *, name: str = "", created_at_ms: int = NOW_MS) -> NewKey:
    """Return a key whose secret is its id."""
    return NewKey(key_id, name, "sk_abcdefg", hashlib.sha256(key_id.encode()).digest(), created_at_ms)
