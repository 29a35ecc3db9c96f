"""Gateways that share a ledger: each answers, what one changes counts on all, and what a dead one leaves is taken up.

Every process is a real one, and every test ends with the books (`tests.support.cluster`).
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from proxy.core.money import parse_yuan
from proxy.demo.ark import LAST_CHUNK, Hang, Send, Wait, answer_sse, chunk
from proxy.gateway.shutdown import EXIT_STORE_FAILED
from proxy.store.postgres.connection import Connector
from proxy.tasks import TaskGroup
from tests.support.cluster import LEASE_SECONDS, Cluster, Member, cluster
from tests.support.gateway import BALANCE, Reply
from tests.support.raw_chat import raw_chat

EVENT = b'data: {"choices":[{"delta":{"content":"Hel"},"index":0}],"id":"0217","usage":null}\n\n'
USAGE = b'data: {"choices":[],"id":"0217","usage":{"completion_tokens":12,"prompt_tokens":20,"total_tokens":32}}\n\n'
DONE = b"data: [DONE]\n\n"
CHAT_NANOS = parse_yuan("0.00004")
"""20 tokens at ¥0.8/M and 12 at ¥2/M: the stand-in's default answer."""
HELD = "SELECT count(*) FROM requests WHERE settled_at_ms IS NULL"


async def node_of(gateways: Cluster, member: Member) -> int:
    """Return a gateway's node, by its process."""
    node: int = await gateways.sql("SELECT id FROM nodes WHERE name LIKE '% ' || $1", str(member.pid))
    return node


async def test_each_gateway_answers_and_one_ledger_has_it_all(tmp_path: Path) -> None:
    async with cluster(tmp_path) as gateways:
        replies = [await member.chat() for member in gateways.members]

        receipts = [await gateways.members[0].ask(f"/usage/{reply.headers['x-request-id']}") for reply in replies]
        assert [reply.status for reply in replies] == [200, 200]
        assert [receipt.json["cost"] for receipt in receipts] == ["0.00004", "0.00004"]
        assert await gateways.balance() == (BALANCE - 2 * CHAT_NANOS, 0)


async def test_what_a_command_changes_counts_on_every_gateway_once_it_returns(tmp_path: Path) -> None:
    """No gateway runs with the command's configuration: it goes to the database, and all of them hear of it."""
    async with cluster(tmp_path) as gateways:
        operator = gateways.members[0]
        await operator.command_answer("account", "create", "globex", "--credit", "1.00")
        made = await operator.command_answer("key", "create", "globex")
        created = [(await member.chat(key=made["key"])).status for member in gateways.members]
        async with deaf(gateways):
            pausing = TaskGroup("commands").spawn(operator.command_answer("key", "pause", made["id"]), "pause")
            await gateways.until("SELECT paused_at_ms IS NOT NULL FROM limits")
            early, _ = await asyncio.wait([pausing], timeout=LEASE_SECONDS / 3)
        await pausing
        paused = [(await member.ask("/models", key=made["key"])).status for member in gateways.members]
        await operator.command_answer("key", "resume", made["id"])
        resumed = [(await member.ask("/models", key=made["key"])).status for member in gateways.members]
        await operator.command_answer("key", "revoke", made["id"])
        revoked = [(await member.ask("/models", key=made["key"])).status for member in gateways.members]

        assert not early  # it is stored, and no gateway has heard of it
        assert (created, paused, resumed, revoked) == ([200, 200], [401, 401], [200, 200], [401, 401])


@asynccontextmanager
async def deaf(gateways: Cluster) -> AsyncIterator[None]:
    """Keep all gateways from beating, so that they hear of nothing; what they write passes."""
    connection = await Connector(gateways.url).connect()
    try:
        await connection.execute("BEGIN; SELECT 1 FROM nodes FOR UPDATE")
        yield
        await connection.execute("ROLLBACK")
    finally:
        await connection.close()


async def answered_with(member: Member, status: int) -> Reply:
    """Ask for the models until they are answered with a status."""
    async with asyncio.timeout(30):
        while (reply := await member.ask("/models")).status != status:  # noqa: ASYNC110 - it says nothing by itself
            await asyncio.sleep(0.1)
        return reply


