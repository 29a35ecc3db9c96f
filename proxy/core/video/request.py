"""Videos: what a request asks for, what it costs, and the body that goes up. What becomes of it is `video_task`'s.

The cost is a formula of the request alone, so that the quote at submit is the bill.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from proxy.core import fields
from proxy.core.ark.field_names import FieldNames
from proxy.core.catalog import Model, VideoPrice
from proxy.core.errors import InvalidParameterError
from proxy.core.money import Nanos, format_yuan

DEFAULT_MODEL = "doubao-seedance-1-5-pro-251215"
PUBLISHED_KEYS = frozenset(
    {"model", "prompt", "task_type", "image_url", "resolution", "duration", "generate_audio", "seed", "watermark", "service_tier"}
)

FIELD_NAMES = FieldNames(
    published=PUBLISHED_KEYS,
    renamed={
        r"contents?(?:\[0\])?|contents?(?:\[\d+\])?\.text.*": "prompt",
        r"contents?\[[1-9]\d*\].*|contents?(?:\[\d+\])?\.image_url.*": "image_url",
    },
    added=frozenset({"ratio", "return_last_frame", "safety_identifier", "execution_expires_after"}),
)
UPSTREAM_OPTIONAL = frozenset({"seed", "return_last_frame"})
"""What goes up where the model knows it: a draw, and a picture more."""

TASK_TYPES = ("text_to_video", "image_to_video", "text_to_audio_video", "image_to_audio_video")
RESOLUTIONS = ("480p", "720p", "1080p", "adaptive")
SERVICE_TIERS = ("default", "flex")
DURATION_SECONDS_MIN = 4
DURATION_SECONDS_MAX = 12
DURATION_SECONDS_DEFAULT = 5
SEED_MAX = 2**32 - 1

FLEX_EXPIRY_SECONDS = 86_400
"""Sent with flex tasks; without it Ark keeps them for `DEFAULT_EXPIRY_SECONDS`."""
DEFAULT_EXPIRY_SECONDS = 172_800

FRAMES_PER_SECOND = 24
PIXEL_FRAMES_PER_TOKEN = 1024
_PIXELS = {"480p": 854 * 480, "720p": 1280 * 720, "1080p": 1920 * 1080}
"""The published 16:9 sizes. What Ark renders may differ by a few lines (864x496); the formula is what is published."""
_PIXELS_RENDERED_MAX = {"480p": 864 * 496, "720p": 1504 * 640, "1080p": 1920 * 1088}
"""The largest frame of any ratio and model that Ark's tables list."""

