"""Models on sale and their prices, frozen from the configuration.

Prices here are nano-yuan per token (chat, video) or per image. A request takes the `Model` once and keeps it: a price that changes
during a call applies from the next call on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

from proxy.core.bounds import Bounds
from proxy.core.errors import ModelNotAllowedError, ModelNotFoundError, ModelUnavailableError, WrongEndpointError
from proxy.core.money import Nanos


class Kind(StrEnum):
    """Kind of output that a model makes, which decides its endpoint."""

    CHAT = "chat"
    IMAGE = "image"
    VIDEO = "video"


CONTEXT_TOKENS_UNKNOWN = 262_144
"""The context of most of Ark's models (model list, 82379/1330310): 256k tokens."""


@dataclass(frozen=True, slots=True)
class ChatTier:
    """Nano-yuan per token for prompts of up to ``up_to_tokens`` (None: no limit)."""

    up_to_tokens: int | None
    input: Nanos
    output: Nanos
    cached_input: Nanos


@dataclass(frozen=True, slots=True)
class ChatPrice:
    """Tiers by prompt length, ascending; the last one has no limit. The tier of a call applies to all of its tokens."""

    tiers: tuple[ChatTier, ...]

    def tier_for(self, prompt_tokens: int) -> ChatTier:
        for tier in self.tiers:
            if tier.up_to_tokens is None or prompt_tokens <= tier.up_to_tokens:
                return tier
        return self.tiers[-1]

    def reachable(self, prompt_tokens_max: int) -> tuple[ChatTier, ...]:
        """Return each tier that a prompt of at most ``prompt_tokens_max`` tokens can fall into."""
        last = self.tiers.index(self.tier_for(prompt_tokens_max))
        return self.tiers[: last + 1]


@dataclass(frozen=True, slots=True)
class ImagePrice:
    image: Nanos


@dataclass(frozen=True, slots=True)
class VideoRate:
    """Nano-yuan per video token without and with sound."""

    silent: Nanos
    audio: Nanos


@dataclass(frozen=True, slots=True)
class VideoPrice:
    """A base rate, rates of single resolutions (``"1080p"``), and the factor of ``service_tier: flex`` in thousandths."""

    rate: VideoRate
    by_resolution: Mapping[str, VideoRate] = field(default_factory=dict)
    flex_permille: int | None = None
    """None: the model has no flex tier."""

    def rate_for(self, resolution: str) -> VideoRate:
        return self.by_resolution.get(resolution, self.rate)


Price = ChatPrice | ImagePrice | VideoPrice
BytesPerToken = tuple[float, float]
"""UTF-8 bytes of a token of the prompt, and of the answer."""
BYTES_PER_TOKEN: BytesPerToken = (4.0, 4.0)
"""English text has about four in OpenAI's tokenizers (help.openai.com, "What are tokens"), Chinese at 3 bytes a character as many."""
Dialect = Literal["ark", "openai"]
"""What an upstream speaks: Ark's API, or OpenAI's chat completions alone."""


@dataclass(frozen=True, slots=True)
class Route:
    """One way to a model: an upstream, and what the model is called there."""

    upstream: str
    """Name of the upstream in the configuration."""
    model: str
    weight: int = 1
    """Share of the calls among the routes of its tier; 0: gets none."""
    tier: int = 1
    """A route is asked only when none of a lower tier can answer."""
    dialect: Dialect = "ark"
    asks_usage: bool = True
    """False: the upstream refuses to be asked for the usage of a stream."""

    @property
    def name(self) -> str:
        return f"{self.upstream}/{self.model}"


