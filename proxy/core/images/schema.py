"""The fields of an image request as `request.parse_image_call` takes them. A test holds each to what the parser does."""

from proxy.core.fields import DATA_URL_CHARACTERS_MAX, MODEL_CHARACTERS_MAX, PROMPT_CHARACTERS_MAX
from proxy.core.images.request import (
    DEFAULT_MODEL,
    DEFAULT_SIZE,
    IMAGES_MAX,
    LISTED_SIZES,
    NEGATIVE_PROMPT_CHARACTERS_MAX,
    RANDOM_SEED,
    SEED_MAX,
    SIZE_CHARACTERS_MAX,
    STYLE_CHARACTERS_MAX,
    TASK_TYPES,
    UPSTREAM_FORMATS,
)
from proxy.core.images.upstream import STYLES
from proxy.core.schema import Fields, described, one_of, optional

FIELDS: Fields = {
    "model": optional("string", maxLength=MODEL_CHARACTERS_MAX, default=DEFAULT_MODEL),
    "prompt": {"type": "string", "maxLength": PROMPT_CHARACTERS_MAX, "pattern": r"\S"},
    "task_type": one_of(TASK_TYPES, TASK_TYPES[0]),
    "negative_prompt": optional("string", maxLength=NEGATIVE_PROMPT_CHARACTERS_MAX),
    "image_url": optional("string", maxLength=DATA_URL_CHARACTERS_MAX),
    "size": optional(
        "string",
        maxLength=SIZE_CHARACTERS_MAX,
        pattern=r"^\s*(auto|[234][kK]|0*[1-9][0-9]*[xX]0*[1-9][0-9]*)?\s*$",
        default=DEFAULT_SIZE,
        examples=[f"{width}x{height}" for width, height in LISTED_SIZES],
    ),
    "style": optional("string", maxLength=STYLE_CHARACTERS_MAX, examples=list(STYLES)),
    "n": optional("integer", minimum=1, maximum=IMAGES_MAX, default=1),
    "seed": optional("integer", minimum=RANDOM_SEED, maximum=SEED_MAX),
    "output_format": one_of([*UPSTREAM_FORMATS], "png"),
    "response_format": one_of(["url"], "url"),
    "stream": optional("boolean", enum=[False, None], default=False),
}

REQUEST = described(FIELDS, ["prompt"]) | {
    "if": {"properties": {"task_type": {"const": "image_to_image"}}, "required": ["task_type"]},
    "then": {"required": ["image_url"], "properties": {"image_url": {"type": "string"}}},
}
