"""Idempotency keys, through the contract alone: claimed with the hold, kept or released with the settlement."""

import asyncio

import pytest

from proxy.core.catalog import Kind
from proxy.core.money import Nanos
from proxy.core.video.record import TaskState
from proxy.core.video.report import Found, Polled
from proxy.store.contract import CLAIM_LIFE_MS, FORGET_CLAIMS_MAX, Store
from proxy.store.errors import InsufficientFundsError, KeyClaimedError
from proxy.store.values import Account, ClaimedKey, IdempotencyClaim, NewRequest, Settled, StoredAnswer
from tests.contract.conftest import ENGINES, Open
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, hears, made, new_claim, new_request, new_video, settlement, submitted, task_of

ANSWER = StoredAnswer(200, '{"image_urls":["https://tos/一.png"]}\x00'.encode())
LATER = StoredAnswer(200, b"another")


def images(request_id: str = "img-1", *, account: Account, hold: int = 100, body: str = "body", now_ms: int = NOW_MS) -> NewRequest:
    return new_request(
        request_id,
        account_id=account.id,
        hold_nanos=hold,
        kind=Kind.IMAGE,
        created_at_ms=now_ms,
        claim=new_claim(body=body),
    )


async def place_video(store: Store, account: Account, request_id: str = "vreq_1") -> NewRequest:
    request = new_video(request_id, account_id=account.id, claim=new_claim())
    await store.place_task(request, task_of(request), NOW_MS + 30_000)
    return request


async def owner(store: Store, account: Account, now_ms: int = NOW_MS) -> ClaimedKey | None:
    return await store.claimed_key(account.id, "retry-1", now_ms)


async def balance_and_held(store: Store) -> tuple[int, int]:
    account = await store.account("alice")
    return account.balance_nanos, account.held_nanos


async def test_of_many_keys_those_without_an_answer_are_told(store: Store, alice: Account) -> None:
    for number in range(3):
        request = new_request(f"img-{number}", account_id=alice.id, kind=Kind.IMAGE, claim=new_claim(f"retry-{number}"))
        await store.place_hold(request)
    await store.settle("img-1", settlement(1), NOW_MS, ANSWER)
    await store.settle("img-2", settlement(1), NOW_MS)
    asked = [(alice.id, f"retry-{number}") for number in range(4)]

    assert await store.claims_under_way([*asked, (alice.id + 1, "retry-0"), (alice.id, "retry\0")]) == {(alice.id, "retry-0")}
    assert await store.claims_under_way([]) == set()
    await assert_books_balance(store)


async def test_a_key_is_taken_with_the_hold(store: Store, alice: Account) -> None:
    request = images(account=alice, hold=300)
    free = await owner(store, alice)

    await store.place_hold(request)

    assert free is None
    assert await owner(store, alice) == ClaimedKey(new_claim(), "img-1", None)
    found = await store.receipt("img-1")
    assert found is not None
    assert found[0].request == request
    assert await balance_and_held(store) == (1000, 300)
    await assert_books_balance(store)


async def test_a_key_keeps_its_first_answer_byte_for_byte(store: Store, alice: Account) -> None:
    await store.place_hold(images(account=alice))

    await store.settle("img-1", settlement(60, units=1), NOW_MS, ANSWER)
    again = await store.settle("img-1", settlement(60, units=1), NOW_MS, LATER)

    assert again is Settled.BEFORE
    assert await owner(store, alice) == ClaimedKey(new_claim(), "img-1", ANSWER)
    assert await balance_and_held(store) == (940, 0)
    await assert_books_balance(store)


@pytest.mark.parametrize("body", ["body", "another body"])
async def test_a_claimed_key_tells_whose_it_is_and_holds_nothing(store: Store, alice: Account, body: str) -> None:
    await store.place_hold(images(account=alice))
    with pytest.raises(KeyClaimedError) as in_flight:
        await store.place_hold(images("img-2", account=alice, body=body))
    await store.settle("img-1", settlement(60), NOW_MS, ANSWER)
    with pytest.raises(KeyClaimedError) as answered:
        await store.place_hold(images("img-3", account=alice, body=body))

    assert in_flight.value.claimed == ClaimedKey(new_claim(), "img-1", None)
    assert answered.value.claimed == ClaimedKey(new_claim(), "img-1", ANSWER)
    assert (await store.receipt("img-2"), await store.receipt("img-3")) == (None, None)
    assert await balance_and_held(store) == (940, 0)
    await assert_books_balance(store)


async def test_a_retry_is_owed_its_answer_when_there_is_no_money_left(store: Store, alice: Account) -> None:
    await store.place_hold(images(account=alice, hold=1000))
    await store.settle("img-1", settlement(1000), NOW_MS, ANSWER)

    with pytest.raises(KeyClaimedError) as refused:
        await store.place_hold(images("img-2", account=alice, hold=1000))

    assert refused.value.claimed.answer == ANSWER
    assert await balance_and_held(store) == (0, 0)
    await assert_books_balance(store)


