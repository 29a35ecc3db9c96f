"""The audit of discounts, refunds and closed accounts: each fault that its checks are made for, in each engine."""

from dataclasses import replace

import pytest
from msgspec import structs

from proxy.core import pricing
from proxy.core.catalog import ChatPrice, ChatTier, ImagePrice, Kind
from proxy.core.chat.settling import Seen, conclude
from proxy.core.days import CHINA
from proxy.core.money import Nanos
from proxy.core.protocol import SeenAnswer
from proxy.core.settlement import Outcome, TokenUsage
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, made, new_key, new_request, new_video, pay, reference, settlement, submitted, task_of
from tests.unit.store.audit.conftest import Books

DISCOUNT = 8_571
TIERS = ChatPrice(
    (
        ChatTier(100, input=Nanos(801), output=Nanos(2003), cached_input=Nanos(161)),
        ChatTier(None, input=Nanos(1201), output=Nanos(16_007), cached_input=Nanos(803)),
    )
)
IN_THE_CHARGE = "a discount is in the charge as it is in the price"
GIVEN_BACK = "no refund of a request is above its charge"
FOLDED_BACK = "refunds of folded requests are in the daily sums"
CLOSED = "nothing happens to a closed account"


@pytest.fixture
async def books(empty: Books) -> Books:
    """Return books: alice (3) has a discount, a chat in either tier, one above its hold, pictures, a video; carol (4) is closed.

    A request of bob's (5) is folded, and was refunded before that and since.
    """
    store = empty.store
    alice = await store.create_account("alice", Nanos(10**9), NOW_MS)
    await store.set_discount("alice", DISCOUNT)
    for request_id, usage, hold in (
        ("short", TokenUsage(100, 7, cached_tokens=33), 10**8),
        ("long", TokenUsage(101, 7, cached_tokens=33), 10**8),
        ("dear", TokenUsage(20, 12), 1000),
    ):
        frozen = pricing.with_discount(pricing.freeze(TIERS), DISCOUNT)
        request = structs.replace(new_request(request_id, account_id=alice.id, hold_nanos=hold), price=frozen)
        await store.place_hold(request)
        seen = Seen(Outcome.COMPLETE, SeenAnswer(usage))
        await store.settle(request_id, conclude(0, TIERS, Nanos(hold), seen, estimate=True, discount=DISCOUNT), NOW_MS)
    frozen = pricing.with_discount(pricing.freeze(ImagePrice(Nanos(181))), DISCOUNT)
    picture = structs.replace(new_request("picture", account_id=alice.id, kind=Kind.IMAGE, hold_nanos=1000), price=frozen)
    await store.place_hold(picture)
    await store.settle("picture", settlement(-(-3 * 181 * DISCOUNT // 10_000), units=3), NOW_MS)
    video = structs.replace(new_video(account_id=alice.id), price='{"discount":8571}')
    await store.place_task(video, replace(task_of(video), discount=DISCOUNT), NOW_MS)
    await store.refund_request("picture", Nanos(400), "", NOW_MS, reference())
    carol = await store.create_account("carol", Nanos(1000), NOW_MS)
    await store.create_key("carol", new_key())
    film = new_video("film", account_id=carol.id)
    await store.place_task(film, task_of(film), NOW_MS)
    await store.advance_task("film", submitted("cgt-9"), NOW_MS)
    await store.advance_task("film", made(), NOW_MS)
    await store.close_account("carol", NOW_MS)
    bob = await store.create_account("bob", Nanos(1000), NOW_MS)
    await pay(store, new_request("old", account_id=bob.id), settlement(60))
    await store.refund_request("old", Nanos(20), "", NOW_MS, reference("before it was folded"))
    assert await store.fold_requests(bob.id, CHINA.begins_ms(CHINA.day(NOW_MS) + 1)) == 1
    await store.refund_request("old", Nanos(5), "", NOW_MS, reference("afterwards"))
    await assert_books_balance(store)
    return empty


@pytest.mark.parametrize(
    ("script", "check", "offender"),
    [
        # 67 × 801 + 33 × 161 + 7 × 2,003 = 73,001, and 62,569.1571 of that
        (
            "UPDATE requests SET charge_nanos = 62569 WHERE id = 'short'",
            IN_THE_CHARGE,
            "request short: 62569 and 0 not charged, it is 73001 times 8571 / 10000",
        ),
        (
            "UPDATE requests SET charge_nanos = 73001 WHERE id = 'short'",
            IN_THE_CHARGE,
            "request short: 73001 and 0 not charged, it is 73001 times 8571 / 10000",
        ),
        # 68 × 1,201 + 33 × 803 + 7 × 16,007 = 220,216
        (
            "UPDATE requests SET charge_nanos = 1 WHERE id = 'long'",
            IN_THE_CHARGE,
            "request long: 1 and 0 not charged, it is 220216 times 8571 / 10000",
        ),
        (
            "UPDATE requests SET price = replace(price, '8571', '8600') WHERE id = 'picture'",
            IN_THE_CHARGE,
            "request picture: 466 and 0 not charged, it is 543 times 8600 / 10000",
        ),
        (
            "UPDATE requests SET charge_nanos = 999 WHERE id = 'dear'",
            IN_THE_CHARGE,
            "request dear: 999 and 33332 not charged, it is 40056 times 8571 / 10000",
        ),
        (
            "UPDATE video_tasks SET discount = 9000 WHERE id = 'film'",
            IN_THE_CHARGE,
            "task film: discount 9000, its request's price says none",
        ),
        (
            "UPDATE video_tasks SET discount = 9000 WHERE id = 'vreq_1'",
            IN_THE_CHARGE,
            "task vreq_1: discount 9000, its request's price says 8571",
        ),
        ("UPDATE accounts SET discount = 0 WHERE id = 3", IN_THE_CHARGE, "account alice: discount 0"),
        (
            "UPDATE transfers SET amount_nanos = 467 WHERE kind = 'reversal' AND request_id = 'picture'",
            GIVEN_BACK,
            "request picture: 467 given back to account 3, charged 466 to account 3",
        ),
        (
            "UPDATE transfers SET credit_id = 4 WHERE kind = 'reversal' AND request_id = 'picture'",
            GIVEN_BACK,
            "request picture: 400 given back to account 4, charged 466 to account 3",
        ),
        (
            "UPDATE transfers SET request_id = 'nothing' WHERE kind = 'reversal' AND request_id = 'picture'",
            GIVEN_BACK,
            "request nothing: 400 given back to account 3, charged nothing",
        ),
        (
            "UPDATE transfers SET amount_nanos = 401 WHERE kind = 'reversal' AND request_id = 'picture'",
            "balance = credits - debits",
            None,
        ),
        ("DELETE FROM payments WHERE reference = 'payment-1'", "each credit and refund has one reference", None),
        (
            "DELETE FROM refund_days",
            FOLDED_BACK,
            "account 5, 2025-11-25: the daily sums say 20 given back, transfers without a request 25",
        ),
        (
            "INSERT INTO refund_days VALUES (3, 20418, 5)",
            FOLDED_BACK,
            "account 3, 2025-11-26: the daily sums say 5 given back, transfers without a request 0",
        ),
        (
            "UPDATE request_days SET refunded_nanos = 21",
            FOLDED_BACK,
            "account 5, 2025-11-25: the daily sums say 26 given back, transfers without a request 25",
        ),
        (
            "UPDATE transfers SET amount_nanos = 6 WHERE kind = 'reversal' AND amount_nanos = 5",
            FOLDED_BACK,
            "account 5, 2025-11-25: the daily sums say 25 given back, transfers without a request 26",
        ),
        ("UPDATE accounts SET held_nanos = 1 WHERE id = 4", CLOSED, "account carol: closed, and has 1 held"),
        ("UPDATE requests SET account_id = 4 WHERE id = 'vreq_1'", CLOSED, "account carol: closed, and request vreq_1 is under way"),
        ("UPDATE keys SET revoked_at_ms = NULL", CLOSED, "account carol: closed, and key key_1 lives"),
        ("UPDATE video_tasks SET prompt = 'x'", CLOSED, "account carol: closed, and task film has its prompt"),
        ("INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, created_at_ms) VALUES ('credit', 1, 4, 5, 0)", CLOSED, None),
        ("INSERT INTO transfers (kind, debit_id, credit_id, amount_nanos, created_at_ms) VALUES ('refund', 4, 1, 5, 0)", CLOSED, None),
    ],
)
async def test_what_is_wrong_is_named(books: Books, script: str, check: str, offender: str | None) -> None:
    await books.tamper(script)

    found = await books.offenders()

    assert check in found
    if offender is not None:
        assert found[check] == [offender]


async def test_a_transfer_of_another_account_after_the_end_is_none_of_its(books: Books) -> None:
    await books.store.credit_account("alice", Nanos(5), "", NOW_MS - 9, reference("later"))
    await assert_books_balance(books.store)
