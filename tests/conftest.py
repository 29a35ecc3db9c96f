"""The event loop that tests run on, and fixtures for whoever needs the whole gateway."""

import asyncio
import compileall
import os
import sys
import threading
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
    for name in ("COLUMNS", "LINES"):  # pytest-xdist sets both, and some shells do: a command's terminal is as large as its test says
        os.environ.pop(name, None)
    # Where Python writes no byte code (PYTHONDONTWRITEBYTECODE), each process that a test starts would compile all modules again.
    for directory in ("proxy", "tests/support", "tests/bench"):
        compileall.compile_dir(config.rootpath / directory, quiet=1)


_status = pytest.StashKey[int]()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_status] = exitstatus


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End the process, although a red test left threads behind, such as an open store's: Python would wait for them for ever."""
    left = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread() and not thread.daemon]
    if left:
        print(f"threads that a test left behind: {', '.join(left)}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash.get(_status, 1))


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
