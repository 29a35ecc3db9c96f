"""Plant each small fault in the modules that handle money and see whether a test notices: ``python tests/mutation/run.py [WORD …]``.

Prints a line for each fault that no test noticed, and the score of each module; a WORD picks modules by a part of their path. A fault
is tried in a fork of a process that has imported everything but the gateway: about a second each, and an hour for all.
"""

import argparse
import ast
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.mutation.mutants import Mutant, mutants  # noqa: E402  found by the line above

SECONDS_MAX = 60
"""A fault that makes the tests run longer than this counts as noticed."""
_UNIT = "tests/unit/"
_MONEY = (*(f"tests/unit/store/sqlite/test_{name}.py" for name in ("batch", "verify", "writer")), "tests/contract")
_CHAT = ("tests/gateway/test_chat.py", "tests/gateway/test_chat_outcomes.py", "tests/gateway/test_stream_bytes.py")

TARGETS: dict[str, tuple[str, ...]] = {
    "proxy/core/money.py": (_UNIT + "core/test_money.py", _UNIT + "core/test_pricing.py", _UNIT + "config/test_reading.py"),
    "proxy/core/pricing.py": (
        _UNIT + "core/test_pricing.py",
        _UNIT + "core/chat/test_settling.py",
        _UNIT + "operations/test_operations.py",
    ),
    "proxy/core/settlement.py": (_UNIT + "core/chat/test_settling.py", _UNIT + "core/test_pricing.py", "tests/contract", *_CHAT),
    "proxy/core/chat/settling.py": (_UNIT + "core/chat/test_settling.py", *_CHAT),
    "proxy/core/chat/answer.py": (_UNIT + "core/chat/test_answer.py", *_CHAT),
    "proxy/core/chat/usage.py": (_UNIT + "core/chat/test_usage.py",),
    "proxy/core/chat/tap.py": (_UNIT + "core/chat/test_tap.py",),
    "proxy/core/chat/events.py": (_UNIT + "core/chat/test_tap.py",),
    "proxy/billing/holds.py": (_UNIT + "billing/test_holds.py", "tests/gateway/test_money_admission.py", *_CHAT),
    "proxy/store/sqlite/ledger.py": _MONEY,
    "proxy/store/sqlite/batch.py": _MONEY,
    "proxy/exchange/stream.py": (_UNIT + "exchange/test_stream.py", _UNIT + "exchange/test_flight.py", *_CHAT),
    "proxy/exchange/flight.py": (
        _UNIT + "exchange/test_flight.py",
        *_CHAT,
        "tests/gateway/test_chat_cancelled.py",
        "tests/gateway/test_stream_pressure.py",
    ),
}
"""The modules, and the tests responsible for each, the quickest first."""


@dataclass(frozen=True, slots=True)
class Verdict:
    mutant: Mutant
    is_noticed: bool


class Planted(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module of the gateway from a mutated tree instead of its file."""

    def __init__(self, path: str, tree: ast.Module) -> None:
        self._path = ROOT / path
        self._name = path.removesuffix(".py").replace("/", ".")
        self._tree = tree

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        return importlib.util.spec_from_file_location(fullname, self._path, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._tree, str(self._path), "exec"), module.__dict__)

    def get_filename(self, _: str) -> str:
        return str(self._path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    _import_what_is_not_ours()
    chosen = [path for path in TARGETS if not asked.words or any(word in path for word in asked.words)]
    scores = [_score(path, asked.jobs) for path in chosen]
    return 0 if all(scores) else 1


def _score(path: str, jobs: int) -> bool:
    """Try every fault of one module; return True if its tests pass without any."""
    source = (ROOT / path).read_text(encoding="utf-8")
    if not _passes(path, ast.parse(source)):
        print(f"{path}: its tests fail as it stands", flush=True)
        return False
    began = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        verdicts = list(pool.map(lambda mutant: _try(path, mutant), mutants(source)))
    noticed = sum(verdict.is_noticed for verdict in verdicts)
    share, seconds = 100 * noticed / len(verdicts), time.monotonic() - began
    print(f"{path}: {noticed} of {len(verdicts)} noticed, {share:.1f} % ({seconds:.0f} s)", flush=True)
    return True


def _try(path: str, mutant: Mutant) -> Verdict:
    verdict = Verdict(mutant, not _passes(path, mutant.tree))
    if not verdict.is_noticed:
        print(f"  {path}:{mutant.line}: {mutant.says}", flush=True)
    return verdict


def _passes(path: str, tree: ast.Module) -> bool:
    child = os.fork()
    if child == 0:
        _run_tests(path, tree)
    too_long = threading.Timer(SECONDS_MAX, os.kill, (child, signal.SIGKILL))  # the child's alarm signal belongs to pytest-timeout
    too_long.start()
    status = os.waitpid(child, 0)[1]
    too_long.cancel()
    return os.waitstatus_to_exitcode(status) == 0


def _run_tests(path: str, tree: ast.Module) -> None:
    """Try one fault in the forked process; never return."""
    code = 1
    try:
        os.setsid()
        os.chdir(ROOT)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        sys.meta_path.insert(0, Planted(path, tree))
        import pytest  # noqa: PLC0415  imported already

        code = int(
            pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning", *TARGETS[path]])
        )
    finally:
        os._exit(code)


def _import_what_is_not_ours() -> None:
    """Import once the packages that every fork needs, and turn off hypothesis's shrinking."""
    import aiohttp.test_utils  # noqa: F401, PLC0415
    import aiosqlite  # noqa: F401, PLC0415
    import hypothesis  # noqa: PLC0415
    import msgspec  # noqa: F401, PLC0415
    import prometheus_client  # noqa: F401, PLC0415
    import typer  # noqa: F401, PLC0415
    import uvloop  # noqa: F401, PLC0415

    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutation", phases=phases, derandomize=True, database=None)
    hypothesis.settings.load_profile("mutation")


if __name__ == "__main__":
    raise SystemExit(main())
