"""The guard before what is bought: nothing creating leaves a process that may have been taken for dead, and what only asks does."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import orjson
import pytest

from proxy.config import Secret, UpstreamConfig
from proxy.demo.ark import StandIn
from proxy.upstream.ark_client import ArkClient
from proxy.upstream.guard import GuardedPool, LeaseGuard
from proxy.upstream.http1.pool import Limits, UnconfirmedError, Upload

CHAT = orjson.dumps({"model": "doubao-seed-2-0-lite-260428", "messages": [{"role": "user", "content": "Hello"}]})
IMAGE = {"model": "doubao-seedream-5-0-260128", "prompt": "a cat"}
TASK = {"model": "doubao-seedance-1-5-pro-251215", "content": [{"type": "text", "text": "a cat"}]}


@dataclass
class Lease:
    """A lease of 20 seconds."""

    unconfirmed_seconds: float
    lease_seconds: float = 20.0


@pytest.fixture
async def ark() -> AsyncIterator[StandIn]:
    async with StandIn() as standin:
        yield standin


def guard(unconfirmed_seconds: float) -> LeaseGuard:
    made = LeaseGuard()
    made.lease = Lease(unconfirmed_seconds)
    return made


def pool(ark: StandIn, its_guard: LeaseGuard) -> GuardedPool:
    return GuardedPool(ark.base_url, headers={"Authorization": "Bearer k"}, limits=Limits(5.0, 5.0, 5.0), guard=its_guard)


def client(ark: StandIn, its_guard: LeaseGuard) -> ArkClient:
    config = UpstreamConfig("ark", ark.base_url, {"default": Secret("k")}, 5.0, 5.0, 5.0, 20.0, 1.0)
    return ArkClient(config, guard=its_guard)


def test_half_a_lease_is_the_end_of_buying() -> None:
    guard(9.9)()

    with pytest.raises(UnconfirmedError, match=r"is 10\.0 s old, of a lease of 20 s$"):
        guard(10.0)()


def test_nothing_is_bought_before_the_store_is_open() -> None:
    with pytest.raises(UnconfirmedError):
        LeaseGuard()()


async def test_a_chat_is_sent_while_life_is_confirmed_and_not_from_then_on(ark: StandIn) -> None:
    its_guard = guard(0.0)
    asking = pool(ark, its_guard)
    assert (await asking.ask("/chat/completions", Upload(CHAT))).status == 200
    sent = len(ark.calls)

    its_guard.lease = Lease(10.0)
    with pytest.raises(UnconfirmedError):
        await asking.ask("/chat/completions", Upload(CHAT))

    assert len(ark.calls) == sent == 1
    await asking.close()


async def test_a_chat_is_not_sent_over_a_connection_that_took_too_long_to_dial(ark: StandIn) -> None:
    looks: list[None] = []
    asking = pool(ark, guard(0.0))

    def late_at_the_second_look() -> None:
        looks.append(None)
        guard(0.0 if len(looks) == 1 else 10.0)()

    asking._guard = late_at_the_second_look
    with pytest.raises(UnconfirmedError):
        await asking.ask("/chat/completions", Upload(CHAT))

    assert ark.calls == []
    await asking.close()
    assert asking.open_connections == 0


async def test_pictures_and_videos_are_not_created_and_a_task_is_asked_for_all_the_same(ark: StandIn) -> None:
    its_guard = guard(0.0)
    async with client(ark, its_guard) as asking:
        task_id = (await asking.create_task(TASK)).answer["id"]  # type: ignore[index]
        its_guard.lease = Lease(10.0)

        with pytest.raises(UnconfirmedError):
            await asking.create_image([orjson.dumps(IMAGE)])
        with pytest.raises(UnconfirmedError):
            await asking.create_task(TASK)
        assert (await asking.get_task(task_id)).status == 200

    assert [call.method for call in ark.calls] == ["POST", "GET"]
