"""A throwaway PostgreSQL server as a process that ends with whoever started it: `python -m proxy.demo.postgres_server BIN`.

It makes a cluster in a directory of its own, starts the server on a unix socket there, and prints the directory. Its standard input is
a pipe from its owner: at the pipe's end, however the owner came to it, the server is stopped and the directory removed, with whatever
its owner put there. SIGTERM and SIGHUP do the same. PostgreSQL refuses to run as root: then it runs as the user nobody, which every
system has, and no user is made.
"""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from proxy.demo.bound import end_with_parent

NOBODY = 65_534
_QUICK = ("fsync=off", "full_page_writes=off", "max_wal_size=4GB")
"""For whoever cuts no power: a commit costs no wait for the disk."""
_SETTINGS = ("listen_addresses=", "max_connections=200", "shared_buffers=64MB", "log_checkpoints=off", "timezone=UTC")
STOP_SECONDS = 20
_ENDING = (signal.SIGTERM, signal.SIGHUP)


def main() -> None:
    binaries, *options = sys.argv[1:]
    user = NOBODY if os.geteuid() == 0 else None
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # until there is a directory that an end would remove
    for number in _ENDING:
        signal.signal(number, _end)
    folder = Path(tempfile.mkdtemp(prefix="llm-proxy-pg-"))
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        if user is not None:
            os.chown(folder, user, pwd.getpwuid(user).pw_gid)
        server = start(_reachable(Path(binaries), folder, user), folder, user, durable="--durable" in options)
        try:
            print(folder, server.pid, flush=True)
            sys.stdin.buffer.read()  # until the owner closes it, or is no more
        finally:
            _end_no_more()
            server.send_signal(signal.SIGQUIT)  # nothing of it is kept: no checkpoint
            server.wait(STOP_SECONDS)
    finally:
        _end_no_more()
        shutil.rmtree(folder, ignore_errors=True)


def _end(number: int, _: object) -> None:
    """Leave by way of what is to be done at the end."""
    raise SystemExit(128 + number)


def _end_no_more() -> None:
    """Let the end take its course: a second signal would leave the directory behind."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)


def start(binaries: Path, folder: Path, user: int | None, *, durable: bool) -> "subprocess.Popen[bytes]":
    """Return the server's process, which takes connections."""
    data = folder / "data"
    _initdb([binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"], folder, user)
    settings = [*_SETTINGS, f"unix_socket_directories={folder}", *(() if durable else _QUICK)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(  # noqa: S603
            [binaries / "postgres", "-D", data, *(word for setting in settings for word in ("-c", setting))],
            env=_environment(folder),
            user=user,
            stdout=log,
            stderr=log,
            cwd=folder,
            preexec_fn=partial(end_with_parent, signal.SIGQUIT),  # noqa: PLW1509  there is one thread
        )
    _wait_until_ready(data, server, folder / "log")
    return server


def _initdb(words: list[str | Path], folder: Path, user: int | None) -> None:
    """Make the cluster. Where this process is told to end meanwhile, what initdb has started ends too: it would go on writing."""
    made = subprocess.Popen(  # noqa: S603  the words are ours
        words, env=_environment(folder), user=user, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=folder, process_group=0
    )
    try:
        _, said = made.communicate()
    except SystemExit:
        os.killpg(made.pid, signal.SIGKILL)
        made.wait()
        raise
    if made.returncode:
        raise SystemExit(f"initdb failed: {said.decode(errors='replace')}")


def _environment(folder: Path) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(folder)}


def _wait_until_ready(data: Path, server: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until the server says in its pid file that it is ready, as pg_ctl does."""
    pid_file = data / "postmaster.pid"
    while True:
        try:
            server.wait(0.02)
        except subprocess.TimeoutExpired:
            lines = pid_file.read_text().splitlines() if pid_file.exists() else []
            if len(lines) >= 8 and lines[7].strip() == "ready":
                return
        else:
            raise SystemExit(f"the server did not start: {log.read_text(errors='replace')}")


def _reachable(binaries: Path, folder: Path, user: int | None) -> Path:
    """Return the binaries' folder, or a copy where one above it is closed to the server's user, as ``/root`` is."""
    binaries = binaries.resolve()
    if user is None or all(parent.stat().st_mode & 0o001 for parent in (binaries, *binaries.parents)):
        return binaries
    copy = folder / "install"
    shutil.copytree(binaries.parent, copy, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a"))
    return copy / binaries.name


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for its owner, whose end is seen
    main()
