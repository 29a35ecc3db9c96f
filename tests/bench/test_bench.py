"""The benchmark itself: each part runs, at its smallest, and yields its rows. Times are not asserted: machines are noisy."""

import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.bench.__main__ import CLIFFS, PARTS, SCALE, _parser, _parts
from tests.bench.instructions import COUNTS
from tests.bench.options import Options
from tests.bench.processes import ROOT
from tests.bench.rows import Row

ROWS = {
    "stalled": {"memory of a stalled client", "p99 of the others, worse by"},
    "large": {"longer beside a picture", "longer beside text"},
    "scale-ledger": {"ledger verify", "usage --since 1d", "CPU a JSON request"},
    "scale-streams": {"CPU a chunk", "CPU a JSON request beside them"},
    "scale-accounts": {"CPU a request"},
    "store": {"CPU a hold and settlement", "commits a request, 64 in flight"},
    "memory": {"idle, backed by no file", "open stream"},
    "folding": {"beside retention: log, at most", "beside retention: requests folded", "beside verify: request, p99"},
    "move": {"to PostgreSQL: the command", "to SQLite: its memory at most"},
    "cluster": {"CPU of node and database", "first chunk at 50/s, p99", "500 holds of a dead node: released after its death was seen"},
    "leaving": {"left unsettled", "held in the end"},
    "storm": {"last first byte", "last first byte : as many JSON requests", "dropped from the accept queue", "failed"},
    "stream": {"CPU a chunk", "reads of several chunks", "chunk under way, p99"},
    "ttfb": {"first chunk, p50", "added to the first chunk, p99"},
    "json": {"CPU a request", "requests a second"},
    "start": {"start to ready", "memory when ready, PSS"},
}
"""Rows required of each part, except the disk's, which needs strace; the slowest part first, as they run in parallel."""
LEDGER = (2_000,)
AT_ONCE = 4


def at_its_smallest(part: str, directory: Path) -> list[Row]:
    """Run a part alone, in a directory whose name is short enough for a unix socket."""
    place = directory / part
    place.mkdir()
    return PARTS[part](Options(place, rounds=1, quick=True, alone=True, rows=LEDGER))


@pytest.mark.timeout(300)
def test_each_part_yields_its_rows(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("bench")

    with ThreadPoolExecutor(AT_ONCE) as pool:  # they wait for most of the time
        found = dict(zip(ROWS, pool.map(lambda part: at_its_smallest(part, directory), ROWS), strict=True))

    assert {part: ROWS[part] - {row.what for row in rows} for part, rows in found.items()} == {part: set() for part in ROWS}
    assert all(math.isfinite(row.value) for rows in found.values() for row in rows if not row.is_ratio)


def test_the_soak_yields_its_rows_and_nobody_fails(tmp_path: Path) -> None:
    rows = {row.what: row.value for row in at_its_smallest("soak", tmp_path)}

    assert {"RSS, growth", "file descriptors, growth", "WAL, growth", "log a request, growth"} < rows.keys()
    assert rows["requests that failed"] == 0


@pytest.mark.parametrize("load", COUNTS)
def test_what_instructions_are_counted_of_runs_to_its_end(load: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.bench.in_memory", load, "50"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.bench
@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", PARTS)
def test_each_part_runs_with_its_references(part: str, tmp_path: Path) -> None:
    rows = PARTS[part](Options(tmp_path, rounds=1, quick=True, rows=LEDGER))

    assert all(row.figures for row in rows)


def test_every_command_that_the_guide_shows_is_understood() -> None:
    guide = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    shown = [line.partition("#")[0].split() for line in guide.splitlines() if line.startswith(".venv/bin/python -m tests.bench")]

    asked = [_parser().parse_args(words[3:]) for words in shown]

    assert len(asked) > 3
    assert {part for one in asked for part in _parts(one.parts)} == {
        *SCALE,
        *CLIFFS,
        "soak",
        "folding",
        "move",
        "cluster",
        "instructions",
        "json",
        "stream",
    }
