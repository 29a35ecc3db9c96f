"""The systemd units: they agree with the behaviour of the process, systemd finds no fault in them, and they are sandboxed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.cli.gateway import BAD_CONFIGURATION
from proxy.cli.shared import WRONG_USAGE
from proxy.config import UnixAddress
from proxy.config.tables import ServerTable
from proxy.config.workers import worker_socket
from proxy.edge.listener import CLOSE_SECONDS, NEWCOMER_SECONDS
from proxy.gateway.shutdown import CUT_SECONDS, EXIT_LEFT, SETTLE_SECONDS, SUBMIT_DRAIN_SECONDS

ROOT = Path(__file__).parents[2]
DIRECTORY = ROOT / "systemd"
UNITS = sorted(path.name for path in DIRECTORY.iterdir() if path.suffix in (".service", ".socket", ".timer"))
SERVICES = [name for name in UNITS if name.endswith(".service")]
EXPOSURE_TENTHS_MAX = 12
PROGRAM = "/usr/local/bin/llm-proxy"

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (Debian: systemd)")


def directives(unit: str = "llm-proxy.service") -> dict[str, str]:
    lines = [line for line in (DIRECTORY / unit).read_text(encoding="utf-8").splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def exit_status_of(directory: Path, *words: str) -> int:
    words = (sys.executable, "-m", "proxy", "serve", *words)
    return subprocess.run(words, cwd=directory, env={"PYTHONPATH": str(ROOT)}, capture_output=True).returncode


@needs_systemd
def test_systemd_has_nothing_to_say_of_the_units(tmp_path: Path) -> None:
    for name in UNITS:  # unchanged except for the program, which is not installed where tests run
        (tmp_path / name).write_text((DIRECTORY / name).read_text(encoding="utf-8").replace(PROGRAM, "/bin/true"), encoding="utf-8")

    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in UNITS)], capture_output=True, text=True
    )

    assert (verified.stdout, verified.stderr, verified.returncode) == ("", "", 0)


@needs_systemd
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_hardly_exposed(service: str) -> None:
    options = ["--offline=yes", "--no-pager", f"--threshold={EXPOSURE_TENTHS_MAX}"]

    judged = subprocess.run(["systemd-analyze", "security", *options, str(DIRECTORY / service)], capture_output=True, text=True)

    assert judged.returncode == 0, judged.stdout
    assert "Overall exposure level" in judged.stdout


@pytest.mark.parametrize("unit", UNITS)
def test_each_group_of_directives_has_its_reason_before_it(unit: str) -> None:
    groups = re.split(r"\n(?=#|\[|\n)", (DIRECTORY / unit).read_text(encoding="utf-8"))
    bare = [group for group in groups if re.match(r"\s*\w+=", group)]
    plain = ("Description=", "Type=", "ExecStart=", "StartLimit", "WantedBy=", "OnCalendar=", "ListenStream=", "Also=")
    sections = [group for group in groups if group.lstrip().startswith("[")]

    assert not bare
    for section in sections:
        assert all(line.startswith(plain) for line in section.strip().splitlines()[1:]), section


@pytest.mark.parametrize(("words", "status"), [((), BAD_CONFIGURATION), (("--typo",), WRONG_USAGE)])
def test_what_will_fail_again_is_not_tried_again_also_not_by_the_socket(tmp_path: Path, words: tuple[str, ...], status: int) -> None:
    (tmp_path / "config.toml").write_text("typo = 1")
    unit = directives()

    assert exit_status_of(tmp_path, *words) == status
    assert str(status) in unit["RestartPreventExitStatus"].split()
    assert re.search(rf'case "\$EXIT_STATUS" in (\d+\|)*{status}(\|\d+)*\) exec systemctl --no-block stop', unit["ExecStopPost"])


def test_a_gateway_that_an_operator_sent_away_has_not_failed_and_stays_away_also_from_the_socket() -> None:
    unit = directives()

    assert unit["SuccessExitStatus"] == str(EXIT_LEFT)
    assert str(EXIT_LEFT) in unit["RestartPreventExitStatus"].split()
    assert re.search(rf'case "\$EXIT_STATUS" in (\d+\|)*{EXIT_LEFT}(\|\d+)*\) exec systemctl --no-block stop', unit["ExecStopPost"])


def test_all_else_is_tried_again_for_ever() -> None:
    unit = directives()

    assert (unit["Restart"], unit["StartLimitIntervalSec"]) == ("always", "0")
    assert set(unit["RestartPreventExitStatus"].split()) == {str(BAD_CONFIGURATION), str(WRONG_USAGE), str(EXIT_LEFT)}
    assert directives("llm-proxy.socket")["TriggerLimitIntervalSec"] == "0"


def test_a_stop_has_the_time_that_a_drain_and_all_after_it_may_take() -> None:
    drain_seconds = ServerTable().drain_seconds
    after_it = CUT_SECONDS + SUBMIT_DRAIN_SECONDS + SETTLE_SECONDS + CLOSE_SECONDS

    assert drain_seconds > NEWCOMER_SECONDS
    assert int(directives()["TimeoutStopSec"].removesuffix("s")) > drain_seconds + after_it


def test_the_services_share_their_user_and_their_files() -> None:
    of_each = [{key: directives(name)[key] for key in ("DynamicUser", "User", "StateDirectory", "UMask")} for name in SERVICES]

    assert all(one == of_each[0] for one in of_each)


def test_a_proxy_under_another_user_reaches_the_directory_of_the_socket() -> None:
    unit = directives()

    assert (unit["RuntimeDirectory"], unit["RuntimeDirectoryMode"]) == ("llm-proxy", "0755")
    assert unit["StateDirectoryMode"] == "0700"  # it holds the admin socket


def sandbox(unit: str) -> list[str]:
    """Return a service's directives from its file modes on, in their order."""
    text = (DIRECTORY / unit).read_text(encoding="utf-8").partition("[Service]")[2].partition("[Install]")[0]
    lines = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    return lines[lines.index("UMask=0077") :]


def test_an_instance_has_the_sandbox_of_the_single_service() -> None:
    """The trial of the sandbox (`python -m tests.systemd sandbox`) then speaks of both."""
    assert len(sandbox("llm-proxy.service")) > 30
    assert sandbox("llm-proxy@.service") == sandbox("llm-proxy.service")


def test_services_that_may_get_one_socket_agree_on_its_mode() -> None:
    """systemd resets it at each start of either, for all that have the socket (man systemd.exec, NonBlocking=)."""
    for unit in ("llm-proxy.service", "llm-proxy@.service"):
        assert directives(unit)["NonBlocking"] == "yes"


def test_an_instance_has_the_operators_socket_that_commands_look_for() -> None:
    name, _, value = directives("llm-proxy@.service")["Environment"].partition("=")
    listen = UnixAddress(Path("/var/lib/llm-proxy/admin.sock"))

    assert name == "LLM_PROXY_ADMIN__LISTEN"
    assert value.replace("%i", "7") == str(worker_socket(listen, 7))
