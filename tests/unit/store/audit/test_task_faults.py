"""The audit of video tasks and idempotency keys: each check is tested with the fault that it is made for, in each engine."""

import pytest

from proxy.core.money import Nanos
from proxy.core.video.report import Polled
from proxy.store.values import StoredAnswer
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, hears, made, new_claim, new_request, new_video, settlement, submitted, task_of
from tests.unit.store.audit.conftest import GUARDS, Books

UNSETTLED = "settled_at_ms = NULL, outcome = NULL, usage_source = NULL, charge_nanos = NULL"
SETTLED = "settled_at_ms = 1, outcome = 'complete', usage_source = 'none', charge_nanos = 0"


@pytest.fixture
async def books(empty: Books) -> Books:
    """Return books: alice (3) has 1,000; videos of 100 each: `made` (charged), `failed`, `open`; `kept` and `live` have keys."""
    store = empty.store
    alice = await store.create_account("alice", Nanos(1000), NOW_MS)
    await store.create_account("bob", Nanos(0), NOW_MS)
    for name in ("made", "failed", "open"):
        request = new_video(name, account_id=alice.id, hold_nanos=100)
        await store.place_task(request, task_of(request), NOW_MS)
        await store.advance_task(name, submitted(f"cgt-{name}"), NOW_MS)
    await store.advance_task("made", made(), NOW_MS)
    await store.advance_task("failed", hears(Polled("failed")), NOW_MS)
    for name in ("kept", "live"):
        await store.place_hold(new_request(name, account_id=alice.id, hold_nanos=10, claim=new_claim(name)))
    await store.settle("kept", settlement(3), NOW_MS, StoredAnswer(200, b"{}"))
    return empty


@pytest.mark.parametrize(
    ("script", "check", "offender"),
    [
        (
            "DELETE FROM video_tasks WHERE id = 'open'",
            "no open hold without a live request or task",
            "hold of video open, 100: its task has never been",
        ),
        (
            "UPDATE video_tasks SET state = 'failed', ended_at_ms = 1, due_at_ms = NULL WHERE id = 'open'",
            "no open hold without a live request or task",
            "hold of video open, 100: its task has ended",
        ),
        (
            "DELETE FROM video_tasks WHERE id = 'made'",
            "each task is its request's",
            "video made: there is no such task",
        ),
        (
            "DELETE FROM requests WHERE id = 'open'",
            "each task is its request's",
            "task open of account 3, hold 100: its request is missing",
        ),
        (
            "UPDATE requests SET kind = 'image' WHERE id = 'open'",
            "each task is its request's",
            "task open of account 3, hold 100: its request says image, account 3, hold 100",
        ),
        (
            "UPDATE video_tasks SET account_id = 4 WHERE id = 'open'",
            "each task is its request's",
            "task open of account 4, hold 100: its request says video, account 3, hold 100",
        ),
        (
            "UPDATE video_tasks SET hold_nanos = 99 WHERE id = 'open'",
            "each task is its request's",
            "task open of account 3, hold 99: its request says video, account 3, hold 100",
        ),
        (
            f"UPDATE requests SET {UNSETTLED} WHERE id = 'made'",
            "no ended task without its settlement",
            "task made: succeeded, but its request is not settled",
        ),
        (
            f"UPDATE requests SET {SETTLED} WHERE id = 'open'",
            "no settlement of a task that goes on",
            "task open: pending, but its request is settled",
        ),
        (
            "UPDATE video_tasks SET charge_nanos = 99 WHERE id = 'made'",
            "a video costs what its task says",
            "task made: succeeded and charged 99, its request 100",
        ),
        (
            "UPDATE requests SET charge_nanos = 1 WHERE id = 'failed'",
            "a video costs what its task says",
            "task failed: failed and charged 0, its request 1",
        ),
        (
            "UPDATE idempotency SET status = NULL, answer = NULL WHERE request_id = 'kept'",
            "each idempotency key is its request's",
            "key of request kept, account 3: the request is settled, and no answer is kept",
        ),
        (
            "UPDATE idempotency SET account_id = 4 WHERE request_id = 'live'",
            "each idempotency key is its request's",
            "key of request live, account 4: the request is of account 3",
        ),
        (
            "UPDATE idempotency SET request_id = 'open' WHERE request_id = 'kept'",
            "each idempotency key is its request's",
            "key of request open, account 3: the request has none",
        ),
        (
            "DELETE FROM requests WHERE id = 'kept'",
            "each idempotency key is its request's",
            "key of request kept, account 3: the request is missing",
        ),
        (
            "DELETE FROM idempotency WHERE request_id = 'live'",
            "each idempotency key is its request's",
            "request live: its key is somebody else's or nobody's",
        ),
    ],
)
async def test_tampering_is_found_and_named(books: Books, script: str, check: str, offender: str) -> None:
    await assert_books_balance(books.store)

    await books.tamper(script)

    assert offender in (await books.offenders())[check]


async def test_the_audit_gives_the_figures_of_tasks_and_keys(books: Books) -> None:
    figures = {check.name: check.figures for check in await books.store.verify()}

    assert figures["no open hold without a live request or task"] == "2 live requests, 1 of them with a live task"
    assert figures["each task is its request's"] == "3 tasks, 3 requests for videos"
    assert figures["no ended task without its settlement"] == "2 ended tasks"
    assert figures["no settlement of a task that goes on"] == "1 tasks go on"
    assert figures["a video costs what its task says"] == "1 videos, ¥0.0000001"
    assert figures["each idempotency key is its request's"] == "2 keys, 1 of them without an answer yet"
    await assert_books_balance(books.store)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE video_tasks SET due_at_ms = NULL WHERE id = 'open'",
        "UPDATE video_tasks SET due_at_ms = 1 WHERE id = 'made'",
        "UPDATE video_tasks SET state = 'succeeded' WHERE id = 'open'",
        "UPDATE video_tasks SET state = 'paused' WHERE id = 'open'",
        "UPDATE video_tasks SET charge_nanos = 101 WHERE id = 'made'",
        "UPDATE video_tasks SET charge_nanos = 1 WHERE id = 'failed'",
        "UPDATE video_tasks SET upstream_id = '' WHERE id = 'open'",
        "UPDATE video_tasks SET upstream_id = 'cgt-made' WHERE id = 'open'",
        "UPDATE video_tasks SET id = 'nobody' WHERE id = 'open'",
        "UPDATE idempotency SET status = 200 WHERE request_id = 'live'",
        "UPDATE idempotency SET body_sha256 = substr(body_sha256, 1, 31) WHERE request_id = 'live'",
        "DELETE FROM requests WHERE id = 'open'",
    ],
)
async def test_the_database_itself_refuses_what_would_break_a_task(books: Books, statement: str) -> None:
    with pytest.raises(GUARDS):
        await books.write(statement)

    await assert_books_balance(books.store)
