"""Several processes of one `serve`: what they need, and what of the configuration each has for itself.

All answer on the same addresses. What only one process can have gets the worker's number, from 1 on: the admin socket at its end, and
the port of the metrics by counting up.
"""

import re
from dataclasses import replace
from pathlib import Path

from proxy.config.config import AdminConfig, Config, StoreConfig
from proxy.config.values import SOCKET_PATH_BYTES_MAX, TcpAddress, UnixAddress

_PORT_MAX = 65_535
_NUMBERED = re.compile(r"\.([1-9][0-9]?)$")


def fault_of(count: int, store: StoreConfig, admin: AdminConfig) -> str | None:
    """Return why so many workers cannot be, in words for the operator; None: they can."""
    if count == 1:
        return None
    if store.path is not None:
        return f"{count} workers need a store in PostgreSQL: a file serves one process (store.url)"
    if admin.listen is not None and len(bytes(worker_socket(admin.listen, count).path)) > SOCKET_PATH_BYTES_MAX:
        return f"the path of admin.listen leaves no room for the workers' numbers: {SOCKET_PATH_BYTES_MAX} bytes in all"
    if admin.metrics_listen is not None and admin.metrics_listen.port + count - 1 > _PORT_MAX:
        return f"admin.metrics_listen leaves no ports for {count} workers: each has its own, counted up to {_PORT_MAX}"
    return None


def with_workers(config: Config, count: int) -> Config:
    """Return the configuration with so many workers, as the command line may say."""
    return replace(config, server=replace(config.server, workers=count))


def of_worker(config: Config, number: int) -> Config:
    """Return the configuration of one worker."""
    admin = config.admin
    listen = None if admin.listen is None else worker_socket(admin.listen, number)
    metrics = admin.metrics_listen
    if metrics is not None and metrics.port:
        metrics = TcpAddress(metrics.host, metrics.port + number - 1)
    return replace(config, admin=AdminConfig(listen, metrics))


def worker_socket(listen: UnixAddress, number: int) -> UnixAddress:
    """Return the admin socket of a worker: ``admin.sock.2`` beside ``admin.sock``."""
    return UnixAddress(listen.path.with_name(f"{listen.path.name}.{number}"))


def worker_sockets(listen: UnixAddress) -> dict[int, UnixAddress]:
    """Return the workers' admin sockets whose files are there, by number, those of workers that were killed too."""
    return {number: worker_socket(listen, number) for number in sorted(_numbers(listen.path))}


def _numbers(path: Path) -> set[int]:
    try:
        beside = [entry.name for entry in path.parent.iterdir() if entry.name.startswith(f"{path.name}.") and entry.is_socket()]
    except OSError:  # whoever may not look may not ask either
        return set()
    found = (_NUMBERED.fullmatch(name.removeprefix(path.name)) for name in beside)
    return {int(match[1]) for match in found if match is not None}
