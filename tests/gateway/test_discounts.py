"""A discount through the whole gateway: in the hold, in the charge and on the receipt of each kind of request."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.core.money import discounted, parse_yuan
from proxy.demo.ark import ChatReply, Settings, StandIn, Timeline
from tests.support.books import assert_books_balance
from tests.support.gateway import BALANCE, Bench, Reply, bench
from tests.support.images import PRICE, paint
from tests.support.videos import ask_operator, ended, quick_bench, submitted

LIST_COST = 20 * 800 + 12 * 2_000
"""Of the stand-in's default answer: 20 prompt tokens and 12 of completion."""
LIST_HOLD = 293 * 800 + 4_096 * 2_000


@pytest.fixture
async def cheaper(gateway: Bench) -> AsyncIterator[Bench]:
    """A gateway whose customer pays 0.8571 of each price: no product of it is a whole nano-yuan by luck."""
    await set_discount(gateway, "0.8571")
    yield gateway
    await assert_books_balance(gateway.store)


async def set_discount(gateway: Bench, factor: str) -> None:
    """Set it as the operator's command does."""
    account = orjson.loads(await ask_operator(gateway, "/operations/account.set", {"account": "acme", "discount": factor}))
    assert account["discount"] in (factor, "1")


async def receipt(gateway: Bench, request_id: str) -> dict[str, Any]:
    return dict((await gateway.ask(f"/usage/{request_id}")).json)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_holds_and_costs_less_and_its_receipt_says_how(cheaper: Bench, stream: bool) -> None:
    answer = await cheaper.chat(stream=stream)

    shown = await receipt(cheaper, answer.headers["x-request-id"])
    # 40,000 × 0.8571 = 34,284 and 8,426,400 × 0.8571 = 7,222,267.44, rounded up
    assert (shown["cost"], shown["hold"], shown["discount"]) == ("0.000034284", "0.007222268", "0.8571")
    assert shown["formula"] == "(20 × ¥0.8/M + 12 × ¥2/M) × 0.8571 = ¥0.000034284"
    await cheaper.assert_charged(34_284)


async def test_one_token_is_rounded_up_and_the_sum_is_rounded_once(cheaper: Bench) -> None:
    cheaper.ark.chat.enqueue(ChatReply(prompt_tokens=1, completion_tokens=1, cached_tokens=1))

    answer = await cheaper.chat()

    # (160 + 2,000) × 0.8571 = 1,851.336; each rounded by itself they would come to 1,853
    assert (await receipt(cheaper, answer.headers["x-request-id"]))["cost"] == "0.000001852"
    await cheaper.assert_charged(1_852)


async def test_what_costs_more_than_its_hold_costs_its_hold(cheaper: Bench) -> None:
    cheaper.ark.chat.enqueue(ChatReply(prompt_tokens=30_000, completion_tokens=4_096))

    shown = await receipt(cheaper, (await cheaper.chat()).headers["x-request-id"])

    cost = discounted(30_000 * 800 + 4_096 * 2_000, 8_571)
    assert parse_yuan(shown["cost"]) == parse_yuan(shown["hold"]) == discounted(LIST_HOLD, 8_571)
    assert parse_yuan(shown["shortfall"]) == cost - discounted(LIST_HOLD, 8_571)


async def test_pictures_cost_less_in_the_answer_and_on_the_receipt(cheaper: Bench) -> None:
    answer = await paint(cheaper, n=3)

    shown = await receipt(cheaper, answer.json["request_id"])
    assert answer.json["total_cost"] == 0.462834  # 3 × 0.18 × 0.8571
    assert (shown["cost"], shown["hold"], shown["formula"]) == ("0.462834", "0.462834", "3 × ¥0.18 × 0.8571 = ¥0.462834")
    await cheaper.assert_charged(discounted(3 * PRICE, 8_571))


