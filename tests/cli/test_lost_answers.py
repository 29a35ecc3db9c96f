"""A change whose answer is lost: the command asks again, where that does no harm, and says what to do if that is lost too."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy import ids
from proxy.cli import client
from proxy.cli.client import AnswerLostError, perform
from proxy.cli.hints import hint
from proxy.clock import SystemClock
from proxy.config import Config, load
from proxy.core.money import parse_yuan
from tests.support.books import assert_books_balance
from tests.support.process import GatewayProcess, gateway_process

CLOCK = SystemClock()


class Relay:
    """Stands between a command and the gateway's admin socket; of the answers it loses as many as it is told."""

    def __init__(self, admin: Path) -> None:
        self._admin = admin
        self.lose = 0
        self.asked = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked += 1
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        assert length is not None
        gateway_reader, gateway_writer = await asyncio.open_unix_connection(self._admin)
        gateway_writer.write(head + await reader.readexactly(int(length[1])))
        answer = await gateway_reader.readuntil(b"}")
        if self.lose:
            self.lose -= 1
        else:
            writer.write(answer + await _rest(gateway_reader, answer))
        gateway_writer.close()
        writer.close()


async def _rest(reader: asyncio.StreamReader, begun: bytes) -> bytes:
    head, _, body = begun.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    assert length is not None
    return await reader.readexactly(int(length[1]) - len(body))


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    async with gateway_process(tmp_path, "http://127.0.0.1:9", balance=parse_yuan("1")) as running:
        await running.start()
        yield running
        async with running.looked_into() as store:
            await assert_books_balance(store)


@pytest.fixture
async def relay(gateway: GatewayProcess, tmp_path: Path) -> AsyncIterator[Relay]:
    standing = Relay(tmp_path / "admin.sock")
    async with await asyncio.start_unix_server(standing, tmp_path / "relay.sock"):
        yield standing


@pytest.fixture
def config(gateway: GatewayProcess, relay: Relay, tmp_path: Path) -> Config:
    """The gateway's configuration, but for a command that goes through the relay."""
    path = tmp_path / "command.toml"
    path.write_text(gateway.config.read_text().replace("unix:admin.sock", "unix:relay.sock"))
    return load(path, {}, require_secrets=False)


async def balance(config: Config) -> str:
    return str((await perform(config, CLOCK, "account.show", {"account": "acme"}))["balance"])


@pytest.mark.parametrize(("amount", "left"), [("5.00", "6.00"), ("-0.50", "0.50")])
async def test_a_payment_is_repeated_and_booked_once(config: Config, relay: Relay, amount: str, left: str) -> None:
    relay.lose = 1

    answer = await perform(config, CLOCK, "account.credit", {"account": "acme", "amount": amount, "reference": "order-1"})

    assert (answer["booked"], answer["balance"], relay.asked) == (False, left, 2)
    assert await balance(config) == left


