"""Plots of the rows: a bar per contender, a line per curve. Needs matplotlib, from the extra ``bench``."""

import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.rows import Row

COLUMNS = 3
INCHES = (5.0, 3.2)
MISSING = "--plot needs matplotlib, which is not installed: pip install --editable '.[bench]'"


def require_plot() -> Any:
    """Return matplotlib's pyplot, set to draw to files. Raises: SystemExit, with the command to install it."""
    try:
        importlib.import_module("matplotlib").use("Agg")
        return importlib.import_module("matplotlib.pyplot")
    except ImportError:
        raise SystemExit(MISSING) from None


def draw(rows: Sequence[Row], destination: Path) -> None:
    """Draw one plot for each measured quantity."""
    pyplot = require_plot()
    groups = list(_groups(rows).items())
    lines = max(1, math.ceil(len(groups) / COLUMNS))
    figure, places = pyplot.subplots(lines, COLUMNS, figsize=(INCHES[0] * COLUMNS, INCHES[1] * lines), squeeze=False)
    for place in places.flat[len(groups) :]:
        place.axis("off")
    for place, ((part, what, unit), group) in zip(places.flat, groups, strict=False):
        place.set_title(f"{part}: {what}", fontsize=9)
        place.set_ylabel(unit)
        (_draw_curve if group[0].at is not None else _draw_bars)(place, group)
    figure.tight_layout()
    figure.savefig(destination)
    pyplot.close(figure)


def _groups(rows: Sequence[Row]) -> dict[tuple[str, str, str], list[Row]]:
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.part, row.what, row.unit), []).append(row)
    return groups


def _draw_bars(place: Any, rows: Sequence[Row]) -> None:
    values = [row.value for row in rows]
    least = [max(0.0, row.value - min(row.figures)) for row in rows]
    most = [max(0.0, max(row.figures) - row.value) for row in rows]
    place.bar([row.who for row in rows], values, yerr=[least, most], capsize=3)
    place.tick_params(axis="x", labelsize=7)
    _draw_reach(place, rows)


def _draw_curve(place: Any, rows: Sequence[Row]) -> None:
    for who in dict.fromkeys(row.who for row in rows):
        line = [(row.at, row.value) for row in rows if row.who == who]
        place.plot(*zip(*line, strict=True), marker="o", label=who)
    place.set_xscale("symlog")
    place.set_ylim(0, 1.15 * max(row.value for row in rows))
    place.set_xlabel(rows[0].who, fontsize=8)
    _draw_reach(place, rows)


def _draw_reach(place: Any, rows: Sequence[Row]) -> None:
    for reach in {row.reach for row in rows if row.reach is not None}:
        place.axhline(reach, linestyle="--", color="gray")
