"""Builders of store values: a test names the fields that matter, the rest have ordinary defaults."""

import hashlib
import sqlite3
from collections.abc import Callable
from dataclasses import replace

from proxy.core.catalog import Kind
from proxy.core.days import CHINA
from proxy.core.money import Nanos
from proxy.core.settlement import NO_USAGE, Outcome, Settlement, TokenUsage, UsageSource
from proxy.core.video.price import VideoBilling
from proxy.core.video.record import TaskState, VideoTask
from proxy.core.video.report import Polled, Report, Submitted
from proxy.core.video.task import Pace, Step, advance
from proxy.store.contract import Store
from proxy.store.sqlite.spending import Spending
from proxy.store.values import IdempotencyClaim, NewKey, NewRequest, Reference

NOW_MS = 1_764_000_000_000
"""2025-11-24T16:00:00Z."""
OWNER = "own_test"
"""Who places holds where a test calls the operations of a connection by themselves."""

OLD_BOOKS = """
    INSERT INTO accounts (id, kind, name, balance_nanos, held_nanos, created_at_ms) VALUES (3, 'customer', 'alice', 970, 100, 0);
    INSERT INTO requests (id, kind, account_id, model, upstream, upstream_model, stream, hold_nanos, price, created_at_ms)
      VALUES ('open', 'chat', 3, 'm', 'ark', 'm', 0, 100, '{}', 1);
    INSERT INTO requests (id, kind, account_id, model, upstream, upstream_model, stream, hold_nanos, price, created_at_ms,
        settled_at_ms, outcome, usage_source, charge_nanos, prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, units,
        shortfall_nanos, http_status, upstream_id, note)
      VALUES ('charged', 'image', 3, 'm', 'ark', 'm', 0, 100, '{}', 0, 1, 'complete', 'reported', 30, 0, 0, 0, 0, 1, 0, 200, '', '');
    INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, request_id, created_at_ms) VALUES
      ('credit', 1, 3, 1000, NULL, 0), ('hold', 3, 2, 100, 'charged', 0),
      ('charge', 3, 2, 30, 'charged', 1), ('hold', 3, 2, 100, 'open', 1);
"""
"""Rows for a schema of any version: alice (3) paid 30 of 1,000, and 100 are held for the request ``open``."""


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
    claim: IdempotencyClaim | None = None,
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
        claim=claim,
    )


def unlimited() -> Spending:
    """Return the money limits of nobody, for operations of a connection that are called by themselves."""
    return Spending(sqlite3.connect(":memory:"), CHINA)


def reference(text: str = "payment-1") -> Reference:
    return Reference("test", text)


def new_claim(key: str = "retry-1", body: str = "body") -> IdempotencyClaim:
    return IdempotencyClaim(key, hashlib.sha256(body.encode()).digest())


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


def new_video(
    request_id: str = "vreq_1",
    *,
    account_id: int,
    hold_nanos: int = 100,
    key_id: str = "",
    created_at_ms: int = NOW_MS,
    claim: IdempotencyClaim | None = None,
) -> NewRequest:
    return new_request(
        request_id,
        account_id=account_id,
        hold_nanos=hold_nanos,
        kind=Kind.VIDEO,
        key_id=key_id,
        model="doubao-seedance-1-5-pro-251215",
        created_at_ms=created_at_ms,
        claim=claim,
    )


def task_of(request: NewRequest) -> VideoTask:
    """Return a new task for a video request. Its quote is its hold, and 1,000 tokens are charged."""
    return VideoTask(
        id=request.id,
        account_id=request.account_id,
        model=request.model,
        upstream=request.upstream,
        upstream_model=request.upstream_model,
        prompt="一只猫在月光下",
        task_type="text_to_video",
        resolution="720p",
        duration_seconds=5,
        generate_audio=False,
        service_tier="default",
        seed=None,
        safety_identifier="c0ffee",
        billing=VideoBilling.FORMULA,
        hold_nanos=request.hold_nanos,
        quote_nanos=request.hold_nanos,
        quote_tokens=1000,
        rate_nanos_per_kilotoken=8_000_000,
        created_at_ms=request.created_at_ms,
    )


def hears(report: Report, now_ms: int = NOW_MS) -> Callable[[VideoTask], Step]:
    """Return a function that decides a task's step by a report; a first poll is due after 3 seconds."""
    return lambda task: advance(task, report, now_ms, pace=Pace(first_ms=3_000, longest_ms=15_000), jitter=0.0)


def submitted(upstream_id: str = "cgt-1", now_ms: int = NOW_MS) -> Callable[[VideoTask], Step]:
    return hears(Submitted(upstream_id), now_ms)


def made(now_ms: int = NOW_MS) -> Callable[[VideoTask], Step]:
    return hears(Polled("succeeded", "https://tos/v.mp4", "https://tos/f.png", completion_tokens=1010), now_ms)


async def pay(store: Store, request: NewRequest, ending: Settlement, now_ms: int = NOW_MS) -> None:
    """Hold and settle a request; a video through its task."""
    if request.kind is not Kind.VIDEO:
        await store.place_hold(request)
        await store.settle(request.id, ending, now_ms)
        return

    def succeed(task: VideoTask) -> Step:
        return Step(replace(task, state=TaskState.SUCCEEDED, charge_nanos=ending.charge_nanos, ended_at_ms=now_ms), None, ending)

    await store.place_task(request, task_of(request), now_ms)
    await store.advance_task(request.id, submitted(f"cgt-{request.id}", now_ms), now_ms)
    await store.advance_task(request.id, succeed, now_ms)
