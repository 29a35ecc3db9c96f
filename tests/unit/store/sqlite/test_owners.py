"""Owners in the file: what was placed before they were recorded, and who has the proof that others are dead."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from proxy.billing.holds import Billing
from proxy.clock import SystemClock
from proxy.core.money import Nanos
from proxy.core.settlement import Outcome
from proxy.store.sqlite import open_store
from proxy.store.sqlite.file.migrations import scripts
from proxy.store.sqlite.store import SqliteStore
from proxy.tasks import TaskGroup
from proxy.telemetry.metrics import Metrics
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, new_request, new_video, task_of

VERSION_4_BOOKS = """
    INSERT INTO accounts (id, kind, name, balance_nanos, held_nanos, created_at_ms) VALUES (3, 'customer', 'alice', 1000, 300, 0);
    INSERT INTO requests (id, kind, account_id, model, upstream, upstream_model, stream, hold_nanos, price, created_at_ms) VALUES
      ('req_chat', 'chat', 3, 'm', 'ark', 'm', 0, 100, '{}', 1), ('vreq_1', 'video', 3, 'm', 'ark', 'm', 0, 200, '{}', 2);
    INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, request_id, created_at_ms) VALUES
      ('credit', 1, 3, 1000, NULL, 0), ('hold', 3, 2, 100, 'req_chat', 1), ('hold', 3, 2, 200, 'vreq_1', 2);
    INSERT INTO video_tasks (id, account_id, model, upstream, upstream_model, prompt, task_type, resolution, duration_seconds,
        generate_audio, service_tier, safety_identifier, billing, hold_nanos, quote_nanos, quote_tokens, rate_nanos_per_kilotoken,
        created_at_ms, state, upstream_id, polls, missing, urlless, odd_status, video_url, thumbnail_url, charge_nanos, due_at_ms)
      VALUES ('vreq_1', 3, 'm', 'ark', 'm', 'a cat', 'text_to_video', '720p', 5, 0, 'default', 'c0ffee', 'formula', 200, 200, 1000, 200,
        2, 'submitting', '', 0, 0, 0, '', '', '', 0, 9);
"""


@pytest.fixture
async def upgraded(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """A store of version 4, before owners, whose process died with a chat and the submit of a video under way."""
    with closing(sqlite3.connect(tmp_path / "books.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for script in scripts()[:4]:
            connection.executescript(f"BEGIN;{script};COMMIT;")
        connection.executescript(f"PRAGMA user_version = 4; BEGIN;{VERSION_4_BOOKS};COMMIT;")
    store = await open_store(tmp_path / "books.db")
    yield store
    await assert_books_balance(store)
    await store.close()


async def test_what_was_open_before_owners_were_recorded_is_a_dead_owners(upgraded: SqliteStore) -> None:
    await upgraded.place_hold(new_request("req_mine", account_id=3))

    left = await upgraded.orphaned_requests()

    assert [(request.id, request.owner) for request in left] == [("req_chat", None), ("vreq_1", None)]
    assert [task.id for task in await upgraded.orphaned_tasks()] == ["vreq_1"]


async def test_the_first_start_after_the_upgrade_recovers_it(upgraded: SqliteStore) -> None:
    billing = Billing(upgraded, TaskGroup("settlement"), SystemClock(), Metrics())

    assert await billing.recover() == 1
    assert await billing.recover() == 0

    found = await upgraded.receipt("req_chat")
    assert found is not None
    assert found[0].settlement is not None
    assert (found[0].settlement.outcome, found[0].settlement.charge_nanos) == (Outcome.INTERRUPTED, 0)
    alice = await upgraded.account("alice")
    assert (alice.balance_nanos, alice.held_nanos) == (1000, 200)


async def test_a_reader_takes_nobody_for_dead_as_it_has_no_lock(tmp_path: Path) -> None:
    writer = await open_store(tmp_path / "books.db")
    account = await writer.create_account("alice", Nanos(1000), NOW_MS)
    video = new_video(account_id=account.id)
    await writer.place_hold(new_request(account_id=account.id))
    await writer.place_task(video, task_of(video), NOW_MS)

    reader = await open_store(tmp_path / "books.db", read_only=True)

    assert len(await reader.open_requests()) == 2
    assert (await reader.orphaned_requests(), await reader.orphaned_tasks()) == ([], [])
    await assert_books_balance(reader)
    await reader.close()
    await writer.close()
