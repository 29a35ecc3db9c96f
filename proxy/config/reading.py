"""Reader of the configuration: every table of the file becomes its frozen value, and each fault is named by its key."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import msgspec

from proxy.config import environment, workers
from proxy.config.config import AdminConfig, Config, ServerConfig, StoreConfig, VideosConfig
from proxy.config.models import read_catalog
from proxy.config.quoting import masked, told_key
from proxy.config.store_url import parse_store_url
from proxy.config.tables import (
    SECTIONS,
    AdminTable,
    BillingConfig,
    ConfigError,
    Faults,
    LogConfig,
    RetentionConfig,
    ServerTable,
    StoreTable,
    VideosTable,
    read_table,
)
from proxy.config.upstreams import dialects_of, read_upstreams
from proxy.config.values import (
    NO_SECRET,
    Address,
    Secret,
    TcpAddress,
    UnixAddress,
    parse_address,
    parse_tcp_address,
    parse_unix_address,
    read_beginning,
    read_secret,
)
from proxy.core.days import Zone
from proxy.core.networks import UNIX, parse_network
from proxy.core.retention import REQUEST_DAYS_MIN

_FILE_BYTES_MAX = 4_194_304
_SECTIONS = (*SECTIONS, "upstreams", "models")


@dataclass(frozen=True, slots=True)
class Source:
    """Source of a configuration, so that it can be read again."""

    path: Path | None
    env: Mapping[str, str] = field(repr=False)
    workers: int | None = None
    """`server.workers` as the command line has it, whatever the file says."""
    worker: int = 0
    """The number of the worker that reads it; 0: of none, since there is one process."""

    def read(self, *, candidate: Path | None = None) -> Config:
        """Return the present configuration, or the one with ``candidate`` in the file's place. Raises: ConfigError."""
        config = load(candidate or self.path, self.env, base=base_of(self.path))
        if self.workers is not None:
            config = workers.with_workers(config, self.workers)
        return workers.of_worker(config, self.worker) if self.worker else config


def base_of(path: Path | None) -> Path:
    """Return the directory that a configuration's relative paths start from."""
    return Path.cwd() if path is None else path.absolute().parent


def load(path: Path | None, env: Mapping[str, str], *, require_secrets: bool = True, base: Path | None = None) -> Config:
    """Return the configuration of ``path``, with relative paths from its directory; without a file, that of the environment.

    Args:
        env: its ``LLM_PROXY_…`` override the file's keys; also the source of ``env:NAME`` and ``CREDENTIALS_DIRECTORY``.
        require_secrets: False for commands that call no upstream: a missing secret is then empty, and not a fault.
        base: directory that relative paths start from instead.

    Raises:
        ConfigError: one line ``FILE: KEY: reason``, or ``VARIABLE: reason``, for each fault.
    """
    document = {} if path is None else parse(path)
    variables, faults = environment.overlay(document, env, is_all=path is None)
    for name in document.keys() - set(_SECTIONS):
        faults.add(told_key(name, _SECTIONS), f"unknown key (known here: {', '.join(_SECTIONS)})")
    base = base or base_of(path)
    server = _read_server(document.get("server", {}), base, faults)
    store = _read_store(document.get("store", {}), base, env, faults, require_secrets=require_secrets)
    admin = _read_admin(document.get("admin", {}), store.path.parent if store and store.path else base, faults)
    upstreams = read_upstreams(document.get("upstreams"), base, env if require_secrets else None, faults)
    billing = _read_billing(document.get("billing", {}), faults)
    videos = _read_videos(document.get("videos", {}), faults)
    log = read_table(LogConfig, document.get("log", {}), "log", faults)
    retention = _read_retention(document.get("retention", {}), faults)
    _check_listeners(server, admin, faults)
    _check_workers(server, store, admin, faults)
    dialects = dialects_of(document.get("upstreams"))
    catalog = read_catalog(document.get("models"), dialects, (billing or BillingConfig()).context_tokens_unknown, faults)
    if faults or not (server and store and admin and billing and videos and log and retention):
        raise ConfigError(path, faults)
    ready = {name: upstream for name, upstream in upstreams.items() if upstream is not None}
    return Config(path, tuple(variables), server, store, admin, MappingProxyType(ready), billing, videos, log, retention, catalog)


