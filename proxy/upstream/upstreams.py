"""All upstreams: the clients of each, and the rate limits of its video calls.

A reload replaces the clients of changed upstreams. Calls under way end over the connections that they began with. An upstream removed
from the configuration stays here for its unfinished videos, until the process ends.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from weakref import WeakSet

from proxy.clock import Clock
from proxy.config import UpstreamConfig
from proxy.upstream.ark_client import ArkClient
from proxy.upstream.http1.pool import Limits, Pool, default_ssl_context
from proxy.upstream.rates import Rate
from proxy.upstream.tunnel import proxy_of


@dataclass(frozen=True, slots=True)
class Upstream:
    """One upstream. Ark allows as many deletes a second as gets, counted separately."""

    config: UpstreamConfig
    pool: Pool
    client: ArkClient
    gets: Rate
    lists: Rate
    deletes: Rate


class Upstreams:
    """The owner of all clients. `close` it at the end."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._upstreams: Mapping[str, Upstream] = MappingProxyType({})
        self._retired: WeakSet[Pool] = WeakSet()
        """Pools that were replaced; one without connections and callers disappears by itself."""
        self._tls: ssl.SSLContext | None = None

    def take(self, configs: Mapping[str, UpstreamConfig]) -> Mapping[str, Upstream]:
        """Return the upstreams of these configurations, and, unchanged, those that no longer have one."""
        taken = dict(self._upstreams)
        changed = {name: config for name, config in configs.items() if name not in taken or taken[name].config != config}
        pools = {name: self._pool(config) for name, config in changed.items()}  # everything that can fail comes first
        for name, config in changed.items():
            before = taken.get(name)
            taken[name] = self._made(config, pools[name]) if before is None else self._renewed(before, config, pools[name])
        self._upstreams = MappingProxyType(taken)
        return self._upstreams

    async def close(self) -> None:
        """Close all connections; calls under way end as broken."""
        for upstream in self._upstreams.values():
            await upstream.pool.close()
            await upstream.client.close()
        for pool in tuple(self._retired):
            await pool.close()

    def _made(self, config: UpstreamConfig, pool: Pool) -> Upstream:
        client = ArkClient(config)
        client.renew(config)
        gets, deletes = (Rate(config.requests_per_second, self._clock) for _ in range(2))
        return Upstream(config, pool, client, gets, Rate(config.list_requests_per_second, self._clock), deletes)

    def _renewed(self, before: Upstream, config: UpstreamConfig, pool: Pool) -> Upstream:
        """Return an upstream with new clients. Its rate limits go on: a call of a moment ago still counts."""
        self._retired.add(before.pool)
        before.pool.retire()
        before.client.renew(config)
        for rate in (before.gets, before.deletes):
            rate.limit(config.requests_per_second)
        before.lists.limit(config.list_requests_per_second)
        return Upstream(config, pool, before.client, before.gets, before.lists, before.deletes)

    def _pool(self, config: UpstreamConfig) -> Pool:
        limits = Limits(
            connect_seconds=config.connect_seconds,
            first_byte_seconds=config.first_byte_seconds,
            idle_seconds=config.idle_seconds,
        )
        if self._tls is None and config.base_url.startswith("https:"):
            self._tls = default_ssl_context()
        headers = {"Authorization": f"Bearer {config.api_key.reveal()}"}
        return Pool(config.base_url, headers=headers, limits=limits, ssl_context=self._tls, proxy=proxy_of(config))
