"""`serve --workers N`: several gateways of one command line on the same sockets, and the supervisor that starts them.

Every process is a real one, and every test ends with the books (`tests.support.cluster`).
"""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.config import UnixAddress
from proxy.config.workers import worker_sockets
from proxy.demo.ark import LAST_CHUNK, Hang, Send, Wait, answer_sse, chunk
from proxy.demo.ark.script import Script
from proxy.doctor.process import pid_behind
from proxy.gateway.process import EXIT_CONFIGURATION, EXIT_REFUSED
from proxy.gateway.shutdown import EXIT_LEFT, EXIT_STORE_FAILED
from proxy.gateway.supervisor import EXIT_WORKERS_FALL, FALLS_MAX
from proxy.tasks import TaskGroup
from tests.cluster.test_nodes import CHAT_NANOS, DONE, EVENT, HELD, USAGE
from tests.support.cluster import Cluster, Member, cluster
from tests.support.gateway import BALANCE
from tests.support.process import free_port
from tests.support.raw_chat import RawChat, raw_chat

LIVING = "SELECT count(*) FROM nodes WHERE serving AND dead_at IS NULL AND address <> ''"
STREAMS_MAX = 60
SECONDS = 60.0


class Workers:
    """A gateway of several workers, as a test asks it."""

    def __init__(self, gateways: Cluster, member: Member) -> None:
        self.gateways, self.member = gateways, member

    @property
    def listen(self) -> UnixAddress:
        return UnixAddress(self.member.directory / "admin.sock")

    async def pids(self) -> dict[int, int]:
        """Return the pids of the workers that listen for the operator, by number."""
        behind = {number: await pid_behind(address) for number, address in worker_sockets(self.listen).items()}
        return {number: pid for number, pid in behind.items() if pid is not None}

    async def until_running(self, others_than: int, count: int = 2) -> dict[int, int]:
        """Return the workers' pids once so many serve, and a certain process is none of them."""
        async with asyncio.timeout(SECONDS):
            while len(pids := await self.pids()) < count or others_than in pids.values():  # noqa: ASYNC110  they say it in the log
                await asyncio.sleep(0.05)
        return pids

    async def log_has(self, pattern: str) -> str:
        """Return the supervisor's log once it has a pattern."""
        async with asyncio.timeout(SECONDS):
            while not re.search(pattern, text := self.member.log.read_text()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return text

    async def worker_of(self, request_id: str) -> int:
        """Return the pid of the worker that a request's hold is of."""
        name = await self.gateways.until("SELECT name FROM nodes WHERE id = (SELECT node_id FROM requests WHERE id = $1)", request_id)
        return int(name.rpartition(" ")[2])

    async def stream_on_each(self, stack: AsyncExitStack) -> dict[int, list[RawChat]]:
        """Open streams until each worker has one; return them by the worker's pid. Upstream has sent a first event to each."""
        found: dict[int, list[RawChat]] = {}
        while len(found) < 2:
            assert sum(map(len, found.values())) < STREAMS_MAX
            client = await stack.enter_async_context(raw_chat(self.member.origin, self.member.key, stream=True))
            status, headers = await client.head()
            assert status == 200
            await client.first_bytes(len(EVENT))
            found.setdefault(await self.worker_of(headers["x-request-id"]), []).append(client)
        return found


def is_alive(pid: int) -> bool:
    """Return whether a process runs: one that has ended, and that nobody has waited for, does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    return False


async def gone(pids: list[int]) -> None:
    async with asyncio.timeout(SECONDS):
        while any(map(is_alive, pids)):  # noqa: ASYNC110  they are no children of this process
            await asyncio.sleep(0.05)


@asynccontextmanager
async def workers(directory: Path, count: int = 2, server: str = "", **options: Any) -> AsyncIterator[Workers]:
    """Start one gateway of several workers; at the end it is stopped if it runs, and none of its processes is left."""
    async with cluster(directory, 1, server=f"workers = {count}\n{server}", **options) as gateways:
        (member,) = gateways.members
        made = Workers(gateways, member)
        pids = list((await made.pids()).values())
        try:
            assert len(pids) == count
            yield made
        finally:
            pids += [pid for pid in (await made.pids()).values() if pid not in pids]
            if member.process is not None and member.process.returncode is None:
                await member.end_by(signal.SIGTERM)
            await gone(pids)


def open_streams(finish: asyncio.Event) -> Script:
    return [*answer_sse(EVENT, end=False), Wait(finish), Send(chunk(USAGE + DONE) + LAST_CHUNK)]


async def test_all_workers_answer_at_one_address_and_one_ledger_has_it(tmp_path: Path) -> None:
    finish = asyncio.Event()
    async with workers(tmp_path) as one:
        one.gateways.ark.enqueue(open_streams(finish), times=STREAMS_MAX)
        async with AsyncExitStack() as stack:
            streams = await one.stream_on_each(stack)
            pids = await one.pids()
            finish.set()
            clients = [client for of_worker in streams.values() for client in of_worker]
            ends = [await client.chunks() for client in clients]

        assert {*streams} == {*pids.values()}
        assert ends == [([EVENT, DONE], True)] * len(clients)
        assert await one.gateways.sql(LIVING) == 2
        assert await one.gateways.balance() == (BALANCE - len(clients) * CHAT_NANOS, 0)


async def test_of_a_killed_worker_the_streams_break_and_those_of_the_other_go_on(tmp_path: Path) -> None:
    """It is started again at once; the hold is released by whoever sets its node dead."""
    finish = asyncio.Event()
    async with workers(tmp_path) as one:
        one.gateways.ark.enqueue(open_streams(finish), times=STREAMS_MAX)
        async with AsyncExitStack() as stack:
            streams = await one.stream_on_each(stack)
            doomed, spared = streams
            os.kill(doomed, signal.SIGKILL)
            broken = [await client.chunks() for client in streams[doomed]]
            finish.set()
            whole = [await client.chunks() for client in streams[spared]]
        pids = await one.until_running(doomed)
        await one.gateways.until(f"SELECT ({HELD}) = 0")
        charged = await one.gateways.sql("SELECT count(*) FROM requests WHERE outcome = 'complete'")

        assert broken == [([EVENT], False)] * len(broken)
        assert whole == [([EVENT, DONE], True)] * len(whole)
        assert spared in pids.values()
        assert charged == len(whole)
        assert await one.gateways.balance() == (BALANCE - charged * CHAT_NANOS, 0)
        assert (await one.member.chat(stream=True)).status == 200


async def test_sigterm_drains_all_workers_and_then_ends(tmp_path: Path) -> None:
    finish = asyncio.Event()
    async with workers(tmp_path) as one:
        one.gateways.ark.enqueue(open_streams(finish), times=STREAMS_MAX)
        async with AsyncExitStack() as stack:
            streams = await one.stream_on_each(stack)
            assert one.member.process is not None
            one.member.process.terminate()
            await one.log_has("stopping: up to(?s:.)*stopping: up to")
            with pytest.raises(ConnectionRefusedError):  # nobody would answer before the drain is over
                await asyncio.open_connection("127.0.0.1", int(one.member.origin.rpartition(":")[2]))
            finish.set()
            ends = [await client.chunks() for of_worker in streams.values() for client in of_worker]
            code = await one.member.exit_code()

        assert ends == [([EVENT, DONE], True)] * len(ends)
        assert code == 0
        assert await one.gateways.sql(LIVING) == 0  # each has left, so nobody waits a lease for them
        assert await one.gateways.balance() == (BALANCE - len(ends) * CHAT_NANOS, 0)


async def test_a_sigterm_to_all_processes_at_once_is_one_request_to_drain(tmp_path: Path) -> None:
    """systemd sends it to the whole control group, and the supervisor passes its own on."""
    finish = asyncio.Event()
    async with workers(tmp_path) as one:
        one.gateways.ark.enqueue(open_streams(finish), times=STREAMS_MAX)
        async with AsyncExitStack() as stack:
            streams = await one.stream_on_each(stack)
            assert one.member.process is not None
            one.member.process.terminate()
            await one.log_has("stopping: up to(?s:.)*stopping: up to")
            for pid in streams:
                os.kill(pid, signal.SIGTERM)
            await asyncio.sleep(0.5)  # a cut would come now
            finish.set()
            ends = [await client.chunks() for of_worker in streams.values() for client in of_worker]

            assert await one.member.exit_code() == 0

        assert ends == [([EVENT, DONE], True)] * len(ends)
        assert await one.gateways.sql(HELD) == 0


async def test_a_second_sigterm_cuts_what_is_under_way_at_all_workers(tmp_path: Path) -> None:
    async with workers(tmp_path, drain_seconds=60) as one:
        one.gateways.ark.enqueue([*answer_sse(EVENT, end=False), Hang()], times=STREAMS_MAX)
        async with AsyncExitStack() as stack:
            streams = await one.stream_on_each(stack)
            assert one.member.process is not None
            one.member.process.terminate()
            await one.log_has("stopping: up to(?s:.)*stopping: up to")
            one.member.process.terminate()
            ends = [(await client.chunks())[0] for of_worker in streams.values() for client in of_worker]

            assert await one.member.exit_code() == 0

        assert ends
        assert not any(DONE in pieces for pieces in ends)
        assert await one.gateways.sql(HELD) == 0


async def test_a_killed_supervisor_leaves_no_worker(tmp_path: Path) -> None:
    """They drain, as at SIGTERM: a stream that ends in time is whole."""
    finish = asyncio.Event()
    async with workers(tmp_path) as one:
        one.gateways.ark.enqueue(open_streams(finish), times=STREAMS_MAX)
        pids = list((await one.pids()).values())
        async with AsyncExitStack() as stack:
            streams = await one.stream_on_each(stack)
            await one.member.kill()
            await one.log_has("the supervisor of workers ended(?s:.)*the supervisor of workers ended")
            finish.set()
            ends = [await client.chunks() for of_worker in streams.values() for client in of_worker]
        await gone(pids)

        assert ends == [([EVENT, DONE], True)] * len(ends)
        assert await one.gateways.sql(LIVING) == 0
        assert await one.gateways.sql(HELD) == 0


def edit(one: Workers, before: str, after: str) -> None:
    text = one.member.config.read_text()
    assert before in text
    one.member.config.write_text(text.replace(before, after))


async def models_are_on(one: Workers, name: str) -> list[bool]:
    """Return for each worker whether it knows a model, as its own metrics tell."""
    scrapes = [await one.member.metrics(address.path.name) for address in worker_sockets(one.listen).values()]
    return [any(f'"{name}"' in line for line in scrape) for scrape in scrapes]


async def until_on(one: Workers, name: str) -> None:
    async with asyncio.timeout(SECONDS):
        while not all(await models_are_on(one, name)):  # noqa: ASYNC110  a signal has no answer
            await asyncio.sleep(0.05)


MODEL = '[[models]]\nid = "new/one"\nkind = "chat"\nupstream = "ark"\nprice = { input = "1", output = "2" }\n'


async def test_sighup_reloads_all_workers_and_a_fallen_one_starts_with_what_is_in_force(tmp_path: Path) -> None:
    async with workers(tmp_path) as one:
        before = await models_are_on(one, "new/one")
        one.member.config.write_text(one.member.config.read_text() + MODEL)
        assert one.member.process is not None
        one.member.process.send_signal(signal.SIGHUP)
        await until_on(one, "new/one")
        fallen = (await one.pids())[2]
        os.kill(fallen, signal.SIGKILL)
        await one.until_running(fallen)

        assert before == [False, False]
        await until_on(one, "new/one")
        assert (await one.member.run("reload")).stdout.startswith("nothing is different from what runs")


async def test_the_command_reload_reaches_all_workers_and_says_what_changed(tmp_path: Path) -> None:
    async with workers(tmp_path) as one:
        one.member.config.write_text(one.member.config.read_text() + MODEL)
        preview = await one.member.command_answer("check-config", "--diff")
        unchanged = await models_are_on(one, "new/one")
        answer = await one.member.command_answer("reload")
        edit(one, 'id = "new/one"', "id = 1")
        refused = await one.member.run("reload")

        assert [change["key"] for change in preview["changed"]] == ['models."new/one"']
        assert unchanged == [False, False]
        assert (answer["changed"], answer["workers"]) == (preview["changed"], [1, 2])
        assert await models_are_on(one, "new/one") == [True, True]
        assert refused.returncode == 1
        assert "id: must be a string" in refused.stderr


async def test_a_worker_with_a_faulty_file_waits_for_a_better_one_while_the_other_serves(tmp_path: Path) -> None:
    async with workers(tmp_path) as one:
        edit(one, "[log]" if "[log]" in one.member.config.read_text() else "[billing]", "typo = 1\n[billing]")
        fallen = (await one.pids())[1]
        os.kill(fallen, signal.SIGKILL)
        await one.log_has(rf"did not start \({EXIT_CONFIGURATION}\): the others go on")
        replies = [(await one.member.chat()).status for _ in range(3)]
        edit(one, "typo = 1\n", "")
        await one.until_running(fallen)

        assert replies == [200] * 3


async def test_doctor_finds_the_workers(tmp_path: Path) -> None:
    async with workers(tmp_path) as one:
        whole = await one.member.run("doctor", "--json")
        node = await one.gateways.sql("SELECT min(id) FROM nodes WHERE serving")
        pids = await one.pids()
        await one.member.command_answer("nodes", "drain", str(node))
        one_left = await one.member.run("doctor", "--json")

        found = {check["check"]: check for check in orjson.loads(whole.stdout)["checks"]}
        later = {check["check"]: check for check in orjson.loads(one_left.stdout)["checks"]}
        assert (found["workers"]["state"], found["workers"]["says"]) == ("ok", "workers 1, 2 run")
        assert found["gateway"]["says"] == f"runs (pid {pids[1]}) and answers the operator"
        assert later["workers"]["state"] == "warning"
        assert later["workers"]["says"].endswith(" run, of 2")


async def test_a_drained_worker_stays_away_and_the_last_one_takes_the_supervisor_along(tmp_path: Path) -> None:
    finish = asyncio.Event()
    async with workers(tmp_path) as one:
        one.gateways.ark.enqueue(open_streams(finish), times=STREAMS_MAX)
        pids = await one.pids()
        node = "SELECT id FROM nodes WHERE name LIKE '% ' || $1"
        first, second = [await one.gateways.sql(node, str(pid)) for pid in pids.values()]
        async with AsyncExitStack() as stack:
            streams = await one.stream_on_each(stack)
            draining = TaskGroup("commands").spawn(one.member.command_answer("nodes", "drain", str(first)), "drain")
            await one.gateways.until("SELECT draining FROM nodes WHERE id = $1", first)
            finish.set()
            ends = [await client.chunks() for of_worker in streams.values() for client in of_worker]
        assert await draining == {"id": first, "left": True}
        await one.log_has(rf"worker 1 \(pid {pids[1]}\) was sent away by an operator, and is not started again")
        replies = [(await one.member.chat(stream=True)).status for _ in range(3)]
        left = await one.pids()
        await one.member.command_answer("nodes", "drain", str(second))

        assert ends == [([EVENT, DONE], True)] * len(ends)
        assert (replies, left) == ([200] * 3, {2: pids[2]})
        assert await one.member.exit_code() == EXIT_LEFT


async def test_a_worker_that_stood_still_past_its_lease_ends_and_is_started_again_as_another_node(tmp_path: Path) -> None:
    async with workers(tmp_path) as one:
        stopped = (await one.pids())[1]
        os.kill(stopped, signal.SIGSTOP)
        await one.gateways.until("SELECT dead_at IS NOT NULL FROM nodes WHERE name LIKE '% ' || $1", str(stopped))
        os.kill(stopped, signal.SIGCONT)
        await one.until_running(stopped)

        await one.log_has(rf"worker 1 \(pid {stopped}\) ended with {EXIT_STORE_FAILED}, and is started again")
        await one.gateways.until(f"SELECT ({LIVING}) = 2")
        assert [(await one.member.chat()).status for _ in range(4)] == [200] * 4


async def test_a_worker_that_is_stopped_by_its_pid_is_started_again(tmp_path: Path) -> None:
    async with workers(tmp_path) as one:
        stopped = (await one.pids())[2]
        os.kill(stopped, signal.SIGTERM)
        pids = await one.until_running(stopped)

        assert [*pids] == [1, 2]
        await one.log_has(rf"worker 2 \(pid {stopped}\) was stopped, and is started again")


@pytest.mark.timeout(180)
async def test_ten_falls_within_a_minute_end_all(tmp_path: Path) -> None:
    async with workers(tmp_path, 3) as one:
        started = r"worker \d \(pid (\d+)\) starts"
        killed: set[int] = set()
        while len(killed) < FALLS_MAX:
            text = await one.log_has(rf"(?s:.*{started}){{{len(killed) + 1}}}")
            pid = next(int(pid) for pid in re.findall(started, text) if int(pid) not in killed)
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)

        assert await one.member.exit_code() == EXIT_WORKERS_FALL
        await one.log_has("the 10th fall within a minute: all stop")


@pytest.mark.timeout(120)
async def test_a_worker_that_hangs_is_ended_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd asks for a beat each 5 s here. The supervisor beats for itself, so that systemd ends nobody."""
    monkeypatch.setenv("WATCHDOG_USEC", "5000000")
    async with workers(tmp_path) as one:
        before = await one.pids()
        hung = before[1]
        os.kill(hung, signal.SIGSTOP)
        await one.log_has(rf"worker 1 \(pid {hung}\) gave no sign of life for 5 s, and is ended")
        after = await one.until_running(hung)

        assert not is_alive(hung)
        assert after[2] == before[2]  # whose writer had its turns
        assert one.member.log.read_text().count("gave no sign of life") == 1


async def test_a_unix_socket_and_metrics_of_each_worker_go_with_the_supervisor(tmp_path: Path) -> None:
    port = free_port()
    async with workers(tmp_path, admin=f'metrics_listen = "127.0.0.1:{port}"') as one:
        told = []
        for number in range(2):
            async with one.gateways.session.get(f"http://127.0.0.1:{port + number}/metrics") as answer:
                told.append(re.search(r"^process_start_time_seconds (\S+)$", await answer.text(), re.MULTILINE))
        public = await one.member.ask("/metrics")
        top = await one.member.command_answer("top", "--worker", "2", "--once", "--every", "0.1")
        first = await one.member.run("top", "--once", "--every", "0.1")
        await one.member.end_by(signal.SIGTERM)

        assert all(told)
        assert public.status == 404
        assert top["at"]
        assert (first.returncode, first.stdout.count("upstream ")) == (0, 1)  # of worker 1: nothing is at admin.sock
        assert worker_sockets(one.listen) == {}


async def test_workers_need_a_shared_store(tmp_path: Path) -> None:
    async with cluster(tmp_path, 0) as gateways:
        member = Member(tmp_path / "alone", gateways.ark.base_url, "sqlite:alone.db", gateways.session)
        by_option = await member.run("serve", "--workers", "2")
        too_many = await member.run("serve", "--workers", "65")
        member.config.write_text(member.config.read_text().replace("[server]", "[server]\nworkers = 2"))
        by_file = await member.run("serve")
        checked = await member.run("check-config")

        assert (by_option.returncode, by_file.returncode, checked.returncode, too_many.returncode) == (2, EXIT_CONFIGURATION, 1, 2)
        assert by_option.stderr.startswith("--workers: 2 workers need a store in PostgreSQL: a file serves one process")
        assert "server.workers: 2 workers need a store in PostgreSQL" in by_file.stderr
        assert not (tmp_path / "alone/alone.db").exists()


async def test_what_keeps_one_worker_from_starting_keeps_all(tmp_path: Path) -> None:
    """Another listens where its admin socket should be."""
    async with workers(tmp_path) as one:
        again = Member(tmp_path / "second", one.gateways.ark.base_url, one.gateways.url, one.gateways.session, server="workers = 2")
        again.config.write_text(again.config.read_text().replace("unix:admin.sock", f"unix:{one.listen.path}"))
        refused = await again.run("serve")

        assert refused.returncode == EXIT_REFUSED
        assert "cannot start: cannot listen on" in refused.stderr
        assert len(await one.pids()) == 2
        assert (await one.member.chat()).status == 200
