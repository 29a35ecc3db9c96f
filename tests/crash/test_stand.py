"""Tests of the fault stand itself: the audit must find faults that are planted."""

import sqlite3
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
import pytest_asyncio

from tests.support.ark_books import NEVER_ENDS
from tests.support.stand import Stand, stand


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    """Yield a stand whose customers were all served and whose books are right."""
    async with stand(tmp_path_factory.mktemp("stand")) as one:
        assert await one.start()
        await one.customers(4, calls=25)
        await one.all_ended()
        await one.gateway.kill()
        assert await one.losses(all_ended=False) == []
        yield one


def ark_billed_more(one: Stand) -> None:
    chats = one.books.chats
    name, chat = next((name, chat) for name, chat in chats.items() if chat.account != NEVER_ENDS)
    chats[name] = replace(chat, completion_tokens=chat.completion_tokens + 1)


def ark_was_asked_twice(one: Stand) -> None:
    one.books.chats["again"] = next(iter(one.books.chats.values()))


def ark_made_one_more_picture(one: Stand) -> None:
    one.books.images["again"] = next(iter(one.books.images.values()))


def ark_never_made_that_picture(one: Stand) -> None:
    one.books.images.pop(next(iter(one.books.images)))


def a_customer_was_answered_and_nothing_is_known_of_it(one: Stand) -> None:
    one.hands.begun.add("req_unknown")


def a_customer_was_told_another_price(one: Stand) -> None:
    name = next(name for name, nanos in one.hands.whole.items() if nanos is not None)
    one.hands.whole[name] = 1


def a_key_was_answered_twice(one: Stand) -> None:
    one.hands.by_key["key"] = {"req_1", "req_2"}


def a_video_is_not_ours(one: Stand) -> None:
    one.ark.videos.tasks["cgt-other"] = next(iter(one.ark.videos.tasks.values()))


def a_settlement_changed(one: Stand) -> None:
    with sqlite3.connect(one.gateway.directory / "gateway.db") as connection:
        connection.execute("UPDATE requests SET charge_nanos = charge_nanos - 1 WHERE id = (SELECT max(id) FROM requests)")
    connection.close()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "wrong",
    [
        ark_billed_more, ark_was_asked_twice, ark_made_one_more_picture, ark_never_made_that_picture,
        a_customer_was_answered_and_nothing_is_known_of_it, a_customer_was_told_another_price, a_key_was_answered_twice,
        a_video_is_not_ours, a_settlement_changed,
    ],
)  # fmt: skip
async def test_the_audit_finds_that(served: Stand, wrong: Callable[[Stand], None]) -> None:
    before = set(await served.losses())

    wrong(served)

    assert set(await served.losses(all_ended=wrong is a_video_is_not_ours)) - before
