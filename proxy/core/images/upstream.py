"""Bodies of the calls to Ark that make images, and the answers to them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import orjson

from proxy.core.ark.field_names import FieldNames
from proxy.core.ark.text import ArkError, read_error
from proxy.core.images.request import PUBLISHED_KEYS, SEED_MAX, ImageCall

FIELD_NAMES = FieldNames(
    published=PUBLISHED_KEYS,
    renamed={r"image(?:\[\d+\])?(?:\..*)?": "image_url"},
    added=frozenset({"sequential_image_generation", "response_format", "stream", "watermark"}),
)


STYLES: Mapping[str, str] = {
    "anime": "动漫风格",
    "realistic": "写实摄影风格",
    "oil_painting": "油画风格",
    "watercolor": "水彩画风格",
    "sketch": "素描风格",
}
"""The published styles as words of a prompt; any other is sent as ``<style> style``."""


_FORMAT_REFUSED = "the parameter `output_format` is not supported by the current model"


_NAMES_SEED = re.compile(r"[`'\"]seed[`'\"]|\bparameter seed\b")


OPTIONAL = frozenset({"output_format", "seed"})
"""Fields that a model may refuse, and is then asked without (`without_refused`)."""


@dataclass(frozen=True, slots=True)
class ImageResult:
    """One image made. `size` is as Ark reports it; empty if it does not."""

    url: str
    size: str = ""


@dataclass(frozen=True, slots=True)
class UpstreamBody:
    """Body sent upstream for one image: fields of its own, and those shared with the other images of its request."""

    own: Mapping[str, object]
    """Never empty."""
    shared: bytes
    """A JSON object; an input image has tens of megabytes, which are encoded and kept once for all images."""

    def pieces(self) -> list[bytes | memoryview]:
        """Return one JSON object, in pieces; the shared part is not copied."""
        return [orjson.dumps(self.own)[:-1] + b",", memoryview(self.shared)[1:]]

    def renamed(self, upstream_model: str) -> "UpstreamBody":
        """Return the body for another model."""
        return replace(self, own={**self.own, "model": upstream_model})


def upstream_bodies(call: ImageCall, upstream_model: str) -> tuple[UpstreamBody, ...]:
    """Return one body for each image, in order. A given seed is incremented for each, else all images would be the same."""
    own: dict[str, object] = {"model": upstream_model, "output_format": call.output_format}
    common: dict[str, object] = {
        "prompt": folded_prompt(call),
        "size": call.size,
        "sequential_image_generation": "disabled",
        "response_format": "url",
        "stream": False,
        "watermark": False,  # Ark's default is a watermark
    }
    if call.image_url is not None:
        common["image"] = call.image_url
    shared = orjson.dumps(common)
    if call.seed is None:
        return (UpstreamBody(own, shared),) * call.n
    return tuple(UpstreamBody({**own, "seed": (call.seed + index) % (SEED_MAX + 1)}, shared) for index in range(call.n))


def folded_prompt(call: ImageCall) -> str:
    """Return prompt, style and negative prompt as one text, a line each."""
    lines = [call.prompt]
    if call.style:
        name = call.style.lower().replace(" ", "_").replace("-", "_")
        lines.append(STYLES.get(name) or f"{call.style} style")
    if call.negative_prompt:
        lines.append(f"画面中不要出现：{call.negative_prompt}")
    return "\n".join(lines)


def parse_image_answer(status: int, answer: object) -> ImageResult | ArkError | None:
    """Return the image or the error in an answer; None if it has neither (an outage).

    An error can be the body of a 4xx or 5xx, wrapped or not, stand at the top of a 200, or in place of the image in ``data``.

    Args:
        status: status of the HTTP answer.
        answer: its body as parsed JSON; None if it was not JSON.
    """
    made = _first_image(answer) if 200 <= status < 300 and isinstance(answer, dict) else None
    return made or read_error(status, answer)


def without_refused(body: UpstreamBody, error: ArkError) -> UpstreamBody | None:
    """Return the body without the one optional field that the model refused, to be sent once more; None for any other refusal.

    `output_format` is dropped on Ark's exact words, recorded from a model whose documents promise it; `seed`, undocumented for this
    generation, on any 400 that names it. Such a 400 proves that nothing was made.
    """
    said = error.message.lower()
    named = ""
    if error.status == 400 and _FORMAT_REFUSED in said:
        named = "output_format"
    elif error.status == 400 and (error.param == "seed" or _NAMES_SEED.search(said)):
        named = "seed"
    if named not in body.own:
        return None
    return replace(body, own={name: value for name, value in body.own.items() if name != named})


def _first_image(answer: dict[str, object]) -> ImageResult | ArkError | None:
    entries = answer.get("data")
    if not isinstance(entries, list):
        return None
    for entry in entries:
        if isinstance(entry, dict) and isinstance(url := entry.get("url"), str) and url:
            size = entry.get("size")
            return ImageResult(url, size if isinstance(size, str) else "")
    return next((error for entry in entries if (error := read_error(200, entry))), None)
