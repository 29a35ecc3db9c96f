"""The fields of a video request as `request.parse_video_call` takes them. A test holds each to what the parser does."""

from proxy.core.fields import DATA_URL_CHARACTERS_MAX, MODEL_CHARACTERS_MAX, PROMPT_CHARACTERS_MAX
from proxy.core.schema import Fields, described, one_of, optional
from proxy.core.video.request import (
    DEFAULT_MODEL,
    DURATION_SECONDS_DEFAULT,
    DURATION_SECONDS_MAX,
    DURATION_SECONDS_MIN,
    RESOLUTIONS,
    SEED_MAX,
    SERVICE_TIERS,
    TASK_TYPES,
)

FIELDS: Fields = {
    "model": optional("string", maxLength=MODEL_CHARACTERS_MAX, default=DEFAULT_MODEL),
    "prompt": {"type": "string", "maxLength": PROMPT_CHARACTERS_MAX, "pattern": r"\S"},
    "task_type": one_of(TASK_TYPES, TASK_TYPES[0]),
    "image_url": optional("string", maxLength=DATA_URL_CHARACTERS_MAX),
    "resolution": one_of(RESOLUTIONS, "720p"),
    "duration": optional("integer", minimum=DURATION_SECONDS_MIN, maximum=DURATION_SECONDS_MAX, default=DURATION_SECONDS_DEFAULT),
    "generate_audio": optional("boolean"),
    "seed": optional("integer", minimum=-1, maximum=SEED_MAX),
    "watermark": optional("boolean", default=False),
    "service_tier": one_of(SERVICE_TIERS, "default"),
}

REQUEST = described(FIELDS, ["prompt"]) | {
    "if": {
        "properties": {"task_type": {"enum": [name for name in TASK_TYPES if name.startswith("image_")]}},
        "required": ["task_type"],
    },
    "then": {"required": ["image_url"], "properties": {"image_url": {"type": "string"}}},
}