async def test_a_key_without_an_answer_is_given_back_so_that_a_retry_may_run(store: Store, alice: Account) -> None:
    await store.place_hold(images(account=alice))
    await store.settle("img-1", settlement(0), NOW_MS)
    free = await owner(store, alice)

    await store.place_hold(images("img-2", account=alice, body="another body"))

    assert free is None
    assert await owner(store, alice) == ClaimedKey(new_claim(body="another body"), "img-2", None)
    assert await store.settle("img-1", settlement(0), NOW_MS) is Settled.BEFORE  # too late to release it again
    assert await owner(store, alice) == ClaimedKey(new_claim(body="another body"), "img-2", None)
    await assert_books_balance(store)


async def test_a_key_is_its_accounts_own(store: Store, alice: Account) -> None:
    bob = await store.create_account("bob", Nanos(1000), NOW_MS)

    await store.place_hold(images(account=alice))
    await store.place_hold(images("img-2", account=bob))

    assert await owner(store, alice) == ClaimedKey(new_claim(), "img-1", None)
    assert await owner(store, bob) == ClaimedKey(new_claim(), "img-2", None)
    await assert_books_balance(store)


@pytest.mark.parametrize(
    ("hold", "claim"),
    [(1001, new_claim()), (-1, new_claim()), (100, IdempotencyClaim("", bytes(32))), (100, IdempotencyClaim("retry-1", b"short"))],
)
async def test_a_refused_hold_takes_no_key(store: Store, alice: Account, hold: int, claim: IdempotencyClaim) -> None:
    with pytest.raises((InsufficientFundsError, ValueError)):
        await store.place_hold(new_request("img-1", account_id=alice.id, hold_nanos=hold, claim=claim))

    assert await owner(store, alice) is None
    assert await store.receipt("img-1") is None
    assert await balance_and_held(store) == (1000, 0)
    await assert_books_balance(store)


async def test_two_hundred_at_once_with_one_key_are_one_request(store: Store, alice: Account) -> None:
    requests = [images(f"img-{number}", account=alice, hold=1) for number in range(200)]

    answers = await asyncio.gather(*map(store.place_hold, requests), return_exceptions=True)

    assert answers[0] is None
    assert {type(answer) for answer in answers[1:]} == {KeyClaimedError}
    assert {answer.claimed.request_id for answer in answers if isinstance(answer, KeyClaimedError)} == {"img-0"}
    assert [request.id for request in await store.open_requests()] == ["img-0"]
    assert await balance_and_held(store) == (1000, 1)
    await assert_books_balance(store)


async def test_a_caller_that_stops_waiting_has_its_key_all_the_same(store: Store, alice: Account) -> None:
    placing = store.place_hold(images(account=alice))

    placing.cancel()
    with pytest.raises(KeyClaimedError):
        await store.place_hold(images("img-2", account=alice))
    settling = store.settle("img-1", settlement(60), NOW_MS, ANSWER)
    settling.cancel()
    await store.settle("img-1", settlement(0), NOW_MS)  # queued behind it

    assert await owner(store, alice) == ClaimedKey(new_claim(), "img-1", ANSWER)
    assert await balance_and_held(store) == (940, 0)
    await assert_books_balance(store)


async def test_a_key_is_free_again_after_its_life(store: Store, alice: Account) -> None:
    await store.place_hold(images(account=alice))
    await store.settle("img-1", settlement(60), NOW_MS, ANSWER)
    over_ms = NOW_MS + CLAIM_LIFE_MS

    with pytest.raises(KeyClaimedError):
        await store.place_hold(images("img-2", account=alice, now_ms=over_ms - 1))
    last, after = await owner(store, alice, over_ms - 1), await owner(store, alice, over_ms)
    await store.place_hold(images("img-3", account=alice, now_ms=over_ms))

    assert (last, after) == (ClaimedKey(new_claim(), "img-1", ANSWER), None)
    assert await owner(store, alice, over_ms) == ClaimedKey(new_claim(), "img-3", None)
    await assert_books_balance(store)


async def test_a_key_outlives_its_day_while_its_request_is_open(store: Store, alice: Account) -> None:
    await store.place_hold(images(account=alice))
    over_ms = NOW_MS + 3 * CLAIM_LIFE_MS

    with pytest.raises(KeyClaimedError):
        await store.place_hold(images("img-2", account=alice, now_ms=over_ms))
    forgotten = await store.forget_claims(over_ms)

    assert forgotten == 0
    assert await owner(store, alice, over_ms) == ClaimedKey(new_claim(), "img-1", None)
    await store.settle("img-1", settlement(60), over_ms, ANSWER)
    assert await owner(store, alice, over_ms) is None
    assert await store.forget_claims(over_ms) == 1
    await assert_books_balance(store)


