"""The customer's receipt: how the charge was computed, and nothing about the operator."""

import orjson
from msgspec.structs import replace

from proxy.billing.receipts import owner_receipt
from proxy.core import pricing
from proxy.core.catalog import ChatPrice, ChatTier, Kind
from proxy.core.money import Nanos
from proxy.core.settlement import TokenUsage
from proxy.store.values import Receipt
from tests.support.store import NOW_MS, new_request, settlement

PRICE = ChatPrice((ChatTier(None, input=Nanos(800), output=Nanos(2000), cached_input=Nanos(160)),))
"""¥0.8, ¥2 and ¥0.16 a million tokens."""
REQUEST = replace(new_request(account_id=3, hold_nanos=30_000), price=pricing.freeze(PRICE), upstream_model="canary-model")


def test_a_receipt_shows_the_price_and_what_was_not_charged() -> None:
    # 16 fresh × 800 + 4 cached × 160 + 12 × 2,000 = 37,440 nano-yuan, of which the hold covers 30,000
    settled = settlement(30_000, usage=TokenUsage(20, 12, cached_tokens=4), shortfall_nanos=7_440)

    shown = owner_receipt(Receipt(REQUEST, "acme", settled, NOW_MS))

    charged = "charged ¥0.00003: never more than the hold"
    assert shown["formula"] == f"16 × ¥0.8/M + 4 × ¥0.16/M cached + 12 × ¥2/M = ¥0.00003744, {charged}"
    assert (shown["cost"], shown["shortfall"]) == ("0.00003", "0.00000744")


def test_what_cost_nothing_has_no_formula() -> None:
    shown = owner_receipt(Receipt(replace(REQUEST, kind=Kind.IMAGE), "acme", settlement(), NOW_MS))

    assert (shown["formula"], shown["cost"], shown["shortfall"]) == ("", "0.00", "0.00")


def test_nothing_of_the_upstreams_is_on_it() -> None:
    settled = replace(settlement(30_000, usage=TokenUsage(15, 9)), upstream_id="canary-id", note="canary-note")

    shown = orjson.dumps(owner_receipt(Receipt(replace(REQUEST, upstream="canary-name"), "acme", settled, NOW_MS)))

    assert b"canary" not in shown
