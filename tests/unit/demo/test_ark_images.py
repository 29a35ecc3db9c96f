"""Images: Ark's limits, answers and partial failures."""

import base64
from typing import Any

import pytest

from proxy.demo.ark import Settings, StandIn
from tests.unit.demo.conftest import KEY, Asking

IMAGES = "/images/generations"
LITE = "doubao-seedream-5-0-260128"
MODERATED = "OutputImageSensitiveContentDetected"


def _picture(**more: Any) -> dict[str, Any]:
    return {"model": LITE, "prompt": "a cat", **more}


async def test_a_picture_has_a_presigned_link_its_size_and_its_tokens(ark: StandIn, ask: Asking) -> None:
    answer = (await ask(ark, "POST", IMAGES, _picture(size="2560x1440", output_format="png", n=4))).json

    (picture,) = answer["data"]  # n does not exist at Ark
    assert list(answer) == ["model", "created", "data", "usage"]
    assert (answer["model"], answer["created"], picture["size"]) == (LITE, 1_765_952_525, "2560x1440")
    assert picture["url"].startswith("https://ark-content-generation-v2-cn-beijing.tos-cn-beijing.volces.com/doubao-seedream-5-0/0217")
    assert f"{ark.calls[0].request_id}_0.png?X-Tos-Algorithm=" in picture["url"]
    assert "X-Tos-Expires=86400" in picture["url"]
    # 2560 · 1440 / 256 = 14400
    assert answer["usage"] == {"generated_images": 1, "output_tokens": 14_400, "total_tokens": 14_400}


@pytest.mark.parametrize(
    ("model", "size", "status"),
    [
        (LITE, "2K", 200),
        (LITE, "1K", 400),
        (LITE, "2560x1440", 200),  # 3 686 400, the least
        (LITE, "2560x1439", 400),
        (LITE, "4096x4096", 200),  # 16 777 216, the most
        (LITE, "4097x4096", 400),
        (LITE, "8000x500", 200),  # 4 000 000 and 16 : 1
        (LITE, "8016x500", 400),
        (LITE, "1024*1024", 400),
        ("doubao-seedream-4-0-250828", "1K", 200),
        ("doubao-seedream-5-0-pro-260628", "4K", 400),
    ],
)
async def test_sizes_have_bounds(ark: StandIn, ask: Asking, model: str, size: str, status: int) -> None:
    answer = await ask(ark, "POST", IMAGES, _picture(model=model, size=size))

    assert answer.status == status
    assert status == 200 or (answer.json["error"]["code"], answer.json["error"]["param"]) == ("InvalidParameter", "size")


async def test_a_picture_that_is_too_small_is_refused_in_the_recorded_words(ark: StandIn, ask: Asking) -> None:
    answer = await ask(ark, "POST", IMAGES, _picture(size="1024x1024"))

    assert answer.json == {
        "error": {
            "code": "InvalidParameter",
            "message": "The parameter `size` specified in the request is not valid: image size must be at least 3686400 pixels."
            f" Request id: {ark.calls[0].request_id}",
            "param": "size",
            "type": "BadRequest",
        }
    }


@pytest.mark.parametrize(
    ("more", "code", "param"),
    [
        ({"prompt": ""}, "MissingParameter", "prompt"),
        ({"output_format": "webp"}, "InvalidParameter", "output_format"),
        ({"model": "doubao-seedream-4-5-251128", "output_format": "png"}, "InvalidParameter", "output_format"),
        ({"response_format": "xml"}, "InvalidParameter", "response_format"),
        ({"seed": 2**31}, "InvalidParameter", "seed"),
        ({"watermark": "no"}, "InvalidParameter", "watermark"),
        ({"image": "ftp://x"}, "InvalidParameter", "image"),
        ({"image": ["https://x/1.png"] * 15}, "InvalidParameter", "image"),
        ({"model": "doubao-seed-2-0-pro-260215"}, "InvalidParameter", "model"),
    ],
)
async def test_what_ark_refuses_is_refused(ark: StandIn, ask: Asking, more: dict[str, Any], code: str, param: str) -> None:
    answer = await ask(ark, "POST", IMAGES, _picture(**more))

    assert (answer.status, answer.json["error"]["code"], answer.json["error"]["param"]) == (400, code, param)


async def test_a_parameter_may_be_refused_as_it_once_was(ark: StandIn, ask: Asking) -> None:
    ark.images.refuses.add("output_format")

    refused = await ask(ark, "POST", IMAGES, _picture(output_format="png"))
    taken = await ask(ark, "POST", IMAGES, _picture())

    assert refused.json["error"]["message"].startswith("the parameter `output_format` is not supported by the current model")
    assert taken.status == 200


async def test_errors_may_come_without_their_wrapper(ask: Asking) -> None:
    async with StandIn(Settings(wraps_errors=False)) as ark:
        answer = await ask(ark, "POST", IMAGES, _picture(size="1x1"))

    assert list(answer.json) == ["code", "message", "param", "type"]
    assert (answer.json["code"], answer.json["param"], answer.json["type"]) == ("InvalidParameter", "", "")


async def test_a_group_may_fail_in_part(ark: StandIn, ask: Asking) -> None:
    ark.images.enqueue(None, MODERATED, None)

    group = {"sequential_image_generation": "auto", "sequential_image_generation_options": {"max_images": 3}}
    answer = (await ask(ark, "POST", IMAGES, _picture(**group))).json

    assert [list(item) for item in answer["data"]] == [["url", "size"], ["error"], ["url", "size"]]
    assert answer["data"][1]["error"]["code"] == MODERATED
    # two of 2048 · 2048 / 256 = 16384 each; the failed picture is free
    assert answer["usage"] == {"generated_images": 2, "output_tokens": 32_768, "total_tokens": 32_768}


async def test_a_single_picture_that_fails_is_an_error(ark: StandIn, ask: Asking) -> None:
    ark.images.enqueue(MODERATED)

    failed = await ask(ark, "POST", IMAGES, _picture())
    made = await ask(ark, "POST", IMAGES, _picture())

    assert (failed.status, failed.json["error"]["code"], made.status) == (400, MODERATED, 200)


async def test_a_picture_may_come_in_base64(ark: StandIn, ask: Asking) -> None:
    answer = (await ask(ark, "POST", IMAGES, _picture(response_format="b64_json"))).json

    assert base64.b64decode(answer["data"][0]["b64_json"])[:8] == b"\x89PNG\r\n\x1a\n"


async def test_local_links_lead_to_a_picture_of_the_size(ask: Asking) -> None:
    async with StandIn(Settings(links="local")) as ark:
        url = (await ask(ark, "POST", IMAGES, _picture(size="2304x1728"))).json["data"][0]["url"]
        assert url.startswith(ark.origin + "/files/")

        picture = await ask(ark, "GET", "/../.." + url.removeprefix(ark.origin), key=KEY)
        headed = await ask(ark, "HEAD", "/../.." + url.removeprefix(ark.origin))

    assert (picture.status, picture.headers["content-type"], headed.status) == (200, "image/png", 403)
    assert (int.from_bytes(picture.body[16:20]), int.from_bytes(picture.body[20:24])) == (2304, 1728)
