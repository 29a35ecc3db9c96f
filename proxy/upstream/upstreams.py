"""All upstreams: the clients of each of their keys, what of them rests, and the rate limits of their video calls.

A reload replaces the clients of changed upstreams. Calls under way end over the connections that they began with. An upstream or a key
that is removed from the configuration stays here for its unfinished videos, until the process ends.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from weakref import WeakSet

from proxy.clock import Clock
from proxy.config import Secret, UpstreamConfig
from proxy.config.upstreams import DEFAULT_KEY
from proxy.core.health import Rest, Unrest
from proxy.core.shares import NONE, WHOLE, Share
from proxy.upstream.ark_client import ArkClient
from proxy.upstream.guard import Guard, GuardedPool
from proxy.upstream.http1.pool import Limits, Pool, default_ssl_context
from proxy.upstream.rates import Rate
from proxy.upstream.tunnel import proxy_of


@dataclass(frozen=True, slots=True)
class Access:
    """One upstream by one of its keys. Ark allows an account as many deletes a second as gets, counted separately."""

    config: UpstreamConfig
    name: str
    """Of the key."""
    secret: Secret
    pool: Pool
    client: ArkClient
    gets: Rate
    lists: Rate
    deletes: Rate
    unrest: Unrest
    """Of all upstreams."""
    rest: Rest
    """Of the key, whatever is asked by it."""
    rests: dict[str, Rest] = field(default_factory=dict)
    """Of the upstream's models, by this key."""
    answers: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    """Number of answers by public and upstream's model, each in a list of its own."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """One upstream, and all keys that it may be asked by."""

    config: UpstreamConfig
    accesses: Mapping[str, Access]
    """By the key's name, in the order of the configuration."""
    retired: Mapping[str, Access]
    """Of keys that were taken out: for the videos that were made by them."""

    @property
    def every_access(self) -> tuple[Access, ...]:
        return (*self.accesses.values(), *self.retired.values())

    def access(self, key_name: str) -> Access | None:
        """Return the access by a key, also by one that was taken out; None if it is not known.

        Args: key_name: empty: by the key that an upstream has which has only one, as all had before keys had names.
        """
        if not key_name:
            return self.accesses.get(DEFAULT_KEY) or next(iter(self.accesses.values()))
        return self.accesses.get(key_name) or self.retired.get(key_name)


class Upstreams:
    """The owner of all clients. `close` it at the end."""

    def __init__(self, clock: Clock, guard: Guard | None = None) -> None:
        """Args: guard: asked before anything that creates is sent; None: this process alone writes to its store."""
        self._clock = clock
        self._guard = guard
        self._share = WHOLE if guard is None else NONE
        self._upstreams: Mapping[str, Upstream] = MappingProxyType({})
        self._replaced: WeakSet[Pool] = WeakSet()
        """Pools that were replaced; one without connections and callers disappears by itself."""
        self._tls: ssl.SSLContext | None = None
        self._unrest = Unrest()

    def take(self, configs: Mapping[str, UpstreamConfig]) -> Mapping[str, Upstream]:
        """Return the upstreams of these configurations, and, unchanged, those that no longer have one."""
        taken = dict(self._upstreams)
        changed = {name: config for name, config in configs.items() if name not in taken or taken[name].config != config}
        # Everything that can fail comes first.
        pools = {name: {key: self._pool(config, secret) for key, secret in config.api_keys.items()} for name, config in changed.items()}
        for name, config in changed.items():
            taken[name] = self._renewed(taken.get(name), config, pools[name])
        self._upstreams = MappingProxyType(taken)
        return self._upstreams

    def share_out(self, share: Share) -> None:
        """Make no more calls a second than this process's share of them. Lists are made by one process for all, at their whole rate."""
        self._share = share
        for upstream in self._upstreams.values():
            for access in upstream.every_access:
                self._limit(access, access.config)

    async def close(self) -> None:
        """Close all connections; calls under way end as broken."""
        for upstream in self._upstreams.values():
            for access in upstream.every_access:
                await access.pool.close()
                await access.client.close()
        for pool in tuple(self._replaced):
            await pool.close()

    def _renewed(self, before: Upstream | None, config: UpstreamConfig, pools: Mapping[str, Pool]) -> Upstream:
        """Return an upstream with new clients. Its rate limits go on: a call of a moment ago still counts. So does what rests."""
        known = {} if before is None else {access.name: access for access in before.every_access}
        accesses = {
            key: self._made(config, key, pool) if key not in known else self._taken_over(known[key], config, pool, config.api_keys[key])
            for key, pool in pools.items()
        }
        retired = {
            key: self._taken_over(access, config, access.pool, access.secret) for key, access in known.items() if key not in accesses
        }
        return Upstream(config, MappingProxyType(accesses), MappingProxyType(retired))

    def _made(self, config: UpstreamConfig, key: str, pool: Pool) -> Access:
        secret = config.api_keys[key]
        client = ArkClient(config, secret, guard=self._guard)
        client.renew(config, secret)
        gets, deletes = (Rate(self._share.of_rate(config.requests_per_second), self._clock) for _ in range(2))
        lists = Rate(config.list_requests_per_second, self._clock)
        return Access(config, key, secret, pool, client, gets, lists, deletes, self._unrest, Rest(config.health, self._unrest))

    def _taken_over(self, access: Access, config: UpstreamConfig, pool: Pool, secret: Secret) -> Access:
        """Return a key's access with this configuration. Its old pool, where another takes its place, serves the calls under way."""
        self._replaced.add(access.pool)
        access.pool.retire()
        access.client.renew(config, secret)
        self._limit(access, config)
        access.lists.limit(config.list_requests_per_second)
        rests = access.rest, *access.rests.values()
        if (secret, config.base_url) == (access.secret, access.config.base_url):
            for rest in rests:
                rest.renew(config.health)
            return replace(access, config=config, pool=pool, secret=secret)
        # How another secret, or another server, fares says nothing about these: not what came of it, nor what is still to come.
        for rest in rests:
            rest.count_in(Unrest())
        return replace(access, config=config, pool=pool, secret=secret, rest=Rest(config.health, self._unrest), rests={})

    def _limit(self, access: Access, config: UpstreamConfig) -> None:
        for rate in (access.gets, access.deletes):
            rate.limit(self._share.of_rate(config.requests_per_second))

    def _pool(self, config: UpstreamConfig, secret: Secret) -> Pool:
        limits = Limits(
            connect_seconds=config.connect_seconds,
            first_byte_seconds=config.first_byte_seconds,
            idle_seconds=config.idle_seconds,
        )
        if self._tls is None and config.base_url.startswith("https:"):
            self._tls = default_ssl_context()
        headers = {"Authorization": f"Bearer {secret.reveal()}"}
        make = Pool if self._guard is None else partial(GuardedPool, guard=self._guard)
        return make(config.base_url, headers=headers, limits=limits, ssl_context=self._tls, proxy=proxy_of(config))
