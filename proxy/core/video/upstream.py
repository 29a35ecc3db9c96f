"""Body of the call to Ark that creates a video task."""

import re

from proxy.core.ark.field_names import FieldNames
from proxy.core.shown_text import INVISIBLE
from proxy.core.video.request import PUBLISHED_KEYS, VideoCall

FIELD_NAMES = FieldNames(
    published=PUBLISHED_KEYS,
    renamed={
        r"contents?(?:\[0\])?|contents?(?:\[\d+\])?\.text.*": "prompt",
        r"contents?\[[1-9]\d*\].*|contents?(?:\[\d+\])?\.image_url.*": "image_url",
    },
    added=frozenset({"ratio", "return_last_frame", "safety_identifier", "execution_expires_after"}),
)


UPSTREAM_OPTIONAL = frozenset({"seed", "return_last_frame"})
"""Fields left out for a model that does not support them: the seed, and the last frame as an image."""


FLEX_EXPIRY_SECONDS = 86_400
"""Sent with flex tasks; without it Ark keeps them for `DEFAULT_EXPIRY_SECONDS`."""


DEFAULT_EXPIRY_SECONDS = 172_800


_HYPHENS = re.compile(rf"[-\uff0d\ufe63](?:[{INVISIBLE}]*[-\uff0d\ufe63])+")
"""Two or more hyphens, also full-width and small ones, which Unicode normalisation makes plain; invisible characters may be between."""


def upstream_body(call: VideoCall, upstream_model: str, safety_identifier: str) -> dict[str, object]:
    """Return the body of Ark's create call.

    Fields whose default at Ark is dearer or less certain than ours are always sent: sound (on), ratio (the model's choice).

    Args:
        call: the checked request.
        upstream_model: a versioned id or an endpoint.
        safety_identifier: at most 64 characters that stand for the customer without naming them.
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
    if call.resolution != "adaptive":  # for Ark it is a ratio; as a resolution it is a 400
        body["resolution"] = call.resolution
    if call.seed is not None:
        body["seed"] = call.seed
    if call.service_tier == "flex":  # models without flex refuse both fields, whatever their value
        body |= {"service_tier": "flex", "execution_expires_after": FLEX_EXPIRY_SECONDS}
    return body


def neutralised_prompt(prompt: str) -> str:
    """Return the prompt with each run of hyphens (``--``) as one dash (``—``), its meaning in prose.

    Ark still reads ``--dur 12`` or ``--rs 1080p`` in a prompt as parameters, which bypass every check and the price. A dash is not a
    flag to it, even after Unicode normalisation, which would turn full-width hyphens back; single hyphens stay.
    """
    return _HYPHENS.sub("—", prompt)


def _content(call: VideoCall) -> list[dict[str, object]]:
    content: list[dict[str, object]] = [{"type": "text", "text": neutralised_prompt(call.prompt)}]
    if call.image_url:
        content.append({"type": "image_url", "image_url": {"url": call.image_url}, "role": "first_frame"})
    return content
