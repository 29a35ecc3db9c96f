"""Shell completion of account names and key ids, read from the store of the configuration in use.

A completion prints only its words and never fails: without a configuration or a store it has none.
"""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from proxy.cli.client import perform
from proxy.clock import SystemClock
from proxy.config import ConfigError, load
from proxy.config.environment import stands_for_keys
from proxy.core.shown_text import is_plain, shown
from proxy.store.errors import StoreError

DEFAULT_CONFIGS = (Path("config.toml"), Path("/etc/llm-proxy/config.toml"))


def existing_config(env: Mapping[str, str]) -> Path | None:
    """Return the configuration file for a command that names none: the environment's, or the first default that exists."""
    if named := env.get("LLM_PROXY_CONFIG"):
        return Path(named)
    return next((path for path in DEFAULT_CONFIGS if path.exists()), None)


def account_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names that can be typed: a shell prints what it is given as it is."""
    return [name for name in read_account_names(_config_of(context)) if name.startswith(incomplete) and is_plain(name)]


def key_ids(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return the ids of live keys, each with its account and name."""
    keys = _read(_config_of(context), "key.list").get("keys", ())
    return [
        (key["id"], shown(f"{key['account']} {key['name']}".strip()))
        for key in keys
        if not key["revoked_at"] and key["id"].startswith(incomplete) and is_plain(key["id"])
    ]


def read_account_names(config: Path | None) -> list[str]:
    """Return the names of all accounts; an empty list if they cannot be read."""
    return [account["name"] for account in _read(config, "account.list").get("accounts", ())]


def _config_of(context: typer.Context) -> Path | None:
    """Return the configuration named in the words typed so far. Callbacks do not run during completion, so parameters are read."""
    link: Any = context
    while link is not None:
        if named := link.params.get("config"):
            return Path(named)
        link = link.parent
    return existing_config(os.environ)


def _read(config: Path | None, operation: str) -> dict[str, Any]:
    if config is None and not stands_for_keys(os.environ):
        return {}
    try:
        loaded = load(config, os.environ, require_secrets=False)
        return asyncio.run(perform(loaded, SystemClock(), operation, {}))
    except (ConfigError, StoreError, OSError):
        return {}
