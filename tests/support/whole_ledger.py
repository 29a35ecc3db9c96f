"""A ledger with everything in it that a ledger can have, and all that a store says of it."""

import hashlib
from dataclasses import replace
from typing import Any

from msgspec import structs

from proxy.core.catalog import Kind
from proxy.core.days import CHINA
from proxy.core.limits import NO_LIMITS, Limits, LimitsChange, SpendLimits
from proxy.core.money import Nanos
from proxy.core.retention import DAY_MS
from proxy.core.settlement import Attempt, Outcome, TokenUsage, UsageSource
from proxy.core.video.report import Polled, PollFailed, PollFailure, SubmitUnknown
from proxy.store.contract import Store
from proxy.store.values import NewKey, StoredAnswer, UsageQuery
from tests.support.store import (
    NOW_MS,
    hears,
    made,
    new_claim,
    new_key,
    new_request,
    new_video,
    pay,
    reference,
    settlement,
    submitted,
    task_of,
)

TODAY_MS = CHINA.begins_ms(CHINA.day(NOW_MS))
OLD_MS = TODAY_MS - 10 * DAY_MS
ANSWER = StoredAnswer(200, b'{"choices":[]}\x00\xff')
USAGE = TokenUsage(1000, 200, cached_tokens=300, reasoning_tokens=50)
CLAIMS = ("kept", "open", "of-a-video")
QUERIES = [
    UsageQuery(by, account, since_ms, None)
    for by in ("model", "key", "day")
    for account in (None, "alice", "bob")
    for since_ms in (None, TODAY_MS)
]


async def fill(store: Store, requests: int = 3) -> None:
    """Make everything. Args: requests: settled ones of alice, besides the others."""
    await _customers(store)
    alice, bob = await store.account("alice"), await store.account("bob")
    await _requests(store, alice.id, bob.id, requests)
    await _videos(store, alice.id)
    await store.refund_request("req_complete", Nanos(7), "half an answer", NOW_MS + 9, reference("given-back"))
    await store.note_use({"key_1": NOW_MS + 5, "key_b": NOW_MS + 6})
    await store.refund_request("req_old_3", Nanos(1), "", NOW_MS + 9, reference("before-it-was-folded"))
    while await store.fold_requests(alice.id, TODAY_MS - DAY_MS):
        pass
    await store.refund_request("req_old_4", Nanos(2), "", NOW_MS + 9, reference("after-it-was-folded"))
    await store.set_key_limits("key_paused", LimitsChange(paused_at_ms=NOW_MS), NOW_MS)
    await store.revoke_key("key_revoked", NOW_MS + 3)
    await store.set_account_limits("bob", LimitsChange(paused_at_ms=NOW_MS + 4), NOW_MS + 4)
    await store.close_account("gone", NOW_MS + 8)


async def _customers(store: Store) -> None:
    await store.create_account("alice", Nanos(10**12), NOW_MS - 20 * DAY_MS)
    await store.create_account("bob", Nanos(0), NOW_MS, reference("opened-with-nothing"))
    await store.create_account("客户 gone's", Nanos(5), NOW_MS)
    await store.create_account("gone", Nanos(100), NOW_MS)
    await store.credit_account("bob", Nanos(5000), "invoice 4711", NOW_MS + 1, reference("paid"))
    await store.credit_account("bob", Nanos(-1000), "", NOW_MS + 2, reference("taken-back"))
    await store.set_discount("bob", 8_500)
    await store.set_account_limits("alice", LimitsChange(month_nanos=Nanos(10**11), requests_per_minute=600), NOW_MS)
    limits = Limits(
        NOW_MS + DAY_MS, None, ("doubao-*",), ("10.0.0.0/8",), 60, 1000, 4, SpendLimits(day=Nanos(10**9), total=Nanos(10**10))
    )
    for account, key_id, its in (
        *(("alice", "key_1", limits), ("alice", "key_paused", NO_LIMITS), ("alice", "key_revoked", NO_LIMITS)),
        *(("bob", "key_b", NO_LIMITS), ("gone", "key_gone", NO_LIMITS)),
    ):
        await store.create_key(account, replace(new_key(key_id, name=f"name of {key_id}"), limits=its))
    rolled = NewKey("key_2", "", "sk_bcdefgh", hashlib.sha256(b"key_2").digest(), NOW_MS + 1)
    await store.roll_key("key_1", rolled, DAY_MS, NOW_MS + 1)


