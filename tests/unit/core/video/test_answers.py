"""Ark's answers about tasks: what each one proves, and which entry of the list may be a lost submit."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import pytest

from proxy.core.ark.text import ArkError
from proxy.core.money import Nanos
from proxy.core.video.answers import find_lost, lone_unmarked, read_poll, read_submit, unproven
from proxy.core.video.price import VideoBilling
from proxy.core.video.record import VideoTask, new_task
from proxy.core.video.report import Found, NotFound, Polled, PollFailed, PollFailure, SubmitRefused, Submitted, SubmitUnknown
from proxy.core.video.request import VideoCall

WRAPPED = {"error": {"code": "InvalidParameter", "message": "m"}}
CREATED_AT = 1_768_824_775
TASK = new_task(
    request_id="vreq_1",
    account_id=1,
    model="v",
    upstream="ark",
    upstream_model="up",
    call=VideoCall("一只猫", seed=77),
    safety_identifier="c0ffee",
    billing=VideoBilling.FORMULA,
    hold_nanos=Nanos(1),
    quote_nanos=Nanos(1),
    rate_nanos_per_kilotoken=1,
    now_ms=CREATED_AT * 1000,
)


@pytest.mark.parametrize(
    ("status", "answer", "report"),
    [
        (200, {"id": "cgt-1"}, Submitted("cgt-1")),
        (200, {"id": "c" * 128}, Submitted("c" * 128)),
        (200, {"id": "a/../b?c#d"}, Submitted("a/../b?c#d")),  # quoted, it stays one segment of the path
        (201, {"id": "cgt-1", "safety_identifier": "x"}, Submitted("cgt-1")),
        (200, {"id": "cgt-1", "error": None}, Submitted("cgt-1")),
        (200, {"code": "AccountOverdueError", "message": "m"}, SubmitRefused(ArkError(200, "AccountOverdueError", "m"), "status 200")),
        (
            200,
            {"error": {"code": "InvalidParameter", "message": "m"}},
            SubmitRefused(ArkError(200, "InvalidParameter", "m"), "status 200"),
        ),
        (
            201,
            {"ResponseMetadata": {"Error": {"Code": "AccessDenied", "Message": "m"}}},
            SubmitRefused(ArkError(201, "AccessDenied", "m"), "status 201"),
        ),
        (400, WRAPPED, SubmitRefused(ArkError(400, "InvalidParameter", "m"), "status 400")),
        (400, WRAPPED["error"], SubmitRefused(ArkError(400, "InvalidParameter", "m"), "status 400")),
        (403, None, SubmitRefused(None, "status 403")),
        (429, None, SubmitRefused(None, "status 429")),
        (302, None, SubmitRefused(None, "status 302")),
        (500, {"error": {"code": "InternalServiceError"}}, SubmitRefused(ArkError(500, "InternalServiceError", ""), "status 500")),
    ],
)
def test_a_submit_is_created_or_refused_when_the_answer_proves_it(status: int, answer: object, report: object) -> None:
    assert read_submit(status, answer) == report


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (200, None),
        (200, {}),
        (200, {"id": ""}),
        (200, {"id": 5}),
        (200, {"id": "."}),
        (200, {"id": ".."}),
        (200, {"id": "cgt-1\x00"}),
        (200, {"id": "cgt-1\n"}),
        (200, {"id": "cgt 1"}),
        (200, {"id": "c" * 129}),
        (500, None),
        (502, {}),
        (503, "busy"),
        (504, WRAPPED),
        (408, WRAPPED),
        (524, None),
    ],
)
def test_a_submit_may_have_arrived_when_the_answer_proves_nothing(status: int, answer: object) -> None:
    assert isinstance(read_submit(status, answer), SubmitUnknown)


@pytest.mark.parametrize("named", ["cgt-2", "CGT-1", 5, ["cgt-1"]])
def test_a_poll_answered_with_another_task_says_nothing_about_this_one(named: object) -> None:
    answer = {"id": named, "status": "succeeded", "content": {"video_url": "https://tos/of-somebody-else.mp4"}}

    assert read_poll(200, answer, 7_000, upstream_id="cgt-1") == PollFailed(PollFailure.TRANSIENT, 7_000)


@pytest.mark.parametrize("answer", [{"id": "cgt-1"}, {"id": None}, {"id": ""}, {}])
def test_a_poll_answered_with_this_task_or_without_an_id_is_taken(answer: dict[str, Any]) -> None:
    assert read_poll(200, {**answer, "status": "running"}, upstream_id="cgt-1") == Polled("running")


@pytest.mark.parametrize(
    ("answer", "report"),
    [
        ({"id": "cgt-1", "status": "queued", "updated_at": CREATED_AT}, Polled("queued", updated_at_ms=CREATED_AT * 1000)),
        (
            {
                "status": "succeeded",
                "content": {"video_url": "https://tos/v.mp4", "last_frame_url": "https://tos/f.png"},
                "usage": {"completion_tokens": 108_900, "total_tokens": 108_900},
            },
            Polled("succeeded", "https://tos/v.mp4", "https://tos/f.png", 108_900),
        ),
        ({"status": "Running"}, Polled("running")),
        ({"status": "failed", "error": {"code": "C", "message": "m"}}, Polled("failed", error=ArkError(200, "C", "m"))),
        ({"status": "failed", "failure_reason": {"code": "C", "message": "m"}}, Polled("failed", error=ArkError(200, "C", "m"))),
        ({"status": "failed", "failure_reason": "why"}, Polled("failed", error=ArkError(200, "", "why"))),
        ({"status": "succeeded", "content": {"video_url": "javascript:x"}}, Polled("succeeded")),
        ({"status": "succeeded", "content": None, "usage": {"completion_tokens": True}}, Polled("succeeded")),
        ({"status": "succeeded", "usage": {"completion_tokens": -1}, "updated_at": "now"}, Polled("succeeded")),
    ],
)
def test_a_poll_reads_what_is_there_and_nothing_that_is_of_another_type(answer: object, report: Polled) -> None:
    assert read_poll(200, answer) == report


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (401, WRAPPED),
        (403, WRAPPED),
        (429, WRAPPED),
        (500, None),
        (504, None),
        (200, None),
        (200, {}),
        (200, {"status": 5}),
        (404, None),
        (301, {}),
    ],
)
def test_a_poll_that_tells_nothing_of_the_task_is_transient(status: int, answer: object) -> None:
    assert read_poll(status, answer, 7_000) == PollFailed(PollFailure.TRANSIENT, 7_000)


def test_only_arks_own_404_means_not_found() -> None:
    answer = {"error": {"code": "ResourceNotFound", "message": "The specified resource is not found."}}

    assert read_poll(404, answer) == PollFailed(PollFailure.NOT_FOUND)


def entry(upstream_id: str = "cgt-1", **fields: Any) -> dict[str, Any]:
    return {"id": upstream_id, "model": "up", "status": "queued", "created_at": CREATED_AT} | fields


MARKS: dict[str, Any] = {"seed": 77, "safety_identifier": "c0ffee"}


def test_the_one_entry_of_the_model_and_the_time_with_a_mark_is_the_lost_task() -> None:
    items = [entry("cgt-0", model="other"), entry("cgt-1", seed=77), entry("cgt-2", created_at=CREATED_AT - 3_600)]

    assert find_lost(TASK, items, taken=()) == Found("cgt-1")
    assert find_lost(TASK, [entry(safety_identifier="c0ffee")], taken=()) == Found("cgt-1")


def test_an_entry_without_a_mark_is_nobodys() -> None:
    """Others use the Ark account too: a task made a moment before or after may be theirs."""
    assert find_lost(TASK, [entry()], taken=()) == NotFound()
    assert find_lost(TASK, [entry(status="succeeded", created_at=CREATED_AT + 30)], taken=()) == NotFound()


@pytest.mark.parametrize(
    "contradiction",
    [
        {"model": "other", "seed": None},
        {"model": "other", "safety_identifier": None},
        {"created_at": CREATED_AT - 6},
        {"created_at": CREATED_AT + 661},
        {"created_at": None},
        {"seed": 78},
        {"safety_identifier": "another's"},
        {"duration": 6},
        {"resolution": "1080p"},
        {"generate_audio": True},
        {"service_tier": "flex"},
        {"id": ""},
    ],
)
def test_an_entry_that_contradicts_the_task_is_not_it(contradiction: dict[str, Any]) -> None:
    assert find_lost(TASK, [entry(**MARKS)], taken=()) == Found("cgt-1")
    assert find_lost(TASK, [entry(**MARKS) | contradiction], taken=()) == NotFound()


def test_an_entry_with_all_marks_may_be_of_the_model_behind_an_endpoint() -> None:
    task = replace(TASK, upstream_model="ep-20260101-abcde")

    assert find_lost(task, [entry(**MARKS)], taken=()) == Found("cgt-1")
    assert find_lost(task, [entry(seed=77)], taken=()) == NotFound()
    assert find_lost(replace(task, seed=-1), [entry(**MARKS)], taken=()) == NotFound()  # one mark that all of a customer's share


LOST = replace(TASK, lost_at_ms=CREATED_AT * 1000 + 2_000)
DONE = entry(status="succeeded")


def test_a_finished_entry_without_a_mark_is_ours_where_it_can_be_nobody_elses() -> None:
    assert lone_unmarked(LOST, [DONE, entry("cgt-2", model="other", status="succeeded")], taken=()) == Found("cgt-1")


@pytest.mark.parametrize(
    ("items", "taken", "rivals"),
    [
        ([DONE, DONE | {"id": "cgt-2"}], (), ()),
        ([DONE], {"cgt-1"}, ()),
        ([DONE], (), [replace(LOST, id="vreq_2", seed=78)]),
        ([DONE | {"status": "queued"}], (), ()),  # its seed may still be shown
        ([DONE | {"created_at": CREATED_AT - 6}], (), ()),
        ([DONE | {"created_at": CREATED_AT + 8}], (), ()),  # the submit was given up 2 s after its record, and clocks differ by 5
        ([DONE | {"seed": 78}], (), ()),
        ([DONE | {"duration": 6}], (), ()),
        ([DONE | {"model": "other"}], (), ()),
        ([DONE | {"id": ".."}], (), ()),
    ],
)
def test_an_entry_without_a_mark_that_could_be_anybody_elses_is_nobodys(
    items: list[object], taken: Collection[str], rivals: Sequence[VideoTask]
) -> None:
    assert lone_unmarked(LOST, items, taken, rivals) == NotFound()


def test_an_entry_that_another_task_has_is_not_it() -> None:
    assert find_lost(TASK, [entry("cgt-1", **MARKS)], taken={"cgt-1"}) == NotFound()


def test_two_entries_that_could_both_be_it_are_a_doubt() -> None:
    assert find_lost(TASK, [entry("cgt-1", seed=77), entry("cgt-2", seed=77)], taken=()) == NotFound()
    assert find_lost(TASK, [entry("cgt-1", seed=77), entry("cgt-1", seed=77)], taken=()) == Found("cgt-1")  # one entry, on two pages


def test_more_marks_go_before_fewer() -> None:
    items = [entry("cgt-1", safety_identifier="c0ffee"), entry("cgt-2", **MARKS), entry("cgt-3")]

    assert find_lost(TASK, items, taken=()) == Found("cgt-2")


def test_an_entry_that_a_rival_could_have_made_is_a_doubt() -> None:
    rival = replace(TASK, id="vreq_2", seed=78)

    assert find_lost(TASK, [entry(safety_identifier="c0ffee")], taken=(), rivals=[TASK, rival]) == NotFound()
    assert find_lost(TASK, [entry(seed=77)], taken=(), rivals=[TASK, rival]) == Found("cgt-1")
    assert find_lost(rival, [entry(seed=77)], taken=(), rivals=[TASK, rival]) == NotFound()


def test_what_fits_and_has_succeeded_but_lacks_a_mark_is_worth_a_question() -> None:
    done: dict[str, Any] = {"status": "succeeded"}
    items = [
        entry("cgt-1", **done),
        entry("cgt-2", **done, seed=77),
        entry("cgt-3", **done, **MARKS),
        entry("cgt-4", **done, seed=78),
        entry("cgt-5"),
        entry("cgt-6", **done, model="other"),
        entry("cgt-7", **done),
        entry("", **done),
        None,
    ]

    assert unproven(TASK, items, taken={"cgt-7"}) == ["cgt-1", "cgt-2"]
    assert unproven(replace(TASK, upstream_model="ep-1"), items[-4:-3], taken=()) == ["cgt-6"]


@pytest.mark.parametrize("items", [[], [None, 5, "x", []], [{"id": "cgt-1"}]])
def test_a_list_of_nonsense_has_nothing(items: list[object]) -> None:
    assert find_lost(TASK, items, taken=()) == NotFound()
