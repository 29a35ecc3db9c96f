"""A system that the gateway does not run on is refused in words, before anything that is missing there is imported."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WINDOWS = """
import sys
sys.platform = "win32"
for missing in ("fcntl", "resource", "termios", "uvloop", "pwd", "grp"):
    sys.modules[missing] = None  # importing it fails
"""
MODULE = "import runpy\nrunpy.run_module('proxy', run_name='__main__')"
SCRIPT = "from importlib import import_module\nmodule, _, name = {target!r}.partition(':')\ngetattr(import_module(module), name)()"


@pytest.mark.parametrize("way", ["python -m proxy", "llm-proxy"])
@pytest.mark.parametrize("arguments", [(), ("serve",), ("--version",)])
def test_windows_is_refused_in_a_line_and_told_what_does(way: str, arguments: tuple[str, ...]) -> None:
    target = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]["llm-proxy"]
    start = MODULE if way == "python -m proxy" else SCRIPT.format(target=target)

    ended = subprocess.run([sys.executable, "-c", WINDOWS + start, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "llm-proxy does not run on Windows itself: run it on Linux, in WSL 2 (wsl --install) or in a container.\n"
