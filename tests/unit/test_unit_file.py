"""The systemd unit: what it says of restarts agrees with how the process exits."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd/llm-proxy.service"
SECONDS_TO_FAIL = 5
"""What a start with a fault in its configuration needs at most on a slow machine; here it is under one."""


def directives() -> dict[str, str]:
    lines = [line for line in UNIT.read_text(encoding="utf-8").splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def test_a_start_that_fails_each_time_is_given_up(tmp_path: Path) -> None:
    unit = directives()
    (tmp_path / "config.toml").write_text("typo = 1")

    ended = subprocess.run([sys.executable, "-m", "proxy", "serve"], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True)

    assert ended.returncode == 78
    assert unit["Restart"] == "on-failure"
    assert "1" not in unit["RestartPreventExitStatus"].split()  # it also stands for what passes: a lock that is still held
    assert int(unit["StartLimitBurst"]) * (seconds(unit["RestartSec"]) + SECONDS_TO_FAIL) < seconds(unit["StartLimitIntervalSec"])


def test_wrong_usage_is_not_tried_again(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "proxy", "serve", "--typo"], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True
    )

    assert str(ended.returncode) in directives()["RestartPreventExitStatus"].split()


def test_a_proxy_under_another_user_reaches_the_directory_of_the_socket() -> None:
    unit = directives()

    assert (unit["RuntimeDirectory"], unit["RuntimeDirectoryMode"]) == ("llm-proxy", "0755")
    assert unit["StateDirectoryMode"] == "0700"  # the admin socket's
