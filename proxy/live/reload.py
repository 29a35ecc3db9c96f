"""Reload of the configuration while requests run: read, check, compare, then swap, in one step of the loop.

Every error is found before anything is changed. Keys that need a restart keep their running values, and are named.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from proxy.config import Config, ConfigError, Source
from proxy.config.changes import NotReloadedError, Reloaded, adopted, changes
from proxy.live.settings import Live, Settings, settings_of
from proxy.upstream.routing import Routing, let_go
from proxy.upstream.upstreams import Upstreams

logger = logging.getLogger(__name__)


class Reloader:
    """The only code that swaps settings. Reloads wait for one another."""

    def __init__(
        self,
        *,
        source: Source | None,
        live: Live,
        upstreams: Upstreams,
        routing: Routing,
        is_stopping: Callable[[], bool],
        on_swap: Iterable[Callable[[Settings], None]],
    ) -> None:
        """Args: source: None: there is nothing to read again; on_swap: called with new settings in the step that swaps them."""
        self._source = source
        self._live = live
        self._upstreams = upstreams
        self._routing = routing
        self._is_stopping = is_stopping
        self._on_swap = tuple(on_swap)
        self._reloading = asyncio.Lock()

    async def reload(self) -> Reloaded:
        """Put the configuration in force as it is now. Raises: NotReloadedError."""
        async with self._reloading:
            try:
                reloaded, config = await self._read(None)
            except NotReloadedError as fault:
                logger.error("not reloaded, nothing has changed: %s", "; ".join(str(fault).splitlines()))  # noqa: TRY400
                raise
            if reloaded.live:
                self._swap(config)
            self._routing.wake_keys(self._live.now.upstreams)
        if reloaded.live or not reloaded.restart:
            logger.info("reloaded: %s", ", ".join(change.key for change in reloaded.live) or "nothing is different")
        if reloaded.restart:
            logger.warning("these changes need a restart: %s", ", ".join(change.key for change in reloaded.restart))
        return reloaded

    async def preview(self, candidate: Path | None = None) -> Reloaded:
        """Return what `reload` would change; ``candidate`` is read in place of the configuration file. Raises: NotReloadedError."""
        reloaded, _ = await self._read(candidate)
        return reloaded

    async def _read(self, candidate: Path | None) -> tuple[Reloaded, Config]:
        """Return the differences from the running configuration, and the one to put in force."""
        if self._source is None:
            raise NotReloadedError("this gateway has no configuration that could be read again")
        self._refuse_while_stopping()
        try:
            wanted = await asyncio.to_thread(self._source.read, candidate=candidate)
        except ConfigError as error:
            raise NotReloadedError(str(error)) from None
        self._refuse_while_stopping()  # no await from here on
        running = self._live.now.config
        found = changes(running, wanted)
        live, restart = ([change for change in found if change.is_live is is_live] for is_live in (True, False))
        return Reloaded(wanted.path, tuple(live), tuple(restart)), adopted(running, wanted)

    def _refuse_while_stopping(self) -> None:
        if self._is_stopping():
            raise NotReloadedError("the gateway is stopping")

    def _swap(self, config: Config) -> None:
        settings = settings_of(config, self._upstreams.take(config.upstreams))
        let_go(settings.upstreams, settings.routes.values())
        self._live.now = settings
        for told in self._on_swap:
            told(settings)