async def _requests(store: Store, alice: int, bob: int, requests: int) -> None:
    for n, outcome in enumerate(Outcome):
        charge = 60 if outcome is Outcome.COMPLETE else 0
        ending = settlement(charge, outcome=outcome, usage=USAGE, shortfall_nanos=5 * charge)
        await pay(store, new_request(f"req_{outcome.value}", account_id=alice, key_id="key_1", created_at_ms=NOW_MS + n), ending)
    for n in range(requests):
        await pay(store, new_request(f"req_many_{n}", account_id=alice, key_id="key_2", stream=True), settlement(10, usage=USAGE))
    for n in range(5):
        old = new_request(f"req_old_{n}", account_id=alice, model=f"m{n % 2}", created_at_ms=OLD_MS + n * DAY_MS // 2)
        await pay(store, old, settlement(n, usage=USAGE, usage_source=UsageSource.ESTIMATED))
    await pay(store, new_request("img_1", account_id=bob, kind=Kind.IMAGE, key_id="key_b"), settlement(50, units=2))
    routed = structs.replace(
        settlement(20, usage=USAGE),
        attempts=(Attempt("ark", "one", "m", "overloaded", 30), Attempt("spare", "two", "n", "answered", 40)),
        note="the upstream said 'no' – 一",
        upstream_id="up-1",
        first_byte_ms=12,
        total_ms=345,
    )
    await pay(store, structs.replace(new_request("req_routed", account_id=alice), key_name="one"), routed)
    await pay(store, new_request("req_of_nothing", account_id=alice, hold_nanos=0), settlement(0))
    await store.place_hold(new_request("req_kept", account_id=alice, claim=new_claim("kept")))
    await store.settle("req_kept", settlement(30), NOW_MS + 1, ANSWER)
    await store.place_hold(new_request("req_open_1", account_id=alice, key_id="key_2", hold_nanos=700, claim=new_claim("open")))
    await store.place_hold(new_request("req_open_2", account_id=bob, kind=Kind.IMAGE, hold_nanos=300))


async def _videos(store: Store, alice: int) -> None:
    for n, (name, steps) in enumerate(
        {
            "vreq_submitting": [],
            "vreq_lost": [hears(SubmitUnknown())],
            "vreq_pending": [submitted("cgt-pending")],
            "vreq_processing": [submitted("cgt-processing"), hears(Polled("running"))],
            "vreq_polled_in_vain": [submitted("cgt-vain"), hears(PollFailed(PollFailure.TRANSIENT))],
            "vreq_succeeded": [submitted("cgt-succeeded"), made()],
            "vreq_failed": [submitted("cgt-failed"), hears(Polled("failed"))],
        }.items()
    ):
        claim = new_claim("of-a-video") if name == "vreq_pending" else None
        video = new_video(name, account_id=alice, key_id="key_2", hold_nanos=1000 + n, created_at_ms=NOW_MS + n, claim=claim)
        await store.place_task(
            video, replace(task_of(video), prompt=f"一只\0猫 {n}", seed=n or None, generate_audio=n % 2 == 0), NOW_MS + 60_000
        )
        for step in steps:
            await store.advance_task(name, step, NOW_MS, ANSWER if claim else None)


async def shown(store: Store) -> dict[str, Any]:
    """Return all that a store says, but for who placed what is open."""
    accounts = await store.accounts()
    census = await store.census()
    open_requests = [replace(request, owner="") for request in await store.open_requests()]
    tasks = {account.name: await store.tasks(account.id, 100, 0) for account in accounts}
    ids = [f"req_{outcome.value}" for outcome in Outcome] + [f"req_many_{n}" for n in range(3)] + [f"req_old_{n}" for n in range(5)]
    ids += ["img_1", "req_routed", "req_of_nothing", "req_kept", "req_open_1", "req_open_2"]
    ids += [task.id for its in tasks.values() for task in its]
    return {
        "accounts": accounts,
        "keys": await store.keys(),
        "grants": sorted(await store.grants(), key=lambda grant: grant.key_id),
        "use": sorted(await store.key_use(NOW_MS), key=lambda use: (use.account, use.identity)),
        "receipts": {request_id: await store.receipt(request_id) for request_id in ids},
        "folded": {request_id: await store.folded(request_id) for request_id in ids},
        "usage": [await store.usage(query) for query in QUERIES],
        "open": sorted(open_requests, key=lambda request: request.id),
        "tasks": tasks,
        "unanswered": sorted(task.id for task in await store.unanswered_tasks("ark", 0)),
        "upstream ids": await store.known_upstream_ids("ark", 0),
        "claims": [await store.claimed_key(account.id, key, NOW_MS) for account in accounts for key in CLAIMS],
        "census": (census.held_nanos, census.holds, census.oldest_hold_at_ms, set(census.tasks)),
    }
