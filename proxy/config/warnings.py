"""What an operator should know of a configuration that loads: where a hold is a guess, because a model's table leaves its bound out."""

from collections.abc import Iterator

from proxy.config.config import Config
from proxy.core.catalog import Kind, Model
from proxy.core.chat.pictures import DETAIL_TOKENS

_PICTURE_TOKENS = max(DETAIL_TOKENS.values())


def warnings(config: Config) -> list[str]:
    """Return a line a warning: ``KEY: what it does, and what to set``; of the models those that are for sale."""
    everybody = [network for network in config.server.trusted_proxies if network.endswith("/0")]
    return [f"server.trusted_proxies: {network} is everybody, so anybody can say where a call comes from" for network in everybody] + [
        f'models "{model.id}".{line}' for model in config.catalog.values() if model.enabled for line in _of_model(model)
    ]


def _of_model(model: Model) -> Iterator[str]:
    if model.kind is not Kind.CHAT:
        return
    limit = model.prompt_limit_tokens or model.context_tokens_assumed
    if not model.prompt_limit_tokens:
        yield (
            f"context_tokens: not set, so a video, a file or audio is held at billing.context_tokens_unknown, {limit} tokens, "
            "and no prompt is refused for its length"
        )
    if model.reasoning_tokens_max is None:
        yield (
            f"reasoning_tokens_max: not set, so unless a request turns thinking off up to {limit} tokens are held for it; "
            "0 says that the model cannot think"
        )
    if model.image_tokens is not None and model.image_tokens < _PICTURE_TOKENS:
        yield f"image_tokens: {model.image_tokens} is less than the {_PICTURE_TOKENS} that Ark counts for a picture at detail high"
