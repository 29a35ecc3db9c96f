"""The guide's two lines for a server without a network: wheels made here, installed there from a directory alone."""

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path

import pytest

pytestmark = [pytest.mark.package, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "proxy/docs/single-file.md").read_text(encoding="utf-8")
HERE, THERE = next(block.split("```")[0] for block in GUIDE.split("```sh\n") if "pip wheel" in block).splitlines()


def test_the_gateway_is_installed_from_a_directory_without_an_index(tmp_path: Path) -> None:
    source, server = tmp_path / "source", tmp_path / "server"
    shutil.copytree(ROOT / "proxy", source / "proxy")
    for name in ("README.md", "LICENSE", "pyproject.toml"):
        shutil.copy(ROOT / name, source)
    (source / ".venv").symlink_to(sys.prefix)
    run(HERE, source, os.environ)
    venv.create(server / ".venv", with_pip=True)
    shutil.copytree(source / "wheels", server / "wheels")

    offline = {"PATH": os.environ["PATH"], "PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    run(THERE, server, offline)
    tour = run(".venv/bin/llm-proxy demo --once", server, offline)

    assert "All done: the books balance to the nano-yuan." in tour
    assert f"{server}/.venv" in run(".venv/bin/python -c 'import proxy; print(proxy.__file__)'", server, offline)
    (typed,) = server.glob(".venv/lib/python*/site-packages/proxy/py.typed")
    assert typed.is_file()
    print(f"\n{len(list((source / 'wheels').iterdir()))} wheels")


def run(command: str, directory: Path, environment: Mapping[str, str]) -> str:
    ended = subprocess.run(["sh", "-c", command], cwd=directory, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
