"""Lost submits in an Ark account that others use too: a video goes to the request that its marks name, and to none without marks."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from proxy.clock import SystemClock
from proxy.demo.ark import TASKS, Call, Reset, Settings, StandIn, Step, Timeline, answer_json, lost
from tests.support import gateway as support
from tests.support.books import assert_books_balance
from tests.support.gateway import BALANCE, Bench
from tests.support.videos import MODEL, SILENT, creates, ended, look_quickly, quick_bench, stored, submitted

TASK_PATH = TASKS + "/*"
GIVE_UP_MS = 400
NEWER = "doubao-seedance-2-0"
NEWER_UPSTREAM = "doubao-seedance-2-0-260128"
ENDPOINT = "ep-20260101-abcde"
NO_MARKS: dict[str, Any] = {"seed": None, "safety_identifier": None}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Bench]:
    async with StandIn(Settings(timeline=Timeline(0.05, 0.05))) as ark, quick_bench(tmp_path, ark) as running:
        yield running


def shown(upstream_id: str, **fields: Any) -> dict[str, Any]:
    """Return a task as in the list of Ark's documentation, without a mark."""
    now = SystemClock().now_ms() // 1000
    content = {"video_url": f"https://tos.example/{upstream_id}.mp4"}
    return {"id": upstream_id, "model": MODEL, "status": "succeeded", "content": content, "created_at": now, "updated_at": now} | fields


def show(gateway: Bench, path: str, answer: object) -> None:
    gateway.ark.enqueue(answer_json(200, answer), path, method="GET", times=None)


def marks_sent(gateway: Bench) -> dict[str, Any]:
    asked = gateway.ark.calls_to(TASKS, "POST")[-1].json
    return {"seed": asked["seed"], "safety_identifier": asked["safety_identifier"]}


async def lose_one(gateway: Bench, **fields: Any) -> str:
    """Submit a task that never reaches the upstream."""
    gateway.ark.enqueue([Reset()], TASKS, method="POST")
    return await submitted(gateway, **fields)


async def assert_nobodys(gateway: Bench, *task_ids: str) -> None:
    for task_id in task_ids:
        task = await ended(gateway, task_id)
        assert (task["status"], task["error"]["code"]) == ("failed", "SUBMIT_LOST")
        assert (await stored(gateway, task_id)).upstream_id == ""
    assert await gateway.balance() == (BALANCE, 0)
    await assert_books_balance(gateway.store)


@pytest.mark.parametrize(
    "of_strangers",
    [NO_MARKS | {"older_by_seconds": 10}, {"seed": 1}, {"safety_identifier": "a-stranger's"}],
    ids=["of before", "seed", "identifier"],
)
async def test_a_strangers_video_is_nobodys(gateway: Bench, monkeypatch: pytest.MonkeyPatch, of_strangers: dict[str, Any]) -> None:
    """The video was made before our submit, or GET shows another customer's marks."""
    look_quickly(monkeypatch, give_up_after_ms=GIVE_UP_MS)
    entry = shown("cgt-stranger")
    entry["created_at"] -= of_strangers.get("older_by_seconds", 0)
    show(gateway, TASKS, {"total": 1, "items": [entry]})
    show(gateway, TASK_PATH, entry | of_strangers)

    task_id = await lose_one(gateway, seed=7)

    await assert_nobodys(gateway, task_id)