@pytest.mark.parametrize(
    ("billing", "cost", "formula"),
    [
        ("formula", "0.7405344", "108000 × ¥8/M × 0.8571 = ¥0.7405344"),
        ("usage", "0.74670552", "108900 × ¥8/M × 0.8571 = ¥0.74670552"),  # one frame more
    ],
)
async def test_a_video_costs_less_by_either_count(tmp_path: Path, billing: str, cost: str, formula: str) -> None:
    told = f'video_tokens = "{billing}"'
    async with StandIn(Settings(timeline=Timeline(0.1, 0.1))) as ark, quick_bench(tmp_path, ark, billing=told) as gateway:
        await set_discount(gateway, "0.8571")
        task_id = await submitted(gateway, resolution="720p", duration=5)
        await set_discount(gateway, "none")  # what is under way keeps its own

        task = await ended(gateway, task_id)

        shown = await receipt(gateway, task_id)
        assert (task["total_cost"], shown["cost"], shown["formula"], shown["discount"]) == (cost, cost, formula, "0.8571")
        await gateway.assert_charged(parse_yuan(cost))


async def test_a_change_counts_from_the_next_request_on_and_none_takes_it_away(gateway: Bench) -> None:
    before = await gateway.chat()
    await set_discount(gateway, "0.5")
    half = await gateway.chat()
    await set_discount(gateway, "none")
    after = await gateway.chat()

    shown = [await receipt(gateway, answer.headers["x-request-id"]) for answer in (before, half, after)]
    assert [one["discount"] for one in shown] == ["1", "0.5", "1"]
    assert [parse_yuan(one["cost"]) for one in shown] == [LIST_COST, LIST_COST // 2, LIST_COST]
    assert (await gateway.ask("/models/doubao-pro-32k")).json["pricing"]["prompt"] == "0.0000008"
    await gateway.assert_charged(LIST_COST * 5 // 2)


async def test_what_is_available_pays_for_more(tmp_path: Path) -> None:
    async with bench(tmp_path, balance=parse_yuan("0.0043")) as gateway:
        assert (await gateway.chat()).status == 402  # ¥0.0084264 at the whole price
        await set_discount(gateway, "0.51")
        assert (await gateway.chat()).status == 200
        assert await gateway.balance() == (4_300_000 - discounted(LIST_COST, 5_100), 0)
        await assert_books_balance(gateway.store)


async def test_what_a_402_says_to_be_enough_is_enough_with_the_discount_and_one_more_is_not(tmp_path: Path) -> None:
    async with bench(tmp_path, balance=parse_yuan("0.36")) as gateway:
        await set_discount(gateway, "0.8571")
        tokens = enough(await gateway.chat(max_tokens=1_000_000))
        pictures = enough(await paint(gateway, n=4))

        assert (await gateway.chat(max_tokens=tokens + 1)).status == (await paint(gateway, n=pictures + 1)).status == 402
        assert (await gateway.chat(max_tokens=tokens)).status == (await paint(gateway, n=pictures)).status == 200
        await assert_books_balance(gateway.store)


def enough(refused: Reply) -> int:
    """Return the limit that a refusal says to be enough."""
    assert refused.status == 402
    found = re.search(r"to ([0-9]+)(?: at most)?, which is enough", refused.error["message"])
    assert found is not None, refused.error
    return int(found[1])


async def test_calls_without_keys_have_their_accounts_discount_too(tmp_path: Path) -> None:
    async with bench(tmp_path, server='auth = "none"') as gateway:
        await ask_operator(gateway, "/operations/account.credit", {"account": "default", "amount": "1"})
        await ask_operator(gateway, "/operations/account.set", {"account": "default", "discount": "0.25"})

        await gateway.ask("/chat/completions", {"model": "doubao-pro-32k", "messages": [{"role": "user", "content": "Hi"}]}, key=None)

        assert (await gateway.store.account("default")).balance_nanos == 10**9 - LIST_COST // 4
        assert await gateway.balance() == (BALANCE, 0)
        await assert_books_balance(gateway.store)
