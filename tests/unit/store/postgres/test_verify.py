"""The audit in PostgreSQL: its references, its one snapshot, a check that cannot be carried out, and an audit whose caller has gone."""

import asyncio
from typing import Any

import pytest

from proxy.core.money import Nanos
from proxy.store.audit import INVARIANTS
from proxy.store.audit.invariant import CHECKED
from proxy.store.contract import Store
from proxy.store.errors import StoreRefusedError
from proxy.store.postgres import PostgresStore
from proxy.store.postgres.connection import Connection
from proxy.store.postgres.verify import REFERENCES, verify
from proxy.store.progress import Progress
from proxy.store.values import Account, Check
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, new_key, new_request, pay, settlement
from tests.unit.store.postgres.conftest import Opens


async def two_requests(store: Store, account: Account) -> None:
    await store.create_key(account.name, new_key())
    await pay(store, new_request("paid", account_id=account.id, key_id="key_1"), settlement(7))
    await store.place_hold(new_request("open", account_id=account.id))


def offenders(checks: list[Check]) -> dict[str, list[str]]:
    return {check.name: list(check.offenders) for check in checks if not check.holds}


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("UPDATE transfers SET debit_id = 9 WHERE kind = 'charge'", "transfer 3: there is no account 9"),
        ("UPDATE transfers SET credit_id = 9 WHERE kind = 'credit'", "transfer 1: there is no account 9"),
        ("UPDATE requests SET account_id = 9 WHERE id = 'open'", "request open: there is no account 9"),
        ("UPDATE requests SET key_id = 'key_9' WHERE id = 'open'", "request open: there is no key key_9"),
        ("UPDATE requests SET node_id = 99 WHERE id = 'open'", "request open: there is no node 99"),
    ],
)
async def test_a_reference_that_leads_nowhere_is_found(
    store: PostgresStore, alice: Account, sql: Connection, script: str, said: str
) -> None:
    await two_requests(store, alice)
    await assert_books_balance(store)

    await sql.execute("ALTER TABLE transfers DISABLE TRIGGER append_only; ALTER TABLE transfers DROP CONSTRAINT transfers_check1")
    await sql.execute(script)

    assert offenders(await store.verify())[REFERENCES.name] == [said]


async def test_all_checks_see_one_moment(store: PostgresStore, alice: Account) -> None:
    async def audited_around_a_charge(connection: Connection) -> tuple[list[Check], list[Check]]:
        before = await verify(connection)
        await pay(store, new_request("meanwhile", account_id=alice.id), settlement(7))
        return before, await verify(connection)

    await two_requests(store, alice)
    before, after = await store._read_long(audited_around_a_charge)

    assert before == after
    assert await store.verify() != after
    await assert_books_balance(store)


async def test_each_check_is_told_as_progress(store: PostgresStore) -> None:
    told: list[Progress] = []

    checks = await store.verify(told.append)

    assert [check.name for check in checks] == [REFERENCES.name, *(invariant.name for invariant in INVARIANTS)]
    assert told == [Progress(CHECKED, done, len(checks)) for done in range(len(checks) + 1)]


async def test_a_check_that_cannot_be_carried_out_says_so_and_the_others_go_on(
    store: PostgresStore, alice: Account, sql: Connection
) -> None:
    await two_requests(store, alice)

    await sql.execute("""UPDATE requests SET price = '{"discount":"much"}' WHERE id = 'paid'""")

    checks = {check.name: check for check in await store.verify()}
    (broken,) = [check for check in checks.values() if not check.holds]
    assert (broken.name, broken.figures) == ("a discount is in the charge as it is in the price", "could not be read")
    assert broken.offenders == ['invalid input syntax for type bigint: "much"']
    assert len(checks) == len(INVARIANTS) + 1


async def test_a_charge_of_counts_beyond_all_bounds_is_checked(store: PostgresStore, alice: Account, sql: Connection) -> None:
    # 2**48 tokens at 100 yuan each: 2.8 * 10**25 nano-yuan, which no integer of the database holds
    await two_requests(store, alice)
    price = '{"discount":5000,"tiers":[{"up_to":null,"input":100000000000,"cached_input":0,"output":0}]}'

    await sql.execute("UPDATE requests SET price = $1, prompt_tokens = 281474976710656 WHERE id = 'paid'", price)

    (said,) = offenders(await store.verify())["a discount is in the charge as it is in the price"]
    assert said == "request paid: 7 and 0 not charged, it is 28147497671065600000000000 times 5000 / 10000"


async def test_an_audit_whose_caller_has_gone_ends_in_the_server_too(store: PostgresStore, sql: Connection) -> None:
    async def sleep(connection: Connection) -> None:
        await connection.execute("SELECT pg_sleep(600) AS audited")

    asleep = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600) AS audited%' AND pid <> pg_backend_pid()"
    audit = asyncio.create_task(store._read_long(sleep))  # noqa: TID251
    await _until(sql, asleep, 1)

    audit.cancel()

    with pytest.raises(asyncio.CancelledError):
        await audit
    await _until(sql, asleep, 0)


async def _until(sql: Connection, query: str, expected: Any) -> None:
    async with asyncio.timeout(30):
        while await sql.fetchval(query) != expected:
            await sql.execute("SELECT pg_sleep(0.02)")


async def test_a_start_looks_at_what_is_open(opens: Opens, store: PostgresStore, alice: Account, sql: Connection) -> None:
    await two_requests(store, alice)
    assert offenders(await store.verify_open()) == {}

    await sql.execute("UPDATE accounts SET held_nanos = 99 WHERE name = 'alice'")

    reader = await opens(read_only=True)
    said = {"held = sum of open holds": ["account alice: held 99, its open requests say 100"]}
    assert offenders(await store.verify_open()) == offenders(await reader.verify_open()) == said


async def test_backups_are_the_servers_and_the_refusal_says_how(store: PostgresStore, tmp_path: Any) -> None:
    await store.create_account("carol", Nanos(5), NOW_MS)

    with pytest.raises(StoreRefusedError, match=r"llm_proxy_test.*its server's.*point-in-time recovery.*pg_dump"):
        await store.backup(tmp_path / "copy.db")

    assert list(tmp_path.iterdir()) == []
