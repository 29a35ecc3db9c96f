"""The documents say what the code does: routes, error codes, commands, and the two commands that a newcomer needs."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import typer.main

from proxy.cli import app
from proxy.core import errors

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TOP = {"pyproject.toml", "proxy", "tests", "config.example.toml", "systemd", "README.md", "CHANGELOG.md", "LICENSE"}
ROUTES = (ROOT / "proxy/gateway/routes.py").read_text(encoding="utf-8")


def all_errors(root: type[errors.GatewayError]) -> set[type[errors.GatewayError]]:
    return {root}.union(*(all_errors(child) for child in root.__subclasses__()))


def test_the_table_of_errors_is_that_of_the_code() -> None:
    in_code = {(kind.status, kind.code) for kind in all_errors(errors.GatewayError) if not kind.__name__.startswith("_")}

    in_readme = {(int(status), code) for status, code in re.findall(r"^\| (\d{3}) \| `([A-Z_]+)` \|", README, re.MULTILINE)}

    assert in_readme == in_code


def test_the_table_of_routes_is_that_of_the_code() -> None:
    in_code = set(re.findall(r'Route\("([A-Z]+)", "([^"]+)"', ROUTES)) - {("GET", "/metrics"), ("POST", "/operations/{id}")}

    in_readme = set(re.findall(r"`(GET|POST|DELETE) (/[^` ]*)`", README))

    assert in_readme == in_code


def test_every_command_is_in_the_readme() -> None:
    group = typer.main.get_command(app)
    names = []
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        children = getattr(command, "commands", None)
        names += [f"{name} {child}" for child in children] if children else [name]

    missing = [name for name in names if f"llm-proxy {name}" not in README and f"`{name}" not in README]

    assert not missing


def test_the_two_commands_of_a_newcomer_are_what_ci_runs() -> None:
    commands = re.findall(r"^python3 -m venv \.venv .*$", README, re.MULTILINE)

    assert [command.split("&& ")[-1] for command in commands] == [".venv/bin/llm-proxy demo", ".venv/bin/pytest"]
    assert "README.md" in (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_the_lines_of_run_it_work_as_they_stand_after_the_first_command_of_a_newcomer(tmp_path: Path) -> None:
    """Up to `serve`, in a directory as that command leaves it: the command is in ``.venv/bin`` and nowhere else."""
    section = README.partition("## Run it")[2].partition("```sh\n")[2].partition("```")[0]
    lines = section.replace("ARK_API_KEY=…", "ARK_API_KEY=canary").splitlines()
    assert lines[-1] == "llm-proxy serve"
    commands = tmp_path / ".venv/bin"
    commands.mkdir(parents=True)
    (commands / "activate").write_text(f'PATH="{commands}:$PATH"\n')
    (commands / "llm-proxy").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m proxy "$@"\n')
    (commands / "llm-proxy").chmod(0o755)
    shutil.copy(ROOT / "config.example.toml", tmp_path)

    script = "set -e\n" + "\n".join(lines[:-1])
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(["sh", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert (ended.returncode, ended.stderr.count("not found")) == (0, 0), ended.stderr
    assert re.search(r"\bsk_[A-Za-z0-9_-]{43}\b", ended.stdout)


def test_the_map_names_every_module_once() -> None:
    drawn = (ROOT / "proxy/README.md").read_text(encoding="utf-8").partition("```\nproxy/\n")[2].partition("```")[0]
    columns = (re.sub(r"L\d", "", line[:60]) for line in drawn.splitlines())

    named = Counter(name for column in columns for name in re.findall(r"(?<!\.)\b[a-z_]+\b(?![/.])", column))

    modules = Counter(path.stem for path in (ROOT / "proxy").rglob("*.py") if path.stem != "__init__")
    assert named == modules


def test_nothing_else_stands_at_the_top() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")

    top = {name.split("/")[0] for name in listed.stdout.split()}

    assert {name for name in top if not name.startswith(".")} == TOP
