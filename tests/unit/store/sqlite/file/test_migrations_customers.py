"""The migrations that limits, customers and routes need, on a file of the version before."""

import sqlite3
from pathlib import Path

import pytest

from proxy.core.days import Zone
from proxy.store.sqlite import reads
from proxy.store.sqlite.file import migrations
from proxy.store.sqlite.verify import verify
from proxy.store.values import UsageQuery


@pytest.fixture
def old(tmp_path: Path) -> sqlite3.Connection:
    """Return a file of version 6 with an account, a payment, a settled request and a folded day."""
    connection = sqlite3.connect(tmp_path / "old.db", isolation_level=None)
    for script in migrations.scripts()[:6]:
        connection.executescript(f"BEGIN; {script}; COMMIT;")
    connection.executescript("""
        INSERT INTO accounts (id, kind, name, balance_nanos, created_at_ms) VALUES (3, 'customer', 'acme', 70, 0);
        INSERT INTO keys VALUES ('key_1', 3, '', 'sk_a', zeroblob(32), 0, NULL);
        INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, created_at_ms) VALUES ('credit', 1, 3, 100, 0);
        INSERT INTO payments VALUES ('transfer', '1', 3, 100, 1, 0);
        INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, request_id, created_at_ms) VALUES
          ('hold', 3, 2, 40, 'req_1', 72000000), ('charge', 3, 2, 30, 'req_1', 72000001);
        INSERT INTO requests (id, kind, account_id, key_id, model, upstream, upstream_model, stream, hold_nanos, price, created_at_ms,
          settled_at_ms, outcome, usage_source, charge_nanos, prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, units,
          shortfall_nanos) VALUES ('req_1', 'chat', 3, 'key_1', 'm', 'ark', 'm', 0, 40, '{}', 72000000, 72000001, 'complete',
          'reported', 30, 1, 0, 1, 0, 0, 0);
    """)
    return connection


def _upgrade(connection: sqlite3.Connection, version: int = 6, to: int | None = None) -> None:
    for script in migrations.scripts()[version:to]:
        connection.executescript(f"BEGIN; {script}; COMMIT;")


def test_what_is_there_stays_and_gets_no_limit(old: sqlite3.Connection) -> None:
    _upgrade(old)
    assert old.execute("SELECT discount, closed_at_ms FROM accounts WHERE id = 3").fetchone() == (10_000, None)
    assert old.execute("SELECT identity, ends_at_ms, last_used_at_ms FROM keys").fetchone() == (None, None, None)
    assert old.execute("SELECT key_name, attempts FROM requests").fetchone() == (None, None)
    assert old.execute("SELECT count(*) FROM limits").fetchone() == old.execute("SELECT count(*) FROM spend").fetchone() == (0,)
    assert old.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert not old.execute("PRAGMA foreign_key_check").fetchall()


def test_a_reversal_goes_from_revenue_to_a_customer_and_names_its_request(old: sqlite3.Connection) -> None:
    _upgrade(old)
    insert = "INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, request_id, created_at_ms) VALUES (?, ?, ?, 5, ?, 0)"
    old.execute(insert, ("reversal", 2, 3, "req_1"))
    for wrong in (("reversal", 1, 3, "req_1"), ("reversal", 2, 1, "req_1"), ("reversal", 2, 3, None), ("gift", 2, 3, "req_1")):
        with pytest.raises(sqlite3.IntegrityError):
            old.execute(insert, wrong)


def test_days_folded_before_there_was_a_time_zone_are_utcs(old: sqlite3.Connection) -> None:
    day = "INSERT INTO request_days VALUES (3, 0, 'key_1', 'm', 'chat', 1, 0, 1, 40, 1, 30, 0, 1, 0, 1, 0, 0)"
    old.execute(day)
    _upgrade(old)
    assert old.execute("SELECT value FROM facts WHERE name = 'zone_minutes'").fetchone() == (0,)
    old.execute("DELETE FROM requests")  # 20:00 of day 0, whose sum is there


def test_a_request_is_folded_into_the_day_of_the_files_time_zone(old: sqlite3.Connection) -> None:
    _upgrade(old)
    assert old.execute("SELECT count(*) FROM facts").fetchone() == (0,)
    old.execute("INSERT INTO facts VALUES ('zone_minutes', 480)")
    old.execute("INSERT INTO request_days VALUES (3, 0, 'key_1', 'm', 'chat', 1, 0, 1, 40, 1, 30, 0, 1, 0, 1, 0, 0, 0)")
    with pytest.raises(sqlite3.IntegrityError, match="folded into daily sums"):
        old.execute("DELETE FROM requests")  # 20:00 UTC is 04:00 of day 1 in China
    old.execute("UPDATE request_days SET day = 1")
    old.execute("DELETE FROM requests")


def test_what_was_given_back_of_requests_folded_before_is_in_its_days(old: sqlite3.Connection) -> None:
    """20:00 UTC of day 0 is 04:00 of day 1 in China: 11 of req_1, folded, and of req_2, which is not folded, 5."""
    _upgrade(old, to=9)
    old.executescript("""
        INSERT INTO facts VALUES ('zone_minutes', 480);
        INSERT INTO request_days VALUES (3, 1, 'key_1', 'm', 'chat', 1, 0, 1, 40, 1, 30, 0, 1, 0, 1, 0, 0);
        INSERT INTO requests SELECT 'req_2', kind, account_id, key_id, model, upstream, upstream_model, stream, hold_nanos, price,
          created_at_ms, settled_at_ms, outcome, usage_source, charge_nanos, prompt_tokens, cached_tokens, completion_tokens,
          reasoning_tokens, units, shortfall_nanos, http_status, upstream_id, first_byte_ms, total_ms, note, claimed, owner, key_name,
          attempts FROM requests;
        INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, request_id, created_at_ms) VALUES
          ('hold', 3, 2, 40, 'req_2', 72000000), ('charge', 3, 2, 30, 'req_2', 72000001), ('reversal', 2, 3, 4, 'req_1', 72000002),
          ('reversal', 2, 3, 7, 'req_1', 72000003), ('reversal', 2, 3, 5, 'req_2', 72000004);
        DELETE FROM requests WHERE id = 'req_1';
    """)

    _upgrade(old, version=9)

    assert old.execute("SELECT * FROM refund_days").fetchall() == [(3, 1, 11)]
    rows = reads.usage(old, UsageQuery("day"), Zone(480))
    assert [(row.group, row.requests, row.charge_nanos, row.refunded_nanos) for row in rows] == [("1970-01-02", 2, 60, 16)]
    found = {check.name: check for check in verify(old)}["refunds of folded requests are in the daily sums"]
    assert (found.holds, found.figures) == (
        True,
        "¥0.000000011 given back of folded requests, ¥0.000000011 of it since they were folded",
    )
