"""SIGHUP to a real process under load: prices change, faults change nothing, and systemd is told of the begin and the end."""

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
import orjson
import pytest

from proxy.core.money import parse_yuan
from proxy.demo.ark import LAST_CHUNK, Hang, Send, StandIn, Wait, answer_sse, chunk
from tests.support.books import assert_books_balance
from tests.support.gateway import MODEL
from tests.support.process import GatewayProcess, gateway_process
from tests.support.promises import RELOADED
from tests.support.raw_chat import raw_chat
from tests.support.terminal import terminal

BALANCE = parse_yuan("100")
CHEAP, DEAR = 40_000, 20 * 1_600 + 12 * 4_000
"""20 and 12 tokens at ¥0.8 and ¥2.0 a million, and at ¥1.6 and ¥4.0."""
CHEAP_PRICE, DEAR_PRICE = 'input = "0.8", output = "2.0"', 'input = "1.6", output = "4.0"'
EVENT = b'data: {"choices":[{"delta":{"content":"Hel"},"index":0}],"id":"0217","usage":null}\n\n'
END = b'data: {"choices":[],"id":"0217","usage":{"completion_tokens":12,"prompt_tokens":20,"total_tokens":32}}\n\ndata: [DONE]\n\n'
CLIENTS = 8


class Supervisor:
    """Receives the gateway's messages to systemd after its start."""

    def __init__(self, heard: socket.socket, gateway: GatewayProcess) -> None:
        self._heard = heard
        self._gateway = gateway

    async def word(self) -> str:
        async with asyncio.timeout(20):
            return (await asyncio.get_running_loop().sock_recv(self._heard, 200)).decode()

    async def reload(self) -> str:
        """Send SIGHUP, wait until the reload has ended, and return its first message."""
        assert self._gateway.process is not None
        self._gateway.process.send_signal(signal.SIGHUP)
        begun = await self.word()
        assert await self.word() == "READY=1"
        return begun


@contextmanager
def supervised(gateway: GatewayProcess) -> Iterator[Supervisor]:
    address = gateway.directory / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        address.unlink(missing_ok=True)
        heard.bind(str(address))
        heard.setblocking(False)
        yield Supervisor(heard, gateway)


class Load:
    """Clients that make one call after the other over keep-alive connections, until stopped."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.failed: list[object] = []
        self.stopped = False
        self._enough: list[tuple[int, asyncio.Event]] = []

    async def more(self, count: int) -> None:
        """Wait until `count` more calls have been answered."""
        event = asyncio.Event()
        self._enough.append((len(self.ids) + count, event))
        async with asyncio.timeout(30):
            await event.wait()

    async def client(self, gateway: GatewayProcess, session: aiohttp.ClientSession) -> None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
        headers = {"Authorization": f"Bearer {gateway.key}"}
        while not self.stopped:
            try:
                async with session.post(f"{gateway.origin}/v1/chat/completions", json=body, headers=headers) as response:
                    await response.read()
                    (self.ids if response.status == 200 else self.failed).append(response.headers["x-request-id"])
            except aiohttp.ClientError as fault:
                self.failed.append(fault)
            for count, event in self._enough:
                if len(self.ids) + len(self.failed) >= count:
                    event.set()


@asynccontextmanager
async def load(gateway: GatewayProcess) -> AsyncIterator[Load]:
    """Make calls while the context lasts."""
    made = Load()
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(made.client(gateway, session))
        try:
            yield made
        finally:
            made.stopped = True


async def charges(gateway: GatewayProcess, ids: list[str]) -> Sequence[tuple[int, str]]:
    """Return each request's charge and the price on its receipt, after checking that none is missing and the books balance."""
    async with gateway.looked_into() as store:
        assert await store.open_requests() == []
        await assert_books_balance(store)
        receipts = [await store.receipt(one) for one in ids]
        found = [(one[0].settlement.charge_nanos, one[0].request.price) for one in receipts if one and one[0].settlement]
        account = await store.account("acme")
        assert BALANCE - account.balance_nanos == sum(charge for charge, _ in found)
    assert len(found) == len(ids)
    return found


def logged(gateway: GatewayProcess, words: str) -> list[str]:
    lines = [orjson.loads(line) for line in gateway.log.read_bytes().splitlines()]
    return [line["message"] for line in lines if words in line.get("message", "")]


@pytest.mark.promise(RELOADED)
async def test_a_bad_file_under_load_fails_no_request_and_the_log_says_why(tmp_path: Path) -> None:
    async with StandIn() as ark, gateway_process(tmp_path, ark.base_url, balance=BALANCE) as gateway:
        await gateway.start()
        good = gateway.config.read_text()
        bad = [good + "[", good.replace(CHEAP_PRICE, 'input = 0.8, output = "2.0"'), good.replace("env:ARK_API_KEY", "env:NONE"), ""]
        with supervised(gateway) as supervisor:
            async with load(gateway) as loaded:
                for text in bad:
                    await loaded.more(50)
                    gateway.config.write_text(text.replace(CHEAP_PRICE, DEAR_PRICE))
                    await supervisor.reload()
                gateway.config.unlink()
                await supervisor.reload()
                await loaded.more(50)
        assert await gateway.end_by(signal.SIGTERM) == 0

        assert (loaded.failed, len(loaded.ids) >= 250) == ([], True)
        said = logged(gateway, "not reloaded, nothing has changed: ")
        reasons = (
            "no valid TOML",
            "must be a string",
            "NONE is not set",
            "at least one [upstreams.NAME]",
            "cannot be read: No such file",
        )
        assert [reason in line for reason, line in zip(reasons, said, strict=True)] == [True] * 5
        assert {charge for charge, _ in await charges(gateway, loaded.ids)} == {CHEAP}


