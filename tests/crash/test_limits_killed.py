"""kill -9 of a gateway whose keys and accounts have money limits, under load that reaches them: what counts is what the books say."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from msgspec import UNSET

from proxy.clock import SystemClock
from proxy.core.limits import LimitsChange
from proxy.core.money import Nanos
from proxy.store.sqlite import open_store
from proxy.store.values import Spent
from tests.support.ark_books import HOLD_MIN
from tests.support.promises import Faults
from tests.support.stand import Stand, stand
from tests.support.videos import SUBMIT

PROMISE = "kill -9 with money limits: what is spent and held is what the books say, and never above a limit"
LIMITED = [f"{number:03d}" for number in range(6)]
FOR_VIDEOS = "005"
"""A video costs some hundred chats, so this one's limits are wider."""
CUSTOMERS = 12
CHATS_MAX, SECONDS_MAX = 20, 0.05
ABOVE = """
    WITH used AS (
      SELECT limits.*, sum(spent_nanos + held_nanos) AS total, (SELECT max(day) FROM spend) AS today,
        sum(iif(day = (SELECT max(day) FROM spend), spent_nanos + held_nanos, 0)) AS day
      FROM limits JOIN spend USING (account_id, identity) GROUP BY account_id, identity)
    SELECT account_id || ' ' || identity || ': ' || total || ' of ' || total_nanos || ', today ' || day || ' of ' || day_nanos
    FROM used WHERE total > total_nanos OR total > month_nanos OR day > day_nanos"""
"""Limits of a run of some minutes, which lies within one day and one month, or begins both anew."""


async def kill_often(directory: Path, faults: Faults, kills: int, seed: int = 0) -> None:
    refused = [0]
    async with stand(directory, seed=seed, event_seconds=0.002, first_byte_seconds=0.004) as one:
        for _ in range(kills):
            await give_room(one)
            assert await one.start()
            faults.cost(await one.recovered())
            faults.cost(above(one))
            customers = asyncio.gather(*(customer(one, refused) for _ in range(CUSTOMERS)), return_exceptions=True)
            await asked(one, one.chance.randrange(CHATS_MAX))
            await asyncio.sleep(one.chance.uniform(0, SECONDS_MAX))
            await one.gateway.kill()
            surprising = [end for end in await customers if not isinstance(end, aiohttp.ClientError | ConnectionError)]
            assert not surprising, surprising
            faults.injected += 1
            faults.cost(above(one) + await one.losses())

        assert await one.start()
        await one.all_ended()
        faults.cost(above(one) + await one.losses(all_ended=True))
        verified = await one.gateway.run("ledger", "verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        print(one.outcomes, len(one.books.chats), "chats", refused[0], "refused by a limit")
        assert refused[0] > kills
        assert len(one.books.chats) > 5 * kills


async def asked(one: Stand, chats: int) -> None:
    """Return once the upstream was asked for so many chats more."""
    wanted = len(one.books.chats) + chats
    await one.ark.wait_until(lambda: len(one.books.chats) >= wanted, 30.0)


async def give_room(one: Stand) -> None:
    """Raise each limit, while no gateway runs, to a few holds more than what is used of it."""
    store = await open_store(one.gateway.directory / "gateway.db")
    now_ms = SystemClock().now_ms()
    uses = {(use.account, use.identity): use for use in await store.key_use(now_ms)}
    for account in LIMITED:
        (key,) = await store.keys(account)
        for identity in (key.id, ""):
            use = uses.get((account, identity))
            today, total = (_sum(use.day), _sum(use.total)) if use else (0, 0)
            unit = HOLD_MIN * (200 if account == FOR_VIDEOS else 1)
            rooms = [one.chance.randrange(1, 14) * unit for _ in range(2)]
            change = LimitsChange(
                day_nanos=Nanos(today + rooms[0]) if identity else UNSET,
                month_nanos=UNSET if identity else Nanos(total + rooms[0]),
                total_nanos=Nanos(total + rooms[1]),
            )
            if identity:
                await store.set_key_limits(identity, change, now_ms)
            else:
                await store.set_account_limits(account, change, now_ms)
    await store.close()


def _sum(spent: Spent | None) -> int:
    return 0 if spent is None else spent.spent_nanos + spent.held_nanos


def above(one: Stand) -> list[str]:
    """Return the limits that more is spent and held of than they are."""
    with closing(sqlite3.connect(f"{(one.gateway.directory / 'gateway.db').as_uri()}?mode=ro", uri=True)) as connection:
        return [text for (text,) in connection.execute(ABOVE)]


async def customer(one: Stand, refused: list[int]) -> None:
    """Call until the gateway dies; whoever is refused by a limit asks again at once, with another key."""
    async with aiohttp.ClientSession(one.gateway.origin) as session:
        while True:
            account, what = one.chance.choice(LIMITED), one.chance.random()
            headers = one.headers(account)
            if what < 0.1:
                async with session.post(f"/v1{SUBMIT}", json={"prompt": f"{account} waves"}, headers=headers) as answer:
                    if not _is_refused(answer.status, told := await answer.json(), refused):
                        one.hands.videos.add(told["id"])
                continue
            body = one.body(account, stream=what < 0.5)
            if what > 0.8:
                headers |= {"Idempotency-Key": f"key-{body['max_tokens']}"}
            async with session.post("/v1/chat/completions", json=body, headers=headers) as answer:
                if answer.status != 200:
                    _is_refused(answer.status, await answer.json(), refused)
                elif 0.1 <= what < 0.2:
                    one.hands.begun.add(answer.headers["x-request-id"])
                    answer.close()
                else:
                    one.hands.begun.add(answer.headers["x-request-id"])
                    await answer.read()


def _is_refused(status: int, told: dict[str, Any], refused: list[int]) -> bool:
    if status == 200:
        return False
    assert (status, told["error"]["code"]) == (402, "KEY_LIMIT_REACHED"), told
    refused[0] += 1
    return True


@pytest.mark.promise(PROMISE)
@pytest.mark.timeout(300)
async def test_twenty_kills_let_nothing_above_a_money_limit(tmp_path: Path, faults: Faults) -> None:
    await kill_often(tmp_path, faults, 20)


@pytest.mark.promise(PROMISE)
@pytest.mark.long
@pytest.mark.timeout(900)
async def test_two_hundred_kills_let_nothing_above_a_money_limit(tmp_path: Path, faults: Faults) -> None:
    await kill_often(tmp_path, faults, 200, seed=1)
