"""Values of the configuration as an operator reads them: JSON-able, prices in yuan, never a secret."""

from collections.abc import Mapping
from pathlib import Path

from proxy.config.values import Secret, SystemdAddress, TcpAddress, UnixAddress
from proxy.core.catalog import ChatPrice, ChatTier, ImagePrice, Price, VideoPrice, VideoRate
from proxy.core.money import format_yuan


def in_words(value: object) -> object:
    """Return the part of a value that may be shown."""
    match value:
        case Secret():
            return "set" if value else "missing"
        case ChatPrice() | ImagePrice() | VideoPrice():
            return price_in_words(value)
        case TcpAddress() | UnixAddress() | SystemdAddress() | Path():
            return str(value)
        case Mapping():
            return {name: in_words(part) for name, part in value.items()}
        case tuple() | list():
            return [in_words(part) for part in value]
        case _:
            return value


def price_in_words(price: Price) -> str:
    """Return a price in yuan, such as ``0.8 in, 2 out, 0.16 cached /M``; tiers one after another."""
    match price:
        case ChatPrice(tiers):
            return "; ".join(_tier_in_words(tier) for tier in tiers)
        case ImagePrice(image):
            return f"{format_yuan(image, 0)} an image"
        case VideoPrice(rate, by_resolution, flex_permille):
            rates = [_rate_in_words(rate), *(f"{name}: {_rate_in_words(special)}" for name, special in by_resolution.items())]
            flex = [] if flex_permille is None else [f"flex × {flex_permille / 1000:g}"]
            return "; ".join(rates + flex)


def _tier_in_words(tier: ChatTier) -> str:
    start = "" if tier.up_to_tokens is None else f"≤ {tier.up_to_tokens}: "
    return f"{start}{_per_million(tier.input)} in, {_per_million(tier.output)} out, {_per_million(tier.cached_input)} cached /M"


def _rate_in_words(rate: VideoRate) -> str:
    return f"{_per_million(rate.silent)} silent, {_per_million(rate.audio)} audio /M"


def _per_million(nanos_per_token: int) -> str:
    return format_yuan(nanos_per_token * 1_000_000, 0)
