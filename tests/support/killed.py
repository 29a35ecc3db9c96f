"""Scripts that use a store in a separate process until kill -9."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

COMMON = """
import asyncio, pathlib, sys
from proxy.core.money import Nanos
from proxy.store.errors import StoreCorruptError, StoreUnavailableError
from proxy.store.sqlite import open_store
from tests.support.store import NOW_MS, new_request, settlement

path, round_ = pathlib.Path(sys.argv[1]), sys.argv[2]
"""
"""The beginning of each script."""


def run_until_killed(path: Path, round_: int, lines: int, script: str) -> list[str]:
    """Run a script, kill it after `lines` lines of output, and return all that it acknowledged."""
    command = [sys.executable, "-c", script, str(path), str(round_)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        acknowledged += process.stdout.readlines()
    assert process.returncode == -9
    return [line.strip() for line in acknowledged if line.endswith("\n")]
