"""A model as `GET /models` lists it: the published fields, and what clients read of context, limits and prices.

The further fields have OpenRouter's names and forms (its models page): strings, in the currency for one token. The currency is CNY.
"""

from typing import Any

from proxy.core.catalog import ChatPrice, ChatTier, ImagePrice, Kind, Model, Price, VideoPrice, VideoRate
from proxy.core.money import format_yuan

CURRENCY = "CNY"
_INPUTS = {Kind.CHAT: ["text", "image"], Kind.IMAGE: ["text", "image"], Kind.VIDEO: ["text", "image"]}
_OUTPUTS = {Kind.CHAT: ["text"], Kind.IMAGE: ["image"], Kind.VIDEO: ["video"]}
_TOKENS_PRICED = 1_000_000


def listed(model: Model) -> dict[str, Any]:
    """Return a model as published, ``{"id", "object", "created", "owned_by", "description"}``, then its kind, limits and prices."""
    inputs, outputs = _INPUTS[model.kind], _OUTPUTS[model.kind]
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": model.owned_by,
        "description": model.description,
        "kind": model.kind.value,
        "architecture": {
            "modality": f"{'+'.join(inputs)}->{'+'.join(outputs)}",
            "input_modalities": inputs,
            "output_modalities": outputs,
        },
        **(_limits(model) if model.kind is Kind.CHAT else {}),
        "pricing": {"currency": CURRENCY, **_pricing(model.price)},
    }


def _limits(model: Model) -> dict[str, Any]:
    """Return the tokens of the longest prompt, null where it is not known, and of the longest answer."""
    context, answer = model.context_tokens or None, model.answer_tokens_max or model.output_tokens_max
    return {
        "context_length": context,
        "max_output_tokens": answer,
        "top_provider": {"context_length": context, "max_completion_tokens": answer},
    }


def _pricing(price: Price) -> dict[str, Any]:
    """Return a price: of a token, of an image, or of a million video tokens. The first of several tiers stands for all of them."""
    match price:
        case ChatPrice(tiers):
            several = [{"up_to_tokens": tier.up_to_tokens, **_tier(tier)} for tier in tiers] if len(tiers) > 1 else None
            return {**_tier(tiers[0]), **({"tiers": several} if several else {})}
        case ImagePrice(image):
            return {"unit": "image", "image": format_yuan(image, 0)}
        case VideoPrice(rate, by_resolution, flex_permille):
            special = {name: _rate(rate) for name, rate in by_resolution.items()}
            flex = {} if flex_permille is None else {"flex_factor": f"{flex_permille / 1000:g}"}
            return {"unit": "million video tokens", **_rate(rate), **({"by_resolution": special} if special else {}), **flex}


def _tier(tier: ChatTier) -> dict[str, str]:
    return {
        "prompt": format_yuan(tier.input, 0),
        "completion": format_yuan(tier.output, 0),
        "input_cache_read": format_yuan(tier.cached_input, 0),
    }


def _rate(rate: VideoRate) -> dict[str, str]:
    return {"silent": format_yuan(rate.silent * _TOKENS_PRICED, 0), "audio": format_yuan(rate.audio * _TOKENS_PRICED, 0)}
