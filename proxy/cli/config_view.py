"""A view of the configuration for `check-config`, without secrets."""

from typing import Any

from proxy.config import Config, StoreConfig
from proxy.config.digest import digest
from proxy.config.warnings import warnings
from proxy.config.words import price_in_words
from proxy.core.catalog import Model


def describe(config: Config) -> dict[str, Any]:
    """Return the configuration that would run as JSON-able values, without secrets."""
    return {
        "file": None if config.path is None else str(config.path),
        "environment": list(config.variables),
        "digest": digest(config),
        "server": {
            "listen": [str(address) for address in config.server.listen],
            "auth": config.server.auth,
            "drain_seconds": config.server.drain_seconds,
            "body_bytes_max": config.server.body_bytes_max,
            "body_seconds": config.server.body_seconds,
            "keepalive_seconds": config.server.keepalive_seconds,
            "stall_seconds": config.server.stall_seconds,
            "heartbeat_seconds": config.server.heartbeat_seconds,
            "early_head_seconds": config.server.early_head_seconds,
            "trusted_proxies": list(config.server.trusted_proxies),
            "workers": config.server.workers,
            "docs": config.server.docs,
        },
        "store": _described_store(config.store),
        "admin": {"listen": str(config.admin.listen or "off"), "metrics_listen": str(config.admin.metrics_listen or "off")},
        "billing": {name: getattr(config.billing, name) for name in config.billing.__struct_fields__},
        "log": {"level": config.log.level},
        "retention": {"request_days": config.retention.request_days},
        "videos": {"poll_seconds": [config.videos.poll_first_seconds, config.videos.poll_longest_seconds]},
        "upstreams": [
            {
                "name": upstream.name,
                "base_url": upstream.base_url,
                "dialect": upstream.dialect,
                "api_keys": [f"{name}: {'set' if secret else 'missing'}" for name, secret in upstream.api_keys.items()],
                "asks_usage": upstream.asks_usage,
                "failures": upstream.health.failures,
                "rest_seconds": list(upstream.health.rest_seconds),
                "proxy": upstream.proxy or "none",
            }
            for upstream in config.upstreams.values()
        ],
        "models": [_described_model(model) for model in config.catalog.values()],
        "warnings": warnings(config),
    }


def _described_store(store: StoreConfig) -> dict[str, Any]:
    if store.path is not None:
        return {"path": str(store.path)}
    return {"url": store.url, "password": "set" if store.password else "none"}


def _described_model(model: Model) -> dict[str, Any]:
    return {
        "id": model.id,
        "kind": str(model.kind),
        "upstream": model.upstream,
        "upstream_model": model.upstream_model,
        "routes": [f"{route.name} weight {route.weight} tier {route.tier}" for route in model.routes if len(model.routes) > 1],
        "enabled": model.enabled,
        "price": price_in_words(model.price),
    }
