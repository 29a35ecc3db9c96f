"""Steps of a parser: the machine instructions that it takes, C's included. Neither the machine nor what else runs on it changes them.

``python -m tests.support.steps`` runs every case of `tests.support.parsers` between two marks. Valgrind's callgrind runs that, and
writes what it has counted at each mark.
"""

import gc
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from proxy.gateway.process import GC_ALLOCATIONS
from tests.support.parsers import KB, PARSERS, Parser, Worst

UNITS_MAX = 1_000
BYTES_MAX = 32 * KB
"""Texts are counted up to this length; the steps of longer ones follow from how they grow."""
SECONDS_MAX = 500.0
_COUNTED = re.compile(r"^totals: ([0-9]+)$", re.MULTILINE)
ROOT = Path(__file__).parent.parent.parent

Case = tuple[str, int]
"""A parser's name, and the number of its worst input."""


def cases() -> list[Case]:
    return [(name, number) for name, parser in PARSERS.items() for number in range(len(parser.worst))]


def units_of(parser: Parser, worst: Worst) -> tuple[int, int]:
    """Return the units of a short text and of a longer one, four times as many."""
    short = min(worst.most(parser.bytes_max), UNITS_MAX, worst.most(BYTES_MAX + len(worst.begin))) // 4
    return short, 4 * short


@dataclass(frozen=True)
class Growth:
    """The steps of the short and of the longer text."""

    short: int
    long: int

    def at(self, units: int, counted: int) -> float:
        """Return the steps of so many units, where the longer text had ``counted``."""
        return self.long + (self.long - self.short) / (counted * 3 / 4) * (units - counted)


def counted(folder: Path) -> dict[Case, Growth]:
    """Return the steps of each case. ``folder`` takes what callgrind writes."""
    command = ["valgrind", "--tool=callgrind", "--dump-before=getppid", f"--callgrind-out-file={folder / 'counted'}"]
    ran = subprocess.run([*command, sys.executable, "-m", __name__], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS_MAX)
    assert ran.returncode == 0, ran.stderr[-2000:]
    steps: list[int] = []
    while (dump := folder / f"counted.{2 * len(steps) + 2}").exists():
        found = _COUNTED.search(dump.read_text(encoding="utf-8"))
        assert found is not None, dump
        steps.append(int(found[1]))
    assert len(steps) == 2 * len(cases())
    return {case: Growth(*steps[2 * at : 2 * at + 2]) for at, case in enumerate(cases())}


def main() -> None:
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 20)
    for name, number in cases():
        parser = PARSERS[name]
        worst = parser.worst[number]
        parser(parser.prepare(worst.text(1)))  # what is made once is made here
        for units in units_of(parser, worst):
            given = parser.prepare(worst.text(units))
            os.getppid()
            parser(given)
            os.getppid()
            del given


if __name__ == "__main__":
    main()
