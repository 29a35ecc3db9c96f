"""Video tasks, through the contract alone: recorded with their hold, advanced in steps, ended with their settlement."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from msgspec import structs

from proxy.core.catalog import Kind
from proxy.core.money import Nanos
from proxy.core.settlement import Outcome, TokenUsage, UsageSource
from proxy.core.video.price import VideoBilling
from proxy.core.video.record import TaskError, TaskState, VideoTask
from proxy.core.video.report import CancelConfirmed, DeadlinePassed, Found, NotFound, Polled, Report, SubmitRefused, SubmitUnknown
from proxy.core.video.task import Step
from proxy.store.contract import Store
from proxy.store.errors import AccountNotFoundError, InsufficientFundsError, StoreUnavailableError, UpstreamIdTakenError
from proxy.store.values import Account, NewRequest, Settled, UsageQuery
from tests.contract.conftest import Open
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, hears, made, new_key, new_request, new_video, pay, settlement, submitted, task_of

DUE_MS = NOW_MS + 30_000


async def place(store: Store, account: Account, request_id: str = "vreq_1", *, hold: int = 100, age_ms: int = 0) -> VideoTask:
    request = new_video(request_id, account_id=account.id, hold_nanos=hold, created_at_ms=NOW_MS - age_ms)
    task = task_of(request)
    await store.place_task(request, task, DUE_MS)
    return task


async def balance_and_held(store: Store) -> tuple[int, int]:
    account = await store.account("alice")
    return account.balance_nanos, account.held_nanos


async def ids(store: Store) -> list[str]:
    return [task.id for task in await store.open_tasks()]


async def test_a_task_is_there_with_its_hold(store: Store, alice: Account) -> None:
    task = await place(store, alice, hold=300)

    assert await store.task("vreq_1") == task
    assert await store.open_tasks() == [task]
    assert await store.next_due_at_ms() == DUE_MS
    assert await balance_and_held(store) == (1000, 300)
    assert [(request.id, request.kind) for request in await store.open_requests()] == [("vreq_1", Kind.VIDEO)]
    await assert_books_balance(store)


async def test_the_states_of_many_tasks_are_told_at_once(store: Store, alice: Account) -> None:
    for request_id in ("vreq_1", "vreq_2"):
        await place(store, alice, request_id)
    await store.advance_task("vreq_2", submitted("cgt-2"), NOW_MS)

    states = await store.task_states(["vreq_1", "vreq_2", "vreq_3", "vreq\0"])

    assert states == {"vreq_1": TaskState.SUBMITTING, "vreq_2": TaskState.PENDING}
    assert await store.task_states([]) == {}
    await assert_books_balance(store)


async def test_due_tasks_can_be_asked_for_without_those_whose_submit_is_lost(store: Store, alice: Account) -> None:
    for request_id in ("vreq_lost", "vreq_2"):
        await place(store, alice, request_id)
    await store.advance_task("vreq_lost", hears(SubmitUnknown("no answer")), NOW_MS)
    await store.advance_task("vreq_2", submitted("cgt-2"), NOW_MS)

    assert {task.id for task in await store.due_tasks(2**62, 10)} == {"vreq_lost", "vreq_2"}
    assert [task.id for task in await store.due_tasks(2**62, 10, with_lost=False)] == ["vreq_2"]
    await assert_books_balance(store)


async def test_a_task_that_nobody_has_can_be_claimed_again_and_again(store: Store, alice: Account) -> None:
    await place(store, alice)

    assert await store.claim_task("vreq_1")
    assert await store.claim_task("vreq_1")
    assert not await store.claim_task("vreq_2")
    assert [task.id for task in await store.due_tasks(DUE_MS, 10)] == ["vreq_1"]
    await assert_books_balance(store)


async def test_what_is_due_can_be_asked_for_an_upstream_and_after_a_time(store: Store, alice: Account) -> None:
    for request_id, upstream, due_at_ms in (
        ("vreq_1", "ark", 10),
        ("vreq_2", "other", 20),
        ("vreq_3", "ark", 30),
        ("vreq_4", "other", 40),
    ):
        request = structs.replace(new_video(request_id, account_id=alice.id, hold_nanos=100), upstream=upstream)
        await store.place_task(request, replace(task_of(request), upstream=upstream), due_at_ms)

    assert [task.id for task in await store.due_tasks(30, 10)] == ["vreq_1", "vreq_2", "vreq_3"]
    assert [task.id for task in await store.due_tasks(30, 10, "ark")] == ["vreq_1", "vreq_3"]
    assert [task.id for task in await store.due_tasks(40, 1, "other")] == ["vreq_2"]
    assert await store.due_tasks(40, 10, "nobody") == []
    assert [task.id for task in await store.due_tasks(2**62, 10, after_ms=20)] == ["vreq_3", "vreq_4"]
    assert [await store.next_due_at_ms(after_ms) for after_ms in (9, 10, 39, 40)] == [10, 20, 40, None]
    assert [await store.next_due_at_ms(after_ms, "ark") for after_ms in (9, 10, 30)] == [10, 30, None]
    assert await store.next_due_at_ms(upstream="other") == 20
    await assert_books_balance(store)


async def test_every_field_of_a_task_is_kept(store: Store, alice: Account) -> None:
    request = new_video(account_id=alice.id, hold_nanos=900)
    asked = replace(
        task_of(request),
        prompt="猫 🐈\x00 'quoted' --flag",
        task_type="image_to_audio_video",
        resolution="1080p",
        duration_seconds=12,
        generate_audio=True,
        service_tier="flex",
        seed=2**32 - 1,
        billing=VideoBilling.USAGE,
        quote_nanos=Nanos(864),
        quote_tokens=108_000,
        rate_nanos_per_kilotoken=4_000_000,
    )
    reached = replace(
        asked,
        state=TaskState.PROCESSING,
        upstream_id="cgt-9",
        lost_at_ms=NOW_MS + 1,
        expires_at_ms=NOW_MS + 2,
        polls=3,
        missing=2,
        urlless=4,
        odd_status="thinking",
    )
    failed = replace(reached, state=TaskState.FAILED, error=TaskError("CONTENT_REJECTED", "no"), ended_at_ms=NOW_MS + 5)

    await store.place_task(request, asked, DUE_MS)
    at_first = await store.task("vreq_1")
    await store.advance_task("vreq_1", submitted("cgt-9"), NOW_MS)
    await store.advance_task("vreq_1", lambda _: Step(reached, NOW_MS + 9), NOW_MS)
    under_way = await store.task("vreq_1")
    await store.advance_task("vreq_1", lambda _: Step(failed, None, settlement(0)), NOW_MS)

    assert (at_first, under_way, await store.task("vreq_1")) == (asked, reached, failed)
    await assert_books_balance(store)


async def test_a_video_goes_from_its_submit_to_its_charge(store: Store, alice: Account) -> None:
    await place(store, alice, hold=300)

    await store.advance_task("vreq_1", submitted("cgt-1"), NOW_MS)
    due_first = await store.next_due_at_ms()
    await store.advance_task("vreq_1", hears(Polled("running"), NOW_MS + 3_000), NOW_MS + 3_000)
    ended = await store.advance_task("vreq_1", made(NOW_MS + 60_000), NOW_MS + 60_000)

    assert due_first == NOW_MS + 3_000
    task = await store.task("vreq_1")
    assert task == ended.task
    assert task is not None
    assert (task.state, task.video_url, task.charge_nanos) == (TaskState.SUCCEEDED, "https://tos/v.mp4", 300)
    assert (await store.open_tasks(), await store.next_due_at_ms()) == ([], None)
    assert await balance_and_held(store) == (700, 0)
    await assert_books_balance(store)


async def test_the_receipt_and_the_usage_of_images_and_videos_tell_their_units(store: Store, alice: Account) -> None:
    await pay(
        store, new_request("img-1", account_id=alice.id, hold_nanos=360, kind=Kind.IMAGE, model="pictures"), settlement(180, units=1)
    )
    await place(store, alice, hold=300)
    await store.advance_task("vreq_1", submitted("cgt-1"), NOW_MS)
    await store.advance_task("vreq_1", made(NOW_MS + 60_000), NOW_MS + 60_000)

    video, image = await store.receipt("vreq_1"), await store.receipt("img-1")
    rows = await store.usage(UsageQuery(by="model"))

    assert video is not None
    assert video[0].request == new_video(account_id=alice.id, hold_nanos=300)
    ending = video[0].settlement
    assert ending is not None
    assert (ending.outcome, ending.usage_source, ending.charge_nanos) == (Outcome.COMPLETE, UsageSource.REPORTED, 300)
    assert (ending.units, ending.usage, ending.upstream_id) == (1000, TokenUsage(0, 1010), "cgt-1")  # the quote; Ark's own count
    assert video[0].settled_at_ms == NOW_MS + 60_000
    assert image is not None
    assert (image[0].request.kind, image[0].settlement) == (Kind.IMAGE, settlement(180, units=1))
    assert [(row.group, row.requests, row.units, row.completion_tokens, row.charge_nanos) for row in rows] == [
        ("doubao-seedance-1-5-pro-251215", 1, 1000, 1010, 300),
        ("pictures", 1, 1, 0, 180),
    ]
    await assert_books_balance(store)


@pytest.mark.parametrize("report", [Polled("failed"), Polled("cancelled"), Polled("expired"), CancelConfirmed()])
async def test_a_video_that_was_not_made_costs_nothing(store: Store, alice: Account, report: Polled | CancelConfirmed) -> None:
    await place(store, alice, hold=300)
    await store.advance_task("vreq_1", submitted(), NOW_MS)

    step = await store.advance_task("vreq_1", hears(report), NOW_MS)

    assert step.task.state is TaskState.FAILED
    assert await balance_and_held(store) == (1000, 0)
    assert await ids(store) == []
    await assert_books_balance(store)


async def test_a_task_that_the_account_cannot_pay_is_not_recorded(store: Store, alice: Account) -> None:
    request = new_video(account_id=alice.id, hold_nanos=1001)

    with pytest.raises(InsufficientFundsError, match="alice"):
        await store.place_task(request, task_of(request), DUE_MS)
    nobodys = new_video(account_id=999)
    with pytest.raises(AccountNotFoundError):
        await store.place_task(nobodys, task_of(nobodys), DUE_MS)

    assert (await store.task("vreq_1"), await store.receipt("vreq_1")) == (None, None)
    assert await balance_and_held(store) == (1000, 0)
    await assert_books_balance(store)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "vreq_2"},
        {"account_id": 1},
        {"model": "another"},
        {"upstream": "another"},
        {"upstream_model": "another"},
        {"hold_nanos": 99},
        {"created_at_ms": NOW_MS + 1},
        {"state": TaskState.PENDING, "upstream_id": "cgt-1"},
        {"quote_nanos": -1},
    ],
)
async def test_a_task_that_is_not_its_requests_is_refused_and_nothing_held(
    store: Store, alice: Account, change: dict[str, object]
) -> None:
    request = new_video(account_id=alice.id)

    with pytest.raises(ValueError, match="task"):
        await store.place_task(request, replace(task_of(request), **change), DUE_MS)  # type: ignore[arg-type]

    assert await store.receipt("vreq_1") is None
    assert await balance_and_held(store) == (1000, 0)
    await assert_books_balance(store)


async def test_a_video_is_not_placed_without_a_task_nor_anything_else_with_one(store: Store, alice: Account) -> None:
    chat = new_request(account_id=alice.id)

    with pytest.raises(ValueError, match="task"):
        await store.place_hold(new_video(account_id=alice.id))
    with pytest.raises(ValueError, match="task"):
        await store.place_task(chat, task_of(chat), DUE_MS)

    assert await store.open_requests() == []
    await assert_books_balance(store)


async def test_a_task_is_placed_once(store: Store, alice: Account) -> None:
    task = await place(store, alice)

    with pytest.raises(ValueError, match="vreq_1"):
        await place(store, alice)

    assert await store.open_tasks() == [task]
    assert await balance_and_held(store) == (1000, 100)
    await assert_books_balance(store)


async def test_an_unknown_task_cannot_be_advanced(store: Store) -> None:
    with pytest.raises(KeyError, match="vreq_9"):
        await store.advance_task("vreq_9", submitted(), NOW_MS)

    assert await store.task("vreq_9") is None


async def test_the_end_of_a_video_is_when_its_key_was_last_used(store: Store, alice: Account) -> None:
    await store.create_key("alice", new_key())
    video = new_video(account_id=alice.id, key_id="key_1")
    await store.place_task(video, task_of(video), DUE_MS)
    await store.advance_task("vreq_1", submitted(), NOW_MS)
    (under_way,) = await store.keys()

    await store.advance_task("vreq_1", made(NOW_MS + 60_000), NOW_MS + 60_000)

    (ended,) = await store.keys()
    assert (under_way.last_used_at_ms, ended.last_used_at_ms) == (None, NOW_MS + 60_000)
    await assert_books_balance(store)


async def test_a_video_is_not_settled_past_its_task(store: Store, alice: Account) -> None:
    await place(store, alice)

    with pytest.raises(ValueError, match="task"):
        await store.settle("vreq_1", settlement(0), NOW_MS)
    assert await balance_and_held(store) == (1000, 100)
    await store.advance_task("vreq_1", submitted(), NOW_MS)
    await store.advance_task("vreq_1", made(), NOW_MS)

    assert await store.settle("vreq_1", settlement(0), NOW_MS) is Settled.OTHERWISE
    assert await balance_and_held(store) == (900, 0)
    await assert_books_balance(store)


async def test_what_decides_sees_the_task_as_it_is_and_its_error_stores_nothing(store: Store, alice: Account) -> None:
    placed = await place(store, alice)
    seen: list[VideoTask] = []

    def look(task: VideoTask) -> Step:
        seen.append(task)
        raise LookupError("no idea")

    first = store.advance_task("vreq_1", submitted("cgt-7"), NOW_MS)
    with pytest.raises(LookupError, match="no idea"):
        await store.advance_task("vreq_1", look, NOW_MS)

    pending = (await first).task
    assert seen == [pending]
    assert (pending.state, pending.upstream_id, pending.prompt) == (TaskState.PENDING, "cgt-7", placed.prompt)
    assert await store.task("vreq_1") == pending
    await assert_books_balance(store)


Decide = Callable[[VideoTask], Step]


def ends(task: VideoTask, state: TaskState = TaskState.SUCCEEDED, charge: int = 100) -> VideoTask:
    error = TaskError("EXPIRED", "too late") if state is TaskState.FAILED else None
    return replace(task, state=state, charge_nanos=Nanos(charge), ended_at_ms=NOW_MS, error=error)


@pytest.mark.parametrize(
    "decide",
    [
        pytest.param(lambda task: Step(replace(task, state=TaskState.SUBMITTING), 1), id="a step back"),
        pytest.param(lambda task: Step(replace(task, prompt="cheaper"), 1), id="another prompt"),
        pytest.param(lambda task: Step(replace(task, hold_nanos=Nanos(1)), 1), id="another hold"),
        pytest.param(lambda task: Step(replace(task, id="vreq_2"), 1), id="another task"),
        pytest.param(lambda task: Step(task, None), id="open and never due"),
        pytest.param(lambda task: Step(task, 1, settlement(100)), id="settled and open"),
        pytest.param(lambda task: Step(ends(task), None), id="ended and not settled"),
        pytest.param(lambda task: Step(ends(task), 1, settlement(100)), id="ended and due"),
        pytest.param(lambda task: Step(ends(task), None, settlement(99)), id="two charges"),
        pytest.param(lambda task: Step(ends(task, charge=101), None, settlement(101)), id="above the hold"),
        pytest.param(lambda task: Step(ends(task, TaskState.FAILED), None, settlement(100)), id="failed and charged"),
        pytest.param(lambda task: Step(replace(ends(task), ended_at_ms=None), None, settlement(100)), id="ended at no time"),
        pytest.param(lambda task: Step(ends(task), None, settlement(100), ignored=True), id="ignored and ended"),
        pytest.param(lambda task: Step(replace(task, polls=1), 1, ignored=True), id="ignored and changed"),
        pytest.param(lambda task: Step(replace(task, polls=-1), 1), id="polls below none"),
    ],
)
async def test_a_step_that_cannot_be_is_refused_and_nothing_of_it_stored(store: Store, alice: Account, decide: Decide) -> None:
    await place(store, alice)
    pending = (await store.advance_task("vreq_1", submitted(), NOW_MS)).task

    with pytest.raises(ValueError, match="task vreq_1"):
        await store.advance_task("vreq_1", decide, NOW_MS)

    assert await store.task("vreq_1") == pending
    assert await store.next_due_at_ms() == NOW_MS + 3_000
    assert await balance_and_held(store) == (1000, 100)
    await assert_books_balance(store)


async def test_a_task_that_ended_stays_as_it_ended(store: Store, alice: Account) -> None:
    await place(store, alice)
    await store.advance_task("vreq_1", submitted(), NOW_MS)
    ended = (await store.advance_task("vreq_1", made(), NOW_MS)).task

    reports: tuple[Report, ...] = (Polled("failed"), CancelConfirmed())
    late = [await store.advance_task("vreq_1", hears(report), NOW_MS + 9) for report in reports]
    for again in (Step(ended, None, settlement(100)), Step(ends(ended, TaskState.FAILED, 0), None, settlement(0)), Step(ended, 1)):
        with pytest.raises(ValueError, match="task vreq_1"):
            await store.advance_task("vreq_1", lambda _, step=again: step, NOW_MS)  # type: ignore[misc]

    assert [(step.ignored, step.settlement) for step in late] == [(True, None)] * 2
    assert await store.task("vreq_1") == ended
    assert await balance_and_held(store) == (900, 0)
    await assert_books_balance(store)


async def test_eight_reports_of_one_end_settle_once(store: Store, alice: Account) -> None:
    await place(store, alice, hold=300)
    await store.advance_task("vreq_1", submitted(), NOW_MS)
    reports: list[Report] = [Polled("succeeded", "https://tos/v.mp4"), CancelConfirmed(), DeadlinePassed(), Polled("running")] * 2

    steps = await asyncio.gather(*(store.advance_task("vreq_1", hears(report), NOW_MS) for report in reports))

    assert [step.settlement is not None for step in steps] == [True] + [False] * 7
    assert [step.ignored for step in steps] == [False] + [True] * 7
    assert await balance_and_held(store) == (700, 0)
    await assert_books_balance(store)


async def test_a_report_that_comes_too_late_neither_changes_a_task_nor_puts_off_what_is_planned(store: Store, alice: Account) -> None:
    await place(store, alice)
    pending = (await store.advance_task("vreq_1", submitted(), NOW_MS)).task  # due at + 3 s

    step = await store.advance_task("vreq_1", hears(Found("cgt-2"), NOW_MS + 2_000), NOW_MS + 2_000)

    assert step.ignored
    assert await store.task("vreq_1") == pending
    assert await store.next_due_at_ms() == NOW_MS + 3_000
    await assert_books_balance(store)


async def test_a_report_that_comes_too_late_does_not_leave_a_task_due_for_ever(store: Store, alice: Account) -> None:
    await place(store, alice)
    await store.advance_task("vreq_1", submitted(), NOW_MS)  # due at + 3 s

    await store.advance_task("vreq_1", hears(Found("cgt-2"), NOW_MS + 4_000), NOW_MS + 4_000)

    assert await store.next_due_at_ms() == NOW_MS + 7_000
    assert await store.due_tasks(NOW_MS + 6_999, 10) == []
    await assert_books_balance(store)


async def test_two_lost_submits_cannot_find_the_same_task(store: Store, alice: Account) -> None:
    for request_id in ("vreq_1", "vreq_2"):
        await place(store, alice, request_id)
        await store.advance_task(request_id, hears(SubmitUnknown()), NOW_MS)
    lost = await store.task("vreq_2")

    found = await asyncio.gather(
        *(store.advance_task(request_id, hears(Found("cgt-1")), NOW_MS) for request_id in ("vreq_1", "vreq_2")), return_exceptions=True
    )

    assert [type(answer) for answer in found] == [Step, UpstreamIdTakenError]
    assert await store.task("vreq_2") == lost
    given_up = await store.advance_task("vreq_2", hears(NotFound(), NOW_MS + 600_000), NOW_MS + 600_000)
    assert given_up.task.state is TaskState.FAILED
    assert await balance_and_held(store) == (1000, 100)
    await assert_books_balance(store)


async def test_tasks_are_due_by_their_time_the_longest_due_first(store: Store, alice: Account) -> None:
    for request_id, delay_ms in (("vreq_1", 300), ("vreq_2", 100), ("vreq_3", 200), ("vreq_4", 400)):
        request = new_video(request_id, account_id=alice.id)
        await store.place_task(request, task_of(request), NOW_MS + delay_ms)

    due = await store.due_tasks(NOW_MS + 300, 10)
    cut = await store.due_tasks(NOW_MS + 300, 2)

    assert [task.id for task in due] == ["vreq_2", "vreq_3", "vreq_1"]
    assert [task.id for task in cut] == ["vreq_2", "vreq_3"]
    assert await store.due_tasks(NOW_MS + 99, 10) == []
    assert await store.next_due_at_ms() == NOW_MS + 100
    assert [await store.next_due_at_ms(NOW_MS + after) for after in (99, 100, 400)] == [NOW_MS + 100, NOW_MS + 200, None]
    await assert_books_balance(store)


async def test_an_accounts_tasks_are_listed_newest_first_and_by_pages(store: Store, alice: Account) -> None:
    bob = await store.create_account("bob", Nanos(1000), NOW_MS)
    for request_id, owner, age_ms in (
        ("vreq_b", alice, 5),
        ("vreq_a", alice, 5),  # due in the same millisecond as the one before
        ("vreq_d", alice, 0),
        ("vreq_c", alice, 9),
        ("vreq_e", bob, 1),
    ):
        await place(store, owner, request_id, age_ms=age_ms)
    await store.advance_task("vreq_d", submitted(), NOW_MS)
    await store.advance_task("vreq_d", made(), NOW_MS)

    pages = [await store.tasks(alice.id, 3, offset) for offset in (0, 3, 4, 2**70)]

    assert [[task.id for task in page] for page in pages] == [["vreq_d", "vreq_b", "vreq_a"], ["vreq_c"], [], []]
    assert [task.id for task in await store.tasks(bob.id, 2**70, 0)] == ["vreq_e"]
    assert await store.tasks(alice.id, 0, 0) == []
    for limit, offset in ((-1, 0), (1, -1)):
        with pytest.raises(ValueError, match="negative"):
            await store.tasks(alice.id, limit, offset)
    with pytest.raises(ValueError, match="negative"):
        await store.due_tasks(NOW_MS, -1)
    assert await ids(store) == ["vreq_c", "vreq_a", "vreq_b", "vreq_e"]  # oldest first
    await assert_books_balance(store)


async def test_a_submit_stays_unanswered_until_it_is_known_what_became_of_it(store: Store, alice: Account) -> None:
    for number, age_ms in enumerate((9, 8, 7, 6, 5)):
        await place(store, alice, f"vreq_{number}", age_ms=age_ms)
    await store.advance_task("vreq_1", submitted("cgt-1"), NOW_MS)
    await store.advance_task("vreq_2", hears(SubmitRefused(None, why="no connection")), NOW_MS)
    await store.advance_task("vreq_3", hears(SubmitUnknown("reset")), NOW_MS)
    given_up = await store.advance_task("vreq_3", hears(NotFound(), NOW_MS + 600_000), NOW_MS + 600_000)

    assert given_up.task.state is TaskState.FAILED
    assert [task.id for task in await store.unanswered_tasks("ark", 0)] == ["vreq_0", "vreq_3", "vreq_4"]
    assert [task.id for task in await store.unanswered_tasks("ark", NOW_MS - 6)] == ["vreq_3", "vreq_4"]
    assert await store.unanswered_tasks("backup", 0) == []
    await assert_books_balance(store)


async def test_the_ids_upstream_are_known_by_upstream_and_time(store: Store, alice: Account) -> None:
    for number, age_ms in enumerate((9, 5, 0)):
        await place(store, alice, f"vreq_{number}", age_ms=age_ms)
        await store.advance_task(f"vreq_{number}", submitted(f"cgt-{number}"), NOW_MS)
    await place(store, alice, "vreq_lost")
    elsewhere = structs.replace(new_video("vreq_else", account_id=alice.id), upstream="backup")
    await store.place_task(elsewhere, task_of(elsewhere), DUE_MS)
    await store.advance_task("vreq_else", submitted("cgt-2"), NOW_MS)  # another upstream may use the same id

    assert await store.known_upstream_ids("ark", NOW_MS - 5) == {"cgt-1", "cgt-2"}
    assert await store.known_upstream_ids("backup", 0) == {"cgt-2"}
    assert await store.known_upstream_ids("none", 0) == frozenset()
    await assert_books_balance(store)


async def test_callers_that_stop_waiting_change_nothing_about_a_task(store: Store, alice: Account) -> None:
    request = new_video(account_id=alice.id, hold_nanos=300)

    placing = store.place_task(request, task_of(request), DUE_MS)
    advancing = [store.advance_task("vreq_1", step, NOW_MS) for step in (submitted(), made())]
    abandoned = [placing.cancel(), *(future.cancel() for future in advancing)]
    await store.settle("vreq_1", settlement(0), NOW_MS)  # queued behind them

    assert abandoned == [True, True, True]
    task = await store.task("vreq_1")
    assert task is not None
    assert task.state is TaskState.SUCCEEDED
    assert await balance_and_held(store) == (700, 0)
    await assert_books_balance(store)


async def test_tasks_are_there_after_closing_and_opening_again(reopen: Open) -> None:
    before = await reopen()
    account = await before.create_account("alice", Nanos(1000), NOW_MS)
    for request_id in ("vreq_lost", "vreq_open", "vreq_made"):
        await place(before, account, request_id)
    await before.advance_task("vreq_open", submitted("cgt-1"), NOW_MS)
    await before.advance_task("vreq_made", submitted("cgt-2"), NOW_MS)
    await before.advance_task("vreq_made", made(), NOW_MS)
    tasks = await before.tasks(account.id, 10, 0)
    await before.close()
    with pytest.raises(StoreUnavailableError):
        await before.advance_task("vreq_open", made(), NOW_MS)

    after = await reopen()

    assert await after.tasks(account.id, 10, 0) == tasks
    assert [task.id for task in await after.due_tasks(DUE_MS, 10)] == ["vreq_open", "vreq_lost"]
    assert (await after.advance_task("vreq_open", made(), NOW_MS)).settlement is not None
    assert (await after.advance_task("vreq_made", made(), NOW_MS)).ignored
    assert await balance_and_held(after) == (800, 100)
    await assert_books_balance(after)


async def test_two_hundred_videos_at_once_cannot_overdraw_a_balance_for_thirty_seven(store: Store) -> None:
    account = await store.create_account("alice", Nanos(37 * 10 + 9), NOW_MS)
    requests: list[NewRequest] = [new_video(f"vreq_{number}", account_id=account.id, hold_nanos=10) for number in range(200)]

    answers = await asyncio.gather(
        *(store.place_task(request, task_of(request), DUE_MS) for request in requests), return_exceptions=True
    )

    assert [type(answer) for answer in answers] == [type(None)] * 37 + [InsufficientFundsError] * 163
    assert len(await store.open_tasks()) == 37
    assert await balance_and_held(store) == (379, 370)
    await assert_books_balance(store)
