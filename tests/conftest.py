"""The event loop that tests run on, and fixtures for whoever needs the whole gateway."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import hypothesis
import pytest

from tests.support import promises
from tests.support.gateway import Bench, bench
from tests.support.loops import Loop

hypothesis.settings.register_profile("busy", deadline=None)  # an example's time says how busy the machine is, and no more
hypothesis.settings.load_profile("busy")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(promises)


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every test on the loop that production runs on, and those marked `both_loops` on asyncio's own too."""
    if item.get_closest_marker("both_loops"):
        return {"asyncio": asyncio.new_event_loop, "uvloop": Loop}
    return {"uvloop": Loop}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Bench]:
    """A running gateway with one account of ¥100, its key, and Ark's stand-in; its books are checked at the end."""
    async with bench(tmp_path) as running:
        yield running
