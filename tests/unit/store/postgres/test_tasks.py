"""Video tasks of several nodes: due work is one node's at a time, and a step counts once, whoever takes it."""

import asyncio

import pytest

from proxy.core.money import Nanos
from proxy.core.video.record import TaskState, VideoTask
from proxy.core.video.report import CancelConfirmed, Found, Polled, Report, SubmitUnknown
from proxy.core.video.task import Step
from proxy.store.contract import TASK_CLAIM_SECONDS
from proxy.store.errors import StoreCorruptError, UpstreamIdTakenError
from proxy.store.postgres import PostgresStore
from proxy.store.postgres.connection import Connection
from proxy.store.postgres.session import LOCK_SECONDS
from proxy.store.postgres.tasks import SWAPS_MAX
from proxy.store.values import Account
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, hears, made, new_video, submitted, task_of
from tests.unit.store.postgres.conftest import Opens

DUE_MS = NOW_MS + 3_000
"""When a task that was submitted at `NOW_MS` is due."""
COUNT = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%UPDATE video_tasks%'"


async def place(store: PostgresStore, account: Account, *names: str) -> None:
    """Place tasks of 10 nano-yuan each, which the upstream has."""
    for name in names:
        request = new_video(name, account_id=account.id, hold_nanos=10)
        await store.place_task(request, task_of(request), NOW_MS)
        await store.advance_task(name, submitted(f"cgt-{name}"), NOW_MS)


async def due(store: PostgresStore, limit: int = 100) -> list[str]:
    return [task.id for task in await store.due_tasks(DUE_MS, limit)]


async def test_what_is_due_is_one_nodes_until_a_step_of_it_is_stored(opens: Opens, store: PostgresStore, alice: Account) -> None:
    other = await opens()
    await place(store, alice, "vreq_1", "vreq_2")

    mine = await due(store, 1)
    theirs = await due(other)
    again = await due(store)
    await store.advance_task("vreq_1", hears(Polled("running"), NOW_MS), NOW_MS)

    assert (mine, theirs, again) == (["vreq_1"], ["vreq_2"], ["vreq_1"])
    assert [task.id for task in await other.due_tasks(NOW_MS + 60_000, 100)] == ["vreq_2", "vreq_1"]
    assert await store.due_tasks(NOW_MS + 60_000, 100) == []
    await assert_books_balance(store)


async def test_many_nodes_that_look_at_once_share_what_is_due(opens: Opens, store: PostgresStore, alice: Account) -> None:
    nodes = [store, *[await opens() for _ in range(3)]]
    names = [f"vreq_{number:02}" for number in range(24)]
    await place(store, alice, *names)

    claimed: list[str] = []
    for _ in range(3):  # who meets another's claim in the making leaves that to it, and gets it never
        looks = await asyncio.gather(*(due(node, 9) for node in nodes))
        claimed = [name for look in looks for name in look]
        assert len(claimed) == len(set(claimed))

    assert sorted({name for node in nodes for name in await due(node)}) == names
    await assert_books_balance(store)


async def test_a_claim_ends_with_its_time_or_with_its_node(opens: Opens, store: PostgresStore, alice: Account, sql: Connection) -> None:
    other, third = await opens(), await opens()
    await place(store, alice, "vreq_1", "vreq_2")
    assert await due(store, 1) == ["vreq_1"]
    assert await due(third) == ["vreq_2"]

    await sql.execute("UPDATE video_tasks SET claimed_until = clock_timestamp() WHERE id = 'vreq_1'")
    after_its_time = await due(other)
    await third.close()
    after_its_node = await due(other)

    assert (after_its_time, sorted(after_its_node)) == (["vreq_1"], ["vreq_1", "vreq_2"])  # both are due at the same time
    assert await due(store) == []
    await assert_books_balance(store)


async def test_who_looks_again_writes_only_what_renews_a_claim(store: PostgresStore, alice: Account, sql: Connection) -> None:
    async def writes() -> int:
        return int(await sql.fetchval("SELECT sum(number)::bigint FROM node_writes"))

    await place(store, alice, "vreq_1")
    assert await due(store) == ["vreq_1"]
    before = await writes()

    looks = [await due(store), await due(store), [task.id for task in await store.due_tasks(NOW_MS, 100)]]
    after_looks = await writes()
    await sql.execute(f"UPDATE video_tasks SET claimed_until = clock_timestamp() + interval '{TASK_CLAIM_SECONDS // 3} s'")
    assert await due(store) == ["vreq_1"]

    assert looks == [["vreq_1"], ["vreq_1"], []]
    assert (after_looks - before, await writes() - before) == (0, 1)
    left = await sql.fetchval("SELECT extract(epoch FROM claimed_until - clock_timestamp())::float FROM video_tasks")
    assert TASK_CLAIM_SECONDS * 2 / 3 < left <= TASK_CLAIM_SECONDS


