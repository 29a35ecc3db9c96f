"""The single file, built once, and roots to run it in that hold nothing else."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import pytest

ROOT = Path(__file__).parents[2]
NOBODY = 65_534


@dataclass(frozen=True, slots=True)
class Ended:
    code: int | None
    stdout: str
    stderr: str
    seconds: float


@dataclass
class EmptyRoot:
    """A directory that is the whole file system to what is started in it: at first only the executable is there."""

    path: Path
    command: tuple[str, ...]
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def unpacked(self) -> list[Path]:
        """What is unpacked where root does, or is being so."""
        return sorted(path for path in (self.path / "usr/local/lib/llm-proxy").glob("unpacked-*") if path.is_dir())

    async def start(
        self,
        *words: str,
        env: Mapping[str, str] | None = None,
        user: int | None = None,
        shell: str = "",
        third: int | None = None,
    ) -> asyncio.subprocess.Process:
        """Start the executable there.

        Args:
            env: all of its environment.
            shell: what a shell outside runs before it becomes the executable.
            third: a descriptor that is passed on as number 3.
        """
        uid = [] if user is None else [f"--userspec={user}:{user}"]
        command = [*self.command, *uid, str(self.path), "/llm-proxy", *words]
        if shell:
            command = ["sh", "-c", f'{shell}; exec "$@"', "sh", *command]
        process = await asyncio.create_subprocess_exec(
            *command,
            env={"PATH": os.environ["PATH"], **(env or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=() if third is None else (3,),
            preexec_fn=None if third is None else lambda: os.dup2(third, 3),
        )
        self.stack.push_async_callback(_end, process)
        return process

    async def run(self, *words: str, env: Mapping[str, str] | None = None, user: int | None = None) -> Ended:
        begun = perf_counter()
        process = await self.start(*words, env=env, user=user)
        stdout, stderr = await process.communicate()
        return Ended(process.returncode, stdout.decode(), stderr.decode(), perf_counter() - begun)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


@pytest.fixture(scope="session")
def single_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler to build the single file with")
    output = tmp_path_factory.mktemp("dist") / "llm-proxy"
    built = subprocess.run([sys.executable, "-m", "proxy.build", "--output", output], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    print(f"\n{built.stdout}", end="")
    return output


@pytest.fixture(scope="session")
def change_root() -> tuple[str, ...]:
    """Return the command that takes a directory for the root; where this user may not, a user namespace allows it."""
    for command in (("chroot",), ("unshare", "--map-root-user", "chroot")):
        if shutil.which(command[0]) and subprocess.run([*command, "/", "/bin/true"], capture_output=True).returncode == 0:
            return command
    pytest.skip("this user may not change the root directory, nor make a user namespace")


@pytest.fixture
async def new_root(single_file: Path, change_root: tuple[str, ...], tmp_path: Path) -> AsyncIterator[Callable[[str], EmptyRoot]]:
    """Return a maker of roots; what still runs in them at the end is killed."""
    async with AsyncExitStack() as stack:

        def make(name: str) -> EmptyRoot:
            root = EmptyRoot(tmp_path / name, change_root, stack)
            root.path.mkdir()
            shutil.copy(single_file, root.path)
            return root

        yield make


@pytest.fixture
def root(new_root: Callable[[str], EmptyRoot]) -> EmptyRoot:
    return new_root("root")
