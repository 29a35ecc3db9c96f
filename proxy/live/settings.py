"""The reloadable settings, as one frozen value: a caller reads ``live.now`` once, and keeps what it read.

So a request keeps the prices and the upstream that it began with, and no caller ever sees half of a change.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from proxy.config import BillingConfig, Config
from proxy.core.catalog import Catalog
from proxy.core.networks import TrustedProxies
from proxy.core.pricing import freeze, is_free
from proxy.core.video.price import VideoBilling
from proxy.core.video.task import Pace
from proxy.upstream.routing import AccessRoutes, routes_of
from proxy.upstream.upstreams import Upstream


@dataclass(frozen=True, slots=True)
class Settings:
    """A configuration in force."""

    config: Config
    catalog: Catalog
    frozen: Mapping[str, str]
    """Each model's price, as it is stored with a request."""
    upstreams: Mapping[str, Upstream]
    """By name; also those removed from the configuration, for their videos under way."""
    routes: Mapping[str, AccessRoutes]
    """Each model's, by its id."""
    body_bytes_max: int
    body_seconds: float
    early_head_seconds: float
    trusted_proxies: TrustedProxies
    billing: BillingConfig
    estimate: bool
    """True if what was relayed is charged when no usage ever came."""
    sells_for_nothing: bool
    """True if a model that is for sale costs nothing: an account without money may call it."""
    video_billing: VideoBilling
    pace: Pace


class Live:
    """The only place where settings are swapped, as a whole."""

    __slots__ = ("now",)

    def __init__(self, now: Settings) -> None:
        self.now = now


def settings_of(config: Config, upstreams: Mapping[str, Upstream]) -> Settings:
    videos = config.videos
    return Settings(
        config=config,
        catalog=config.catalog,
        frozen=MappingProxyType({model.id: freeze(model.price) for model in config.catalog.values()}),
        upstreams=upstreams,
        routes=MappingProxyType({model.id: routes_of(model, upstreams) for model in config.catalog.values()}),
        body_bytes_max=config.server.body_bytes_max,
        body_seconds=config.server.body_seconds,
        early_head_seconds=config.server.early_head_seconds,
        trusted_proxies=TrustedProxies(config.server.trusted_proxies),
        billing=config.billing,
        estimate=config.billing.unknown_usage == "estimate",
        sells_for_nothing=any(model.enabled and is_free(model.price) for model in config.catalog.values()),
        video_billing=VideoBilling(config.billing.video_tokens),
        pace=Pace(round(videos.poll_first_seconds * 1000), round(videos.poll_longest_seconds * 1000)),
    )
