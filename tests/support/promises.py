"""What is promised, how often a fault put it to the test, and what was lost: a line a promise at the end of a run.

A test says what it proves by ``@pytest.mark.promise("…")``. It counts as one fault injected, unless it asks for `faults` and counts by
itself. What was lost is what it says was lost; a test that fails without a word has lost one.
"""

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field

import pytest

UPSTREAM_AWAY = "an upstream that cannot be reached, hangs, breaks off or closes idle connections: told, settled, asked once"
"""What tests in several places prove."""
CLIENT_AWAY = "a client that leaves, stalls, drips or floods: settled once, bounded in memory, others are served"
RELOADED = "a reload under load, good or faulty: no request fails, each is charged at the one price table that it began with"
STOPPED = "SIGTERM, with streams under way: finished, or visibly broken and settled; exit status 0"

_COUNTED = pytest.StashKey["Faults"]()
_KEPT = pytest.StashKey["dict[str, Promise]"]()
_WIDTH = 104


@dataclass
class Faults:
    """The faults of one test, and what it found missing after them."""

    injected: int = 0
    lost: list[str] = field(default_factory=list)

    def cost(self, losses: Iterable[str]) -> None:
        """Note what is missing, and fail where anything is."""
        self.lost += losses
        assert not self.lost, "\n".join(self.lost)


@dataclass
class Promise:
    """What all the tests of one sentence came to."""

    injected: int = 0
    lost: int = 0
    skipped: str = ""


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_KEPT] = {}


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> Faults:
    """The count of a test that injects many."""
    return request.node.stash.setdefault(_COUNTED, Faults())  # type: ignore[no-any-return]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    marker = item.get_closest_marker("promise")
    if marker is not None and (report.when == "call" or not report.passed):
        promise = item.config.stash[_KEPT].setdefault(marker.args[0], Promise())
        counted = item.stash.get(_COUNTED, Faults())
        if report.skipped:
            promise.skipped = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        else:
            promise.injected += counted.injected or 1
            promise.lost += len(counted.lost) or int(report.failed)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    kept = config.stash[_KEPT]
    if not kept:
        return
    terminalreporter.section("what was promised, the faults injected, what was lost")
    for sentence, promise in kept.items():
        figures = f"{promise.injected:>7} {promise.lost:>5}" if promise.injected else f"      – {promise.skipped}"
        terminalreporter.line(f"{sentence:<{_WIDTH}} {figures}", red=promise.lost > 0)
    totals = sum(promise.injected for promise in kept.values()), sum(promise.lost for promise in kept.values())
    terminalreporter.line(f"{'all':<{_WIDTH}} {totals[0]:>7} {totals[1]:>5}")
