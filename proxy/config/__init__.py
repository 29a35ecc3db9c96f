"""The configuration: one TOML file, overridden by the environment, checked as a whole and frozen into values before anything runs.

`load` either returns a `Config` that `serve` can start with, or raises one `ConfigError` that lists every fault. The keys are
explained in ``config.example.toml``.
"""

from proxy.config.config import Config, StoreConfig, UpstreamConfig
from proxy.config.reading import Source, load
from proxy.config.tables import BillingConfig, ConfigError, LogConfig, RetentionConfig
from proxy.config.values import Address, Secret, SystemdAddress, TcpAddress, UnixAddress

__all__ = [
    "Address",
    "BillingConfig",
    "Config",
    "ConfigError",
    "LogConfig",
    "RetentionConfig",
    "Secret",
    "Source",
    "StoreConfig",
    "SystemdAddress",
    "TcpAddress",
    "UnixAddress",
    "UpstreamConfig",
    "load",
]
