"""``python -m tests.bench [PART …]``: what the gateway costs beside others under the same load, and whether it is within reach."""

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from tests.bench.arena import say
from tests.bench.cliffs import disk_part, large_part, leaving_part, stalled_part
from tests.bench.cluster import cluster_part
from tests.bench.folding import folding_part
from tests.bench.footprint import memory_part, start_part, store_part
from tests.bench.instructions import instructions_part
from tests.bench.limits import raise_open_files
from tests.bench.move import move_part
from tests.bench.options import Options
from tests.bench.plot import draw, require_plot
from tests.bench.processes import SpoiltError
from tests.bench.rows import Row
from tests.bench.scale import accounts_part, ledger_part, streams_part
from tests.bench.soak import soak_part
from tests.bench.storm import storm_part
from tests.bench.tables import show, write_json
from tests.bench.throughput import json_part, stream_part, ttfb_part

Part = Callable[[Options], list[Row]]

DESIGN: Mapping[str, Part] = {
    "json": json_part,
    "stream": stream_part,
    "ttfb": ttfb_part,
    "memory": memory_part,
    "start": start_part,
    "store": store_part,
}
TABLE_COLUMNS = 136
TERMINATED = 128 + signal.SIGTERM
SCALE: Mapping[str, Part] = {"scale-streams": streams_part, "scale-accounts": accounts_part, "scale-ledger": ledger_part}
CLIFFS: Mapping[str, Part] = {
    "stalled": stalled_part,
    "large": large_part,
    "disk": disk_part,
    "leaving": leaving_part,
    "storm": storm_part,
}
PARTS: Mapping[str, Part] = {
    **DESIGN,
    **SCALE,
    **CLIFFS,
    "soak": soak_part,
    "folding": folding_part,
    "move": move_part,
    "cluster": cluster_part,
    "instructions": instructions_part,
}
GROUPS: Mapping[str, Sequence[str]] = {"design": [*DESIGN], "scale": [*SCALE], "cliffs": [*CLIFFS]}


def main(words: Sequence[str] | None = None) -> int:
    """Run the requested parts; return 1 if one could not run, or (``--strict``) if a reach was missed."""
    asked = _parser().parse_args(words)
    if asked.plot:
        require_plot()
    raise_open_files()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # an exit stops the processes, and removes the directory
    rows, complete = run(_parts(asked.parts or ["design"]), asked)
    show(rows, _console(asked.json == "-"))
    if asked.json:
        write_json(rows, asked.json)
    if asked.plot:
        draw(rows, asked.plot)
    return 1 if not complete or (asked.strict and any(row.is_missed for row in rows)) else 0


def run(parts: Sequence[str], asked: argparse.Namespace) -> tuple[list[Row], bool]:
    """Return the rows of all parts, and True if each of them ran to its end."""
    rows: list[Row] = []
    complete = True
    for part in parts:
        with tempfile.TemporaryDirectory(prefix="llm-proxy-bench-", dir=asked.directory, ignore_cleanup_errors=True) as directory:
            say(f"{part} …")
            try:
                rows += PARTS[part](_options(asked, Path(directory)))
            except SpoiltError as death:
                complete = False
                say(f"{part} could not be finished: {death}")
    return rows, complete


def _parts(names: Sequence[str]) -> list[str]:
    return [part for name in names for part in GROUPS.get(name, [name])]


def _console(is_silent: bool) -> Console:
    """Return the console for tables: as wide as the terminal, or `TABLE_COLUMNS` wide if there is none."""
    console = Console(stderr=is_silent, highlight=False)
    console.width = console.width if console.is_terminal else TABLE_COLUMNS
    return console


def _options(asked: argparse.Namespace, directory: Path) -> Options:
    return Options(
        directory=directory,
        rounds=asked.rounds or (1 if asked.quick else 3),
        quick=asked.quick,
        streams=asked.streams,
        chunk_ms=asked.chunk_ms,
        litellm=asked.litellm,
        alone=asked.alone,
        minutes=asked.minutes,
        **({"rows": tuple(asked.rows)} if asked.rows else {}),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        choices=[[], *GROUPS, *PARTS],
        help="; ".join(f"{group}: {' '.join(parts)}" for group, parts in GROUPS.items()) + "; without any: design",
    )
    parser.add_argument("--rounds", type=int, help="how often each is measured (3, quick: 1)")
    parser.add_argument("--quick", action="store_true", help="the least load that shows that it works; its figures mean little")
    parser.add_argument("--streams", type=int, default=200, help="of the part stream (200)")
    parser.add_argument("--chunk-ms", type=int, default=10, help="between two chunks of a stream there (10)")
    parser.add_argument("--rows", type=int, nargs="+", help="lengths of the ledger in scale-ledger, in transfers, ascending")
    parser.add_argument("--minutes", type=float, default=10.0, help="that the soak lasts (10)")
    parser.add_argument("--alone", action="store_true", help="the gateway only, without references")
    parser.add_argument("--litellm", type=Path, metavar="DIR", help="measure LiteLLM too; installed into DIR if it is not there")
    parser.add_argument("--directory", type=Path, help="where the store is written, if not in the system's temporary directory")
    parser.add_argument("--json", metavar="FILE", help="write the rows; -: to standard output")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them; needs the extra `bench`")
    parser.add_argument("--strict", action="store_true", help="exit 1 where something is missed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