async def test_keys_are_forgotten_the_oldest_first_and_so_many_at_once(
    store: Store, alice: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    for engine in ENGINES:
        monkeypatch.setattr(f"proxy.store.{engine}.idempotency.FORGET_CLAIMS_MAX", 2)
    for number in range(4):
        request = new_request(
            f"img-{number}", account_id=alice.id, hold_nanos=1, created_at_ms=NOW_MS + number, claim=new_claim(f"key-{number}")
        )
        await store.place_hold(request)
        await store.settle(request.id, settlement(1), NOW_MS + number, ANSWER)
    over_ms = NOW_MS + CLAIM_LIFE_MS + 2  # three have expired, the last one has a millisecond left

    counts = [await store.forget_claims(over_ms) for _ in range(3)]

    assert counts == [2, 1, 0]
    assert FORGET_CLAIMS_MAX >= 1000
    assert [await store.claimed_key(alice.id, f"key-{number}", over_ms) for number in range(3)] == [None] * 3
    assert await store.claimed_key(alice.id, "key-3", over_ms) == ClaimedKey(new_claim("key-3"), "img-3", ANSWER)
    assert await store.receipt("img-0") is not None
    await assert_books_balance(store)


async def test_keys_are_there_after_closing_and_opening_again(reopen: Open) -> None:
    before = await reopen()
    account = await before.create_account("alice", Nanos(1000), NOW_MS)
    await before.place_hold(images(account=account))
    await before.settle("img-1", settlement(60), NOW_MS, ANSWER)
    await before.place_hold(new_request("req_1", account_id=account.id, claim=new_claim("retry-2")))
    await before.close()

    after = await reopen()

    assert await owner(after, account) == ClaimedKey(new_claim(), "img-1", ANSWER)
    assert await after.claimed_key(account.id, "retry-2", NOW_MS) == ClaimedKey(new_claim("retry-2"), "req_1", None)
    with pytest.raises(KeyClaimedError):
        await after.place_hold(images("img-2", account=account))
    await after.settle("req_1", settlement(0), NOW_MS)  # as a start does with requests that were left open
    assert await after.claimed_key(account.id, "retry-2", NOW_MS) is None
    await assert_books_balance(after)


async def test_a_video_keeps_the_answer_to_its_submit_through_its_life(store: Store, alice: Account) -> None:
    await place_video(store, alice)
    before = await owner(store, alice)

    await store.advance_task("vreq_1", submitted(), NOW_MS, ANSWER)
    under_way = await owner(store, alice)
    await store.advance_task("vreq_1", hears(Polled("running")), NOW_MS, LATER)
    await store.advance_task("vreq_1", made(), NOW_MS)

    assert before == ClaimedKey(new_claim(), "vreq_1", None)
    assert under_way == await owner(store, alice) == ClaimedKey(new_claim(), "vreq_1", ANSWER)
    with pytest.raises(KeyClaimedError):
        await place_video(store, alice, "vreq_2")
    assert await store.task("vreq_2") is None
    assert await balance_and_held(store) == (900, 0)
    await assert_books_balance(store)


@pytest.mark.parametrize("answer", [None, ANSWER])
async def test_a_video_that_fails_keeps_or_gives_back_its_key(store: Store, alice: Account, answer: StoredAnswer | None) -> None:
    await place_video(store, alice)
    await store.advance_task("vreq_1", submitted(), NOW_MS)

    await store.advance_task("vreq_1", hears(Polled("failed")), NOW_MS, answer)

    assert await owner(store, alice) == (answer and ClaimedKey(new_claim(), "vreq_1", answer))
    await assert_books_balance(store)


async def test_an_answer_is_kept_though_its_report_came_too_late(store: Store, alice: Account) -> None:
    await place_video(store, alice)
    await store.advance_task("vreq_1", hears(Found("cgt-1")), NOW_MS)  # a look-up found it before the submit was answered

    step = await store.advance_task("vreq_1", submitted("cgt-1"), NOW_MS, ANSWER)

    assert (step.ignored, step.task.state) == (True, TaskState.PENDING)
    assert await owner(store, alice) == ClaimedKey(new_claim(), "vreq_1", ANSWER)
    await assert_books_balance(store)


async def test_an_answer_to_a_request_without_a_key_is_nothing_to_keep(store: Store, alice: Account) -> None:
    request = new_video(account_id=alice.id)
    await store.place_task(request, task_of(request), NOW_MS)
    await store.place_hold(new_request("img-1", account_id=alice.id))

    await store.advance_task("vreq_1", submitted(), NOW_MS, ANSWER)
    settled = await store.settle("img-1", settlement(60), NOW_MS, ANSWER)

    assert settled is Settled.NOW
    assert await owner(store, alice) is None
    assert await balance_and_held(store) == (940, 100)
    await assert_books_balance(store)
