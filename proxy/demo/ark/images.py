"""`POST /images/generations`: synchronous pictures, with Ark's size limits, partial failures and usage."""

import base64
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.clock import Clock
from proxy.demo.ark.call import Call
from proxy.demo.ark.dialect import Account, ArkError, invalid, missing
from proxy.demo.ark.media import link, png
from proxy.demo.ark.reply import asked, reply
from proxy.demo.ark.script import Pause, Step

_BUCKET = "ark-content-generation-v2-cn-beijing"
_MODERATED = "The request failed because the output image may contain sensitive information."
_NAMED = {"1K": (1024, 1024), "1.5K": (1536, 1536), "2K": (2048, 2048), "3K": (3072, 3072), "4K": (4096, 4096)}
_RATIO_MAX = 16
_SEED_MAX = 2_147_483_647


@dataclass(frozen=True, slots=True)
class _Family:
    """The parameters that one generation of Seedream accepts. `pixels`: minimum and maximum."""

    named: tuple[str, ...]
    pixels: tuple[int, int]
    takes_output_format: bool
    references: int
    groups: bool


_LITE = _Family(("2K", "3K", "4K"), (3_686_400, 16_777_216), takes_output_format=True, references=14, groups=True)
_FAMILIES = {
    "5-0-pro": _Family(("1K", "1.5K", "2K"), (921_600, 4_624_220), takes_output_format=True, references=10, groups=False),
    "4-5": _Family(("2K", "4K"), (3_686_400, 16_777_216), takes_output_format=False, references=14, groups=True),
    "4-0": _Family(("1K", "2K", "4K"), (921_600, 16_777_216), takes_output_format=False, references=14, groups=True),
}


class Images:
    """The default behaviour of images.

    Attributes:
        latency_seconds: delay before the answer.
        group_count: pictures that `sequential_image_generation: auto` makes, but never more than requested.
        refuses: parameters that are refused with "not supported by the current model", as `output_format` once was.
    """

    def __init__(self, account: Account, clock: Clock, origin: Callable[[], str] | None) -> None:
        self.latency_seconds = 0.0
        self.group_count = 15
        self.refuses: set[str] = set()
        self._account = account
        self._clock = clock
        self._origin = origin
        self._outcomes: deque[str | None] = deque()

    def enqueue(self, *outcomes: str | None) -> None:
        """Set the outcomes of the next pictures, one each: an error code, or None for success. The default is success."""
        self._outcomes.extend(outcomes)

    def answer(self, call: Call) -> Sequence[Step]:
        """Return the script of an image answer. Raises: ArkError: 400 or 404 as Ark validates; 400 if no picture could be made."""
        wanted = asked(call)
        model = self._account.model(wanted.get("model"), "image")
        self._validate(wanted, model)
        width, height = _size(wanted.get("size") or "2048x2048", _family(model))
        outcomes = [self._outcomes.popleft() if self._outcomes else None for _ in range(self._count(wanted))]
        made = outcomes.count(None)
        pause: list[Step] = [Pause(self.latency_seconds)] if self.latency_seconds else []
        if made == 0:
            raise ArkError(400, outcomes[0] or "", _MODERATED)
        tokens = round(made * width * height / 256)
        usage = {"generated_images": made, "output_tokens": tokens, "total_tokens": tokens}
        if not _family(model).groups:
            usage["input_images"] = len(_references(wanted))
        answer = {
            "model": model,
            "created": self._clock.now_ms() // 1000,
            "data": [self._picture(call, wanted, model, index, outcome, (width, height)) for index, outcome in enumerate(outcomes)],
            "usage": usage,
        }
        return [*pause, *reply(call, answer)]

    def _count(self, wanted: dict[str, Any]) -> int:
        """Return how many pictures to make. Ark has no field `n`: it is ignored like every unknown field."""
        if wanted.get("sequential_image_generation") != "auto":
            return 1
        options = wanted.get("sequential_image_generation_options") or {}
        return min(options.get("max_images") or 15, 15 - len(_references(wanted)), self.group_count)

    def _picture(
        self, call: Call, wanted: dict[str, Any], model: str, index: int, outcome: str | None, size: tuple[int, int]
    ) -> dict[str, Any]:
        if outcome is not None:
            return {"error": {"code": outcome, "message": f"{_MODERATED} Request id: {call.request_id}"}}
        shown = f"{size[0]}x{size[1]}"
        if wanted.get("response_format") == "b64_json":
            return {"b64_json": base64.b64encode(png(*size)).decode(), "size": shown}
        name = f"{model.rpartition('-')[0]}/{call.request_id}_{index}.{wanted.get('output_format') or 'jpeg'}"
        return {"url": link(self._origin() if self._origin else None, _BUCKET, name, size), "size": shown}

    def _validate(self, wanted: dict[str, Any], model: str) -> None:
        if not isinstance(wanted.get("prompt"), str) or not wanted["prompt"]:
            raise missing("prompt")
        family = _family(model)
        refused = self.refuses | (set() if family.takes_output_format else {"output_format"})
        for name in sorted(refused & wanted.keys()):
            raise ArkError(400, "InvalidParameter", f"the parameter `{name}` is not supported by the current model", name)
        _one_of(wanted, "output_format", ("png", "jpeg"))
        _one_of(wanted, "response_format", ("url", "b64_json"))
        _one_of(wanted, "sequential_image_generation", ("disabled", "auto") if family.groups else ("disabled",))
        seed = wanted.get("seed")
        if seed is not None and (not isinstance(seed, int) or not -1 <= seed <= _SEED_MAX):
            raise invalid("seed", f"it has to be an integer between -1 and {_SEED_MAX}")
        if "watermark" in wanted and not isinstance(wanted["watermark"], bool):
            raise invalid("watermark", "it has to be a boolean")
        _validate_references(_references(wanted), family.references)


def _family(model: str) -> _Family:
    return next((family for name, family in _FAMILIES.items() if f"seedream-{name}" in model), _LITE)


def _size(asked_size: object, family: _Family) -> tuple[int, int]:
    if isinstance(asked_size, str) and asked_size in family.named:
        return _NAMED[asked_size]
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", asked_size) if isinstance(asked_size, str) else None
    if match is None:
        raise invalid("size", f"it has to be one of {', '.join(family.named)} or WIDTHxHEIGHT")
    width, height = int(match[1]), int(match[2])
    least, most = family.pixels
    if width * height < least:
        raise invalid("size", f"image size must be at least {least} pixels")
    if width * height > most:
        raise invalid("size", f"image size must be at most {most} pixels")
    if max(width, height) > _RATIO_MAX * min(width, height):
        raise invalid("size", "the ratio of the sides must be between 1/16 and 16")
    return width, height


def _references(wanted: dict[str, Any]) -> list[Any]:
    image = wanted.get("image")
    return [] if image is None else image if isinstance(image, list) else [image]


def _validate_references(references: list[Any], most: int) -> None:
    if len(references) > most:
        raise invalid("image", f"at most {most} images are supported")
    for reference in references:
        if not isinstance(reference, str) or not re.match(r"https?://|data:image/[a-z]+;base64,", reference):
            raise invalid("image", "resource download failed")


def _one_of(wanted: dict[str, Any], name: str, words: tuple[str, ...]) -> None:
    if wanted.get(name) is not None and wanted[name] not in words:
        raise invalid(name, f"expected one of {', '.join(words)}, but got `{wanted[name]}` instead")
