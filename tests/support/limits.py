"""Limits of a gateway's key and account, set as an operator's commands do."""

from typing import Any

from proxy import ids
from proxy.clock import SystemClock
from proxy.core.limits import Limits, LimitsChange
from proxy.store.values import NewKey
from tests.support.gateway import Bench

_LONG_AGO_MS = 0
"""An operator may set no end that has passed; a test does."""


async def limit_key(gateway: Bench, **limits: Any) -> None:
    """Set all limits of the gateway's key; those left out are taken away."""
    (key, *_) = await gateway.store.keys("acme")
    await gateway.store.set_key_limits(key.id, _change(Limits(**limits)), _LONG_AGO_MS)
    await gateway.live_keys.refresh()


async def limit_account(gateway: Bench, **limits: Any) -> None:
    """Set all limits of the gateway's account."""
    account = await gateway.store.account_by_id(gateway.account_id)
    await gateway.store.set_account_limits(account.name, _change(Limits(**limits)), _LONG_AGO_MS)
    await gateway.live_keys.refresh()


async def roll_key(gateway: Bench, overlap_ms: int) -> str:
    """Roll the gateway's key, and return the new secret."""
    (key, *_) = await gateway.store.keys("acme")
    secret, now_ms = ids.new_secret(), SystemClock().now_ms()
    await gateway.store.roll_key(key.id, NewKey(ids.key_id(), "", secret.prefix, secret.sha256, now_ms), overlap_ms, now_ms)
    await gateway.live_keys.refresh()
    return secret.text


def _change(limits: Limits) -> LimitsChange:
    return LimitsChange(
        expires_at_ms=limits.expires_at_ms,
        paused_at_ms=limits.paused_at_ms,
        models=limits.models,
        networks=limits.networks,
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
        concurrent=limits.concurrent,
        day_nanos=limits.spend.day,
        month_nanos=limits.spend.month,
        total_nanos=limits.spend.total,
    )
