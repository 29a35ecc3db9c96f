"""The two meanings of SIGHUP: a reload, or a closed terminal."""

import asyncio

import pytest

from proxy.gateway.sighup import Hangup


class Scene:
    """A process with or without a terminal, and the results of its hangups."""

    def __init__(self, *, has_terminal: bool) -> None:
        self.has_terminal = has_terminal
        self.came_to: list[str] = []
        self.looked = asyncio.Event()
        self.hangup = Hangup(
            lambda: self.came_to.append("closed"), lambda: self.came_to.append("reload"), has_terminal=self.look, look_seconds=0.01
        )

    def look(self) -> bool:
        self.looked.set()
        return self.has_terminal

    async def looks(self) -> None:
        self.looked.clear()
        async with asyncio.timeout(10):
            await self.looked.wait()


async def test_a_service_without_a_terminal_reloads() -> None:
    scene = Scene(has_terminal=False)

    scene.hangup()
    scene.hangup()

    assert scene.came_to == ["reload", "reload"]


async def test_it_reloads_while_the_terminal_is_there_ends_with_it_and_reloads_after() -> None:
    scene = Scene(has_terminal=True)

    scene.hangup()
    scene.has_terminal = False
    scene.hangup()
    scene.hangup()

    assert scene.came_to == ["reload", "closed", "reload"]


@pytest.mark.parametrize("looks", [1, 3])
async def test_a_terminal_that_is_there_at_each_look_is_still_the_one_that_may_close(looks: int) -> None:
    scene = Scene(has_terminal=True)
    for _ in range(looks):
        await scene.looks()

    scene.has_terminal = False
    scene.hangup()

    assert scene.came_to == ["closed"]


async def test_a_terminal_that_went_without_a_word_is_forgotten() -> None:
    scene = Scene(has_terminal=True)
    scene.has_terminal = False
    await scene.looks()
    forgotten = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, forgotten.set)
    await forgotten.wait()

    scene.hangup()

    assert scene.came_to == ["reload"]
