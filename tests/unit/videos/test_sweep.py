"""The sweep ends what nothing else can end, and nothing else."""

from proxy.core.video.report import Polled, Submitted, SubmitUnknown
from proxy.videos.sweep import OverdueTasks
from tests.support.video_jobs import CREDIT, MINUTE_MS, START_MS, House

HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS


async def swept(house: House, after_ms: int) -> dict[str, str]:
    """Sweep at a time after the start; return the state of each task then."""
    house.clock.at_ms = START_MS + after_ms
    await OverdueTasks(house.store, house.jobs, house.clock)()
    return {task.id: task.state.value for task in await house.store.tasks(house.account_id, 100, 0)}


async def test_a_task_is_swept_once_its_upstream_has_forgotten_it(house: House) -> None:
    await house.task("queued", Submitted("cgt-1"))
    await house.task("running", Submitted("cgt-2"), Polled("running"))

    # Ark gives a task up after 2 days, but may still say on the seventh what became of it.
    assert await swept(house, 3 * DAY_MS) == {"queued": "pending", "running": "processing"}
    assert await swept(house, 7 * DAY_MS - 1) == {"queued": "pending", "running": "processing"}
    assert await swept(house, 7 * DAY_MS) == {"queued": "failed", "running": "failed"}
    account = await house.store.account_by_id(house.account_id)
    assert (account.balance_nanos, account.held_nanos) == (CREDIT, 0)


async def test_a_lost_submit_is_swept_after_six_hours_of_looking(house: House) -> None:
    await house.task("lost", SubmitUnknown("no answer"))

    assert await swept(house, 6 * HOUR_MS - 1) == {"lost": "submitting"}
    assert await swept(house, 6 * HOUR_MS) == {"lost": "failed"}
    assert (await house.store.account_by_id(house.account_id)).held_nanos == 0


async def test_a_submit_without_a_word_is_first_looked_for(house: House) -> None:
    await house.task("mute")

    assert await swept(house, 10 * MINUTE_MS - 1) == {"mute": "submitting"}
    fresh = await house.store.task("mute")
    assert await swept(house, 10 * MINUTE_MS) == {"mute": "submitting"}
    lost = await house.store.task("mute")
    assert await swept(house, 10 * MINUTE_MS + 6 * HOUR_MS) == {"mute": "failed"}

    assert fresh is not None
    assert fresh.lost_at_ms is None
    assert lost is not None
    assert lost.lost_at_ms == START_MS + 10 * MINUTE_MS