async def test_one_that_can_only_be_ours_is_found_without_a_mark(gateway: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ark shows only those fields of a task that its documentation shows."""
    look_quickly(monkeypatch)
    show(gateway, TASKS, {"total": 1, "items": [shown("cgt-mine")]})
    show(gateway, TASK_PATH, shown("cgt-mine"))

    task = await ended(gateway, await lose_one(gateway))

    assert (task["status"], task["video_url"]) == ("succeeded", "https://tos.example/cgt-mine.mp4")
    assert len(gateway.ark.calls_to(TASKS, "POST")) == 1
    await gateway.assert_charged(SILENT)


async def test_a_mark_that_the_list_does_not_show_is_asked_for(gateway: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    look_quickly(monkeypatch)
    task_id = await lose_one(gateway)
    show(gateway, f"{TASKS}/cgt-mine", shown("cgt-mine", seed=marks_sent(gateway)["seed"]))
    show(gateway, TASK_PATH, shown("cgt-stranger", seed=1))
    show(gateway, TASKS, {"total": 2, "items": [shown("cgt-stranger"), shown("cgt-mine")]})

    task = await ended(gateway, task_id)

    assert (task["status"], task["video_url"]) == ("succeeded", "https://tos.example/cgt-mine.mp4")
    await gateway.assert_charged(SILENT)


async def test_one_that_is_given_up_stays_a_rival(gateway: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A customer loses two submits. One was made, marked only with the customer: it may be either, even after one is given up."""
    look_quickly(monkeypatch, give_up_after_ms=GIVE_UP_MS)
    earlier = await lose_one(gateway, seed=-1)
    await gateway.ark.wait_for_calls(4, TASKS, method="GET")
    gateway.ark.enqueue(lost(), TASKS, method="POST")

    later = await submitted(gateway, seed=-1)
    [upstream] = gateway.ark.videos.tasks.values()
    upstream.overrides = {"seed": None}

    await assert_nobodys(gateway, earlier, later)


@pytest.mark.parametrize("is_marked", [True, False])
async def test_of_two_lost_ones_the_right_one_or_none_gets_the_video(
    gateway: Bench, monkeypatch: pytest.MonkeyPatch, is_marked: bool
) -> None:
    look_quickly(monkeypatch, give_up_after_ms=GIVE_UP_MS)
    never_made = await lose_one(gateway)
    await gateway.ark.wait_for_calls(4, TASKS, method="GET")
    gateway.ark.enqueue(lost(), TASKS, method="POST")
    made = await submitted(gateway)
    [upstream] = gateway.ark.videos.tasks.values()
    upstream.overrides = {} if is_marked else NO_MARKS

    if is_marked:
        assert (await ended(gateway, made))["status"] == "succeeded"
        assert (await ended(gateway, never_made))["status"] == "failed"
        assert (await stored(gateway, made)).upstream_id == upstream.id
        await gateway.assert_charged(SILENT)
    else:
        await assert_nobodys(gateway, never_made, made)


async def test_the_list_is_read_to_its_end_however_short_its_pages(gateway: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway asks for pages of 500; this upstream gives 100."""
    look_quickly(monkeypatch)

    def page(call: Call) -> Sequence[Step]:
        first = [shown(f"cgt-{number}", status="running", seed=1) for number in range(100)]
        items = first if call.query["page_num"] == ["1"] else [shown("cgt-mine", **marks_sent(gateway))]
        return answer_json(200, {"total": 101, "items": items})

    gateway.ark.enqueue(page, TASKS, method="GET", times=None)
    show(gateway, TASK_PATH, shown("cgt-mine"))
    task = await ended(gateway, await lose_one(gateway))

    assert task["status"] == "succeeded"
    assert creates(gateway.ark) == 1
    await gateway.assert_charged(SILENT)


@pytest.mark.parametrize("count", [500, 501])
async def test_a_page_longer_than_was_asked_for_is_no_list(
    gateway: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    """Each entry is looked at on the event loop, so their number has a limit: twenty pages of five hundred."""
    look_quickly(monkeypatch)

    def page(_: Call) -> Sequence[Step]:
        others = [shown(f"cgt-{number}", status="running", seed=1) for number in range(count - 1)]
        return answer_json(200, {"total": count, "items": [*others, shown("cgt-mine", **marks_sent(gateway))]})

    gateway.ark.enqueue(page, TASKS, method="GET")
    show(gateway, TASK_PATH, shown("cgt-mine"))
    gateway.ark.enqueue(
        lambda _: answer_json(200, {"items": [shown("cgt-mine", **marks_sent(gateway))]}), TASKS, method="GET", times=None
    )
    task = await ended(gateway, await lose_one(gateway))

    assert task["status"] == "succeeded"
    assert ("cannot be asked about lost submits" in caplog.text) == (count > 500)
    await gateway.assert_charged(SILENT)


async def test_a_task_behind_an_endpoint_is_found_under_its_models_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look_quickly(monkeypatch)
    monkeypatch.setattr(
        support, "CONFIG", support.CONFIG.replace(f'upstream_model = "{NEWER_UPSTREAM}"', f'upstream_model = "{ENDPOINT}"')
    )
    async with StandIn() as ark, quick_bench(tmp_path, ark) as gateway:
        task_id = await lose_one(gateway, model=NEWER)
        mine = shown("cgt-mine", model=NEWER_UPSTREAM, **marks_sent(gateway))
        show(gateway, TASKS, {"total": 1, "items": [mine]})
        show(gateway, TASK_PATH, mine)

        task = await ended(gateway, task_id)

        assert task["status"] == "succeeded"
        assert ark.calls_to(TASKS, "POST")[-1].json["model"] == ENDPOINT
        assert all("filter.model" not in call.query for call in ark.calls_to(TASKS, "GET"))
        await assert_books_balance(gateway.store)


async def test_a_list_that_is_refused_for_long_is_told_once_while_tasks_are_shown(
    gateway: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    look_quickly(monkeypatch, give_up_after_ms=GIVE_UP_MS)
    gateway.ark.enqueue(answer_json(403, {"error": {"code": "AccessDenied", "message": "no"}}), TASKS, method="GET", times=4)
    lost_one = await lose_one(gateway)
    await submitted(gateway)  # the list is read all the while and shows it

    assert (await ended(gateway, lost_one))["error"]["code"] == "SUBMIT_LOST"

    warned = [record.getMessage() for record in caplog.records if "cannot be asked about" in record.getMessage()]
    assert warned == ["upstream ark cannot be asked about lost submits: status 403; their tasks wait"]
