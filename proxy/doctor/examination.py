"""All checks in their order, from what everything rests on to what stands in front."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from proxy.clock import Clock
from proxy.config import Config, ConfigError, load
from proxy.doctor import files, process
from proxy.doctor.finding import Finding, failed, ok
from proxy.doctor.front import front
from proxy.doctor.upstream import upstream


async def examine(path: Path, env: Mapping[str, str], clock: Clock, url: str | None = None) -> list[Finding]:
    """Return what was found, whatever it is: nothing is changed, and nothing spent.

    Args:
        url: the public base URL, to look at the gateway through what stands in front of it.
    """
    found, config = _configuration(path, env)
    if config is not None:
        found += await asyncio.to_thread(_on_this_machine, config, env)
        pid = process.running_pid(config)
        found += [await process.store(config.store.path), await process.gateway(config, pid)]
        found += await asyncio.to_thread(lambda: [process.descriptors(pid), *process.listeners(config, pid)])
        for looks in await asyncio.gather(*(upstream(one, clock, env) for one in config.upstreams.values())):
            found += looks
    if url is not None:
        found += [finding async for finding in front(url)]
    return found


def _configuration(path: Path, env: Mapping[str, str]) -> tuple[list[Finding], Config | None]:
    """Return the configuration, also one that lacks only its secrets: the rest can be looked at all the same."""
    try:
        config = load(path, env)
    except ConfigError as error:
        found = [
            failed("configuration", f"{path}: {fault}", "see config.example.toml; llm-proxy check-config") for fault in error.faults
        ]
        try:
            return found, load(path, env, require_secrets=False)
        except ConfigError:
            return found, None
    return [ok("configuration", f"{path}: {len(config.catalog)} models, {len(config.upstreams)} upstreams")], config


def _on_this_machine(config: Config, env: Mapping[str, str]) -> list[Finding]:
    store = config.store.path.resolve()
    return [*files.secrets(config, env), *files.store_file(store), *files.disk(store.parent)]