@pytest.mark.promise(RELOADED)
async def test_prices_that_change_under_load_are_the_old_or_the_new_and_a_held_call_keeps_its_own(tmp_path: Path) -> None:
    finish = asyncio.Event()
    # A stream is held through all of it, however long that takes.
    async with StandIn() as ark, gateway_process(tmp_path, ark.base_url, balance=BALANCE, idle_seconds=300) as gateway:
        await gateway.start()
        cheap = gateway.config.read_text()
        ark.enqueue([*answer_sse(EVENT, end=False), Wait(finish), Send(chunk(END) + LAST_CHUNK)])
        async with raw_chat(gateway.origin, gateway.key, stream=True) as held:
            _, headers = await held.head()
            await held.first_bytes(len(EVENT))
            with supervised(gateway) as supervisor:
                async with load(gateway) as loaded:
                    for number in range(20):
                        await loaded.more(20)
                        gateway.config.write_text(cheap if number % 2 else cheap.replace(CHEAP_PRICE, DEAR_PRICE))
                        await supervisor.reload()
                    gateway.config.write_text(cheap.replace(CHEAP_PRICE, DEAR_PRICE))
                    await supervisor.reload()
                    finish.set()
                    _, is_whole = await held.chunks()
        held_id = headers["x-request-id"]
        assert await gateway.end_by(signal.SIGTERM) == 0

        found = dict(zip([*loaded.ids, held_id], await charges(gateway, [*loaded.ids, held_id]), strict=True))
        assert (loaded.failed, is_whole) == ([], True)
        assert found.pop(held_id)[0] == CHEAP
        assert {charge for charge, _ in found.values()} == {CHEAP, DEAR}
        assert len(set(found.values())) == 2  # a charge and the price on its receipt come from one price table
        assert len(logged(gateway, 'reloaded: models."doubao-pro-32k".price')) == 21


async def test_the_lines_of_requests_are_written_from_level_info_on(tmp_path: Path) -> None:
    async with StandIn() as ark, gateway_process(tmp_path, ark.base_url, balance=BALANCE) as gateway:
        info = gateway.config.read_text()
        gateway.config.write_text(info.replace("[videos]", '[log]\nlevel = "warning"\n[videos]'))
        await gateway.start()
        written: list[int] = []
        with supervised(gateway) as supervisor:
            for _ in range(2):
                async with raw_chat(gateway.origin, gateway.key) as client:
                    assert (await client.head())[0] == 200
                gateway.config.write_text(info)
                await supervisor.reload()  # output that was written a turn before has arrived by then
                written.append(gateway.log.read_text().count('"event":"request"'))

        assert written == [0, 1]
        assert not logged(gateway, "listening on")
        assert len(logged(gateway, "reloaded: ")) == 2
        assert await gateway.end_by(signal.SIGTERM) == 0


async def test_systemd_is_told_when_a_reload_begins_and_when_it_has_ended_well_or_not(tmp_path: Path) -> None:
    async with gateway_process(tmp_path, "http://127.0.0.1:9/api/v3", balance=BALANCE) as gateway:
        await gateway.start()
        with supervised(gateway) as supervisor:
            sent_at = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            begun = [await supervisor.reload()]
            gateway.config.write_text("[")
            begun.append(await supervisor.reload())
        told_at = [int(word.removeprefix("RELOADING=1\nMONOTONIC_USEC=")) for word in begun]

        assert sent_at <= told_at[0] < told_at[1] <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert await gateway.end_by(signal.SIGTERM) == 0


async def test_a_sighup_from_a_terminal_that_is_still_there_reloads(tmp_path: Path) -> None:
    async with StandIn() as ark, gateway_process(tmp_path, ark.base_url, balance=BALANCE) as gateway:
        with terminal() as opened:
            await gateway.start(opened.take)
            gateway.config.write_text(gateway.config.read_text().replace(CHEAP_PRICE, DEAR_PRICE))
            with supervised(gateway) as supervisor:
                await supervisor.reload()
                opened.close()
                assert await supervisor.word() == "STOPPING=1"
            assert await gateway.exit_code() == 0

        assert len(logged(gateway, "reloaded: ")) == 1


async def test_a_gateway_started_with_nohup_reloads_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gateway_process(tmp_path, "http://127.0.0.1:9/api/v3", balance=BALANCE) as gateway:
        serve = gateway.command("serve")
        monkeypatch.setattr(gateway, "command", lambda *_: ["nohup", *serve])
        await gateway.start()
        with supervised(gateway) as supervisor:
            await supervisor.reload()

        assert await gateway.end_by(signal.SIGTERM) == 0


async def test_a_gateway_that_is_stopping_waits_as_long_as_was_reloaded_and_no_sighup_hurries_it(tmp_path: Path) -> None:
    async with StandIn() as ark, gateway_process(tmp_path, ark.base_url, balance=BALANCE, drain_seconds=3600) as gateway:
        await gateway.start()
        ark.enqueue([*answer_sse(EVENT, end=False), Hang()])
        async with raw_chat(gateway.origin, gateway.key, stream=True) as client:
            await client.head()
            with supervised(gateway) as supervisor:
                gateway.config.write_text(gateway.config.read_text().replace("drain_seconds = 3600", "drain_seconds = 1"))
                await supervisor.reload()
                assert gateway.process is not None
                gateway.process.send_signal(signal.SIGTERM)
                assert await supervisor.word() == "STOPPING=1"
                gateway.process.send_signal(signal.SIGHUP)
            chunks, _ = await client.chunks()

        assert await gateway.exit_code() == 0
        assert b"MODEL_UNAVAILABLE" in chunks[-1]
        assert logged(gateway, "stopping: up to 1 s")
        assert logged(gateway, "drain: 1 requests are still under way after 1 s")
