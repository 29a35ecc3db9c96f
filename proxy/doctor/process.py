"""Checks of the process: whether a gateway runs, whether its addresses are free or its own, and its limit of descriptors."""

import asyncio
import errno
import os
import resource
import socket
import stat
import struct
from collections.abc import Collection, Iterator
from pathlib import Path

from proxy.config import Address, Config, StoreConfig, SystemdAddress, TcpAddress, UnixAddress
from proxy.config.workers import worker_sockets
from proxy.doctor.finding import Finding, failed, ok, warning
from proxy.edge.sockets import BACKLOG, is_ipv6_only
from proxy.store import open_store
from proxy.store.errors import StoreError, StoreRefusedError

DESCRIPTORS_MIN = 256
DESCRIPTORS_COMFORT = 4096
"""A stream takes two: the customer's connection and the upstream's."""
CONNECT_SECONDS = 2.0
_CREDENTIALS = struct.Struct("3i")
"""``struct ucred``: pid, user, group (unix(7))."""
_SOMAXCONN = Path("/proc/sys/net/core/somaxconn")
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  where to connect to a listener on all addresses


def descriptors(pid: int | None) -> Finding:
    """Check the limit of file descriptors, of the running gateway or else of what `serve` would have in this shell."""
    limit, whose = _limit_of(pid)
    says = f"{limit} file descriptors for {whose}, two a stream"
    advice = "raise it: LimitNOFILE=65536 in the unit, or `ulimit -Hn 65536` as root"
    if limit < DESCRIPTORS_MIN:
        return failed("descriptors", says, advice)
    return warning("descriptors", says, advice) if limit < DESCRIPTORS_COMFORT else ok("descriptors", says)


def _limit_of(pid: int | None) -> tuple[int, str]:
    if pid:
        try:
            lines = Path(f"/proc/{pid}/limits").read_text(encoding="ascii").splitlines()
            said = next(line.split()[3] for line in lines if line.startswith("Max open files"))
            return (int(said) if said.isdigit() else 2**31), "the gateway that runs"
        except (OSError, StopIteration, IndexError):
            pass  # another user's process, or no /proc: the shell's own limit is better than nothing
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # `serve` raises its soft limit to it
    return (2**31 if hard == resource.RLIM_INFINITY else hard), "this shell"


