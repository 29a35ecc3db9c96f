"""Large bodies: who may send them, and what is kept of them once the upstream has them."""

from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import orjson
import pytest

from proxy.core.money import Nanos
from proxy.demo.ark import Hang, StandIn, answer_json
from proxy.store.values import Reference
from tests.support.books import assert_books_balance
from tests.support.gateway import MODEL, Bench, bench
from tests.support.images import PRICE, PROMPT, ROUTE
from tests.support.process import GatewayProcess, free_port, gateway_process, growth_bytes, resident_bytes
from tests.support.raw import connect, request
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
        ark.enqueue([Hang()], times=4)
        held = []
        for calls in range(1, 5):
            client = raw_chat(gateway.origin, gateway.key, user=text)
            await client.__aenter__()
            held.append(client)
            await ark.wait_until(partial(has_calls, ark, calls), 30)
            if calls == 1:
                first = await resident_bytes(gateway)  # what one such call leaves to the allocator
        grown = await growth_bytes(gateway, first, 8_000_000)
        for client in held:
            await client.__aexit__(None, None, None)

    assert grown < 8_000_000, f"three more open calls of 8 MB each keep {grown / 3:.0f} bytes each"


PASSED_ON = """
[upstreams.dead]
base_url = "http://127.0.0.1:{port}/v1"
api_key = "env:ARK_API_KEY"
dialect = "openai"
asks_usage = false
[[models]]
id = "routed"
kind = "chat"
routes = [{{ upstream = "dead" }}, {{ upstream = "ark", tier = 2 }}]
reasoning_tokens_max = 0
price = {{ input = "0.8", output = "2.0" }}
"""


async def test_nor_is_anything_kept_of_one_that_was_passed_on_to_another_dialect(tmp_path: Path) -> None:
    models = PASSED_ON.format(port=free_port())
    async with StandIn() as ark, gateway_process(tmp_path, ark.base_url, balance=Nanos(10**15), models=models) as gateway:
        await gateway.start()
        ark.enqueue([Hang()], times=4)
        async with AsyncExitStack() as held:
            for calls in range(1, 5):
                client = raw_chat(gateway.origin, gateway.key, model="routed", stream=True, user="A" * 8_000_000)
                await held.enter_async_context(client)
                await ark.wait_until(partial(has_calls, ark, calls), 30)
                if calls == 1:
                    first = await resident_bytes(gateway)
            grown = await growth_bytes(gateway, first, 8_000_000)

    assert [call.json["stream_options"] for call in ark.calls] == [{"include_usage": True}] * 4
    assert grown < 8_000_000, f"three more open calls of 8 MB each keep {grown / 3:.0f} bytes each"


PICTURE = "data:image/png;base64," + "A" * 8_000_000
FORMAT_REFUSED = {
    "error": {"code": "InvalidParameter", "message": "the parameter `output_format` is not supported by the current model"}
}


def edit(gateway: Bench | GatewayProcess, picture: str) -> bytes:
    body = orjson.dumps({"prompt": PROMPT, "task_type": "image_to_image", "image_url": picture, "n": 2})
    return request("POST", f"/v1{ROUTE}", ("x-api-key", gateway.key), body=body)


async def test_nothing_of_a_large_picture_is_kept_once_the_upstream_has_it(tmp_path: Path) -> None:
    async with StandIn() as ark, gateway_process(tmp_path, ark.base_url, balance=Nanos(10**15)) as gateway, AsyncExitStack() as stack:
        await gateway.start()
        async with connect(gateway.origin) as client:
            assert (await client.ask(edit(gateway, PICTURE))).status == 200  # from now on the model is known to take all fields
        ark.enqueue([Hang()], ROUTE, times=8)
        before = await resident_bytes(gateway)
        for calls in range(1, 5):
            client = await stack.enter_async_context(connect(gateway.origin))
            await client.send(edit(gateway, PICTURE))
            await ark.wait_until(partial(has_calls, ark, 2 + 2 * calls), 30)
        grown = await growth_bytes(gateway, before, 8_000_000)

    assert grown < 8_000_000, f"four open calls with 8 MB each keep {grown / 4:.0f} bytes each"


async def test_nothing_is_kept_of_a_picture_that_a_video_ignores(tmp_path: Path) -> None:
    body = orjson.dumps({"prompt": PROMPT, "task_type": "text_to_video", "image_url": PICTURE})
    async with StandIn() as ark, gateway_process(tmp_path, ark.base_url, balance=Nanos(10**15)) as gateway, AsyncExitStack() as stack:
        await gateway.start()
        ark.enqueue([Hang()], times=4)
        sent = request("POST", "/v1/videos/generations", ("x-api-key", gateway.key), body=body)
        before = await resident_bytes(gateway)
        for calls in range(1, 5):
            client = await stack.enter_async_context(connect(gateway.origin))
            await client.send(sent)
            await ark.wait_until(partial(has_calls, ark, calls), 30)
        grown = await growth_bytes(gateway, before, 8_000_000)

    assert grown < 8_000_000, f"four submits with 8 MB each keep {grown / 4:.0f} bytes each"


async def test_a_large_body_is_sent_again_without_a_field_that_the_model_refuses_at_first(gateway: Bench) -> None:
    gateway.ark.enqueue(answer_json(400, FORMAT_REFUSED), ROUTE, times=2)

    async with connect(gateway.origin) as client:
        answer = await client.ask(edit(gateway, PICTURE[:1_000_000]))

    assert (answer.status, len(answer.json["image_urls"])) == (200, 2)
    assert ["output_format" in call.json for call in gateway.ark.calls] == [True, True, False, False]
    assert all(call.json["image"] == PICTURE[:1_000_000] for call in gateway.ark.calls)
    await gateway.assert_charged(2 * PRICE)


async def test_where_a_model_refuses_what_it_took_before_a_retry_helps(gateway: Bench) -> None:
    sent = edit(gateway, PICTURE[:1_000_000])
    async with connect(gateway.origin) as client:
        first = await client.ask(sent)
        gateway.ark.enqueue(answer_json(400, FORMAT_REFUSED), ROUTE, times=2)
        second = await client.ask(sent)
        gateway.ark.enqueue(answer_json(400, FORMAT_REFUSED), ROUTE, times=2)
        third = await client.ask(sent)

    assert [answer.status for answer in (first, second, third)] == [200, 503, 200]
    assert "retry-after" in second.headers
    assert second.headers.get("x-should-retry") != "false"
    await gateway.assert_charged(4 * PRICE)
