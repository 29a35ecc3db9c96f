"""The most prompt tokens that a picture in a chat can come to, by what its part says of detail and pixels.

Ark counts one token for each 784 pixels of the picture as it is scaled, up to a limit by `detail` (Ark, picture understanding,
82379/1362931); newer models count fewer. `image_pixel_limit` counts over `detail` (Ark, chat page, 82379/1494384).
"""

from collections.abc import Mapping
from typing import Any

from proxy.core.catalog import Model

PIXELS_PER_TOKEN = 784
PIXELS_MAX = 36_000_000
"""Ark refuses a picture with more."""
PIXELS_LIMIT_MIN = 3_136
"""No limit in pixels may be less, says Ark: whoever takes a smaller one does not obey it."""
WHOLE_TOKENS = -(-PIXELS_MAX // PIXELS_PER_TOKEN)
"""Of the largest picture, not scaled at all: 45,919. Nothing is published for ``xhigh``, nor for what a later `detail` may be."""

DETAIL_TOKENS: Mapping[object, int] = {"low": 1_312, "high": 5_120, "auto": 5_120, None: 5_120}
"""Limits as published. Which detail is taken by itself differs by model, so the dearer one counts."""


def picture_tokens_max(part: Mapping[str, Any], image: Mapping[str, Any], model: Model) -> int:
    """Return the most tokens of one picture. ``image`` is the part's `image_url`, an object.

    A limit lowers the bound only where Ark's chat page has it, in `image_url`. Beside it, or as the SDK's `max_pixels`, it only raises.
    """
    if model.image_tokens is not None:
        return model.image_tokens
    detail = image.get("detail")
    most = DETAIL_TOKENS.get(detail, WHOLE_TOKENS) if detail is None or type(detail) is str else WHOLE_TOKENS
    limit = image.get("image_pixel_limit")
    if limit is not None:
        most = _limited(limit, most)
    if "max_pixels" in image or "min_pixels" in image:
        most = max(most, _limited(image, 0))
    if (beside := part.get("image_pixel_limit")) is not None:
        most = max(most, _limited(beside, 0))
    return min(most, WHOLE_TOKENS)


def _limited(limit: object, otherwise: int) -> int:
    """Return the bound under a limit in pixels: ``max_pixels``, or at least ``min_pixels``, to which small pictures are enlarged."""
    if not isinstance(limit, Mapping):
        return WHOLE_TOKENS
    least, most = limit.get("min_pixels"), limit.get("max_pixels")
    return max(otherwise if most is None else _tokens(most), 0 if least is None else _tokens(least))


def _tokens(pixels: object) -> int:
    return -(-pixels // PIXELS_PER_TOKEN) if type(pixels) is int and pixels >= PIXELS_LIMIT_MIN else WHOLE_TOKENS
