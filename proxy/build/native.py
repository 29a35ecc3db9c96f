"""The shared libraries that native modules need, including glibc and its loader. No library of the target system is used."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from proxy.build.parts import Part

LOADER = "llm-proxy"
"""The name given to glibc's loader. The kernel executes the loader, so `ps` and `top` show this name."""

_ELF = b"\x7fELF"
_FOUND_BY_GLIBC_ITSELF = ("libgcc_s.so.1", "libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2")
"""Libraries that glibc opens by name at run time: to end a thread, and (before 2.34) to resolve names."""


class BuildError(Exception):
    """The file cannot be built; the message says what is missing."""


def with_libraries(parts: Mapping[str, Part]) -> dict[str, Part]:
    """Return the parts and, below ``lib/``, every library that they need, all without debug symbols."""
    whole = dict(parts)
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        needed = {library for library in _needed(_write(parts, place)) if not library.is_relative_to(place)}
    for path in sorted(needed):
        name, part = f"lib/{path.name}", Part(path.read_bytes())
        if path.name.startswith("ld-"):
            name, part = LOADER, replace(part, executable=True)
        whole[name] = part
    if LOADER not in whole:
        raise BuildError("this interpreter is linked statically, or ldd does not say by which loader it is started")
    return {name: _stripped(part) if part.content.startswith(_ELF) else part for name, part in sorted(whole.items())}


def run(*command: str) -> str:
    """Run a build tool and return its output. Raises: BuildError: it is not installed, or fails."""
    program = shutil.which(command[0])
    if program is None:
        raise BuildError(f"{command[0]} is not installed (Debian: apt install gcc libc6-dev zlib1g-dev)")
    ended = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise BuildError(f"{' '.join(command)}: {ended.stderr.strip()}")
    return ended.stdout


def _write(parts: Mapping[str, Part], directory: Path) -> list[Path]:
    """Write the native parts to files at their names and return the paths. Some packages find their own libraries by relative path."""
    written = [directory / name for name, part in parts.items() if part.content.startswith(_ELF)]
    for path in written:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(parts[path.relative_to(directory).as_posix()].content)
        path.chmod(0o755)
    return written


def _needed(paths: Iterable[Path]) -> set[Path]:
    with ThreadPoolExecutor() as threads:
        found = {library for several in threads.map(_libraries_of, paths) for library in several}
    beside = next((library.parent for library in found if library.name.startswith("libc.so")), Path("/lib"))
    return found | {beside / name for name in _FOUND_BY_GLIBC_ITSELF if (beside / name).is_file()}


def _libraries_of(path: Path) -> set[Path]:
    """Return the libraries that ``ldd`` lists as ``NAME => PATH (address)``, and the loader, ``PATH (address)``."""
    said = run("ldd", str(path))
    found = set()
    for line in said.splitlines():
        name, arrow, target = line.strip().partition(" => ")
        if target.startswith("not found"):
            raise BuildError(f"{path.name} needs {name}, which is not here")
        place = (target if arrow else name).rpartition(" (")[0]
        if place.startswith("/"):
            found.add(Path(place))
    return found


def _stripped(part: Part) -> Part:
    with tempfile.NamedTemporaryFile() as file:
        path = Path(file.name)
        path.write_bytes(part.content)
        run("strip", "--strip-unneeded", "-p", str(path))
        return replace(part, content=path.read_bytes())
