"""Video tasks: creation, status, list and deletion."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.demo.ark import TASKS, Settings, StandIn, Timeline
from tests.unit.demo.conftest import Asking, HandClock

PRO = "doubao-seedance-1-5-pro-251215"
TWO = "doubao-seedance-2-0-260128"
NOW = 1_765_952_525
DAY = 86_400


def _order(model: str = TWO, **more: Any) -> dict[str, Any]:
    return {"model": model, "content": [{"type": "text", "text": "a cat"}], **more}


async def _create(ark: StandIn, ask: Asking, **more: Any) -> str:
    answer = await ask(ark, "POST", TASKS, _order(**more))
    assert answer.status == 200, answer.body
    return str(answer.json["id"])


async def _shown(ark: StandIn, ask: Asking, task_id: str) -> dict[str, Any]:
    shown: dict[str, Any] = (await ask(ark, "GET", f"{TASKS}/{task_id}")).json
    return shown


@pytest.fixture
async def running_by_itself(clock: HandClock) -> AsyncIterator[StandIn]:
    async with StandIn(Settings(timeline=Timeline(2, 5)), clock=clock) as ark:
        yield ark


async def test_a_new_task_answers_with_its_id_alone(ark: StandIn, ask: Asking) -> None:
    answer = await ask(ark, "POST", TASKS, _order())

    assert list(answer.json) == ["id"]
    assert answer.json["id"].startswith("cgt-20251217142205-")  # Beijing's time
    assert len(answer.json["id"]) == len("cgt-20260119201255-2tnnx")


async def test_a_task_lives_under_the_tests_hand(ark: StandIn, ask: Asking, clock: HandClock) -> None:
    task_id = await _create(ark, ask, model=PRO)
    queued = await _shown(ark, ask, task_id)
    ark.videos.advance(task_id, "running")
    running = await _shown(ark, ask, task_id)
    clock.seconds += 60

    ark.videos.advance(task_id, "succeeded")
    succeeded = await _shown(ark, ask, task_id)

    base = {"service_tier": "default", "execution_expires_after": 172_800, "generate_audio": True, "draft": False}
    assert queued == {"id": task_id, "model": PRO, "status": "queued", "created_at": NOW, "updated_at": NOW, **base}
    assert running == queued | {"status": "running"}
    assert list(succeeded)[:7] == ["id", "model", "status", "content", "usage", "created_at", "updated_at"]
    assert list(succeeded)[7:12] == ["seed", "resolution", "ratio", "duration", "framespersecond"]
    assert (succeeded["updated_at"], succeeded["resolution"], succeeded["ratio"], succeeded["duration"]) == (
        NOW + 60,
        "720p",
        "16:9",
        5,
    )
    assert "X-Tos-Expires=86400" in succeeded["content"]["video_url"]
    assert list(succeeded["content"]) == ["video_url"]


@pytest.mark.parametrize(
    ("more", "tokens"),
    [
        ({}, 108_900),  # 1280 · 720 · 121 / 1024
        ({"resolution": "480p", "ratio": "16:9"}, 50_638),  # 864 · 496 · 121 / 1024 = 50638.5
        ({"resolution": "1080p", "duration": 4, "ratio": "9:16"}, 196_425),  # 1080 · 1920 · 97 / 1024 = 196425
        ({"ratio": "21:9", "duration": 15}, 326_486),  # 1470 · 630 · 361 / 1024 = 326486.42
        ({"resolution": "4k", "ratio": "16:9"}, 980_100),  # 3840 · 2160 · 121 / 1024
        ({"duration": -1}, 108_900),
    ],
)
async def test_usage_counts_one_frame_more_than_the_formula(ark: StandIn, ask: Asking, more: dict[str, Any], tokens: int) -> None:
    task_id = await _create(ark, ask, **more)

    ark.videos.advance(task_id, "succeeded")

    assert (await _shown(ark, ask, task_id))["usage"] == {"completion_tokens": tokens, "total_tokens": tokens}


async def test_the_last_frame_comes_only_when_asked_for(ark: StandIn, ask: Asking) -> None:
    task_id = await _create(ark, ask, return_last_frame=True, seed=7)

    ark.videos.advance(task_id, "succeeded")

    shown = await _shown(ark, ask, task_id)
    assert list(shown["content"]) == ["video_url", "last_frame_url"]
    assert (shown["seed"], shown["priority"]) == (7, 0)


async def test_a_failed_task_says_why(ark: StandIn, ask: Asking) -> None:
    task_id = await _create(ark, ask)

    ark.videos.advance(task_id, "failed", error=("InternalServiceError", "Broken."))

    shown = await _shown(ark, ask, task_id)
    assert shown == {
        "id": task_id,
        "model": TWO,
        "status": "failed",
        "error": {"code": "InternalServiceError", "message": f"Broken. Request id: {ark.calls[0].request_id}"},
        "created_at": NOW,
        "updated_at": NOW,
        "service_tier": "default",
        "execution_expires_after": 172_800,
    }


@pytest.mark.parametrize("status", ["cancelled", "canceled", "expired", "haunted"])
async def test_any_word_may_be_a_status(ark: StandIn, ask: Asking, status: str) -> None:
    task_id = await _create(ark, ask)

    ark.videos.advance(task_id, status, extra={"a": 1})

    shown = await _shown(ark, ask, task_id)
    assert (shown["status"], shown["extra"], "content" in shown, "usage" in shown) == (status, {"a": 1}, False, False)


async def test_a_success_may_lack_its_link(ark: StandIn, ask: Asking) -> None:
    task_id = await _create(ark, ask)

    ark.videos.advance(task_id, "succeeded", content=None)

    assert "content" not in await _shown(ark, ask, task_id)


async def test_a_task_moves_by_the_clock(running_by_itself: StandIn, ask: Asking, clock: HandClock) -> None:
    ark = running_by_itself
    task_id = await _create(ark, ask)
    states = []

    for seconds in (1.9, 0.2, 4.8, 0.2):  # at 1.9, 2.1, 6.9 and 7.1 s: 2 s queued, then 5 s running
        clock.seconds += seconds
        shown = await _shown(ark, ask, task_id)
        states.append((shown["status"], shown["updated_at"] - NOW))

    assert states == [("queued", 0), ("running", 2), ("running", 2), ("succeeded", 7)]


async def test_a_task_is_forgotten_after_seven_days_and_a_cancelled_one_after_one(ark: StandIn, ask: Asking, clock: HandClock) -> None:
    task_id, cancelled = await _create(ark, ask), await _create(ark, ask)
    await ask(ark, "DELETE", f"{TASKS}/{cancelled}")
    clock.seconds += DAY
    one_day = [(await ask(ark, "GET", f"{TASKS}/{name}")).status for name in (task_id, cancelled)]
    clock.seconds += 6 * DAY

    gone = await ask(ark, "GET", f"{TASKS}/{task_id}")

    assert one_day == [200, 404]
    assert (gone.status, gone.json["error"]["code"]) == (404, "ResourceNotFound")
    assert gone.json["error"]["message"].startswith("The specified resource is not found. Request id: 0217")


async def test_a_deletion_cancels_refuses_or_forgets(ark: StandIn, ask: Asking) -> None:
    queued, running, ended = [await _create(ark, ask) for _ in range(3)]
    ark.videos.advance(running, "running")
    ark.videos.advance(ended, "succeeded")

    answers = [await ask(ark, "DELETE", f"{TASKS}/{task_id}") for task_id in (queued, running, ended, queued)]

    assert [answer.status for answer in answers] == [200, 409, 200, 409]
    assert (answers[0].body, (await _shown(ark, ask, queued))["status"]) == (b"{}", "cancelled")
    assert answers[1].json == {
        "error": {
            "code": "InvalidAction.RunningTaskDeletion",
            "message": f"Cannot delete task `{running}` because it is currently running.",
        }
    }
    assert (await ask(ark, "GET", f"{TASKS}/{ended}")).status == 404


async def test_the_list_filters_and_hides_flex(ark: StandIn, ask: Asking) -> None:
    first, second = await _create(ark, ask), await _create(ark, ask, model=PRO)
    flex = await _create(ark, ask, model=PRO, service_tier="flex")
    ark.videos.advance(first, "succeeded")

    async def listed(query: str) -> list[str]:
        answer = (await ask(ark, "GET", f"{TASKS}?{query}")).json
        assert answer["total"] >= len(answer["items"])
        return [item["id"] for item in answer["items"]]

    assert await listed("") == [second, first]
    assert await listed("page_num=2&page_size=1") == [first]
    assert await listed("filter.status=succeeded") == [first]
    assert await listed(f"filter.model={PRO}") == [second]
    assert await listed("filter.service_tier=flex") == [flex]
    assert await listed(f"filter.task_ids={first}&filter.task_ids={flex}") == [first]
    assert (await ask(ark, "GET", f"{TASKS}?page_size=501")).status == 400


async def test_rates_are_kept_only_when_they_are_enforced(ask: Asking, clock: HandClock) -> None:
    async with StandIn(Settings(enforces_rates=True), clock=clock) as ark:
        task_id = await _create(ark, ask)
        gets = [(await ask(ark, "GET", f"{TASKS}/{task_id}")).status for _ in range(21)]
        lists = [(await ask(ark, "GET", TASKS)).status for _ in range(2)]
        clock.seconds += 1.0
        later = (await ask(ark, "GET", TASKS)).status

    assert gets == [200] * 20 + [429]
    assert (lists, later) == ([200, 429], 200)
    assert [call.at - NOW for call in ark.calls_to(TASKS, "GET")] == [0, 0, 1]


async def test_too_many_queued_tasks_are_refused(ark: StandIn, ask: Asking) -> None:
    ark.videos.queued_max = 1
    await _create(ark, ask)

    refused = await ask(ark, "POST", TASKS, _order())

    assert (refused.status, refused.json["error"]["code"]) == (429, "QuotaExceeded")


async def test_a_post_below_the_tasks_creates_one(ark: StandIn, ask: Asking) -> None:
    task_id = await _create(ark, ask)

    await ask(ark, "POST", f"{TASKS}/{task_id}/cancel", _order())

    assert len(ark.videos.tasks) == 2


async def test_flags_at_the_end_of_a_prompt_still_count(ark: StandIn, ask: Asking) -> None:
    content = [{"type": "text", "text": "a cat --dur 10 --rs 480p"}]

    task_id = await _create(ark, ask, content=content, duration=5)

    assert (ark.videos.tasks[task_id].order.seconds, ark.videos.tasks[task_id].order.resolution) == (10, "480p")


IMAGE = {"type": "image_url", "image_url": {"url": "https://x/a.png"}, "role": "first_frame"}


@pytest.mark.parametrize(
    ("more", "code", "param"),
    [
        ({"content": []}, "MissingParameter", "content"),
        ({"content": [{"type": "text", "text": ""}]}, "MissingParameter", "content[0].text"),
        ({"content": [IMAGE | {"image_url": {"url": "x"}}]}, "InvalidParameter", "content[0].image_url"),
        ({"content": [IMAGE | {"role": "middle"}]}, "InvalidParameter", "content[0].role"),
        ({"model": PRO, "content": [IMAGE | {"role": "reference_image"}]}, "InvalidParameter", "content[0].role"),
        ({"content": [IMAGE, IMAGE | {"role": "reference_image"}]}, "InvalidParameter.TaskTypeConstraint", "content"),
        ({"resolution": "adaptive"}, "InvalidParameter", "resolution"),
        ({"resolution": "4k", "model": PRO}, "InvalidParameter", "resolution"),
        ({"resolution": "1080p", "model": "doubao-seedance-2-0-mini-260615"}, "InvalidParameter", "resolution"),
        ({"ratio": "2:1"}, "InvalidParameter", "ratio"),
        ({"duration": 13, "model": PRO}, "InvalidParameter", "duration"),
        ({"duration": 3}, "InvalidParameter", "duration"),
        ({"duration": 5.5}, "InvalidParameter", "duration"),
        ({"seed": 2**32}, "InvalidParameter", "seed"),
        ({"generate_audio": "yes"}, "InvalidParameter", "generate_audio"),
        ({"service_tier": "flex"}, "InvalidParameter.UnsupportedParameter", "service_tier"),
        ({"service_tier": "fast", "model": PRO}, "InvalidParameter", "service_tier"),
        (
            {"service_tier": "default", "model": "doubao-seedance-2-0-fast-260128"},
            "InvalidParameter.UnsupportedParameter",
            "service_tier",
        ),
        ({"execution_expires_after": 60}, "InvalidParameter", "execution_expires_after"),
        ({"camera_fixed": True}, "InvalidParameter.UnsupportedParameter", "camera_fixed"),
        ({"safety_identifier": "x" * 65}, "InvalidParameter", "safety_identifier"),
        ({"model": "doubao-seed-2-0-pro-260215"}, "InvalidParameter", "model"),
    ],
)
async def test_what_ark_refuses_is_refused(ark: StandIn, ask: Asking, more: dict[str, Any], code: str, param: str) -> None:
    answer = await ask(ark, "POST", TASKS, _order() | more)

    assert (answer.status, answer.json["error"]["code"], answer.json["error"]["param"]) == (400, code, param)
    assert not ark.videos.tasks


async def test_a_refused_duration_names_model_and_mode(ark: StandIn, ask: Asking) -> None:
    answer = await ask(ark, "POST", TASKS, _order(model=PRO, duration=13))

    assert answer.json["error"]["message"].startswith(
        f"the parameter duration specified in the request must be less than or equal to 12 for model {PRO} in t2v"
    )


@pytest.mark.parametrize(
    "more",
    [
        {"model": PRO, "service_tier": "flex"},
        {"model": "doubao-seedance-1-0-pro-250528", "service_tier": "nonsense"},  # Ark was seen to accept it
        {"content": [IMAGE, IMAGE | {"role": "last_frame"}], "ratio": "adaptive"},
        {"content": [IMAGE | {"role": "reference_image"}] * 9},
        {"unknown": 1},
    ],
)
async def test_what_ark_takes_is_taken(ark: StandIn, ask: Asking, more: dict[str, Any]) -> None:
    assert (await ask(ark, "POST", TASKS, _order() | more)).status == 200
