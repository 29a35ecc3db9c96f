"""Large bodies: who may send them, and what is kept of them once the upstream has them."""

from functools import partial
from pathlib import Path

import pytest

from proxy.core.money import Nanos
from proxy.demo.ark import Hang, StandIn
from proxy.store.values import Reference
from tests.support.books import assert_books_balance
from tests.support.gateway import MODEL, bench
from tests.support.process import gateway_process, resident_bytes
from tests.support.raw_chat import raw_chat

LARGE_BYTES = 70_000
NO_JSON = b"x" * LARGE_BYTES
FREE = """
[[models]]
id = "free"
kind = "chat"
upstream = "ark"
context_tokens = 32768
reasoning_tokens_max = 0
price = { input = "0", output = "0" }
"""


@pytest.mark.parametrize("path", ["/chat/completions", "/images/generations", "/videos/generations"])
async def test_an_account_with_nothing_is_refused_before_its_large_body_is_looked_at(tmp_path: Path, path: str) -> None:
    async with bench(tmp_path, balance=Nanos(0)) as gateway:
        large, small = await gateway.ask(path, NO_JSON), await gateway.ask(path, b"x")

        assert (large.status, large.error["code"]) == (402, "INSUFFICIENT_BALANCE")
        assert (small.status, small.error["code"]) == (400, "INVALID_JSON")
        await assert_books_balance(gateway.store)


async def test_with_money_a_large_body_is_judged(tmp_path: Path) -> None:
    async with bench(tmp_path, balance=Nanos(1)) as gateway:
        assert (await gateway.ask("/chat/completions", NO_JSON)).status == 400


async def test_what_is_free_needs_no_money(tmp_path: Path) -> None:
    async with bench(tmp_path, balance=Nanos(0), models=FREE) as gateway:
        answer = await gateway.chat(model="free", user="x" * LARGE_BYTES)

        assert answer.status == 200
        assert await gateway.balance() == (0, 0)
        await assert_books_balance(gateway.store)


async def test_a_repeated_call_needs_no_money(tmp_path: Path) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1, "user": "x" * LARGE_BYTES}
    key = {"Idempotency-Key": "order-1"}
    async with bench(tmp_path) as gateway:
        first = await gateway.ask("/chat/completions", body, headers=key)
        account = await gateway.store.account("acme")
        await gateway.store.credit_account("acme", Nanos(-account.available_nanos), "", 0, Reference("cli", "all-of-it"))
        again, other = [await gateway.ask("/chat/completions", body, headers=headers) for headers in (key, {})]

        await assert_books_balance(gateway.store)

    assert (first.status, again.status, other.status) == (200, 200, 402)
    assert again.body == first.body


def has_calls(ark: StandIn, count: int) -> bool:
    return len(ark.calls) == count


@pytest.mark.parametrize("letter", ["A", "é", "😀"])
async def test_nothing_of_a_large_prompt_is_kept_once_the_upstream_has_it(tmp_path: Path, letter: str) -> None:
    text = "A" * 8_000_000 + letter
    async with StandIn() as ark, gateway_process(tmp_path, ark.base_url, balance=Nanos(10**15)) as gateway:
        await gateway.start()
        assert gateway.process is not None
        ark.enqueue([Hang()], times=4)
        held = []
        for calls in range(1, 5):
            client = raw_chat(gateway.origin, gateway.key, user=text)
            await client.__aenter__()
            held.append(client)
            await ark.wait_until(partial(has_calls, ark, calls), 30)
            if calls == 1:
                first = resident_bytes(gateway.process.pid)  # what one such call leaves to the allocator
        grown = resident_bytes(gateway.process.pid) - first
        for client in held:
            await client.__aexit__(None, None, None)

    assert grown < 8_000_000, f"three more open calls of 8 MB each keep {grown / 3:.0f} bytes each"