async def test_a_revoked_key_holds_nothing_on_a_gateway_that_has_not_heard_of_it(tmp_path: Path) -> None:
    """Keys are checked in the hold's transaction, whatever a gateway knows."""
    async with cluster(tmp_path) as gateways:
        (key,) = await gateways.store.keys("acme")
        async with deaf(gateways):
            await gateways.store.revoke_key(key.id, 0)
            unheard = [(await member.ask("/models")).status for member in gateways.members]
            chats = [await member.chat() for member in gateways.members]

        assert unheard == [200, 200]
        assert [(chat.status, chat.error["code"]) for chat in chats] == [(401, "INVALID_API_KEY")] * 2
        assert await gateways.sql("SELECT count(*) FROM requests") == 0
        assert gateways.ark.calls == []


async def test_no_hold_that_begins_after_a_revocation_is_placed_anywhere(tmp_path: Path) -> None:
    async with cluster(tmp_path, 3) as gateways:

        async def call(member: Member) -> int:
            while (reply := await member.chat()).status == 200:
                pass
            return reply.status

        calling = asyncio.gather(*(call(member) for member in gateways.members for _ in range(4)))
        await gateways.until("SELECT count(*) > 30 FROM requests")
        (key,) = await gateways.store.keys("acme")
        await gateways.store.revoke_key(key.id, 0)
        next_id = await gateways.sql("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")

        assert set(await calling) == {401}
        holds = "SELECT count(*) FROM transfers WHERE kind = 'hold' AND xmin::text::bigint >= $1"
        assert await gateways.sql(holds, 0) > 30
        assert await gateways.sql(holds, next_id) == 0