_PERMILLE = 1000
_INVISIBLE = (
    r"\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""Control characters, Unicode's Default_Ignorable_Code_Point, and the marks of annotations: readers may skip any of them."""
_HYPHENS = re.compile(rf"[-\uff0d\ufe63](?:[{_INVISIBLE}]*[-\uff0d\ufe63])+")
"""Two hyphens or more; full-width and small ones, which Unicode normalisation makes plain, and with invisible characters between."""


class VideoBilling(StrEnum):
    """What a finished task is charged by: the published formula, or the tokens that Ark reports (`billing.video_tokens`)."""

    FORMULA = "formula"
    USAGE = "usage"


@dataclass(frozen=True, slots=True)
class VideoCall:
    """A checked request."""

    prompt: str
    task_type: str = "text_to_video"
    image_url: str | None = None
    """Set exactly for the two image tasks."""
    resolution: str = "720p"
    duration_seconds: int = DURATION_SECONDS_DEFAULT
    generate_audio: bool = False
    seed: int | None = None
    watermark: bool = False
    service_tier: str = "default"

    @property
    def priced_resolution(self) -> str:
        """What `adaptive` is rendered at, and priced as."""
        return "720p" if self.resolution == "adaptive" else self.resolution


def parse_video_call(body: object, model: Model) -> VideoCall:
    """Return the checked request for a video model. Fields that are not published are ignored.

    Raises:
        InvalidJsonError: no object.
        MissingPromptError: `prompt` absent or blank.
        InvalidParameterError: a wrong type or range, or something that this model does not have; `param` names the field.
    """
    checked = fields.checked_body(body, PUBLISHED_KEYS)
    prompt = fields.required_prompt(checked)
    task_type = fields.one_of(checked, "task_type", TASK_TYPES, TASK_TYPES[0])
    audio = fields.optional_boolean(checked, "generate_audio")
    duration = fields.optional_integer(checked, "duration", DURATION_SECONDS_MIN, DURATION_SECONDS_MAX)
    call = VideoCall(
        prompt=prompt,
        task_type=task_type,
        image_url=_image_url(checked, task_type),
        resolution=fields.one_of(checked, "resolution", RESOLUTIONS, "720p"),
        duration_seconds=DURATION_SECONDS_DEFAULT if duration is None else duration,
        generate_audio="audio" in task_type if audio is None else audio,
        seed=fields.optional_integer(checked, "seed", -1, SEED_MAX),
        watermark=bool(fields.optional_boolean(checked, "watermark")),
        service_tier=fields.one_of(checked, "service_tier", SERVICE_TIERS, "default"),
    )
    _check_model_has(call, model)
    return call


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
    """Return the tokens of the published formula W·H·24·seconds/1024, whole ones: 720p, 5 s → 108000."""
    return _pixel_frames(call) // PIXEL_FRAMES_PER_TOKEN


def quote(call: VideoCall, price: VideoPrice) -> Nanos:
    """Return what the task costs if it succeeds, in nano-yuan: W·H·24·seconds/1024 tokens at their rate.

    Computed as one fraction. A remainder below one nano-yuan is dropped, in the customer's favour; it cannot arise at 720p and 1080p in
    the default tier (21600 and 48600 tokens a second), and 480p has half tokens, which even rates make whole.
    """
    return Nanos(_pixel_frames(call) * nanos_per_kilotoken(call, price) // (PIXEL_FRAMES_PER_TOKEN * _PERMILLE))


def charge_by_usage(completion_tokens: int, rate_nanos_per_kilotoken: int) -> Nanos:
    """Return what reported tokens cost in nano-yuan, not capped; a remainder below one nano-yuan is dropped."""
    return Nanos(completion_tokens * rate_nanos_per_kilotoken // _PERMILLE)


def hold_for(call: VideoCall, price: VideoPrice, billing: VideoBilling) -> Nanos:
    """Return the worst case in nano-yuan: the quote itself, or, where reported tokens are charged, an upper bound of those.

    Ark reports one frame more than the formula has (720p, 5 s: 108900), of the frame it really renders: with the quote alone as the
    hold, no task would ever be charged what was reported.
    """
    if billing is VideoBilling.FORMULA:
        return quote(call, price)
    frames = FRAMES_PER_SECOND * call.duration_seconds + 1
    tokens = -(-_PIXELS_RENDERED_MAX[call.priced_resolution] * frames // PIXEL_FRAMES_PER_TOKEN)
    return Nanos(max(quote(call, price), charge_by_usage(tokens, nanos_per_kilotoken(call, price))))


def upstream_body(call: VideoCall, upstream_model: str, safety_identifier: str) -> dict[str, object]:
    """Return the body of Ark's create call.

    What has a default upstream that is dearer or less certain than ours is always sent: sound (on), ratio (the model's choice).

    Args:
        call: the checked request.
        upstream_model: a versioned id or an endpoint.
        safety_identifier: at most 64 characters that stand for the customer, and do not name them.
    """
    body: dict[str, object] = {
        "model": upstream_model,
        "content": _content(call),
        "ratio": "adaptive" if call.image_url or call.resolution == "adaptive" else "16:9",
        "duration": call.duration_seconds,
        "generate_audio": call.generate_audio,
        "watermark": call.watermark,
        "return_last_frame": True,
        "safety_identifier": safety_identifier,
    }
    if call.resolution != "adaptive":  # upstream it is a ratio, and as a resolution a 400
        body["resolution"] = call.resolution
    if call.seed is not None:
        body["seed"] = call.seed
    if call.service_tier == "flex":  # models without flex refuse both fields, whatever their value
        body |= {"service_tier": "flex", "execution_expires_after": FLEX_EXPIRY_SECONDS}
    return body


def neutralised_prompt(prompt: str) -> str:
    """Return the prompt with each run of hyphens (``--``) as one dash (``—``), which is what it stands for in prose.

    Ark still reads ``--dur 12`` or ``--rs 1080p`` in a prompt as parameters, past every check and past the price. A dash is no flag to
    it, also after Unicode normalisation, which would turn full-width hyphens back; single hyphens stay.
    """
    return _HYPHENS.sub("—", prompt)


def total_cost(charge_nanos: Nanos) -> str:
    """Return yuan as published: ``"0.8640"``, at least 4 decimals, more where the amount has them."""
    return format_yuan(charge_nanos, 4)


def _pixel_frames(call: VideoCall) -> int:
    return _PIXELS[call.priced_resolution] * FRAMES_PER_SECOND * call.duration_seconds


def _image_url(body: fields.Body, task_type: str) -> str | None:
    fields.optional_text(body, "image_url", fields.DATA_URL_CHARACTERS_MAX)  # its type is checked also where its value is ignored
    if not task_type.startswith("image_"):
        return None
    return fields.required_image_url(body, "image_url", f"when 'task_type' is '{task_type}'")


def _check_model_has(call: VideoCall, model: Model) -> None:
    price = model.price
    if not isinstance(price, VideoPrice):
        raise TypeError(f"{model.id} is no video model")
    if model.resolutions and call.priced_resolution not in model.resolutions:
        offered = ", ".join(model.resolutions)
        raise InvalidParameterError(f"'resolution' {call.resolution} is not available for this model: {offered}", param="resolution")
    if call.service_tier == "flex" and price.flex_permille is None:
        raise InvalidParameterError("'service_tier' flex is not available for this model", param="service_tier")


def _content(call: VideoCall) -> list[dict[str, object]]:
    content: list[dict[str, object]] = [{"type": "text", "text": neutralised_prompt(call.prompt)}]
    if call.image_url:
        content.append({"type": "image_url", "image_url": {"url": call.image_url}, "role": "first_frame"})
    return content