@dataclass(frozen=True, slots=True)
class Model:
    """One public model id, with its routes and its price."""

    id: str
    kind: Kind
    upstream: str
    """Name of the upstream in the configuration: of the first route, or, of a model `by` a route, of that one."""
    upstream_model: str
    price: Price
    owned_by: str = "volcengine"
    description: str = ""
    created: int = 1_710_000_000
    """Unix seconds, as ``GET /models`` shows it."""
    enabled: bool = True
    context_tokens: int = 0
    """The longest prompt that is sold; a text that is surely longer is refused. 0: not known, nothing is refused."""
    upstream_context_tokens: int = 0
    """The longest prompt that the upstream's model takes, where that is more than is sold: a hold covers that much. 0: as sold."""
    context_tokens_assumed: int = CONTEXT_TOKENS_UNKNOWN
    """What is held for a video, a file or a chain of thought where no context is known (``billing.context_tokens_unknown``)."""
    output_tokens_max: int = 4096
    """Output tokens that the hold covers when the client sets no limit."""
    answer_tokens_max: int | None = None
    """The longest answer that a client may ask for, as ``GET /models`` shows it; None: ``output_tokens_max``."""
    reasoning_tokens_max: int | None = None
    """Tokens of the chain of thought, which ``max_tokens`` does not limit (Ark: only ``max_completion_tokens`` covers both).

    0: the model cannot think. None: not known, so what is left of the context is held."""
    image_tokens: int | None = None
    """Upper bound of the prompt tokens of any picture; None: by its `detail` and pixels, as Ark counts them."""
    request_defaults: Mapping[str, Any] = field(default_factory=dict)
    """Fields sent upstream when the client did not set them, such as ``{"thinking": {"type": "disabled"}}``."""
    resolutions: tuple[str, ...] = ()
    """Video: resolutions that the upstream model renders; empty: no restriction."""
    routes: tuple[Route, ...] = ()
    """Never empty: without others it is the one to ``upstream`` and ``upstream_model``."""
    dialect: Dialect = "ark"
    """Of the route, as is ``asks_usage``."""
    asks_usage: bool = True
    bytes_per_token: BytesPerToken | None = None
    """Bytes of a token of prompt and answer, for an estimate where no usage came; None: what the dialect's upstreams need."""

    estimated_by: BytesPerToken | None = field(init=False)
    """What an estimate divides by; None: it is a lower bound, as Ark always tells the usage of an answer that it finished."""
    first_fields: Mapping[str, Any] = field(init=False)
    """What a chat's body begins with, under the client's fields; of a model with several routes first its name, which differs."""
    prompt_limit_tokens: int = field(init=False)
    """Tokens that no prompt of this model can exceed upstream; 0 where nobody said. Looked at in each call, so no property."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt_limit_tokens", self.upstream_context_tokens or self.context_tokens)
        if not self.routes:
            route = Route(self.upstream, self.upstream_model, dialect=self.dialect, asks_usage=self.asks_usage)
            object.__setattr__(self, "routes", (route,))
        first = {"model": self.id, **self.request_defaults} if len(self.routes) > 1 else self.request_defaults
        object.__setattr__(self, "first_fields", first)
        assumed = BYTES_PER_TOKEN if self.dialect == "openai" else None
        object.__setattr__(self, "estimated_by", self.bytes_per_token or assumed)

    def by(self, route: Route) -> "Model":
        """Return the model as it is asked by one of its routes."""
        return replace(self, upstream=route.upstream, upstream_model=route.model, dialect=route.dialect, asks_usage=route.asks_usage)


Catalog = Mapping[str, Model]
"""Public model id → model, in the order of the configuration."""

_ENDPOINTS = {Kind.CHAT: "/chat/completions", Kind.IMAGE: "/images/generations", Kind.VIDEO: "/videos/generations"}


def find_model(catalog: Catalog, model_id: str, kind: Kind | None = None, bounds: Bounds | None = None) -> Model:
    """Return the model that the customer named, for an endpoint of this kind (None: any), within the key's bounds (None: it has none).

    Raises:
        ModelNotFoundError: there is no such model.
        ModelNotAllowedError: the key may not use it.
        WrongEndpointError: it is of another kind; the message names its endpoint.
        ModelUnavailableError: the operator has switched it off.
    """
    model = catalog.get(model_id)
    if model is None:
        raise ModelNotFoundError(f"The model {model_id[:128]!r} does not exist", param="model")
    if bounds is not None and model_id not in bounds.allowed and not bounds.allows(model_id):
        raise ModelNotAllowedError(f"This API key may not use the model {model_id!r}", param="model")
    if kind is not None and model.kind is not kind:
        raise WrongEndpointError(f"The model {model.id!r} is used through {_ENDPOINTS[model.kind]}", param="model")
    if not model.enabled:
        # Only the operator can end it: an SDK would sleep through each Retry-After, for nothing.
        raise ModelUnavailableError(f"The model {model.id!r} is unavailable at present", param="model", should_retry=False)
    return model
