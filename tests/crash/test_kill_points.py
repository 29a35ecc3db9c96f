"""kill -9 at named points: before and after every commit, send, first byte, usage, settlement, answer, and inside recovery itself.

Each point is tested alone, and in each ordered pair, where the second death finds what the first one left. The pairs form one sequence
of deaths in which every point follows every other (a closed Euler walk of the complete graph), so that n² deaths cover n² pairs.
"""

import asyncio
import itertools
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.promises import Faults
from tests.support.rigging import LIFE, POINTS, RECOVERY
from tests.support.stand import Stand, stand

SINGLE = "kill -9 at each named point: no answer without its receipt, none charged twice, no hold stuck"
PAIRS = "kill -9 at each ordered pair of named points: the same"
OF_PAIRS_IN_CI = (
    "hold commit before", "hold commit after", "chat send after", "stream usage after", "settlement commit before",
    "settlement commit after", "recovery commit before", "recovery commit after",
)  # fmt: skip
"""Points at which a death leaves the most for the next one. The others are paired in the long run only."""
DEATH_SECONDS_MAX = 20.0
"""Limit of the wait for traffic to pass a point."""


def walk(points: Sequence[str]) -> list[str]:
    """Return a sequence of points with each ordered pair as neighbours exactly once, including a point with itself."""
    left = {point: list(points) for point in points}
    stack, row = [points[0]], []
    while stack:
        if left[stack[-1]]:
            stack.append(left[stack[-1]].pop())
        else:
            row.append(stack.pop())
    return row[::-1]


def test_the_walk_goes_from_each_point_to_each_once() -> None:
    row = walk("abc")

    assert sorted(itertools.pairwise(row)) == [(one, other) for one in "abc" for other in "abc"]


async def die(one: Stand, point: str, hits: int = 1) -> bool:
    """Start a gateway that dies at the point. Return False if it did not pass the point because nothing was left to recover."""
    serves = await one.start(die_at=point, hits=hits)
    if serves and point in RECOVERY:
        await one.gateway.kill()
        return False
    if serves:
        await asyncio.wait_for(one.customers(), DEATH_SECONDS_MAX)
    assert await one.gateway.ended() == -signal.SIGKILL, one.gateway.log.read_text()[-2000:]
    return True


async def leave_something(one: Stand) -> None:
    """Die during traffic, so that the next start has something to recover."""
    await die(one, "first byte after", hits=5)


async def end_well(one: Stand, faults: Faults) -> None:
    """Start once more, let everything end, and audit all of it."""
    assert await one.start()
    faults.cost(await one.recovered())
    await one.all_ended()
    faults.cost(await one.losses(all_ended=True))
    verified = await one.gateway.run("ledger", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


@pytest.mark.promise(SINGLE)
@pytest.mark.timeout(300)
async def test_death_at_each_point_loses_nothing(tmp_path: Path, faults: Faults) -> None:
    async with stand(tmp_path) as one:
        for point in POINTS:
            if point in RECOVERY:
                await leave_something(one)
            assert await die(one, point), f"{point} was never come by"
            faults.injected += 1
            faults.cost(await one.losses())
            assert await one.start()
            faults.cost(await one.recovered())
            await one.gateway.kill()
        await end_well(one, faults)


def hits_of(one: Stand, point: str) -> int:
    """Return the count of passes at which to die: points of `LIFE` not at the first pass, so that there are holds by then."""
    return one.chance.randint(3, 5) if point in LIFE else 1


async def walk_pairs(directory: Path, faults: Faults, row: Sequence[str]) -> None:
    nothing_left: list[tuple[str, str]] = []
    async with stand(directory) as one:
        await die(one, row[0], hits_of(one, row[0]))
        for first, second in itertools.pairwise(row):
            if not await die(one, second, hits_of(one, second)):
                nothing_left.append((first, second))
                await leave_something(one)
                assert await die(one, second)
            faults.injected += 1
            faults.cost(f"{first}, {second}: {loss}" for loss in await one.losses())
        await end_well(one, faults)
        print(f"{faults.injected} pairs; {len(nothing_left)} whose first leaves nothing to recover: {nothing_left}")
        assert all(first in RECOVERY for first, _ in nothing_left)


@pytest.mark.promise(PAIRS)
@pytest.mark.timeout(300)
async def test_death_at_each_pair_of_the_gravest_points_loses_nothing(tmp_path: Path, faults: Faults) -> None:
    await walk_pairs(tmp_path, faults, walk(OF_PAIRS_IN_CI))


WALK = walk(POINTS)
STRETCH = 100


@pytest.mark.promise(PAIRS)
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("begin", range(0, len(WALK) - 1, STRETCH))
async def test_death_at_each_pair_of_points_loses_nothing(tmp_path: Path, faults: Faults, begin: int) -> None:
    await walk_pairs(tmp_path, faults, WALK[begin : begin + STRETCH + 1])