def accept_queue() -> Finding:
    """Check that the kernel lets as many connections wait for an accept as the gateway asks for."""
    try:
        most = int(_SOMAXCONN.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return ok("accept queue", "the kernel does not tell its limit")
    if most < BACKLOG:
        says = f"of clients that connect at once, {most} may wait to be accepted; others try again after 1 s or more"
        return warning("accept queue", says, f"sysctl -w net.core.somaxconn={2 * BACKLOG}, then restart the gateway")
    return ok("accept queue", f"of clients that connect at once, {min(most, BACKLOG)} may wait to be accepted")


async def store(config: StoreConfig) -> Finding:
    """Open the store read-only and check that it is ours, that its version is current and that it can be read."""
    if config.path is not None and (found := await _no_file(config.path)) is not None:
        return found
    advice = "restore from a backup: llm-proxy restore BACKUP" if config.path else "look at store.url, store.password and the server"
    try:
        opened = await open_store(config.url, read_only=True, password=config.password.reveal())
    except StoreRefusedError as error:
        if "has not been brought up to date" in str(error):
            return warning("store", "of an older version", "back it up, then start the gateway once, which brings it up to date")
        return failed("store", str(error), "" if "restore" in str(error) else advice)
    try:
        await opened.ping()
        accounts = await opened.accounts()
    except StoreError as error:
        return failed("store", str(error), advice)
    finally:
        await opened.close()
    return ok("store", f"{len(accounts)} accounts; whether the books hold: llm-proxy ledger verify")


async def _no_file(path: Path) -> Finding | None:
    """Return what is found where a store's file is not there, or cannot be looked at."""
    try:
        await asyncio.to_thread(path.stat)
    except FileNotFoundError:
        return ok("store", "none yet")
    except OSError as error:
        return failed("store", f"{path} cannot be looked at: {error.strerror}", "run this as the gateway's user, or as root")
    return None


async def workers(config: Config) -> list[int]:
    """Return the numbers of the workers that listen at admin sockets of their own; none where one process alone answers."""
    if config.admin.listen is None:
        return []
    states = {number: await asyncio.to_thread(_knock, one.path) for number, one in worker_sockets(config.admin.listen).items()}
    return [number for number, state in states.items() if state in ("live", "denied")]


def count_of(running: list[int], wanted: int) -> Finding:
    """Compare the workers that run with `server.workers`, which the command line of `serve` may overrule."""
    says = f"workers {', '.join(map(str, running))} run"
    if len(running) < wanted:
        advice = "those that fall are started again; one that was drained comes back with a restart of the service: see its log"
        return warning("workers", f"{says}, of {wanted}", advice)
    return ok("workers", says)


async def pid_behind(address: UnixAddress | None) -> int | None:
    """Return the pid of the process that listens at an admin socket; None: nobody does, or it cannot be asked."""
    return None if address is None else await asyncio.to_thread(_peer_pid, address.path)


def _peer_pid(path: Path) -> int | None:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(CONNECT_SECONDS)
            probe.connect(str(path))
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return None
    pid: int = _CREDENTIALS.unpack(credentials)[0]
    return pid


async def gateway(config: Config, pid: int | None) -> Finding:
    """Check whether a gateway runs and answers on its admin socket."""
    address = config.admin.listen
    if address is None:
        return ok("gateway", f"runs (pid {pid})" if pid is not None else "does not run")
    state = await asyncio.to_thread(_knock, address.path)
    if pid is None and state == "stale":
        return ok("gateway", f"does not run; {address.path} was left by one that was killed, and the next start replaces it")
    if pid is None and state == "live":
        return failed("gateway", f"another program answers at {address.path}", "stop it, or name another admin.listen")
    if state == "other":
        return failed("gateway", f"{address.path} is a file that is no socket", "move it away, or name another admin.listen")
    if pid is None:
        return ok("gateway", "does not run")
    if state == "denied":
        fault = f"runs (pid {pid}); this user may not open {address.path}"
        return warning("gateway", fault, "run this as the gateway's user, or as root")
    if state != "live":
        return warning(
            "gateway", f"pid {pid} has the store, but nobody answers at {address.path}", "is it another command? else restart it"
        )
    return ok("gateway", f"runs (pid {pid}) and answers the operator")


def listeners(config: Config, pid: int | None) -> Iterator[Finding]:
    """Check for each address whether the gateway listens there, or could."""
    for address in config.server.listen:
        if isinstance(address, SystemdAddress):
            yield ok("address", "systemd opens it (llm-proxy.socket)")
        elif pid is not None:
            yield _listens(address)
        else:
            yield _is_free(address, config.server.listen)
    if (scraped := config.admin.metrics_listen) is not None:
        yield _listens(scraped) if pid is not None else _is_free(scraped, config.server.listen)
        if scraped.host in _EVERYWHERE:
            yield warning(
                "metrics", f"whoever reaches this machine may read them at {scraped}", "name one address of it, or guard the port"
            )


def _listens(address: Address) -> Finding:
    if isinstance(address, TcpAddress) and address.port == 0:
        return ok("address", f"{address}: any free port")
    state = _knock(address.path) if isinstance(address, UnixAddress) else _dial(address)
    if state in ("live", "denied"):
        return ok("address", f"{address} is listened on")
    return failed("address", f"the gateway runs, but nobody listens on {address}", "was the configuration changed? restart the gateway")


def _dial(address: Address) -> str:
    assert isinstance(address, TcpAddress)
    try:
        socket.create_connection((_EVERYWHERE.get(address.host, address.host), address.port), CONNECT_SECONDS).close()
    except OSError:
        return "stale"
    return "live"


def _is_free(address: Address, beside: Collection[Address]) -> Finding:
    if isinstance(address, UnixAddress):
        return _is_free_path(address)
    assert isinstance(address, TcpAddress)
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, place in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, is_ipv6_only(address, beside))
                probe.bind(place)
                probe.listen(1)
    except OSError as error:
        return failed("address", f"{address} cannot be listened on: {error.strerror}", _what_to_do(error, address))
    return ok("address", f"{address} is free")


def _what_to_do(error: OSError, address: TcpAddress) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"another program listens there (ss -ltnp 'sport = :{address.port}'): stop it, or name another address"
    if error.errno == errno.EACCES:
        return "a port below 1024 needs socket activation (llm-proxy.socket), or a proxy in front"
    return "name an address of this machine"


def _is_free_path(address: UnixAddress) -> Finding:
    state = _knock(address.path)
    if state == "live":
        return failed("address", f"another program listens on {address}", "stop it, or name another server.listen")
    if state == "other":
        return failed("address", f"{address.path} is a file that is no socket", "move it away, or name another server.listen")
    if not os.access(next(folder for folder in address.path.parents if folder.exists()), os.W_OK):
        return failed("address", f"this user may not make {address.path}", "run this as the gateway's user, or give it the folder")
    return ok(
        "address", f"{address} is free" + (" (the file of a killed gateway is there, and is replaced)" if state == "stale" else "")
    )


def _knock(path: Path) -> str:
    """Return the state of a unix socket: ``live``, ``stale`` (only a file), ``other`` (not a socket), ``denied``, ``none``."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return "other"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(CONNECT_SECONDS)
            probe.connect(str(path))
    except FileNotFoundError:
        return "none"
    except PermissionError:
        return "denied"
    except OSError:
        return "stale"
    return "live"
