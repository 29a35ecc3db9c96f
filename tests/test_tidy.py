"""The shape of the code: each module has a room, rooms import lower floors only, nothing is imported in a circle, nothing is long."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "proxy"
UNIT_TESTS = ROOT / "tests" / "unit"

LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"core"}),
    frozenset({"clock", "config", "ids", "systemd", "tasks"}),
    frozenset({"store", "upstream"}),
    frozenset({"live"}),
    frozenset({"telemetry"}),
    frozenset({"billing", "edge"}),
    frozenset({"exchange", "jobs", "operations", "reference"}),
    frozenset({"videos"}),
    frozenset({"handlers"}),
    frozenset({"gateway"}),
    frozenset({"demo", "doctor", "top"}),
    frozenset({"cli"}),
    frozenset({"__main__", "build"}),
)
"""From the bottom up: every room, by the first name below `proxy`. A room imports lower floors only, so none of its own floor."""

AT_THE_ROOT = {"__init__", "__main__", "clock", "ids", "systemd", "tasks"}
"""Modules that are a room of their own."""
MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60

POSSESSIVE_GROUP = re.compile(r"\)(?:[*+?]|\{[0-9,]+\})\+")
STARTS_A_TASK = re.compile(r"\b(?:asyncio|loop|get_running_loop\(\))\.(?:create_task|ensure_future)\(")
STAND_IN_MAY_USE = {"proxy.clock", "proxy.tasks", "proxy.core.timestamps"}


def layer(module: str) -> int:
    """Return the floor that a module's room is on."""
    return next(level for level, rooms in enumerate(LAYERS) if room(module) in rooms)


def room(module: str) -> str:
    """Return the first name below ``proxy``; of ``proxy`` itself, which holds only the version, its own."""
    return module.split(".")[1] if "." in module else module


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        names = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(names[:-1] if names[-1] == "__init__" else names)] = path
    return found


MODULES = modules()


def imports(module: str) -> set[str]:
    """Return the modules of ours that a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "proxy":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return found - {module}


def test_every_file_stands_in_a_room() -> None:
    rooms = {name for names in LAYERS for name in names}

    assert {module.split(".")[1] for module in MODULES if "." in module} == rooms


def test_unit_tests_stand_in_the_rooms_that_they_test() -> None:
    folders = [path for path in UNIT_TESTS.rglob("*") if path.is_dir() and path.name != "__pycache__"]

    assert {folder for folder in folders if not (PACKAGE / folder.relative_to(UNIT_TESTS)).is_dir()} == set()


def test_no_other_file_stands_at_the_root() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == AT_THE_ROOT


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_lower_floors_only(module: str) -> None:
    others = {other for other in imports(module) if room(other) not in (room(module), "proxy")}

    wrong = {other for other in others if layer(other) >= layer(module)}

    assert not wrong, f"{module} is on floor {layer(module)} and imports {wrong}"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("proxy.handlers.")])
def test_handlers_do_not_import_one_another(module: str) -> None:
    siblings = {other for other in imports(module) if other.startswith("proxy.handlers.")}

    assert not siblings


def test_only_the_store_names_its_engine() -> None:
    """Everything else asks `proxy.store`, with a URL: then a second engine is the store's own affair."""
    for engine in ("proxy.store.sqlite", "proxy.store.postgres"):
        namers = {module for module in MODULES if any(other.startswith(engine) for other in imports(module))}

        assert {module for module in namers if not module.startswith(engine)} == {"proxy.store"}


def test_nothing_is_imported_in_a_circle() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"circle: {' → '.join((*path[path.index(module) :], module))}"
        if module in done:
            return
        for other in imports(module):
            visit(other, (*path, module))
        done.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("module", MODULES)
def test_no_module_and_no_function_is_long(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]

    long = {node.name for node in functions if (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES_MAX}

    assert len(text.splitlines()) <= MODULE_LINES_MAX
    assert not long, f"over {FUNCTION_LINES_MAX} lines: {long}"


def test_the_stand_in_knows_nothing_of_the_gateway() -> None:
    ours = {other for module in MODULES if module.startswith("proxy.demo.ark") for other in imports(module)}

    assert {other for other in ours if not other.startswith("proxy.demo.ark")} <= STAND_IN_MAY_USE


def test_only_one_module_starts_tasks() -> None:
    starters = {module for module, path in MODULES.items() if STARTS_A_TASK.search(path.read_text(encoding="utf-8"))}

    assert starters == {"proxy.tasks"}


def test_no_regular_expression_has_a_possessive_group() -> None:
    """Python 3.11.0 to 3.11.4, Debian's among them, match nothing with one (gh-106052)."""
    found = {module for module, path in MODULES.items() if POSSESSIVE_GROUP.search(path.read_text(encoding="utf-8"))}

    assert not found
