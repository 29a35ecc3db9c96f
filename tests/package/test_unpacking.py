"""Where the single file unpacks itself: once, whole, where nobody else can change it, and leaving nothing behind."""

import asyncio
import fcntl
import os
import shutil

import pytest

from tests.package.conftest import NOBODY, EmptyRoot

pytestmark = [pytest.mark.package, pytest.mark.timeout(600)]

VERSION = "llm-proxy 0.1.0\n"


def names(root: EmptyRoot) -> list[str]:
    return [path.name for path in root.unpacked]


async def test_it_unpacks_once(root: EmptyRoot) -> None:
    first = await root.run("--version")
    made = [path.stat().st_ino for path in root.unpacked]
    second = await root.run("--version")

    assert (first.stdout, second.stdout, first.stderr, second.stderr) == (VERSION, VERSION, "", "")
    assert [path.stat().st_ino for path in root.unpacked] == made
    assert len(made) == 1


async def test_two_that_start_at_once_share_it(root: EmptyRoot) -> None:
    ended = await asyncio.gather(*(root.run("--version") for _ in range(4)))

    assert [each.stdout for each in ended] == [VERSION] * 4
    assert len(root.unpacked) == 1


async def test_what_a_kill_or_a_cleaner_left_is_mended(root: EmptyRoot) -> None:
    await root.run("--version")
    (whole,) = root.unpacked
    (whole / "bin/python").unlink()
    half = whole.with_name(f"{whole.name}.new")
    half.mkdir()
    (half / "llm-proxy").write_bytes(b"half")

    again = await root.run("--version")

    assert (again.code, again.stdout) == (0, VERSION)
    assert names(root) == [whole.name]


async def test_an_older_version_goes_once_nothing_runs_from_it(root: EmptyRoot) -> None:
    older = root.path / "usr/local/lib/llm-proxy/unpacked-0123456789abcdef"
    running = older.with_name("unpacked-fedcba9876543210")
    for path in (older, running):
        (path / "bin").mkdir(parents=True)
        (path / "bin/python").touch()
    (older.parent / "something else").touch()
    descriptor = os.open(running, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)

    await root.run("--version")
    os.close(descriptor)

    assert (older.exists(), running.exists()) == (False, True)
    assert (older.parent / "something else").exists()


async def test_other_users_run_what_root_unpacked(root: EmptyRoot) -> None:
    needs_root()
    await root.run("--version")

    ended = await root.run("--version", user=NOBODY, env={"HOME": "/nowhere"})

    assert ended.stdout == VERSION
    assert sorted(path.name for path in root.path.iterdir()) == ["llm-proxy", "usr"]


async def test_a_service_unpacks_into_its_state_directory(root: EmptyRoot) -> None:
    needs_root()
    state = root.path / "var/lib/llm-proxy"
    state.mkdir(parents=True, mode=0o700)
    os.chown(state, NOBODY, NOBODY)

    ended = await root.run("--version", user=NOBODY, env={"STATE_DIRECTORY": "/var/lib/llm-proxy", "HOME": "/"})

    assert ended.stdout == VERSION
    assert [path.stat().st_uid for path in state.glob("unpacked-*/llm-proxy")] == [NOBODY]


async def test_where_there_is_no_place_it_says_which_it_tried_and_what_to_do(root: EmptyRoot) -> None:
    needs_root()
    temporary = root.path / "tmp"
    temporary.mkdir()
    temporary.chmod(0o1777)
    taken = temporary / f"llm-proxy-{NOBODY}"  # somebody else was quicker
    taken.mkdir()
    taken.chmod(0o755)
    os.chown(taken, NOBODY - 1, NOBODY - 1)

    ended = await root.run("--version", user=NOBODY, env={"HOME": "/"})

    assert (ended.code, ended.stdout) == (1, "")
    assert ended.stderr.splitlines() == [
        "llm-proxy: there is no place to unpack this file to, which is done once:",
        "  /usr/local/lib/llm-proxy: Permission denied",
        "  /tmp/llm-proxy-65534: somebody else could change what is in it (owner, or mode)",
        "Run it once as root (`llm-proxy --version`), or set LLM_PROXY_UNPACK_DIR to a directory of yours.",
    ]


@pytest.mark.parametrize(("options", "reason"), [("noexec", "nothing may be executed there (noexec)"), ("ro", "Read-only file system")])
async def test_a_place_that_will_not_do_is_named_with_the_reason(root: EmptyRoot, options: str, reason: str) -> None:
    needs_root()
    (root.path / "place").mkdir()
    if shutil.which("unshare") is None:
        pytest.skip("no unshare to mount something in")
    mount = f"mount -t tmpfs -o {options} none {root.path}/place"
    inside = EmptyRoot(root.path, ("unshare", "--mount", "sh", "-c", f'{mount} && exec chroot "$@"', "sh"), root.stack)

    ended = await inside.run("--version", env={"LLM_PROXY_UNPACK_DIR": "/place"})

    assert ended.code == 1
    assert ended.stderr.splitlines()[1:-1] == [f"  /place: {reason}"]


async def test_the_operator_says_where(root: EmptyRoot) -> None:
    ended = await root.run("--version", env={"LLM_PROXY_UNPACK_DIR": "/opt/place"})

    assert ended.stdout == VERSION
    assert len(list((root.path / "opt/place").glob("unpacked-*"))) == 1
    assert not root.unpacked


def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user, or mount")