async def test_a_payment_whose_repeat_is_lost_too_can_be_told_again_by_hand(
    config: Config, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LOCK_WAIT_SECONDS", 0.0)
    payment = {"account": "acme", "amount": "5.00", "reference": "order 1"}
    relay.lose = 2

    with pytest.raises(AnswerLostError) as lost:
        await perform(config, CLOCK, "account.credit", payment)
    answer = await perform(config, CLOCK, "account.credit", payment)

    assert str(lost.value).endswith(
        "the change may have been made, or may be yet: repeat it with --reference 'order 1', under which it is booked once"
    )
    assert (answer["booked"], answer["balance"]) == (False, "6.00")


async def test_a_payment_without_a_reference_is_not_repeated(config: Config, relay: Relay) -> None:
    relay.lose = 1

    with pytest.raises(AnswerLostError, match="look with `llm-proxy account show` before you repeat it"):
        await perform(config, CLOCK, "account.credit", {"account": "acme", "amount": "5.00"})

    assert (await balance(config), relay.asked) == ("6.00", 1)


@pytest.mark.parametrize("credit", ["0", "3.00"])
async def test_an_opening_is_repeated_and_is_no_other_account_of_that_name(config: Config, relay: Relay, credit: str) -> None:
    relay.lose = 1

    answer = await perform(config, CLOCK, "account.create", {"account": "bob", "credit": credit, "reference": "opening-1"})

    assert (answer["name"], answer["booked"], relay.asked) == ("bob", False, 2)
    assert len((await perform(config, CLOCK, "account.list", {}))["accounts"]) == 2


async def test_a_key_is_asked_for_again_and_is_one_key_with_the_secret_that_is_shown(config: Config, relay: Relay) -> None:
    secret = ids.new_secret().text
    relay.lose = 1

    answer = await perform(config, CLOCK, "key.create", {"account": "acme", "id": "key_abcDEF123456", "secret": secret})

    assert (answer["id"], answer["key"], relay.asked) == ("key_abcDEF123456", secret, 2)
    listed = (await perform(config, CLOCK, "key.list", {"account": "acme"}))["keys"]
    assert [key["id"] for key in listed if key["id"] == "key_abcDEF123456"] == ["key_abcDEF123456"]
    assert len(listed) == 2


async def test_a_key_whose_repeat_is_lost_too_is_named_so_that_it_can_be_revoked(
    config: Config, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LOCK_WAIT_SECONDS", 0.0)
    relay.lose = 2
    key: dict[str, Any] = {"account": "acme", "id": "key_abcDEF123456", "secret": ids.new_secret().text}

    with pytest.raises(AnswerLostError) as lost:
        await perform(config, CLOCK, "key.create", key)

    assert "`llm-proxy key revoke key_abcDEF123456`" in str(lost.value)
    assert key["secret"] not in str(lost.value)


async def test_a_revocation_is_repeated(config: Config, relay: Relay) -> None:
    await perform(config, CLOCK, "key.create", {"account": "acme", "id": "key_abcDEF123456", "secret": ids.new_secret().text})
    relay.lose = 1

    revoked = await perform(config, CLOCK, "key.revoke", {"id": "key_abcDEF123456"})

    assert revoked["revoked_at"]


async def test_a_gateway_that_stands_still_for_a_while_books_what_was_asked_twice_once(
    gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.3)
    config = load(gateway.config, {}, require_secrets=False)
    assert gateway.process is not None
    payment = {"account": "acme", "amount": "5.00", "reference": "order-1"}
    gateway.process.send_signal(signal.SIGSTOP)

    with pytest.raises(AnswerLostError, match=r"in 0\.3 s: the change may have been made"):
        await perform(config, CLOCK, "account.credit", payment)
    gateway.process.send_signal(signal.SIGCONT)
    monkeypatch.setattr(client, "ANSWER_SECONDS", 30.0)
    answer = await perform(config, CLOCK, "account.credit", payment)

    assert answer["balance"] == "6.00"


async def test_a_command_that_is_interrupted_tells_under_which_reference_to_repeat_it(gateway: GatewayProcess, tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        asked.set()
        await reader.read()
        writer.close()

    path = tmp_path / "command.toml"
    path.write_text(gateway.config.read_text().replace("unix:admin.sock", "unix:silent.sock"))
    async with await asyncio.start_unix_server(say_nothing, tmp_path / "silent.sock"):
        command = gateway.command("account", "credit", "acme", "5.00")[:-1]
        process = await asyncio.create_subprocess_exec(*command, str(path), stderr=asyncio.subprocess.PIPE, env=gateway.environment())
        await asyncio.wait_for(asked.wait(), 30)
        process.send_signal(signal.SIGINT)
        _, stderr = await process.communicate()

    assert process.returncode == 1
    assert re.fullmatch(
        r"interrupted: the change may have been made, or may be yet: "
        r"repeat it with --reference cli-[0-9A-Z]{26}, under which it is booked once\n",
        stderr.decode(),
    )


def test_a_gateway_of_before_references_is_told_to_be_restarted() -> None:
    assert hint("Object contains unknown field `reference`") == "the gateway that runs is older than this command: restart it"
