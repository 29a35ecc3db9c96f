"""Cost of a video: Ark's formula for its tokens, the quote and the charge."""

from enum import StrEnum

from proxy.core.catalog import VideoPrice
from proxy.core.money import Nanos, format_yuan
from proxy.core.video.request import VideoCall

FRAMES_PER_SECOND = 24


PIXEL_FRAMES_PER_TOKEN = 1024


_PIXELS = {"480p": 854 * 480, "720p": 1280 * 720, "1080p": 1920 * 1080}
"""The published 16:9 sizes. Ark may render a few lines more or less (864x496); the formula uses the published sizes."""


_PIXELS_RENDERED_MAX = {"480p": 864 * 496, "720p": 1504 * 640, "1080p": 1920 * 1088}
"""The largest frame of any ratio and model that Ark's tables list."""


_PERMILLE = 1000


class VideoBilling(StrEnum):
    """Basis of a finished task's charge: the published formula, or the tokens that Ark reports (`billing.video_tokens`)."""

    FORMULA = "formula"
    USAGE = "usage"


def nanos_per_kilotoken(call: VideoCall, price: VideoPrice) -> int:
    """Return nano-yuan per 1000 video tokens: the rate for the resolution, silent or with sound, times flex's factor in thousandths."""
    rate = price.rate_for(call.priced_resolution)
    per_token = rate.audio if call.generate_audio else rate.silent
    if call.service_tier != "flex":
        return per_token * _PERMILLE
    if price.flex_permille is None:
        raise ValueError("a flex task of a model without a flex price")
    return per_token * price.flex_permille


def video_tokens(call: VideoCall) -> int:
    """Return the whole tokens of the published formula W·H·24·seconds/1024: 720p, 5 s → 108000."""
    return _pixel_frames(call) // PIXEL_FRAMES_PER_TOKEN


def quote(call: VideoCall, price: VideoPrice) -> Nanos:
    """Return the cost of the task if it succeeds, in nano-yuan: W·H·24·seconds/1024 tokens at their rate.

    Computed as one fraction. A remainder below one nano-yuan is dropped, in the customer's favour; it cannot arise at 720p and 1080p in
    the default tier (21600 and 48600 tokens a second), and 480p has half tokens, which even rates make whole.
    """
    return Nanos(_pixel_frames(call) * nanos_per_kilotoken(call, price) // (PIXEL_FRAMES_PER_TOKEN * _PERMILLE))


def charge_by_usage(completion_tokens: int, rate_nanos_per_kilotoken: int) -> Nanos:
    """Return the cost of reported tokens in nano-yuan, not capped; a remainder below one nano-yuan is dropped."""
    return Nanos(completion_tokens * rate_nanos_per_kilotoken // _PERMILLE)


def hold_for(call: VideoCall, price: VideoPrice, billing: VideoBilling) -> Nanos:
    """Return the worst case in nano-yuan: the quote itself, or, if reported tokens are charged, an upper bound of those.

    Ark reports one frame more than the formula has (720p, 5 s: 108900), at the size that it really renders: with only the quote as the
    hold, no task would ever be charged its reported tokens.
    """
    if billing is VideoBilling.FORMULA:
        return quote(call, price)
    frames = FRAMES_PER_SECOND * call.duration_seconds + 1
    tokens = -(-_PIXELS_RENDERED_MAX[call.priced_resolution] * frames // PIXEL_FRAMES_PER_TOKEN)
    return Nanos(max(quote(call, price), charge_by_usage(tokens, nanos_per_kilotoken(call, price))))


def total_cost(charge_nanos: Nanos) -> str:
    """Return the amount in yuan as published: ``"0.8640"``, at least 4 decimals, more where the amount has them."""
    return format_yuan(charge_nanos, 4)


def _pixel_frames(call: VideoCall) -> int:
    return _PIXELS[call.priced_resolution] * FRAMES_PER_SECOND * call.duration_seconds
