"""Validation of video tasks, model by model, and their token counts. Pure: a body in, an order out."""

import re
from dataclasses import dataclass
from typing import Any

from proxy.demo.ark.dialect import ArkError, invalid, missing

RATIOS = ("16:9", "4:3", "1:1", "3:4", "9:16", "21:9")
_SEED_MAX = 2**32 - 1
_PIXELS = {
    "480p": ((864, 496), (752, 560), (640, 640), (560, 752), (496, 864), (992, 432)),
    "720p": ((1280, 720), (1112, 834), (960, 960), (834, 1112), (720, 1280), (1470, 630)),
    "1080p": ((1920, 1080), (1664, 1248), (1440, 1440), (1248, 1664), (1080, 1920), (2206, 946)),
}
_PIXELS_OF_1_0 = {
    "480p": ((864, 480), (736, 544), (640, 640), (544, 736), (480, 864), (960, 416)),
    "720p": ((1248, 704), (1120, 832), (960, 960), (832, 1120), (704, 1248), (1504, 640)),
    "1080p": ((1920, 1088), (1664, 1248), (1440, 1440), (1248, 1664), (1088, 1920), (2176, 928)),
}
_FLAGS = {
    "rs": "resolution",
    "resolution": "resolution",
    "rt": "ratio",
    "ratio": "ratio",
    "dur": "duration",
    "duration": "duration",
    "seed": "seed",
    "cf": "camera_fixed",
    "camerafixed": "camera_fixed",
    "wm": "watermark",
    "watermark": "watermark",
}


@dataclass(frozen=True, slots=True)
class Family:
    """The parameters that one generation of Seedance accepts. `fixed_tiers`: `service_tier` is refused, whatever its value."""

    resolutions: tuple[str, ...]
    seconds: tuple[int, int]
    references: int
    flex: bool = False
    fixed_tiers: bool = False
    drafts: bool = False
    camera: bool = False
    priority: bool = True


_FAMILIES = {
    "1-5": Family(("480p", "720p", "1080p"), (4, 12), 0, flex=True, drafts=True, camera=True, priority=False),
    "1-0": Family(("480p", "720p", "1080p"), (2, 12), 0, flex=True, camera=True, priority=False),
    "2-0-fast": Family(("480p", "720p"), (4, 15), 9, fixed_tiers=True),
    "2-0-mini": Family(("480p", "720p"), (4, 15), 9),
    "2-0": Family(("480p", "720p", "1080p", "4k"), (4, 15), 9),
    "2-5": Family(("480p", "720p", "1080p"), (4, 30), 30, drafts=True),
}


@dataclass(frozen=True, slots=True)
class Order:
    """A task as Ark understood it. `seed` None: Ark draws one. The model chooses for `ratio` "adaptive" and for `seconds` -1."""

    model: str
    with_image: bool
    resolution: str
    ratio: str
    seconds: int
    generate_audio: bool
    seed: int | None
    service_tier: str
    execution_expires_after: int
    draft: bool
    return_last_frame: bool
    safety_identifier: str | None
    priority: int | None


def family_of(model: str) -> Family:
    return next((family for name, family in _FAMILIES.items() if f"seedance-{name}" in model), _FAMILIES["2-0"])


def dimensions(model: str, resolution: str, ratio: str) -> tuple[int, int]:
    """Return width and height. A ratio that is not in the table (2.5 makes such) has the width of 16:9 and its own height."""
    if resolution == "4k":
        width, height = dimensions(model, "1080p", ratio)
        return width * 2, height * 2
    if ratio == "16:9" and resolution == "480p" and "seedance-2-5" in model:
        return 854, 480
    table = (_PIXELS_OF_1_0 if "seedance-1-0" in model else _PIXELS)[resolution]
    if ratio in RATIOS:
        return table[RATIOS.index(ratio)]
    across, _, down = ratio.partition(":")
    return table[0][0], table[0][0] * int(down) // int(across)


def tokens(width: int, height: int, seconds: int) -> int:
    """Return the billed tokens: 24 frames a second plus one frame, 1024 pixels a token."""
    return width * height * (24 * seconds + 1) // 1024


def understand(wanted: dict[str, Any], model: str) -> Order:
    """Return the order in a request body.

    Flags at the end of the prompt (`--dur 10`) are still parsed, and win, so that tests notice a gateway that lets them through.

    Raises:
        ArkError: 400, as Ark validates.
    """
    text, images = _content(wanted.get("content"), family_of(model))
    wanted = wanted | _flags(text)
    _validate(wanted, model, with_image=bool(images))
    return Order(
        model=model,
        with_image=bool(images),
        resolution=wanted.get("resolution") or "720p",
        ratio=wanted.get("ratio") or "adaptive",
        seconds=wanted.get("duration") or 5,
        generate_audio=wanted.get("generate_audio", True),
        seed=None if wanted.get("seed", -1) == -1 else wanted["seed"],
        service_tier=wanted.get("service_tier") or "default",
        execution_expires_after=wanted.get("execution_expires_after") or 172_800,
        draft=wanted.get("draft", False),
        return_last_frame=wanted.get("return_last_frame", False),
        safety_identifier=wanted.get("safety_identifier"),
        priority=wanted.get("priority", 0) if family_of(model).priority else None,
    )


