"""The benchmark itself: each part runs, at its smallest, and yields its rows. Nothing is asserted on times: machines are noisy."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.bench.__main__ import CLIFFS, DESIGN, PARTS, SCALE
from tests.bench.options import Options
from tests.bench.rows import Row

ROWS = {
    "json": {"CPU a request", "requests a second"},
    "stream": {"CPU a chunk", "reads of several chunks", "chunk under way, p99"},
    "ttfb": {"first chunk, p50", "added to the first chunk, p99"},
    "memory": {"idle", "open stream"},
    "start": {"start to ready", "memory when ready, PSS"},
    "store": {"CPU a hold and settlement", "commits a request, 64 in flight"},
    "scale-streams": {"CPU a chunk", "CPU a JSON request beside them"},
    "scale-accounts": {"CPU a request"},
    "scale-ledger": {"ledger verify", "usage --since 1d", "CPU a JSON request"},
    "stalled": {"memory of a stalled client", "p99 of the others, worse by"},
    "large": {"longer beside a picture", "longer beside text"},
    "leaving": {"left unsettled", "held in the end"},
}
"""What there is at least, of all parts but the disk's, which needs strace."""
LEDGER = (0, 2_000)


def at_its_smallest(part: str, directory: Path) -> list[Row]:
    """Run a part alone, in a directory whose name is short enough for a unix socket."""
    place = directory / part
    place.mkdir()
    return PARTS[part](Options(place, rounds=1, quick=True, alone=True, rows=LEDGER))


@pytest.mark.parametrize("group", [DESIGN, SCALE, CLIFFS], ids=["design", "scale", "cliffs"])
def test_each_part_yields_its_rows(group: dict[str, Callable[[Options], list[Row]]], tmp_path_factory: pytest.TempPathFactory) -> None:
    parts = [part for part in group if part in ROWS]
    directory = tmp_path_factory.mktemp("bench")

    with ThreadPoolExecutor() as pool:  # they wait for most of the time
        found = dict(zip(parts, pool.map(lambda part: at_its_smallest(part, directory), parts), strict=True))

    assert {part: ROWS[part] - {row.what for row in rows} for part, rows in found.items()} == {part: set() for part in parts}
    assert all(math.isfinite(row.value) for rows in found.values() for row in rows if not row.is_ratio)


@pytest.mark.bench
@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", PARTS)
def test_each_part_runs_with_its_references(part: str, tmp_path: Path) -> None:
    rows = PARTS[part](Options(tmp_path, rounds=1, quick=True, rows=LEDGER))

    assert all(row.figures for row in rows)
