"""Image requests: the checked fields, the size that is sent upstream, and the cost.

Ark makes one image a call and knows neither `n`, `style` nor `negative_prompt`: the first becomes calls, the others part of the prompt.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from proxy.core import fields
from proxy.core.catalog import ImagePrice
from proxy.core.errors import InvalidParameterError
from proxy.core.money import DISCOUNT_WHOLE, NANOS_PER_YUAN, Nanos, before_discount, discounted

DEFAULT_MODEL = "doubao-seedream-5-0-260128"
PUBLISHED_KEYS = frozenset(
    {"model", "prompt", "task_type", "negative_prompt", "image_url", "size", "style", "n", "seed", "output_format", "response_format"}
)


TASK_TYPES = ("text_to_image", "image_to_image")
IMAGES_MAX = 4
SEED_MAX = 2**31 - 1
RANDOM_SEED = -1
STYLE_CHARACTERS_MAX = 100
NEGATIVE_PROMPT_CHARACTERS_MAX = 2_000
SIZE_CHARACTERS_MAX = 32

PIXELS_MIN = 3_686_400
PIXELS_MAX = 16_777_216
ASPECT_MAX = 16
LISTED_SIZES = ((2048, 2048), (2560, 1440), (1440, 2560), (2560, 1920), (1920, 2560), (2400, 1600), (3840, 2160))
"""As published. Of two with the same ratio the smaller comes first, and is the one that a small size is raised to."""
DEFAULT_SIZE = "2048x2048"
_NAMED_SIZES = ("2K", "3K", "4K")
_SIZE = re.compile(r"([0-9]{1,5})[xX]([0-9]{1,5})")


UPSTREAM_FORMATS = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg"}


@dataclass(frozen=True, slots=True)
class ImageCall:
    """A checked image request."""

    prompt: str
    task_type: str = "text_to_image"
    image_url: str | None = None
    """Set for ``image_to_image``, and only then."""
    negative_prompt: str | None = None
    style: str | None = None
    size: str = DEFAULT_SIZE
    """As it is sent upstream: ``2048x2048``, or ``2K``."""
    n: int = 1
    seed: int | None = None
    """None: random."""
    output_format: str = "png"
    """As Ark spells it: png or jpeg."""


def parse_image_call(body: object) -> ImageCall:
    """Return the checked request. Unpublished fields are ignored, except OpenAI's that change the answer's form.

    Raises:
        InvalidJsonError: not an object.
        MissingPromptError: `prompt` absent or blank.
        InvalidParameterError: a wrong type, range or shape; `param` names the field.
    """
    checked = fields.checked_body(body, PUBLISHED_KEYS)
    prompt = fields.required_prompt(checked)
    task_type = fields.one_of(checked, "task_type", TASK_TYPES, TASK_TYPES[0])
    _check_answer_form(checked)
    seed = fields.optional_integer(checked, "seed", RANDOM_SEED, SEED_MAX)
    return ImageCall(
        prompt=prompt,
        task_type=task_type,
        image_url=_image_url(checked, task_type),
        negative_prompt=fields.optional_text(checked, "negative_prompt", NEGATIVE_PROMPT_CHARACTERS_MAX),
        style=fields.optional_text(checked, "style", STYLE_CHARACTERS_MAX),
        size=upstream_size(fields.optional_text(checked, "size", SIZE_CHARACTERS_MAX) or DEFAULT_SIZE),
        n=fields.optional_integer(checked, "n", 1, IMAGES_MAX) or 1,
        seed=None if seed == RANDOM_SEED else seed,
        output_format=_output_format(checked),
    )


def upstream_size(size: str) -> str:
    """Return the size to send for the one asked for; below Ark's minimum, the listed size with the nearest ratio.

    ``1024x1024`` → ``2048x2048`` and ``1280x720`` → ``2560x1440``, as the published examples need. ``auto`` means the default.

    Raises:
        InvalidParameterError: malformed, above the maximum, or with a ratio beyond 1:16.
    """
    if size == "auto":
        return DEFAULT_SIZE
    if size.upper() in _NAMED_SIZES:
        return size.upper()
    found = _SIZE.fullmatch(size)
    width, height = (int(found[1]), int(found[2])) if found else (0, 0)
    if not width or not height:
        raise _bad_size(size, "must be WIDTHxHEIGHT, such as 2048x2048")
    if max(width, height) > ASPECT_MAX * min(width, height):
        raise _bad_size(size, f"must have a ratio from 1:{ASPECT_MAX} to {ASPECT_MAX}:1")
    if width * height > PIXELS_MAX:
        raise _bad_size(size, f"must have at most {PIXELS_MAX} pixels")
    if width * height < PIXELS_MIN:
        width, height = min(LISTED_SIZES, key=lambda listed: _ratio_distance(listed, (width, height)))
    return f"{width}x{height}"


def hold_for(call: ImageCall, price: ImagePrice, discount: int = DISCOUNT_WHOLE) -> Nanos:
    """Return the cost of the call if every image is made, in nano-yuan."""
    return charge_for(call.n, price, discount)


def hold_advice(n: int, price: ImagePrice, discount: int, available_nanos: int) -> str:
    """Return what makes the hold as large as it is, and how to lower it so far that it can be paid, if that is possible."""
    enough = before_discount(available_nanos, discount) // max(1, price.image)
    if n == 1 or enough < 1:
        return f"It is the price of {n} pictures" if n > 1 else "It is the price of one picture"
    return f"It is the price of {n} pictures. To need less: lower 'n' to {enough}, which is enough"


def charge_for(made: int, price: ImagePrice, discount: int = DISCOUNT_WHOLE) -> Nanos:
    """Return the price of the images that were made, in nano-yuan; exact, but for a discount, in ten-thousandths."""
    return discounted(made * price.image, discount)


def total_cost(charge_nanos: Nanos) -> float:
    """Return yuan as the published number: 0.36. The quotient is the nearest float, so it prints as the decimal it stands for."""
    return charge_nanos / NANOS_PER_YUAN


def _check_answer_form(body: fields.Body) -> None:
    if body.get("response_format") not in (None, "url"):
        raise InvalidParameterError("'response_format' must be 'url': images are answered as links only", param="response_format")
    if fields.optional_boolean(body, "stream"):
        raise InvalidParameterError("'stream' is not available for images", param="stream")


def _image_url(body: fields.Body, task_type: str) -> str | None:
    fields.optional_text(body, "image_url", fields.DATA_URL_CHARACTERS_MAX)  # the type is checked even if the value is ignored
    if task_type != "image_to_image":
        return None
    return fields.required_image_url(body, "image_url", "when 'task_type' is 'image_to_image'")


def _output_format(body: fields.Body) -> str:
    asked = fields.one_of(body, "output_format", ("png", "jpg", "jpeg", "webp"), "png")
    if asked == "webp":
        raise InvalidParameterError("'output_format' webp is not available: the model makes png and jpg", param="output_format")
    return UPSTREAM_FORMATS[asked]


def _ratio_distance(one: tuple[int, int], other: tuple[int, int]) -> Fraction:
    """Return the factor between two ratios, at least 1; exact, so that ties are ties."""
    factor = Fraction(one[0] * other[1], one[1] * other[0])
    return max(factor, 1 / factor)


def _bad_size(size: str, why: str) -> InvalidParameterError:
    return InvalidParameterError(f"'size' {fields.shown(size)} {why}", param="size")