async def test_keys_of_which_nobody_knows_whether_they_changed_let_nobody_in(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as gateways:
        (member,) = gateways.members
        async with deaf(gateways):
            reply = await answered_with(member, 503)

        assert reply.error["code"] == "MODEL_UNAVAILABLE"
        assert float(reply.headers["retry-after"]) > 0
        await answered_with(member, 200)


async def test_a_killed_gateways_hold_is_released_by_another_within_a_lease(tmp_path: Path) -> None:
    async with cluster(tmp_path) as gateways:
        doomed, survivor = gateways.members
        gateways.ark.enqueue([Hang()])
        async with raw_chat(doomed.origin, doomed.key, stream=True):
            await gateways.until(HELD)
            held = (await gateways.balance())[1]
            await doomed.kill()
            await gateways.until("SELECT settled_at_ms IS NOT NULL FROM requests")

        assert held > 0
        assert await gateways.balance() == (BALANCE, 0)
        assert (
            await gateways.sql("SELECT outcome || ', ' || note FROM requests") == "interrupted, the gateway ended while this was open"
        )
        assert (await survivor.chat()).status == 200


async def test_a_gateway_that_starts_leaves_the_holds_of_living_ones_alone(tmp_path: Path) -> None:
    finish = asyncio.Event()
    async with cluster(tmp_path, 1) as gateways:
        gateways.ark.enqueue([*answer_sse(EVENT, end=False), Wait(finish), Send(chunk(USAGE + DONE) + LAST_CHUNK)])
        (member,) = gateways.members
        async with raw_chat(member.origin, member.key, stream=True) as client:
            assert (await client.head())[0] == 200
            await client.first_bytes(len(EVENT))
            await gateways.start()
            assert await gateways.sql(HELD) == 1
            finish.set()
            assert await client.chunks() == ([EVENT, DONE], True)

        assert await gateways.until("SELECT outcome FROM requests") == "complete"


async def test_a_gateway_that_stood_still_past_its_lease_writes_nothing_more_and_ends(tmp_path: Path) -> None:
    """Its stream goes on when it wakes: upstream has sent the rest meanwhile. The client sees it cut, since it is not paid for."""
    finish = asyncio.Event()
    async with cluster(tmp_path) as gateways:
        stopped, _ = gateways.members
        node = await node_of(gateways, stopped)
        gateways.ark.enqueue([*answer_sse(EVENT, end=False), Wait(finish), Send(chunk(USAGE + DONE) + LAST_CHUNK)])
        async with raw_chat(stopped.origin, stopped.key, stream=True) as client:
            assert (await client.head())[0] == 200
            await client.first_bytes(len(EVENT))
            stopped.stop()
            finish.set()
            await gateways.until("SELECT dead_at IS NOT NULL FROM nodes WHERE id = $1", node)
            await gateways.until("SELECT settled_at_ms IS NOT NULL FROM requests")
            written = "SELECT number::text || ' ' || xmin::text FROM node_writes WHERE node_id = $1"
            last = await gateways.sql(written, node)
            stopped.go_on()
            code = await stopped.exit_code()
            rest, is_whole = await client.chunks()

        assert code == EXIT_STORE_FAILED
        assert (DONE in b"".join(rest), is_whole) == (False, False)
        assert await gateways.sql(written, node) == last
        assert await gateways.sql("SELECT outcome FROM requests") == "interrupted"
        assert await gateways.balance() == (BALANCE, 0)


async def test_a_gateway_that_stood_still_between_its_hold_and_its_call_buys_nothing(tmp_path: Path) -> None:
    """Nobody has set it dead: there is no other. Its next beat would confirm it; the call comes first."""
    async with cluster(tmp_path, 1, first_byte_seconds=20) as gateways:
        (member,) = gateways.members
        async with deaf(gateways):
            await asyncio.sleep(LEASE_SECONDS / 2)
            reply = await member.chat()

        assert (reply.status, gateways.ark.calls) == (503, [])
        assert (
            await gateways.sql("SELECT outcome || ', ' || split_part(note, ':', 1) FROM requests") == "interrupted, nothing is bought"
        )
        assert await gateways.balance() == (BALANCE, 0)


async def test_an_outage_longer_than_a_lease_kills_nobody(tmp_path: Path) -> None:
    """The first gateway back finds that the others' beats stood still, as its own did, and begins to observe anew."""
    async with cluster(tmp_path, 3) as gateways:
        nodes = [await node_of(gateways, member) for member in gateways.members]
        first, *others = gateways.members
        for member in others:
            member.stop()  # so that none of their beats waits at the database for the outage to end
        async with deaf(gateways):
            await asyncio.sleep(LEASE_SECONDS * 2)
            before = await gateways.sql("SELECT beat FROM nodes WHERE id = $1", nodes[0])
        await gateways.until("SELECT beat > $2 FROM nodes WHERE id = $1", nodes[0], before + 1)
        for member in others:
            member.go_on()
        await gateways.until("SELECT min(beat) > $2 FROM nodes WHERE id = ANY ($1)", nodes, before + 1)

        assert await gateways.sql("SELECT count(*) FROM nodes WHERE id = ANY ($1) AND dead_at IS NULL", nodes) == 3
        assert (await first.chat()).status == 200
        assert [(await member.chat()).status for member in gateways.members] == [200] * 3


async def test_of_eight_gateways_one_holds_the_last_money(tmp_path: Path) -> None:
    """The hold of this chat is ¥0.0084264. There is room for one."""
    finish = asyncio.Event()
    async with cluster(tmp_path, 8, balance=parse_yuan("0.0084264")) as gateways:
        gateways.ark.enqueue([Wait(finish), *answer_sse(EVENT + USAGE + DONE)], times=8)
        asking = asyncio.gather(*(member.chat(stream=True) for member in gateways.members))
        await gateways.until("SELECT count(*) = 1 FROM requests")
        await gateways.ark.wait_until(lambda: len(gateways.ark.calls) == 1)
        finish.set()
        statuses = sorted(reply.status for reply in await asking)

        assert statuses == [200] + [402] * 7
        assert len(gateways.ark.calls) == 1
        assert (await gateways.balance())[0] == parse_yuan("0.0084264") - CHAT_NANOS


async def test_a_gateway_that_is_asked_to_stop_leaves_at_once(tmp_path: Path) -> None:
    """Its node is dead before its process has ended, so that nobody waits a lease for it."""
    async with cluster(tmp_path) as gateways:
        node = await node_of(gateways, gateways.members[0])

        assert await gateways.members[0].end_by(signal.SIGTERM) == 0

        assert await gateways.sql("SELECT dead_at IS NOT NULL FROM nodes WHERE id = $1", node)


async def test_one_gateway_tells_what_the_cluster_holds_and_each_what_it_knows(tmp_path: Path) -> None:
    async with cluster(tmp_path) as gateways:
        gateways.ark.enqueue([Hang()])
        async with raw_chat(gateways.members[1].origin, gateways.key, stream=True):
            await gateways.until(HELD)
            scrapes = [await member.metrics() for member in gateways.members]
            await gateways.members[0].kill()
            await gateways.until("SELECT count(*) = 1 FROM nodes WHERE serving AND dead_at IS NULL")
            after = await gateways.members[1].metrics()

        assert [scrape.get("llm_proxy_cluster_open_holds") for scrape in scrapes] == [1.0, None]
        assert after["llm_proxy_cluster_open_holds"] == 1.0
        assert [scrape["llm_proxy_gateways"] for scrape in scrapes] == [2.0, 2.0]
        assert all(scrape["llm_proxy_node_unconfirmed_seconds"] < LEASE_SECONDS for scrape in scrapes)
        assert not any("llm_proxy_open_holds" in scrape for scrape in scrapes)
