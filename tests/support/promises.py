"""A report at the end of a test run: for each promise, the number of faults injected and of losses.

A test names its promise with ``@pytest.mark.promise("…")``. It counts as one injected fault, unless it uses the fixture `faults` and
counts itself. Losses are those that it records; a failed test that recorded none counts as one loss.
"""

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field

import pytest

UPSTREAM_AWAY = "an upstream that cannot be reached, hangs, breaks off or closes idle connections: told, settled, asked once"
"""Promises that tests in several modules prove."""
CLIENT_AWAY = "a client that leaves, stalls, drips or floods: settled once, bounded in memory, others are served"
RELOADED = "a reload under load, good or faulty: no request fails, each is charged at the one price table that it began with"
STOPPED = "SIGTERM, with streams under way: finished, or visibly broken and settled; exit status 0"

_COUNTED = pytest.StashKey["Faults"]()
_PROPERTY = "promise"
"""The name of what a report carries, from a worker of pytest-xdist too."""
_WIDTH = 104


@dataclass
class Faults:
    """The number of faults in one test, and what was lost."""

    injected: int = 0
    lost: list[str] = field(default_factory=list)

    def cost(self, losses: Iterable[str]) -> None:
        """Record losses, and fail if there are any."""
        self.lost += losses
        assert not self.lost, "\n".join(self.lost)


@dataclass
class Promise:
    """The result of all tests of one promise."""

    injected: int = 0
    lost: int = 0
    skipped: str = ""


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Table())


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> Faults:
    """The fault count of a test that injects many faults."""
    return request.node.stash.setdefault(_COUNTED, Faults())  # type: ignore[no-any-return]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    marker = item.get_closest_marker("promise")
    if marker is not None and (report.when == "call" or not report.passed):
        counted = item.stash.get(_COUNTED, Faults())
        report.user_properties.append((_PROPERTY, [marker.args[0], counted.injected or 1, len(counted.lost)]))
    return report


class Table:
    """What the reports of one run carry, added up where they all arrive."""

    def __init__(self) -> None:
        self._kept: dict[str, Promise] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name != _PROPERTY or not isinstance(value, list):
                continue
            sentence, injected, lost = value
            promise = self._kept.setdefault(sentence, Promise())
            if report.skipped:
                promise.skipped = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
            else:
                promise.injected += injected
                promise.lost += lost or int(report.failed)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._kept:
            return
        terminalreporter.section("what was promised, the faults injected, what was lost")
        for sentence, promise in self._kept.items():
            figures = f"{promise.injected:>7} {promise.lost:>5}" if promise.injected else f"      – {promise.skipped}"
            terminalreporter.line(f"{sentence:<{_WIDTH}} {figures}", red=promise.lost > 0)
        totals = sum(promise.injected for promise in self._kept.values()), sum(promise.lost for promise in self._kept.values())
        terminalreporter.line(f"{'all':<{_WIDTH}} {totals[0]:>7} {totals[1]:>5}")