def _content(content: object, family: Family) -> tuple[str, list[dict[str, Any]]]:
    if not isinstance(content, list) or not content or not all(isinstance(item, dict) for item in content):
        raise missing("content")
    texts = [item for item in content if item.get("type") == "text"]
    images = [item for item in content if item.get("type") == "image_url"]
    if not texts and not images:
        raise missing("content.text")
    for index, item in enumerate(content):
        _validate_item(index, item, family)
    roles = {item.get("role") or "first_frame" for item in images}
    if "reference_image" in roles and len(roles) > 1:
        raise invalid("content", "reference images and frames cannot be mixed", "InvalidParameter.TaskTypeConstraint")
    most = family.references if "reference_image" in roles else len(roles)
    if len(images) > most:
        raise invalid("content", "too many images")
    return "".join(item["text"] for item in texts), images


def _validate_item(index: int, item: dict[str, Any], family: Family) -> None:
    if item.get("type") == "text":
        if not isinstance(item.get("text"), str) or not item["text"]:
            raise missing(f"content[{index}].text")
        return
    if item.get("type") != "image_url":
        raise invalid(f"content[{index}].type", "unknown or unsupported here", "InvalidParameter.UnsupportedParameter")
    image = item.get("image_url")
    url = image.get("url") if isinstance(image, dict) else None
    if not isinstance(url, str) or not re.match(r"https?://|asset://|data:image/[a-z]+;base64,", url):
        raise invalid(f"content[{index}].image_url", "resource download failed")
    roles = ("first_frame", "last_frame", "reference_image") if family.references else ("first_frame", "last_frame")
    if item.get("role") not in (None, *roles):
        raise invalid(f"content[{index}].role", f"expected one of {', '.join(roles)}")


def _flags(text: str) -> dict[str, Any]:
    """Return the known flags at the end of a prompt."""
    found: dict[str, Any] = {}
    end = re.search(r"(?:\s+--\w+\s+[^\s-]\S*)+\s*$", text)
    for name, value in re.findall(r"--(\w+)\s+(\S+)", end[0] if end else ""):
        if (field := _FLAGS.get(name)) is None:
            continue
        if field in ("duration", "seed"):
            found |= {field: int(value)} if value.isdecimal() else {}
        else:
            found[field] = value == "true" if field in ("camera_fixed", "watermark") else value
    return found


def _validate(wanted: dict[str, Any], model: str, *, with_image: bool) -> None:
    family = family_of(model)
    mode = "i2v" if with_image else "t2v"
    if wanted.get("resolution") is not None and wanted["resolution"] not in family.resolutions:
        raise _bad("resolution", f"is not valid for model {model} in {mode}")
    if wanted.get("ratio") is not None and wanted["ratio"] not in (*RATIOS, "adaptive"):
        raise _bad("ratio", f"is not valid for model {model} in {mode}")
    if "seedance-2-5" in model and with_image and wanted.get("ratio") not in (None, "adaptive"):
        raise _bad("ratio", f"must be adaptive for model {model} in {mode}")
    _validate_duration(wanted.get("duration"), family, f"for model {model} in {mode}")
    _validate_tier(wanted, family, model)
    for name in ("generate_audio", "watermark", "return_last_frame", "draft", "camera_fixed"):
        if wanted.get(name) is not None and not isinstance(wanted[name], bool):
            raise _bad(name, "must be a boolean")
    _validate_integer(wanted, "seed", -1, _SEED_MAX)
    _validate_integer(wanted, "execution_expires_after", 3_600, 259_200)
    _validate_integer(wanted, "priority", 0, 9)
    for name, is_supported in (("camera_fixed", family.camera), ("draft", family.drafts), ("frames", "seedance-1-0" in model)):
        if wanted.get(name) not in (None, False) and not is_supported:
            raise _unsupported(name, model)
    if wanted.get("draft") and wanted.get("resolution") != "480p":
        raise _bad("resolution", "must be 480p for a draft")
    if len(wanted.get("safety_identifier") or "") > 64:
        raise _bad("safety_identifier", "must have at most 64 characters")


def _validate_duration(duration: object, family: Family, where: str) -> None:
    if duration is None or duration == -1:
        return
    least, most = family.seconds
    if not isinstance(duration, int) or isinstance(duration, bool):
        raise _bad("duration", f"must be an integer {where}")
    if duration < least:
        raise _bad("duration", f"must be greater than or equal to {least} {where}")
    if duration > most:
        raise _bad("duration", f"must be less than or equal to {most} {where}")


def _validate_tier(wanted: dict[str, Any], family: Family, model: str) -> None:
    for name in ("service_tier", "execution_expires_after"):
        if wanted.get(name) is not None and family.fixed_tiers:
            raise _unsupported(name, model)
    tier = wanted.get("service_tier")
    if tier == "flex" and not family.flex:
        raise _unsupported("service_tier", model)
    if tier not in (None, "default", "flex") and "seedance-1-0" not in model:  # 1.0 was seen to accept any word
        raise _bad("service_tier", "must be default or flex")


def _validate_integer(wanted: dict[str, Any], name: str, least: int, most: int) -> None:
    value = wanted.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most):
        raise _bad(name, f"must be an integer between {least} and {most}")


def _bad(name: str, reason: str) -> ArkError:
    return ArkError(400, "InvalidParameter", f"the parameter {name} specified in the request {reason}.", name)


def _unsupported(name: str, model: str) -> ArkError:
    message = f"the parameter {name} specified in the request is not supported by model {model}."
    return ArkError(400, "InvalidParameter.UnsupportedParameter", message, name)
