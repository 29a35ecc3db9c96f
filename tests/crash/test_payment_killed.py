"""kill -9 around the commit of a payment: whoever books it again under its reference, by command or by hand, books it once in all."""

import asyncio
import random
import signal
from pathlib import Path

import pytest

from proxy.core.money import parse_yuan
from proxy.store.sqlite import open_store
from proxy.store.values import Reference
from tests.support.books import assert_books_balance
from tests.support.killed import COMMON, run_until_killed
from tests.support.promises import Faults
from tests.support.rigging import PAYMENT
from tests.support.stand import EACH, stand

PROMISE = "kill -9 while an operator books money: each payment once, however often it is told"
PAYER = (
    COMMON
    + """
from proxy.store.values import Reference

async def pay_for_ever():
    store = await open_store(path)
    if not await store.accounts():
        await store.create_account("alice", Nanos(0), NOW_MS)
    for n in range(10**6):
        booked = store.credit_account("alice", Nanos(3), "", NOW_MS, Reference("cli", f"{round_}-{n}"))
        print("told", n, flush=True)
        await booked
        print("booked", n, flush=True)

asyncio.run(pay_for_ever())
"""
)


@pytest.mark.promise(PROMISE)
async def test_a_payment_whose_process_died_at_a_random_moment_is_booked_once_by_its_repeat(tmp_path: Path, faults: Faults) -> None:
    path = tmp_path / "books.db"
    chance = random.Random(20261126)
    payments = 0

    for round_ in range(10):
        lines = await asyncio.to_thread(run_until_killed, path, round_, chance.randint(2, 40), PAYER)
        told = 1 + max(int(line.split()[1]) for line in lines)  # the next may have been under way before it was told of
        faults.injected += 1
        store = await open_store(path)
        try:
            for n in range(told + 1):
                repeated = await store.credit_account("alice", 3, "", 0, Reference("cli", f"{round_}-{n}"))  # type: ignore[arg-type]
                assert not (repeated.is_new and f"booked {n}" in lines)
            payments += told + 1
            assert (await store.account("alice")).balance_nanos == 3 * payments
            await assert_books_balance(store)
        finally:
            await store.close()


@pytest.mark.promise(PROMISE)
async def test_a_command_whose_gateway_dies_at_the_commit_repeats_itself_and_books_once(tmp_path: Path, faults: Faults) -> None:
    async with stand(tmp_path) as one:
        for number, (point, yuan) in enumerate((point, yuan) for point in PAYMENT for yuan in ("5.00", "-5.00")):
            assert await one.start(die_at=point)

            said = await one.gateway.run("account", "credit", "000", yuan, "--reference", f"order-{number}")

            assert await one.gateway.ended() == -signal.SIGKILL
            faults.injected += 1
            assert said.returncode == 0, said.stderr
            assert ("Nothing was booked now" in said.stderr) == point.endswith("after")
            async with one.gateway.looked_into() as store:
                await assert_books_balance(store)
                balance = (await store.account("000")).balance_nanos
            assert balance == EACH + (parse_yuan("5.00") if yuan == "5.00" else 0)
