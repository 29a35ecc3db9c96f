"""Checks of files: permissions, the state of the store, and its disk."""

import os
import stat
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from proxy.config import Config, environment
from proxy.config.reading import base_of, parse
from proxy.doctor.finding import Finding, failed, ok, warning
from proxy.store import unfinished_restore

FREE_BYTES_MIN = 64 * 2**20
FREE_BYTES_COMFORT = 2**30
LOG_BYTES_COMFORT = 64 * 2**20
"""The writer checkpoints about every 4 MiB."""
SYNCS = 20
SYNC_SECONDS_COMFORT = 0.010
_NO_PLACE = {
    **dict.fromkeys(("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p"), "is a network file system, where SQLite's log does not work"),
    **dict.fromkeys(("tmpfs", "ramfs"), "is in memory: the books are gone with the next boot"),
}
_CONTAINER = "overlay"


def secrets(config: Config, env: Mapping[str, str]) -> Iterator[Finding]:
    """Check the permissions of the configuration file and of the secret files that it names."""
    mode = 0 if config.path is None else _mode(config.path)
    if mode & stat.S_IWOTH:
        yield failed("configuration file", f"anybody may write {config.path} ({mode:04o})", f"chmod o-w {config.path}")
    for check, path in _secret_files(config, env).items():
        if others := _mode(path) & (stat.S_IRWXG | stat.S_IRWXO):
            who = "anybody" if others & stat.S_IRWXO else "its group"
            yield warning(check, f"{who} may read {path} ({_mode(path):04o})", f"chmod 600 {path}")
        else:
            yield ok(check, f"{path} is its owner's alone")


def _secret_files(config: Config, env: Mapping[str, str]) -> dict[str, Path]:
    """Return the existing secret files by what they hold. A key in the environment has no file."""
    document: dict[str, Any] = {} if config.path is None else parse(config.path)
    environment.overlay(document, env, is_all=config.path is None)
    base, found = base_of(config.path), {}
    named = {"password of the store": str(document.get("store", {}).get("password", ""))}
    for name, table in document["upstreams"].items():
        keys = {f"key of {name}": table["api_key"]} if "api_key" in table else {}
        keys |= {f"key {key} of {name}": reference for key, reference in table.get("api_keys", {}).items()}
        named |= {check: str(reference) for check, reference in keys.items()}
        named[f"proxy_auth of {name}"] = str(table.get("proxy_auth", ""))
    for check, reference in named.items():
        source, _, place = reference.partition(":")
        folder = base if source == "file" else Path(env.get("CREDENTIALS_DIRECTORY", "/nonexistent"))
        if source in ("file", "credential") and (folder / place).is_file():
            found[check] = folder / place
    return found


def store_file(url: str, path: Path) -> Iterator[Finding]:
    """Check the store's file, the files beside it (``-wal``, ``-shm``, ``.lock``) and its folder."""
    folder = path.parent
    if not folder.is_dir():
        yield failed("store file", f"there is no folder {folder}", f"mkdir -m 700 {folder}")
        return
    if not os.access(folder, os.W_OK):
        yield failed(
            "store file", f"this user may not write in {folder}", "run this as the gateway's user, or give it the folder (chown)"
        )
    if not path.exists():
        yield ok("store file", f"{path} is not there yet; the first start makes it")
        return
    yield _privacy(path)
    yield from _owners(path)
    if (left := unfinished_restore(url)) is not None:
        yield warning("store file", f"a restore was cut short ({left.name})", "start the gateway, which finishes it")
    log = path.with_name(path.name + "-wal")
    size = log.stat().st_size if log.exists() else 0
    if size > LOG_BYTES_COMFORT:
        advice = "something reads the store without end (a shell, a copy tool), or checkpoints fail: look in the gateway's log"
        yield warning("write-ahead log", f"{_size(size)}", advice)
    else:
        yield ok("write-ahead log", _size(size))


def _privacy(path: Path) -> Finding:
    others = _mode(path) & (stat.S_IRWXG | stat.S_IRWXO)
    if others & (stat.S_IWGRP | stat.S_IWOTH):
        return failed("store file", f"others may write {path} ({_mode(path):04o})", f"chmod 600 {path}")
    if others:
        return warning("store file", f"others may read {path} ({_mode(path):04o}): prompts of videos, receipts", f"chmod 600 {path}")
    return ok("store file", f"{path} is its owner's alone, {_size(path.stat().st_size)}")


def _owners(path: Path) -> Iterator[Finding]:
    """Find files that a command left when run as another user: the gateway could not open them."""
    owner = path.stat().st_uid
    for suffix in ("-wal", "-shm", ".lock"):
        file = path.with_name(path.name + suffix)
        if file.exists() and file.stat().st_uid != owner:
            yield failed("store file", f"{file.name} belongs to another user than {path.name}", f"chown --reference={path} {file}")


def disk(folder: Path) -> Iterator[Finding]:
    """Check the store's disk: free space, kind of file system, and how long a durable write takes."""
    if not folder.is_dir():
        return
    room = os.statvfs(folder)
    free = room.f_bavail * room.f_frsize
    if free < FREE_BYTES_MIN:
        yield failed("disk space", f"{_size(free)} free in {folder}", "make room: without it paid calls are refused with 503")
    elif free < FREE_BYTES_COMFORT:
        yield warning("disk space", f"{_size(free)} free in {folder}", "make room before there is none: paid calls would be refused")
    else:
        yield ok("disk space", f"{_size(free)} free")
    kind = _kind_of(folder)
    if kind in _NO_PLACE:
        yield failed("disk kind", f"{folder} ({kind}) {_NO_PLACE[kind]}", "put the store on a local disk (store.url)")
    elif kind == _CONTAINER:
        yield warning("disk kind", f"{folder} is in a container's own layer, and goes with it", "mount a volume for the store")
    if os.access(folder, os.W_OK):
        yield _durability(folder)


def _durability(folder: Path) -> Finding:
    try:
        seconds = sorted(_sync_seconds(folder))
    except OSError as error:
        return failed(
            "disk latency", f"a write to {folder} fails: {error.strerror}", "look at the disk (dmesg) before the gateway writes to it"
        )
    middle, worst = statistics.median(seconds), seconds[-1]
    says = f"fsync takes {middle * 1000:.1f} ms, at worst {worst * 1000:.1f} ms"
    if middle > SYNC_SECONDS_COMFORT:
        return warning("disk latency", says, "each paid call waits for one (shared with its neighbours): use a faster disk")
    return ok("disk latency", says)


def _sync_seconds(folder: Path) -> Iterator[float]:
    """Yield the seconds of each fdatasync after writing a page to an unnamed file, as the write-ahead log is written."""
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(SYNCS):
            file.write(b"\0" * 4096)
            file.flush()
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            yield time.perf_counter() - began


def _kind_of(folder: Path) -> str:
    """Return the file system type of the mount that a folder is on; empty if the system does not say."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    real, best, kind = folder.resolve(), -1, ""
    for line in mounts:
        _, place, found, *_ = line.split(" ")
        place = place.replace("\\040", " ")
        if real.is_relative_to(place) and len(place) >= best:  # of two mounts on one path, the later covers the earlier
            best, kind = len(place), found
    return kind


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _size(size: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size //= 1024
    return f"{size} GiB"
