"""The Python parts of the single file: the interpreter, the standard library, the gateway and its dependencies.

Modules are packed compiled, without sources, which halves the unpacked size; a traceback still names file and line. File names are
relative and no time is recorded, so the same sources make the same file.
"""

import marshal
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import MAGIC_NUMBER
from pathlib import Path

import proxy

GATEWAY = "llm-proxy"
LIBRARY = f"lib/python{sys.version_info.major}.{sys.version_info.minor}"
"""Path of the standard library, relative to the directory above the interpreter's."""

_STDLIB_WITHOUT = frozenset({
    "__pycache__", "dist-packages", "distutils", "ensurepip", "idlelib", "lib-dynload", "lib2to3", "pydoc_data", "site-packages",
    "test", "tests", "tkinter", "turtle", "turtledemo", "venv",
})  # fmt: skip
_NATIVE_WITHOUT = ("_ctypes_test", "_curses", "_dbm", "_gdbm", "_test", "_tkinter", "_xx", "nis", "ossaudiodev", "readline", "xx")
"""Prefixes of modules that the gateway does not use: they need more libraries, or test Python itself."""
_NO_USE_AT_RUN_TIME = {".c", ".h", ".pxd", ".pxi", ".pyc", ".pyi", ".pyx", ".typed"}
_NO_PART = {
    *(f"proxy/build/{name}" for name in ("__main__.py", "assemble.py", "bill.py", "launcher.c", "native.py", "parts.py")),
}

_NEVER_COMPARED = (1).to_bytes(4, "little") + bytes(8)
"""Header of an unchecked hash-based .pyc (PEP 552): Python does not compare the source's hash."""


@dataclass(frozen=True, slots=True)
class Part:
    """One packed file: its content, and whether it is executable."""

    content: bytes
    executable: bool = False


def python_parts() -> dict[str, Part]:
    """Return all Python parts by their packed names, including native modules but not their libraries."""
    found = {"bin/python": Part(Path(sys.executable).resolve().read_bytes(), executable=True)}
    packages = (file for distribution in packed_distributions() for file in packed_files(distribution))
    for path, name in (*_standard_library(), *packages, *_gateway()):
        if path.suffix == ".py":
            found[f"{LIBRARY}/{name}c"] = Part(_compiled(path, name))
        elif path.suffix not in _NO_USE_AT_RUN_TIME and name not in _NO_PART:
            found[f"{LIBRARY}/{name}"] = Part(path.read_bytes())
    return found


def _standard_library() -> Iterator[tuple[Path, str]]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in _files(root, _STDLIB_WITHOUT):
        name = path.relative_to(root).as_posix()
        if path.suffix == ".py" and not name.startswith("config-"):
            yield path, name
    for path in Path(sysconfig.get_config_var("DESTSHARED")).glob("*.so"):
        if not path.name.startswith(_NATIVE_WITHOUT):
            yield path, f"lib-dynload/{path.name}"


def _gateway() -> Iterator[tuple[Path, str]]:
    root = Path(proxy.__file__).parent
    for path in _files(root, frozenset({"__pycache__"})):
        name = f"proxy/{path.relative_to(root).as_posix()}"
        if name not in _NO_PART and path.suffix != ".md":
            yield path, name


def packed_files(name: str) -> Iterator[tuple[Path, str]]:
    """Yield the files to pack of a distribution, and their packed names; none of the gateway's, which is packed from its sources."""
    for file in metadata.distribution(name).files or ():
        if ".." not in file.parts and "__pycache__" not in file.parts and "tests" not in file.parts and file.parts[0] != "proxy":
            path = Path(str(file.locate()))
            if path.suffix != ".pth" and not path.name.startswith("_virtualenv") and path.is_file():
                yield path, file.as_posix()


def packed_distributions() -> list[str]:
    """Return the names of the gateway, of `certifi` and of their dependencies, sorted."""
    found: set[str] = set()
    waiting = [GATEWAY, "certifi"]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _required(name)
    return sorted(found)


def _required(name: str) -> Iterator[str]:
    """Yield the requirements of a distribution, without extras. Skip those for other platforms, which are not installed."""
    for line in metadata.requires(name) or ():
        wanted, _, condition = line.partition(";")
        match = re.match(r"[A-Za-z0-9._-]+", wanted.strip())
        if match is None or "extra ==" in condition:
            continue
        try:
            yield str(metadata.distribution(match[0]).metadata["Name"])
        except metadata.PackageNotFoundError:
            if not condition:
                raise


def _files(root: Path, without: frozenset[str]) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        if path.stem in without or path.name in without:
            continue
        if path.is_dir():
            yield from _files(path, without)
        else:
            yield path


def _compiled(path: Path, name: str) -> bytes:
    code = compile(path.read_bytes(), name, "exec", dont_inherit=True, optimize=0)
    return MAGIC_NUMBER + _NEVER_COMPARED + marshal.dumps(code)
