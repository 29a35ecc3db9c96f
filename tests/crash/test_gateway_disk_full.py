"""A disk that fills up during calls: no call is answered free, none is charged twice, and service resumes when there is room."""

import asyncio
import resource
import signal
from pathlib import Path

import aiohttp
import orjson
import pytest

from proxy.core.money import parse_yuan
from proxy.core.settlement import Outcome
from proxy.demo.ark import Answer, StandIn, Wait
from tests.support.books import assert_books_balance
from tests.support.gateway import MODEL
from tests.support.process import GatewayProcess, gateway_process

BALANCE = parse_yuan("100")
CHARGE = 40_000
"""20 × 800 + 12 × 2,000 nano-yuan."""
CALLS = 10
SECONDS_TO_RECOVER = 30.0


def fill_disk(gateway: GatewayProcess) -> None:
    """Make every write beyond the first 100 bytes of a file fail, as on a full disk."""
    assert gateway.process is not None
    _, hard = resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (100, hard))


def make_room(gateway: GatewayProcess) -> None:
    assert gateway.process is not None
    _, hard = resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (hard, hard))


async def ask(session: aiohttp.ClientSession, *, stream: bool) -> tuple[int, str, bytes]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 50, "stream": stream}
    async with session.post("/v1/chat/completions", json=body) as answer:
        return answer.status, answer.headers["x-request-id"], await answer.read()


async def readiness(session: aiohttp.ClientSession) -> int:
    async with session.get("/readyz") as answer:
        return answer.status


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="sets a limit of another process, as Linux can")
async def test_calls_under_way_when_the_disk_is_full_are_settled_when_there_is_room(tmp_path: Path) -> None:
    async with StandIn() as ark, gateway_process(tmp_path, ark.base_url, balance=BALANCE) as gateway:
        await gateway.start()
        headers, answering = {"Authorization": f"Bearer {gateway.key}"}, asyncio.Event()
        async with aiohttp.ClientSession(gateway.origin, headers=headers) as session:
            ark.enqueue([Wait(answering), Answer()], times=CALLS)
            async with asyncio.TaskGroup() as calls:
                under_way = [calls.create_task(ask(session, stream=bool(number % 2))) for number in range(CALLS)]
                await ark.wait_until(lambda: len(ark.calls) == CALLS)

                fill_disk(gateway)
                refused = [await ask(session, stream=stream) for stream in (False, True)]
                answering.set()
                await ark.wait_until(lambda: all(call.state == "played" for call in ark.calls))
                unsettled = [await ask(session, stream=False) for _ in range(3)]
                full = await readiness(session)
                make_room(gateway)
                async with asyncio.timeout(SECONDS_TO_RECOVER):
                    while await readiness(session) != 200:  # noqa: ASYNC110  another process has no event
                        await asyncio.sleep(0.02)
            answers = [call.result() for call in under_way]
            after = await ask(session, stream=False)

        for status, _, body in [*refused, *unsettled]:
            assert (status, orjson.loads(body)["error"]["code"]) == (503, "MODEL_UNAVAILABLE")
        assert full == 503  # so that a load balancer removes a gateway that only answers 503
        assert len(ark.calls) == CALLS + 1  # a call that could not be held did not go upstream
        assert {status for status, _, _ in answers} == {200}
        assert after[0] == 200
        assert await gateway.end_by(signal.SIGTERM) == 0
        async with gateway.looked_into() as store:
            assert await store.open_requests() == []
            for _, request_id, _ in [*answers, after]:
                found = await store.receipt(request_id)
                assert found is not None
                assert found[0].settlement is not None
                assert (found[0].settlement.outcome, found[0].settlement.charge_nanos) == (Outcome.COMPLETE, CHARGE)
            for _, request_id, _ in [*refused, *unsettled]:
                assert await store.receipt(request_id) is None
            account = await store.account("acme")
            assert (account.balance_nanos, account.held_nanos) == (BALANCE - (CALLS + 1) * CHARGE, 0)
            await assert_books_balance(store)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="sets a limit of another process, as Linux can")
async def test_a_process_that_ends_on_a_full_disk_leaves_its_calls_to_the_next_start(tmp_path: Path) -> None:
    async with StandIn() as ark, gateway_process(tmp_path, ark.base_url, balance=BALANCE) as gateway:
        await gateway.start()
        headers, answering = {"Authorization": f"Bearer {gateway.key}"}, asyncio.Event()
        async with aiohttp.ClientSession(gateway.origin, headers=headers) as session:
            ark.enqueue([Wait(answering), Answer()])
            async with asyncio.TaskGroup() as calls:
                call = calls.create_task(_lost(session))
                await ark.wait_until(lambda: len(ark.calls) == 1)
                fill_disk(gateway)
                answering.set()
                await ark.wait_until(lambda: ark.calls[0].state == "played")
                await gateway.kill()
            assert call.result() is None

        await gateway.start()

        async with gateway.looked_into() as store:
            assert await store.open_requests() == []
            account = await store.account("acme")
            assert (account.balance_nanos, account.held_nanos) == (BALANCE, 0)
            await assert_books_balance(store)


async def _lost(session: aiohttp.ClientSession) -> tuple[int, str, bytes] | None:
    """Make a call; return None if the connection is lost first. No answer is sent before its call is settled."""
    try:
        return await ask(session, stream=False)
    except aiohttp.ClientConnectionError:
        return None