async def test_a_node_that_is_dead_claims_nothing(opens: Opens, store: PostgresStore, alice: Account, sql: Connection) -> None:
    other = await opens()
    await place(store, alice, "vreq_1")
    assert other.node is not None

    await sql.execute("SELECT end_node($1, NULL)", other.node.id)

    with pytest.raises(StoreCorruptError):
        await other.due_tasks(DUE_MS, 100)
    assert await due(store) == ["vreq_1"]


async def test_a_reader_sees_what_is_due_and_claims_nothing(opens: Opens, store: PostgresStore, alice: Account) -> None:
    reader = await opens(read_only=True)
    await place(store, alice, "vreq_1")

    assert await due(reader) == ["vreq_1"]
    assert await due(store) == ["vreq_1"]
    assert await due(reader) == []


async def test_a_submit_without_an_answer_is_its_own_nodes_until_that_is_dead(
    opens: Opens, store: PostgresStore, alice: Account
) -> None:
    other = await opens()
    for name in ("vreq_asking", "vreq_lost"):
        request = new_video(name, account_id=alice.id)
        await store.place_task(request, task_of(request), NOW_MS)
    await store.advance_task("vreq_lost", hears(SubmitUnknown("reset"), NOW_MS - 60_000), NOW_MS)

    theirs = await due(other)
    mine = await due(store)
    await store.close()

    assert (theirs, mine) == (["vreq_lost"], ["vreq_asking"])
    assert sorted(await due(other)) == ["vreq_asking", "vreq_lost"]
    await assert_books_balance(other)


async def test_a_step_is_decided_again_on_what_another_node_stored_meanwhile(
    store: PostgresStore, alice: Account, sql: Connection
) -> None:
    await place(store, alice, "vreq_1")
    seen: list[VideoTask] = []

    def decide(task: VideoTask) -> Step:
        seen.append(task)
        return hears(Polled("succeeded", "https://tos/v.mp4"))(task)

    await sql.execute("BEGIN")
    await sql.execute("UPDATE video_tasks SET state = 'processing', version = version + 1 WHERE id = 'vreq_1'")
    step = store.advance_task("vreq_1", decide, NOW_MS)
    await _until_one_waits(sql)
    await sql.execute("COMMIT")

    assert (await step).task.state is TaskState.SUCCEEDED
    assert [task.state for task in seen] == [TaskState.PENDING, TaskState.PROCESSING]
    assert await sql.fetchval("SELECT version FROM video_tasks") == 3  # submitted, processing, succeeded
    await assert_books_balance(store)


async def _until_one_waits(sql: Connection) -> None:
    async with asyncio.timeout(30):
        while not await sql.fetchval(COUNT):
            await sql.execute("SELECT pg_stat_clear_snapshot()")
            await asyncio.sleep(0.01)


async def test_many_nodes_that_report_one_end_settle_it_once(opens: Opens, store: PostgresStore, alice: Account) -> None:
    nodes = [store, *[await opens() for _ in range(3)]]
    await place(store, alice, *(f"vreq_{number}" for number in range(8)))
    reports: list[Report] = [Polled("succeeded", "https://tos/v.mp4"), CancelConfirmed(), Polled("failed"), Polled("running")]

    steps = await asyncio.gather(
        *(
            node.advance_task(f"vreq_{number}", hears(report), NOW_MS)
            for number in range(8)
            for node, report in zip(nodes, reports, strict=True)
        )
    )

    assert sum(step.settlement is not None for step in steps) == 8
    charged = 10 * sum(step.settlement is not None and step.task.state is TaskState.SUCCEEDED for step in steps)
    account = await store.account("alice")
    assert (account.balance_nanos, account.held_nanos) == (1000 - charged, 0)
    await assert_books_balance(store)


