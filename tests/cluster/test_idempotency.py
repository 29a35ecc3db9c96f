"""One `Idempotency-Key` at several gateways at once: one call upstream, one charge, and the same bytes for everybody."""

import asyncio
from pathlib import Path

from proxy.core.money import parse_yuan
from proxy.demo.ark import Answer, Hang, Wait
from tests.support.cluster import CHAT, cluster
from tests.support.gateway import BALANCE

PICTURE = {"model": "doubao-seedream-5-0-260128", "prompt": "a cat"}
WAITS = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%unnest($1::bigint[], $2::text[]) AS asked%'"


async def test_one_key_at_three_gateways_makes_one_picture_and_equal_answers(tmp_path: Path) -> None:
    finish = asyncio.Event()
    async with cluster(tmp_path, 3) as gateways:
        gateways.ark.enqueue([Wait(finish), Answer()])
        asking = asyncio.gather(*(member.ask("/images/generations", PICTURE, Idempotency_Key="k") for member in gateways.members))
        await gateways.ark.wait_until(lambda: len(gateways.ark.calls) == 1)
        await gateways.until(WAITS)
        finish.set()
        replies = await asking

        assert [reply.status for reply in replies] == [200] * 3
        assert len({reply.body for reply in replies}) == 1
        assert len(gateways.ark.calls) == 1
        assert await gateways.balance() == (BALANCE - parse_yuan("0.18"), 0)


async def test_many_keys_at_two_gateways_at_once_are_each_called_for_once(tmp_path: Path) -> None:
    """All at once and unplanned: some lose between their look and their hold."""
    async with cluster(tmp_path) as gateways:
        replies = await asyncio.gather(
            *(member.ask("/chat/completions", CHAT, Idempotency_Key=f"k{key}") for key in range(20) for member in gateways.members)
        )

        assert {reply.status for reply in replies} == {200}
        assert len({reply.headers["x-request-id"] for reply in replies}) == 20
        assert all(one.body == other.body for one, other in zip(replies[::2], replies[1::2], strict=True))
        assert len(gateways.ark.calls) == 20


async def test_who_waits_for_a_gateway_that_dies_does_the_work_itself(tmp_path: Path) -> None:
    async with cluster(tmp_path) as gateways:
        doomed, survivor = gateways.members
        gateways.ark.enqueue([Hang()])
        lost = asyncio.gather(doomed.ask("/chat/completions", CHAT, Idempotency_Key="k"), return_exceptions=True)
        await gateways.ark.wait_until(lambda: len(gateways.ark.calls) == 1)
        waiting = asyncio.gather(survivor.ask("/chat/completions", CHAT, Idempotency_Key="k"))
        await gateways.until(WAITS)
        await doomed.kill()
        (reply,) = await waiting

        assert isinstance((await lost)[0], Exception)
        assert reply.status == 200
        assert len(gateways.ark.calls) == 2
        assert await gateways.balance() == (BALANCE - parse_yuan("0.00004"), 0)
