"""What a contributor meets: the guide names what is there, the hooks are CI's checks, and the pins hold no place to fetch from."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / ".github/CONTRIBUTING.md").read_text(encoding="utf-8")
PINS = (ROOT / ".ci/constraints.txt").read_text(encoding="utf-8")
CI = (ROOT / ".ci/run").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CHECKS = (".venv/bin/ruff check", ".venv/bin/ruff format --check", ".venv/bin/mypy")


@pytest.mark.parametrize("named", sorted(set(re.findall(r"`((?:\.ci|proxy|systemd|tests)/[^`*]+|[\w.-]+\.(?:md|toml|yaml))`", GUIDE))))
def test_the_guide_names_what_is_there(named: str) -> None:
    assert (ROOT / named).exists() or named == "proxy/store/sqlite/schema/0005_what_it_is.sql"


def test_the_guide_and_the_hooks_name_the_checks_of_ci() -> None:
    hooks = re.findall(r"entry: (.+)", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))

    assert hooks[:3] == list(CHECKS)
    assert hooks[3].startswith(".venv/bin/pytest ")
    assert all((ROOT / path).exists() for path in hooks[3].split() if path.startswith("tests/"))
    for check in CHECKS:
        assert check in CI
        assert check in GUIDE


def test_each_dependency_has_an_upper_bound_and_a_pin_that_it_lets_in() -> None:
    wanted = [
        line for group in ([PROJECT["dependencies"]], PROJECT["optional-dependencies"].values()) for lines in group for line in lines
    ]
    pinned = set(re.findall(r"^([a-z0-9-]+)==", PINS, re.MULTILINE))

    for line in wanted:
        name = re.match(r"[a-z0-9-]+", line)
        assert name is not None
        assert re.search(r"<|==", line.partition(";")[0]), f"{line} has no upper bound"
        assert name[0] in pinned or line in PROJECT["optional-dependencies"]["bench"]


def test_the_pins_have_hashes_and_name_no_index() -> None:
    without_hash = [block for block in re.split(r"\n(?=[a-z])", PINS) if "==" in block and "--hash=sha256:" not in block]

    assert not without_hash
    assert "://" not in PINS
    assert not re.search(r"index-url|find-links|trusted-host", PINS)
