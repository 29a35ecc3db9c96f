"""The owner's view of a task: the published fields, in the published order, and no others."""

from dataclasses import replace

from proxy.core.money import Nanos
from proxy.core.video.price import VideoBilling
from proxy.core.video.record import TaskError, TaskState, VideoTask, new_task
from proxy.core.video.request import VideoCall
from proxy.core.video.view import created_task, public_task, task_list

CREATED_AT_MS = 1_710_057_600_000  # 2024-03-10T08:00:00Z
TASK = new_task(
    request_id="vreq_AbCdEfGhIjKlMnOpQrSt",
    account_id=7,
    model="doubao-seedance-1-5-pro-251215",
    upstream="ark",
    upstream_model="ep-secret",
    call=VideoCall("一只橙色的猫咪 --dur 12"),
    safety_identifier="secret-identifier",
    billing=VideoBilling.FORMULA,
    hold_nanos=Nanos(864_000_000),
    quote_nanos=Nanos(864_000_000),
    rate_nanos_per_kilotoken=8_000_000,
    now_ms=CREATED_AT_MS,
)
RUNNING = replace(TASK, state=TaskState.PROCESSING, upstream_id="cgt-secret")
SUCCEEDED = replace(
    RUNNING,
    state=TaskState.SUCCEEDED,
    video_url="https://tos/v.mp4",
    thumbnail_url="https://tos/f.png",
    charge_nanos=Nanos(864_000_000),
    ended_at_ms=CREATED_AT_MS + 83_000,
)
FAILED = replace(
    RUNNING, state=TaskState.FAILED, error=TaskError("CONTENT_REJECTED", "It may be sensitive."), ended_at_ms=CREATED_AT_MS + 5
)


def number(task: VideoTask) -> object:
    return created_task(task)["task_id"]


def test_a_submit_is_answered_as_published() -> None:
    assert list(created_task(TASK).items()) == [
        ("id", "vreq_AbCdEfGhIjKlMnOpQrSt"),
        ("task_id", number(TASK)),
        ("status", "pending"),
        ("model", "doubao-seedance-1-5-pro-251215"),
        ("created", 1_710_057_600),
        ("object", "video.generation.task"),
    ]


def test_a_task_number_is_sixteen_digits_of_its_own_for_good() -> None:
    other = replace(TASK, id="vreq_0bCdEfGhIjKlMnOpQrSt")

    assert isinstance(number(TASK), str)
    assert str(number(TASK)).isdecimal()
    assert len(str(number(TASK))) == 16
    assert number(TASK) == number(SUCCEEDED) != number(other)


def test_a_running_task_is_shown_as_published() -> None:
    assert list(public_task(RUNNING).items()) == [
        ("id", "vreq_AbCdEfGhIjKlMnOpQrSt"),
        ("task_id", number(TASK)),
        ("status", "processing"),
        ("model", "doubao-seedance-1-5-pro-251215"),
        ("prompt", "一只橙色的猫咪 --dur 12"),
        ("resolution", "720p"),
        ("duration", 5),
        ("generate_audio", False),
        ("task_type", "text_to_video"),
        ("total_cost", "0"),
        ("created_at", "2024-03-10T08:00:00.000Z"),
    ]


def test_a_succeeded_task_has_its_links_its_cost_and_its_end_besides() -> None:
    shown = public_task(SUCCEEDED)

    assert (
        shown.items()
        >= {
            "status": "succeeded",
            "video_url": "https://tos/v.mp4",
            "thumbnail_url": "https://tos/f.png",
            "total_cost": "0.8640",
            "completed_at": "2024-03-10T08:01:23.000Z",
        }.items()
    )
    assert shown.keys() - public_task(RUNNING).keys() == {"video_url", "thumbnail_url", "completed_at"}


def test_a_task_without_a_last_frame_has_no_thumbnail() -> None:
    assert "thumbnail_url" not in public_task(replace(SUCCEEDED, thumbnail_url=""))


def test_a_failed_task_says_why_and_costs_nothing() -> None:
    shown = public_task(FAILED)

    assert (shown["status"], shown["total_cost"]) == ("failed", "0")
    assert shown["error"] == {"code": "CONTENT_REJECTED", "message": "It may be sensitive."}
    assert shown["completed_at"] == "2024-03-10T08:00:00.005Z"
    assert shown.keys() - public_task(RUNNING).keys() == {"error", "completed_at"}


def test_a_list_shows_its_entries_as_published() -> None:
    page = task_list([SUCCEEDED, TASK])

    assert page["object"] == "list"
    entries = page["data"]
    assert isinstance(entries, list)
    assert list(entries[0].items()) == [
        ("id", "vreq_AbCdEfGhIjKlMnOpQrSt"),
        ("status", "succeeded"),
        ("model", "doubao-seedance-1-5-pro-251215"),
        ("task_type", "text_to_video"),
        ("prompt", "一只橙色的猫咪 --dur 12"),
        ("resolution", "720p"),
        ("duration", 5),
        ("generate_audio", False),
        ("video_url", "https://tos/v.mp4"),
        ("total_cost", "0.8640"),
        ("created_at", "2024-03-10T08:00:00.000Z"),
        ("completed_at", "2024-03-10T08:01:23.000Z"),
    ]
    assert entries[1]["status"] == "pending"


def test_nothing_of_the_upstream_is_ever_shown() -> None:
    for task in (TASK, RUNNING, SUCCEEDED, FAILED):
        shown = repr((created_task(task), public_task(task), task_list([task])))

        assert "secret" not in shown
        assert "account" not in shown
