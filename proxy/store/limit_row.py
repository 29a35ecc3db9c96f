"""Limits of an account or a key as a row, in the same columns in every engine."""

from collections.abc import Sequence
from typing import Any

import orjson

from proxy.core.limits import NO_SPEND_LIMITS, Limits, SpendLimits

NAMES = (
    "expires_at_ms", "paused_at_ms", "models", "networks", "requests_per_minute", "tokens_per_minute", "concurrent", "day_nanos",
    "month_nanos", "total_nanos",
)  # fmt: skip
IDENTITY = "coalesce(keys.identity, keys.id)"
"""SQL of a key's identity."""
HAS_MONEY = "coalesce(limits.day_nanos, limits.month_nanos, limits.total_nanos) IS NOT NULL"
"""SQL of whether a row limits money."""


def columns(table: str = "limits") -> str:
    """Return the columns that `of_columns` reads, of the table or of its alias, for a ``SELECT``."""
    return ", ".join(f"{table}.{name}" for name in NAMES)


def of_columns(row: Sequence[Any]) -> Limits | None:
    """Return the limits of a row; None where an outer join has found none."""
    expires_at_ms, paused_at_ms, models, networks, requests, tokens, concurrent, day, month, total = row
    if models is None:
        return None
    return Limits(
        expires_at_ms,
        paused_at_ms,
        () if models == "[]" else tuple(orjson.loads(models)),
        () if networks == "[]" else tuple(orjson.loads(networks)),
        requests,
        tokens,
        concurrent,
        NO_SPEND_LIMITS if day is None and month is None and total is None else SpendLimits(day, month, total),
    )
