"""The configuration as frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from proxy.config.tables import BillingConfig, LogConfig, RetentionConfig
from proxy.config.values import NO_SECRET, Address, Secret, TcpAddress, UnixAddress
from proxy.core.catalog import Catalog, Dialect
from proxy.core.health import DEFAULT_HEALTH, HealthPolicy


@dataclass(frozen=True, slots=True)
class ServerConfig:
    listen: tuple[Address, ...]
    auth: Literal["keys", "none"]
    socket_mode: int
    """Permissions of a unix socket's file."""
    drain_seconds: float
    """Longest wait for the requests in flight at a stop."""
    body_bytes_max: int
    body_seconds: float
    """Time limit for the arrival of a request's body."""
    keepalive_seconds: float
    stall_seconds: float
    """A client that reads nothing of its answer for this long is dropped."""
    heartbeat_seconds: float
    """A stream that is silent for this long gets a comment; 0: never."""
    early_head_seconds: float
    """A stream's head is sent this long after its hold if no event has come yet; 0: never before the first event."""
    trusted_proxies: tuple[str, ...]
    """Networks whose ``X-Forwarded-For`` is believed, and "unix" for peers of unix sockets."""
    workers: int = 1
    """Processes that answer, each a gateway of its own on the same sockets."""
    docs: bool = True
    """Whether `/openapi.json` and `/docs` are served."""


@dataclass(frozen=True, slots=True)
class StoreConfig:
    url: str
    """``sqlite:PATH``, absolute, or ``postgresql://…`` without a password: `proxy.store.open_store` opens it."""
    password: Secret = NO_SECRET
    """Of a database server; empty: none is sent, or libpq's ways (PGPASSWORD, PGPASSFILE) find one."""

    @property
    def path(self) -> Path | None:
        """Return the store's file; None: a database server keeps it."""
        scheme, _, path = self.url.partition(":")
        return Path(path) if scheme == "sqlite" else None


@dataclass(frozen=True, slots=True)
class AdminConfig:
    listen: UnixAddress | None
    """None: there is no admin listener."""
    metrics_listen: TcpAddress | None = None
    """An additional address where metrics are shown."""


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    name: str
    base_url: str
    """Without a trailing slash."""
    api_keys: Mapping[str, Secret]
    """By name; never empty. The one of ``api_key`` is named "default"."""
    connect_seconds: float
    first_byte_seconds: float
    idle_seconds: float
    requests_per_second: float
    """Limit of the pollers, not of the customers: video tasks are asked for no faster than this."""
    list_requests_per_second: float
    proxy: str | None = None
    """``http://HOST:PORT`` that connections go through; None: they are dialled directly."""
    proxy_auth: Secret = NO_SECRET
    """``USER:PASSWORD`` for the proxy; empty: it asks for none."""
    dialect: Dialect = "ark"
    asks_usage: bool = True
    """False: it refuses to be asked for the usage of a stream."""
    health: HealthPolicy = DEFAULT_HEALTH

    @property
    def api_key(self) -> Secret:
        """Return the first of its keys."""
        return next(iter(self.api_keys.values()))


@dataclass(frozen=True, slots=True)
class VideosConfig:
    poll_first_seconds: float
    poll_longest_seconds: float


@dataclass(frozen=True, slots=True)
class Config:
    path: Path | None
    """None: the whole configuration is in the environment."""
    variables: tuple[str, ...]
    """Names of the environment variables that stand for keys."""
    server: ServerConfig
    store: StoreConfig
    admin: AdminConfig
    upstreams: Mapping[str, UpstreamConfig]
    billing: BillingConfig
    videos: VideosConfig
    log: LogConfig
    retention: RetentionConfig
    catalog: Catalog
