"""All checks in order: configuration, files, process, upstreams, then the proxy in front."""

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from proxy.clock import Clock
from proxy.config import Config, ConfigError, load
from proxy.config.workers import of_worker
from proxy.doctor import files, process
from proxy.doctor.database import database
from proxy.doctor.finding import Finding, failed, ok
from proxy.doctor.front import front
from proxy.doctor.upstream import upstream
from proxy.store import holder_pid


async def examine(path: Path | None, env: Mapping[str, str], clock: Clock, url: str | None = None) -> list[Finding]:
    """Return the findings of all checks, good and bad. Nothing is changed, and nothing spent.

    Args:
        url: the public base URL, to check the gateway through the proxy in front of it.
    """
    found, config = _configuration(path, env)
    if config is not None:
        store = config.store
        workers = await process.workers(config)
        if workers:
            found.append(process.count_of(workers, config.server.workers))
            config = of_worker(config, workers[0])
        pid = holder_pid(store.url) if store.path is not None else await process.pid_behind(config.admin.listen)
        found += await _looked("configuration file", lambda: files.secrets(config, env))
        if store.path is not None:
            file = _real(store.path)
            found += await _looked("store file", lambda: files.store_file(store.url, file))
            found += await _looked("disk space", lambda: files.disk(file.parent))
            found.append(await process.store(store))
        else:
            found += await database(config, clock)
        found.append(await process.gateway(config, pid))
        found += await _looked("descriptors", lambda: [process.descriptors(pid), process.accept_queue()])
        found += await _looked("address", lambda: process.listeners(config, pid))
        for looks in await asyncio.gather(*(upstream(one, clock, env) for one in config.upstreams.values())):
            found += looks
    if url is not None:
        found += [finding async for finding in front(url)]
    return found


async def _looked(check: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Run a check of this machine in a thread and return its findings. Missing permission to look is a finding too."""
    try:
        return await asyncio.to_thread(lambda: list(look()))
    except OSError as error:
        says = f"{error.filename or 'it'} cannot be looked at: {error.strerror}"
        return [failed(check, says, "run this as the gateway's user, or as root")]


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _configuration(path: Path | None, env: Mapping[str, str]) -> tuple[list[Finding], Config | None]:
    """Return the findings and the configuration. One that lacks only its secrets is returned too, for the other checks."""
    try:
        config = load(path, env)
    except ConfigError as error:
        found = [failed("configuration", fault, "see config.example.toml; llm-proxy check-config") for fault in str(error).splitlines()]
        try:
            return found, load(path, env, require_secrets=False)
        except ConfigError:
            return found, None
    return [
        ok("configuration", f"{path or 'the environment'}: {len(config.catalog)} models, {len(config.upstreams)} upstreams")
    ], config
