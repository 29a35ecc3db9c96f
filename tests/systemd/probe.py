"""Tries actions that a sandbox should deny, and prints a line for each: ``allowed NAME`` or ``denied NAME: why``. Needs no library.

It runs as a unit's ExecStart within its sandbox; and as root without one, to show that the sandbox is what denies.
"""

import ctypes
import mmap
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER, MS_BIND, PTRACE_SEIZE, PER_LINUX32 = 0x1000_0000, 4096, 0x4206, 8


def _call(name: str, *arguments: object) -> None:
    if LIBC[name](*arguments) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _write(path: str) -> None:
    file = Path(path)
    file.write_bytes(b"probe")
    file.unlink()


def _append(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY))


def _entries(path: str) -> None:
    if not list(Path(path).iterdir()):
        raise PermissionError("it looks empty")


def _see_others() -> None:
    own = {str(os.getpid()), str(os.getppid())}
    if not any(entry.name.isdigit() and entry.name not in own for entry in Path("/proc").iterdir()):
        raise PermissionError("nobody else is to be seen")


def _run_own_file(directory: str) -> None:
    program = Path(directory) / "probe.sh"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    try:
        subprocess.run([str(program)], check=True)
    finally:
        program.unlink()


def _make_cgroup() -> None:
    group = Path("/sys/fs/cgroup/probe")
    group.mkdir()
    group.rmdir()


def _become_root() -> None:
    if os.geteuid() != 0:
        os.setuid(0)


def _write_and_run_memory() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def _real_time() -> None:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def _open_socket(family: int, kind: int) -> None:
    socket.socket(family, kind).close()


def _connect_out() -> None:
    with socket.create_connection(("127.0.0.1", 8080), 2):
        pass


def attempts(state: str, port_is_denied: bool) -> dict[str, Callable[[], object]]:
    """Return the attempts, by name."""
    tried: dict[str, Callable[[], object]] = {
        "write to /etc": lambda: _write("/etc/probe"),
        "write to /usr": lambda: _write("/usr/probe"),
        "write to /opt": lambda: _write("/opt/probe"),
        "write to /var": lambda: _write("/var/lib/probe"),
        "write to the cgroup tree": _make_cgroup,
        "write a kernel setting": lambda: _append("/proc/sys/net/ipv4/ip_forward"),
        "look into /root": lambda: _entries("/root"),
        "look into /home": lambda: _entries("/home"),
        "see another's /tmp": lambda: _entries("/tmp/of-another"),
        "read the key's file": lambda: Path("/etc/llm-proxy/ark-api-key").read_bytes(),
        "read /etc/shadow": lambda: Path("/etc/shadow").read_bytes(),
        "see other processes": _see_others,
        "signal another process": lambda: os.kill(1, 0),
        "trace another process": lambda: _call("ptrace", PTRACE_SEIZE, 1, 0, 0),
        "mount": lambda: _call("mount", b"/tmp", b"/mnt", None, MS_BIND, None),
        "make a user namespace": lambda: _call("unshare", CLONE_NEWUSER),
        "become root": _become_root,
        "change the host name": lambda: socket.sethostname(socket.gethostname()),
        "set the clock": lambda: time.clock_settime_ns(time.CLOCK_REALTIME, time.clock_gettime_ns(time.CLOCK_REALTIME)),
        "read the kernel's log": lambda: _call("klogctl", 3, ctypes.create_string_buffer(64), 64),
        "take real-time priority": _real_time,
        "raise its priority": lambda: os.setpriority(os.PRIO_PROCESS, 0, -5),
        "change its personality": lambda: _call("personality", PER_LINUX32),
        "make a device": lambda: _make_device(state),
        "make a set-uid file": lambda: _set_uid(state),
        "run a file it wrote": lambda: _run_own_file(state),
        "make memory that is written and run": _write_and_run_memory,
        "send raw packets": lambda: _open_socket(socket.AF_PACKET, socket.SOCK_RAW),
        "use another socket family": lambda: _open_socket(socket.AF_VSOCK, socket.SOCK_STREAM),
    }
    if port_is_denied:
        tried["connect to the network"] = _connect_out
        tried["write the books"] = lambda: _append(f"{state}/llm-proxy.db")
    return tried


def _make_device(state: str) -> None:
    device = Path(state) / "probe-device"
    os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    device.unlink()


def _set_uid(state: str) -> None:
    file = Path(state) / "probe-suid"
    file.touch()
    try:
        file.chmod(0o4755)
    finally:
        file.unlink()


def main() -> None:
    state, kind = sys.argv[1], sys.argv[2]
    signal.signal(signal.SIGSYS, signal.SIG_IGN)
    for name, attempt in attempts(state, port_is_denied=kind == "job").items():
        pid = os.fork()  # so that no attempt's changes affect the next
        if pid:
            os.waitpid(pid, 0)
            continue
        try:
            attempt()
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            print(f"denied {name}: {error}", flush=True)
        else:
            print(f"allowed {name}", flush=True)
        os._exit(0)


if __name__ == "__main__":
    main()
