"""Video requests: the checked fields. `price` has the cost, `upstream` the body for Ark, `task` the life of the task.

The cost is a formula of the request alone, so that the quote at submit is the bill.
"""

from dataclasses import dataclass

from proxy.core import fields
from proxy.core.catalog import Model, VideoPrice
from proxy.core.errors import InvalidParameterError

DEFAULT_MODEL = "doubao-seedance-1-5-pro-251215"
PUBLISHED_KEYS = frozenset(
    {"model", "prompt", "task_type", "image_url", "resolution", "duration", "generate_audio", "seed", "watermark", "service_tier"}
)


TASK_TYPES = ("text_to_video", "image_to_video", "text_to_audio_video", "image_to_audio_video")
RESOLUTIONS = ("480p", "720p", "1080p", "adaptive")
SERVICE_TIERS = ("default", "flex")
DURATION_SECONDS_MIN = 4
DURATION_SECONDS_MAX = 12
DURATION_SECONDS_DEFAULT = 5
SEED_MAX = 2**32 - 1

LIMIT_DEFAULT = 20
LIMIT_MAX = 100
"""Tasks on a page."""
OFFSET_MAX = 10**9


@dataclass(frozen=True, slots=True)
class VideoCall:
    """A checked video request."""

    prompt: str
    task_type: str = "text_to_video"
    image_url: str | None = None
    """Set for the two image tasks, and only then."""
    resolution: str = "720p"
    duration_seconds: int = DURATION_SECONDS_DEFAULT
    generate_audio: bool = False
    seed: int | None = None
    watermark: bool = False
    service_tier: str = "default"

    @property
    def priced_resolution(self) -> str:
        """Return the resolution that sets the price; ``adaptive`` is rendered at 720p and priced as that."""
        return "720p" if self.resolution == "adaptive" else self.resolution


def parse_video_call(body: object, model: Model) -> VideoCall:
    """Return the checked request for a video model. Unpublished fields are ignored.

    Raises:
        InvalidJsonError: not an object.
        MissingPromptError: `prompt` absent or blank.
        InvalidParameterError: a wrong type or range, or a value that this model does not support; `param` names the field.
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


def _image_url(body: fields.Body, task_type: str) -> str | None:
    fields.optional_text(body, "image_url", fields.DATA_URL_CHARACTERS_MAX)  # the type is checked even if the value is ignored
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