def parse(path: Path) -> dict[str, object]:
    """Return the file as it is written. Raises: ConfigError."""
    try:
        content = read_beginning(path, _FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(path, [f"cannot be read: {error.strerror}"]) from None
    if len(content) > _FILE_BYTES_MAX:
        raise ConfigError(path, [f"is larger than {_FILE_BYTES_MAX} bytes"])
    try:
        return msgspec.toml.decode(content, type=dict[str, object])
    except ValueError as error:  # DecodeError; UnicodeDecodeError; Python's own for a number with thousands of digits
        raise ConfigError(path, [f"is no valid TOML: {masked(str(error))}"]) from None
    except RecursionError:
        raise ConfigError(path, ["is no valid TOML: it is nested too deeply"]) from None


def _read_server(value: object, base: Path, faults: Faults) -> ServerConfig | None:
    table = read_table(ServerTable, value, "server", faults)
    if table is None:
        return None
    listen: list[Address] = []
    for index, text in enumerate(table.listen):
        try:
            address = parse_address(text, base)
        except ValueError as error:
            faults.add(f"server.listen[{index}]", str(error))
            continue
        if address in listen and not (isinstance(address, TcpAddress) and address.port == 0):
            faults.add(f"server.listen[{index}]", f"{address} stands here twice")
        if table.auth == "none" and not _is_local(address):
            faults.add(
                f"server.listen[{index}]", f'with auth = "none" only loopback addresses and unix sockets may be listened on, not {text}'
            )
        listen.append(address)
    return ServerConfig(
        tuple(listen),
        table.auth,
        _socket_mode(table),
        table.drain_seconds,
        table.body_bytes_max,
        table.body_seconds,
        table.keepalive_seconds,
        table.stall_seconds,
        table.heartbeat_seconds,
        table.early_head_seconds,
        _read_trusted_proxies(table.trusted_proxies, faults),
        table.workers,
        table.docs,
    )


def _read_trusted_proxies(texts: tuple[str, ...], faults: Faults) -> tuple[str, ...]:
    """Return the networks as they are compared; ``unix`` stays."""
    trusted = []
    for index, text in enumerate(texts):
        try:
            trusted.append(text if text == UNIX else str(parse_network(text)))
        except ValueError as error:
            faults.add(f"server.trusted_proxies[{index}]", f'{error}; or "unix", for peers of unix sockets')
    return tuple(trusted)


def _socket_mode(table: ServerTable) -> int:
    """Return the mode of a unix socket. Proxies run as other users: with keys the key admits them, without keys the group."""
    if table.socket_mode == "auto":
        return 0o666 if table.auth == "keys" else 0o660
    return int(table.socket_mode, 8)


def _is_local(address: Address) -> bool:
    """Return whether only this machine can reach the address. False for systemd's sockets, whose addresses are not known here."""
    return isinstance(address, UnixAddress) or (isinstance(address, TcpAddress) and address.is_loopback)


def _read_store(value: object, base: Path, env: Mapping[str, str], faults: Faults, *, require_secrets: bool) -> StoreConfig | None:
    """Return the store's table. Its password is read for every command, since each needs the store."""
    table = read_table(StoreTable, value, "store", faults)
    if table is None:
        return None
    password = (
        NO_SECRET if table.password is None else _read_password(table.password, base, env, faults, require_secrets=require_secrets)
    )
    try:
        store = StoreConfig(parse_store_url(table.url, base), password)
    except ValueError as error:
        faults.add("store.url", str(error))
        return None
    if store.path is None:
        return store
    if table.password is not None:
        faults.add("store.password", "is for a database server: a file has none")
    if _is_directory(store.path):
        faults.add("store.url", f"{store.path} is a directory: name a file in it")
    return store


def _read_password(reference: str, base: Path, env: Mapping[str, str], faults: Faults, *, require_secrets: bool) -> Secret:
    try:
        return read_secret(reference, base, env)
    except ValueError as error:
        if require_secrets:
            faults.add("store.password", str(error))
    return NO_SECRET  # whether the server asks for one shows when the store is opened


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # it cannot be examined; opening the store reports more
        return False


def _read_admin(value: object, base: Path, faults: Faults) -> AdminConfig | None:
    table = read_table(AdminTable, value, "admin", faults)
    if table is None:
        return None
    found = len(faults)
    listen, metrics_listen = None, None
    try:
        listen = None if table.listen == "off" else parse_unix_address(table.listen, base)
    except ValueError as error:
        faults.add("admin.listen", f'{error}, or "off"' if "must be" in str(error) else str(error))
    try:
        metrics_listen = None if table.metrics_listen is None else parse_tcp_address(table.metrics_listen)
    except ValueError as error:
        faults.add("admin.metrics_listen", str(error))
    return AdminConfig(listen, metrics_listen) if len(faults) == found else None


def _read_billing(value: object, faults: Faults) -> BillingConfig | None:
    table = read_table(BillingConfig, value, "billing", faults)
    if table is not None:
        try:
            Zone.parse(table.time_zone)
        except ValueError as error:
            faults.add("billing.time_zone", str(error))
    return table


def _read_retention(value: object, faults: Faults) -> RetentionConfig | None:
    table = read_table(RetentionConfig, value, "retention", faults)
    if table is not None and 0 < table.request_days < REQUEST_DAYS_MIN:
        faults.add("retention.request_days", f"must be 0 (for ever) or at least {REQUEST_DAYS_MIN}")
    return table


def _check_listeners(server: ServerConfig | None, admin: AdminConfig | None, faults: Faults) -> None:
    """Refuse one socket for customers and the operator: the listener that opens second would fail."""
    if server is None or admin is None:
        return
    for index, address in enumerate(server.listen):
        if isinstance(address, TcpAddress) and address == admin.metrics_listen and address.port:
            faults.add("admin.metrics_listen", f"{address} is server.listen[{index}] too: customers are not to read it")
        if admin.listen is not None and isinstance(address, UnixAddress) and _real(address.path) == _real(admin.listen.path):
            faults.add("admin.listen", f"{admin.listen} is server.listen[{index}] too: the operator's door is one of its own")


def _check_workers(server: ServerConfig | None, store: StoreConfig | None, admin: AdminConfig | None, faults: Faults) -> None:
    if server is None or store is None or admin is None:
        return
    if (fault := workers.fault_of(server.workers, store, admin)) is not None:
        faults.add("server.workers", fault)


def _real(path: Path) -> Path:
    """Return the path without links and dots, so that two names of one file are equal."""
    return Path(os.path.realpath(path))


def _read_videos(value: object, faults: Faults) -> VideosConfig | None:
    table = read_table(VideosTable, value, "videos", faults)
    if table is None:
        return None
    first, longest = table.poll_seconds
    if first > longest:
        faults.add("videos.poll_seconds", "the first interval must not be over the longest")
    return VideosConfig(first, longest)
