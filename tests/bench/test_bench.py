"""The benchmark itself: each part runs, at its smallest, and yields its rows. Nothing is asserted on times: machines are noisy."""

import math
from pathlib import Path

import pytest

from tests.bench.__main__ import PARTS
from tests.bench.options import Options

ROWS = {
    "stream": {"CPU a chunk", "chunks a second", "chunk under way, p99"},
    "ttfb": {"first chunk, p99", "added to the first chunk, p99"},
    "start": {"start to ready", "memory when ready, PSS"},
}
"""Some of the rows of some of the parts: enough to start every process of the harness once."""


@pytest.mark.parametrize("part", ROWS)
def test_a_part_yields_its_rows(part: str, tmp_path: Path) -> None:
    rows = PARTS[part](Options(tmp_path, rounds=1, quick=True))

    assert ROWS[part] <= {row.what for row in rows}
    assert all(math.isfinite(row.value) for row in rows if not row.is_ratio)


@pytest.mark.bench
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", PARTS)
def test_every_part_yields_rows(part: str, tmp_path: Path) -> None:
    assert PARTS[part](Options(tmp_path, rounds=1, quick=True))
