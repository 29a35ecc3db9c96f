"""Query plans: queries at each start, scrape and round of due work cost the same at any length of the ledger."""

import sqlite3
from collections.abc import Callable

import pytest

from proxy.store.sqlite import folding, idempotency, reads, tasks
from proxy.store.sqlite.file import migrations
from proxy.store.sqlite.verify import verify_open
from tests.support.store import OWNER

SHORT = {"SCAN accounts", "SCAN requests USING INDEX requests_open", "SCAN spend USING INDEX spend_held", "SCAN both_say"}
"""Scans that are allowed: accounts, open requests, what is held of money limits, and what these two say of each day."""

ASKED: dict[str, Callable[[sqlite3.Connection], object]] = {
    "a start's checks": verify_open,
    "census": reads.census,
    "open requests": reads.open_requests,
    "open tasks": tasks.open_tasks,
    "orphaned requests": lambda connection: reads.orphaned_requests(connection, OWNER),
    "orphaned tasks": lambda connection: tasks.orphaned_tasks(connection, OWNER),
    "due tasks": lambda connection: tasks.due_tasks(connection, 1, 10, None, -1),
    "due tasks of an upstream": lambda connection: tasks.due_tasks(connection, 1, 10, "ark", -1),
    "next due": lambda connection: tasks.next_due_at_ms(connection, -1, None),
    "next due of an upstream": lambda connection: tasks.next_due_at_ms(connection, -1, "ark"),
    "unanswered tasks": lambda connection: tasks.unanswered_tasks(connection, "ark", 1),
    "known ids": lambda connection: tasks.known_upstream_ids(connection, "ark", 1),
    "forgetting claims": lambda connection: idempotency.forget(connection, 1),
    "accounts to fold": lambda connection: folding.accounts_to_fold(connection, 1),
}


@pytest.mark.parametrize("what", ASKED)
def test_nothing_that_grows_is_walked_through(what: str) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for script in migrations.scripts():
        connection.executescript(script)
    asked: list[str] = []
    connection.set_trace_callback(asked.append)
    ASKED[what](connection)
    connection.set_trace_callback(None)

    plans = [connection.execute(f"EXPLAIN QUERY PLAN {text}").fetchall() for text in asked if text not in ("BEGIN", "ROLLBACK")]

    assert plans
    steps = {step[3] for plan in plans for step in plan if not step[3].startswith("SCAN (")}  # rows of other steps, which are there too
    assert {step for step in steps if step.startswith("SCAN")} <= SHORT
    connection.close()
