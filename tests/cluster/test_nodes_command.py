"""`llm-proxy nodes`: who shares the ledger, and who shall leave. Every process is a real one, and the books are checked at the end."""

import asyncio
import re
from pathlib import Path

from proxy import __version__
from proxy.demo.ark import LAST_CHUNK, Hang, Send, Wait, answer_sse, chunk
from proxy.gateway.shutdown import EXIT_LEFT
from proxy.tasks import TaskGroup
from tests.cluster.test_nodes import CHAT_NANOS, DONE, EVENT, HELD, USAGE, node_of
from tests.support.cluster import cluster
from tests.support.gateway import BALANCE
from tests.support.raw_chat import raw_chat

TOLD = "SELECT count(*) = $1 FROM nodes WHERE serving AND dead_at IS NULL AND address <> ''"


async def test_the_list_says_of_each_gateway_what_an_operator_asks_first(tmp_path: Path) -> None:
    async with cluster(tmp_path) as gateways:
        await gateways.until(TOLD, 2)
        await gateways.store.create_account("globex", BALANCE, 0)
        await gateways.until("SELECT min(seen_keys) = (SELECT version FROM versions) FROM nodes WHERE serving AND dead_at IS NULL")

        answer = await gateways.members[0].command_answer("nodes")
        shown = await gateways.members[0].run("nodes")

        listed = {node["id"]: node for node in answer["nodes"]}
        first, second = [listed[await node_of(gateways, member)] for member in gateways.members]
        assert first["name"].endswith(f" {gateways.members[0].pid}")
        assert [node["address"] for node in (first, second)] == [member.origin for member in gateways.members]
        assert {(node["state"], node["version"], node["beats"], node["keys_behind"]) for node in (first, second)} == {
            ("serving", __version__, True, 0)
        }
        assert first["configuration"] == second["configuration"] != ""
        assert sum(gateways.members[0].origin in line for line in shown.stdout.splitlines()) == 1
        assert (shown.returncode, shown.stderr) == (0, "")


async def test_a_gateway_with_other_prices_is_told(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as gateways:
        await gateways.start(server="heartbeat_seconds = 7")
        await gateways.until(TOLD, 2)

        shown = await gateways.members[0].run("nodes")

        assert "Their configurations differ" in shown.stderr


async def test_a_gateway_that_stands_still_is_told(tmp_path: Path) -> None:
    """It is alone, so nobody sets it dead: the command is no node, and the test has a longer lease."""
    async with cluster(tmp_path, 1) as gateways:
        (member,) = gateways.members
        node = await node_of(gateways, member)
        member.stop()
        await gateways.until("SELECT clock_timestamp() - beat_at > interval '6 s' FROM nodes WHERE id = $1", node)

        shown = await member.run("nodes")

        member.go_on()
        assert re.search(r"STILL for \d+ s", shown.stdout)


async def test_a_drained_gateway_ends_what_is_under_way_and_stays_away(tmp_path: Path) -> None:
    finish = asyncio.Event()
    async with cluster(tmp_path) as gateways:
        leaving, staying = gateways.members
        node = await node_of(gateways, leaving)
        gateways.ark.enqueue([*answer_sse(EVENT, end=False), Wait(finish), Send(chunk(USAGE + DONE) + LAST_CHUNK)])
        async with raw_chat(leaving.origin, leaving.key, stream=True) as client:
            assert (await client.head())[0] == 200
            await client.first_bytes(len(EVENT))
            draining = TaskGroup("commands").spawn(staying.command_answer("nodes", "drain", str(node)), "drain")
            await gateways.until("SELECT draining FROM nodes WHERE id = $1", node)
            states = {one["id"]: one["state"] for one in (await staying.command_answer("nodes"))["nodes"]}
            assert states[node] == "draining"
            assert await gateways.sql(HELD) == 1
            assert not draining.done()
            finish.set()
            assert await client.chunks() == ([EVENT, DONE], True)

        assert await draining == {"id": node, "left": True}
        assert await leaving.exit_code() == EXIT_LEFT
        assert await gateways.sql("SELECT outcome FROM requests") == "complete"
        assert (await staying.chat()).status == 200
        assert await gateways.balance() == (BALANCE - 2 * CHAT_NANOS, 0)


async def test_a_gateway_that_dies_instead_of_leaving_is_told_so(tmp_path: Path) -> None:
    async with cluster(tmp_path) as gateways:
        doomed, other = gateways.members
        node = await node_of(gateways, doomed)
        gateways.ark.enqueue([Hang()])
        async with raw_chat(doomed.origin, doomed.key, stream=True):
            await gateways.until(HELD)
            draining = TaskGroup("commands").spawn(other.run("nodes", "drain", str(node)), "drain")
            await gateways.until("SELECT draining FROM nodes WHERE id = $1", node)
            await doomed.kill()
            ended = await draining

        again = await other.run("nodes", "drain", str(node))
        await gateways.until("SELECT settled_at_ms IS NOT NULL FROM requests")

        assert (ended.returncode, again.returncode) == (1, 1)
        assert f"gateway {node} did not leave: it died" in ended.stderr
        assert re.search(
            rf"gateway {node} \(.*\) is dead since 20.* UTC: its beat stood still, and the others set it dead", again.stderr
        )
        assert await gateways.balance() == (BALANCE, 0)


async def test_what_is_no_living_gateway_is_not_drained(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as gateways:
        (member,) = gateways.members
        assert gateways.store.node is not None

        unknown = await member.run("nodes", "drain", "4711")
        command = await member.run("nodes", "drain", str(gateways.store.node.id))

        assert (unknown.returncode, command.returncode) == (1, 1)
        assert "there is no gateway 4711" in unknown.stderr
        assert "is no gateway: it carries out a command" in command.stderr
        assert (await member.chat()).status == 200
