"""Instructions of the gateway's own code: noise on the machine does not change them, so a difference of one per cent is visible.

Valgrind's cachegrind counts two runs of `in_memory`, one longer than the other: the difference belongs to the requests.
"""

import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.bench.options import Options
from tests.bench.processes import ROOT, SpoiltError
from tests.bench.rows import Row

COUNTS = {"json": (1_000, 4_000), "bound": (1_000, 4_000), "routes": (1_000, 4_000), "stream": (1_000, 11_000)}
QUICK_COUNTS = (100, 200)
WHAT = {
    "json": "instructions a JSON request",
    "bound": "instructions a JSON request of a key with all limits",
    "routes": "instructions a JSON request of a model with four routes",
    "stream": "instructions a chunk",
}
COUNT_SECONDS = 300.0
_COUNTED = re.compile(r"I +refs: +([0-9,]+)")


def instructions_part(options: Options) -> list[Row]:
    """Instructions of the Python process alone, without the kernel, the store and its thread."""
    if shutil.which("valgrind") is None:
        raise SpoiltError("valgrind is not installed")
    return [_row(load, QUICK_COUNTS if options.quick else counts) for load, counts in COUNTS.items()]


def _row(load: str, counts: tuple[int, int]) -> Row:
    with ThreadPoolExecutor(len(counts)) as pool:  # noise does not matter here, so both run at once
        less, more = pool.map(lambda count: _counted(load, count), counts)
    return Row("instructions", WHAT[load], "gateway", "", ((more - less) / (counts[1] - counts[0]),))


def _counted(load: str, count: int) -> int:
    """Return the instructions of one run, its start included."""
    command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    words = [*command, sys.executable, "-m", "tests.bench.in_memory", load, str(count)]
    ran = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=COUNT_SECONDS, check=False)
    found = _COUNTED.search(ran.stderr)
    if ran.returncode or found is None:
        raise SpoiltError(f"in_memory {load} {count} ended with {ran.returncode}: {ran.stderr[-500:]}")
    return int(found[1].replace(",", ""))
