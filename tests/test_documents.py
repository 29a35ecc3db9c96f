"""The documents say what the code does: routes, error codes, commands, the map, and the two commands that a newcomer needs."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from proxy.cli import app
from proxy.config import load
from proxy.core import errors
from tests.test_tidy import LAYERS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAP = (ROOT / "proxy/README.md").read_text(encoding="utf-8")
DECISIONS = (ROOT / "proxy/DECISIONS.md").read_text(encoding="utf-8")
API = (ROOT / "proxy/docs/api.md").read_text(encoding="utf-8")
COMMANDS = (ROOT / "proxy/docs/commands.md").read_text(encoding="utf-8")
CONFIGURATION = (ROOT / "proxy/docs/configuration.md").read_text(encoding="utf-8")
README_LINES_MAX = 160
UNTRACKED = {".venv", ".git", ".pytest_cache", ".hypothesis", "build", "dist", "node_modules"}
TOP = {"pyproject.toml", "proxy", "tests", "config.example.toml", "systemd", "README.md", "CHANGELOG.md", "LICENSE"}
PACKAGE = ROOT / "proxy"
PAGES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.md") if not UNTRACKED & {*path.parts})
ROUTES = (ROOT / "proxy/gateway/routes.py").read_text(encoding="utf-8")


def all_errors(root: type[errors.GatewayError]) -> set[type[errors.GatewayError]]:
    return {root}.union(*(all_errors(child) for child in root.__subclasses__()))


def test_the_table_of_errors_is_that_of_the_code() -> None:
    in_code = {(kind.status, kind.code) for kind in all_errors(errors.GatewayError) if not kind.__name__.startswith("_")}

    told = {(int(status), code) for status, code in re.findall(r"^\| (\d{3}) \| `([A-Z_]+)` \|", API, re.MULTILINE)}

    assert told == in_code


def test_the_table_of_routes_is_that_of_the_code() -> None:
    in_code = set(re.findall(r'Route\("([A-Z]+)", "([^"]+)"', ROUTES)) - {("GET", "/metrics"), ("POST", "/operations/{id}")}

    told = set(re.findall(r"`(GET|POST|DELETE) (/[^` ]*)`", API))

    assert told == in_code


def test_every_command_is_in_the_table_of_commands() -> None:
    group = typer.main.get_command(app)
    names = []
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        children = getattr(command, "commands", None)
        names += [f"{name} {child}" for child in children] if children else [name]

    missing = [name for name in names if f"llm-proxy {name}" not in COMMANDS and f"`{name}" not in COMMANDS]

    assert not missing


def test_the_two_commands_of_a_newcomer_are_what_ci_runs() -> None:
    commands = re.findall(r"^python3 -m venv \.venv .*$", README, re.MULTILINE)

    assert [command.split("&& ")[-1] for command in commands] == [".venv/bin/llm-proxy demo", ".venv/bin/pytest -n auto"]
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


def test_the_file_for_a_container_is_a_whole_configuration(tmp_path: Path) -> None:
    lines = CONFIGURATION.partition("```sh\n")[2].partition("```")[0].replace("…", "canary").replace("/data/", "").splitlines()

    config = load(None, dict(line.split("=", 1) for line in lines), base=tmp_path)

    assert list(config.catalog) == ["doubao-seed-2-0-lite-260428"]
    assert list(config.upstreams) == ["ark"]


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= README_LINES_MAX


def test_the_map_names_every_file_once_and_none_that_is_not_there() -> None:
    """An ``__init__.py`` that says what its room is and nothing else is the room's heading."""
    rooms = re.findall(r"^### (\S+/)\n(.*?)(?=^##)", MAP, re.DOTALL | re.MULTILINE)
    files = re.compile(r"^- `([^`]+[^`/])`: ", re.MULTILINE)
    named = [room.removeprefix("proxy/") + name for room, text in rooms for name in files.findall(text)]

    there = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if path.stem != "__init__" or holds_code(path)}

    missing, lost = sorted(there - {*named}), sorted(name for name in named if not (PACKAGE / name).is_file())
    assert not missing, f"proxy/README.md does not name {', '.join(missing)}"
    assert not lost, f"proxy/README.md names {', '.join(lost)}, which are not there"
    assert len(named) == len(set(named))


def test_the_map_lists_the_layers_that_the_tidy_test_holds() -> None:
    drawn = re.findall(r"^\| (\d+) \| (.*) \|$", MAP, re.MULTILINE)

    listed = {int(level): frozenset(re.findall(r"`(\w+)`", rooms)) for level, rooms in drawn}

    assert listed == dict(enumerate(LAYERS))


@pytest.mark.parametrize("document", ["proxy/README.md", "proxy/DECISIONS.md"])
def test_every_path_in_a_document_of_the_code_leads_to_a_file(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")

    paths = set(re.findall(r"`([a-z_0-9]+/[a-z_0-9/]+\.(?:py|sql|c))`", text))

    lost = sorted(path for path in paths if not (PACKAGE / path).is_file() and not (ROOT / path).is_file())
    assert len(paths) > 20
    assert not lost, f"{document} names {', '.join(lost)}, which are not there"


def test_decisions_are_numbered_without_a_gap() -> None:
    numbers = sorted(int(number) for number in re.findall(r"^\*\*D(\d+)\. ", DECISIONS, re.MULTILINE))

    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_somewhere(page: Path) -> None:
    lost = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        there = (ROOT / page).parent / path if path else ROOT / page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            lost.append(target)

    assert not lost


def holds_code(path: Path) -> bool:
    """Tell whether a module holds more than its docstring."""
    return len(ast.parse(path.read_text(encoding="utf-8")).body) > 1


def links(page: Path) -> list[str]:
    """Return where a page's links lead within the repository; examples are no links."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_nothing_else_stands_at_the_top() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")

    top = {name.split("/")[0] for name in listed.stdout.split()}

    assert {name for name in top if not name.startswith(".")} == TOP
