"""Turns of a rate limit: in order, spaced, urgent ones first, never in bursts."""

import asyncio
import itertools

from proxy.clock import SystemClock
from proxy.tasks import TaskGroup
from proxy.upstream.rates import Rate

SPACING_SECONDS = 0.02


async def take(rate: Rate, name: str, taken: list[tuple[str, float]], *, urgent: bool = False) -> None:
    await rate.turn(urgent=urgent)
    taken.append((name, rate._taken_at))  # the turn itself: on a busy machine this line may come long after it


async def test_turns_are_taken_in_order_and_never_closer_than_the_rate_allows() -> None:
    rate = Rate(1 / SPACING_SECONDS, SystemClock())
    taken: list[tuple[str, float]] = []

    await asyncio.gather(*(take(rate, str(number), taken) for number in range(10)))

    assert [name for name, _ in taken] == [str(number) for number in range(10)]
    assert all(later - earlier >= SPACING_SECONDS * 0.95 for (_, earlier), (_, later) in itertools.pairwise(taken))


async def test_turns_that_nobody_took_are_not_saved_up() -> None:
    rate = Rate(1 / SPACING_SECONDS, SystemClock())
    taken: list[tuple[str, float]] = []
    await rate.turn()
    await asyncio.sleep(5 * SPACING_SECONDS)

    await asyncio.gather(*(take(rate, str(number), taken) for number in range(4)))

    assert taken[-1][1] - taken[0][1] >= 3 * SPACING_SECONDS * 0.95


async def test_a_new_rate_holds_from_the_next_turn_on() -> None:
    rate = Rate(1000, SystemClock())
    await rate.turn()
    taken: list[tuple[str, float]] = []

    rate.limit(1 / SPACING_SECONDS)
    await asyncio.gather(*(take(rate, str(number), taken) for number in range(5)))

    assert all(later - earlier >= SPACING_SECONDS * 0.95 for (_, earlier), (_, later) in itertools.pairwise(taken))


async def test_who_waits_at_a_pace_that_is_far_too_slow_has_his_turn_once_that_is_mended() -> None:
    rate = Rate(1e-300, SystemClock())
    await rate.turn()
    group = TaskGroup("test")
    waiting = group.spawn(rate.turn(), "waiting")
    await asyncio.sleep(0)

    rate.limit(1 / SPACING_SECONDS)

    async with asyncio.timeout(10):
        await waiting


async def test_an_urgent_call_overtakes_all_but_one() -> None:
    rate = Rate(1 / SPACING_SECONDS, SystemClock())
    taken: list[tuple[str, float]] = []
    await rate.turn()

    await asyncio.gather(*(take(rate, str(number), taken) for number in range(5)), take(rate, "urgent", taken, urgent=True))

    assert [name for name, _ in taken][:2] == ["0", "urgent"]


async def test_urgent_calls_and_others_take_turns_however_many_wait() -> None:
    rate = Rate(1 / SPACING_SECONDS, SystemClock())
    taken: list[tuple[str, float]] = []
    await rate.turn()
    urgent = [take(rate, f"urgent {number}", taken, urgent=True) for number in range(6)]

    await asyncio.gather(*urgent, *(take(rate, str(number), taken) for number in range(3)))

    assert [name for name, _ in taken] == ["urgent 0", "0", "urgent 1", "1", "urgent 2", "2", "urgent 3", "urgent 4", "urgent 5"]


async def test_whoever_is_cancelled_while_waiting_loses_nobody_elses_turn() -> None:
    rate = Rate(1 / SPACING_SECONDS, SystemClock())
    taken: list[tuple[str, float]] = []
    await rate.turn()
    group = TaskGroup("test")
    tasks = [group.spawn(take(rate, str(number), taken), str(number)) for number in range(6)]
    await asyncio.sleep(0)
    for number in (0, 1, 3):
        tasks[number].cancel()

    await group.drain(5)

    assert [name for name, _ in taken] == ["2", "4", "5"]
