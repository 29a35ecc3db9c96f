"""Limits of a key or an account as their customer reads them: what is allowed, what is used, when it begins anew."""

import math

from proxy.clock import iso
from proxy.core.bounds import Bounds
from proxy.core.days import Zone
from proxy.core.limits import Period
from proxy.core.money import format_yuan
from proxy.core.rates import requests_level, tokens_level
from proxy.store.values import KeyUse, Spent


def told_limits(bounds: Bounds, whose: str, use: KeyUse | None, *, zone: Zone, now_ms: int, now: float) -> list[dict[str, object]]:
    """Return each limit of the key or of the account: ``{kind, per, limit, used, resets_at}``.

    Args:
        whose: ``key`` or ``account``.
        use: what was spent of its money limits; None: nothing.
        zone: of days and months.
        now_ms: unix time; now: the same moment in monotonic seconds.
    """
    limits = bounds.limits if whose == "key" else bounds.account_limits
    told: list[dict[str, object]] = []
    for period in Period:
        limit: int | None = getattr(limits.spend, period)
        if limit is not None:
            ends_at_ms = zone.ends_ms(period, now_ms)
            used = format_yuan(_nanos(None if use is None else getattr(use, period)))
            told.append(_told("spend", period.value, format_yuan(limit), used, None if ends_at_ms is None else iso(ends_at_ms)))
    for meter in bounds.rates.meters:
        if meter.whose == whose:
            for kind, level in (("requests", requests_level(meter, now)), ("tokens", tokens_level(meter, now))):
                if level is not None:
                    told.append(_told(kind, "minute", level.limit, level.used, iso(now_ms + math.ceil(level.reset_seconds * 1000))))
            if meter.concurrent is not None:
                told.append(_told("concurrent", None, meter.concurrent, meter.open, None))
    return told


def _nanos(spent: Spent | None) -> int:
    """Return what counts: what is held may still be spent."""
    return 0 if spent is None else spent.spent_nanos + spent.held_nanos


def _told(kind: str, per: str | None, limit: object, used: object, resets_at: str | None) -> dict[str, object]:
    return {"kind": kind, "per": per, "limit": limit, "used": used, "resets_at": resets_at}