async def test_a_step_that_loses_again_and_again_is_begun_anew(store: PostgresStore, alice: Account, sql: Connection) -> None:
    await place(store, alice, "vreq_1")
    # A rival who is always faster, for one transaction's tries and one more.
    await sql.execute("CREATE SEQUENCE tries")
    await sql.execute(
        f"""CREATE FUNCTION overtake() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
              IF NEW.version > OLD.version AND nextval('tries') <= {SWAPS_MAX + 1} THEN RETURN NULL; END IF;
              RETURN NEW;
            END $$"""
    )
    await sql.execute("CREATE TRIGGER overtake BEFORE UPDATE ON video_tasks FOR EACH ROW EXECUTE FUNCTION overtake()")

    step = await store.advance_task("vreq_1", made(), NOW_MS)

    assert step.task.state is TaskState.SUCCEEDED
    assert await sql.fetchval("SELECT last_value FROM tries") == SWAPS_MAX + 2
    assert (await store.account("alice")).balance_nanos == 990
    await assert_books_balance(store)


async def test_two_nodes_cannot_find_one_video_for_two_lost_submits(opens: Opens, store: PostgresStore, alice: Account) -> None:
    other = await opens()
    for name in ("vreq_1", "vreq_2"):
        request = new_video(name, account_id=alice.id)
        await store.place_task(request, task_of(request), NOW_MS)
        await store.advance_task(name, hears(SubmitUnknown()), NOW_MS)

    found = await asyncio.gather(
        store.advance_task("vreq_1", hears(Found("cgt-1")), NOW_MS),
        other.advance_task("vreq_2", hears(Found("cgt-1")), NOW_MS),
        return_exceptions=True,
    )

    assert sorted(type(one).__name__ for one in found) == [Step.__name__, UpstreamIdTakenError.__name__]
    await assert_books_balance(store)


async def test_two_hundred_videos_of_two_nodes_cannot_overdraw_a_balance_for_thirty_seven(opens: Opens, store: PostgresStore) -> None:
    nodes = [store, await opens()]
    account = await store.create_account("carol", Nanos(37 * 10 + 9), NOW_MS)
    requests = [new_video(f"vreq_{number}", account_id=account.id, hold_nanos=10) for number in range(200)]

    answers = await asyncio.gather(
        *(nodes[number % 2].place_task(request, task_of(request), DUE_MS) for number, request in enumerate(requests)),
        return_exceptions=True,
    )

    assert sum(answer is None for answer in answers) == 37
    assert len(await store.open_tasks()) == 37
    assert (await store.account("carol")).held_nanos == 370
    await assert_books_balance(store)


async def test_what_another_node_has_under_its_hands_is_left_to_it(store: PostgresStore, alice: Account, sql: Connection) -> None:
    await place(store, alice, "vreq_1", "vreq_2")

    await sql.execute("BEGIN")
    await sql.execute("SELECT 1 FROM video_tasks WHERE id = 'vreq_1' FOR UPDATE")
    async with asyncio.timeout(LOCK_SECONDS):
        meanwhile = await due(store)
    await sql.execute("COMMIT")

    assert meanwhile == ["vreq_2"]
    assert await due(store) == ["vreq_1", "vreq_2"]
    await assert_books_balance(store)


async def test_a_claimed_task_is_no_other_nodes_and_stays_so_over_a_step_that_keeps_the_claim(
    opens: Opens, store: PostgresStore, alice: Account
) -> None:
    other = await opens()
    await place(store, alice, "vreq_1")
    assert await store.claim_task("vreq_1")

    await store.advance_task("vreq_1", hears(Polled("running")), NOW_MS, keeps_claim=True)
    kept = await other.claim_task("vreq_1"), await other.due_tasks(2**62, 10)
    await store.advance_task("vreq_1", hears(Polled("running")), NOW_MS)

    assert kept == (False, [])
    assert await other.claim_task("vreq_1")
    assert await store.due_tasks(2**62, 10) == []
    await assert_books_balance(store)


async def test_a_claim_of_a_dead_node_is_anybodys(opens: Opens, store: PostgresStore, alice: Account) -> None:
    other = await opens()
    await place(store, alice, "vreq_1")
    assert await other.claim_task("vreq_1")
    assert not await store.claim_task("vreq_1")

    await other.close()

    assert await store.claim_task("vreq_1")
    await assert_books_balance(store)
