"""Images: the request, the upstream bodies, the answer, the price."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.ark.text import ArkError
from proxy.core.catalog import ImagePrice
from proxy.core.errors import InvalidParameterError, MissingPromptError
from proxy.core.images.request import ImageCall, charge_for, hold_for, parse_image_call, total_cost, upstream_size
from proxy.core.images.upstream import ImageResult, UpstreamBody, folded_prompt, parse_image_answer, upstream_bodies, without_refused
from proxy.core.money import Nanos

PRICE = ImagePrice(Nanos(180_000_000))  # ¥0.18


def sent_up(call: ImageCall, upstream_model: str) -> list[dict[str, Any]]:
    """Return the bodies as Ark reads them."""
    return [orjson.loads(b"".join(body.pieces())) for body in upstream_bodies(call, upstream_model)]


def test_the_images_of_a_request_share_one_copy_of_its_picture() -> None:
    picture = "data:image/png;base64," + "A" * 1000
    call = parse_image_call({"prompt": "a", "task_type": "image_to_image", "image_url": picture, "n": 4, "seed": 1})

    bodies = upstream_bodies(call, "m")

    assert len({id(body.shared) for body in bodies}) == 1
    assert all(len(body.pieces()[0]) < 100 for body in bodies)
    assert [body["image"] for body in sent_up(call, "m")] == [picture] * 4


def test_a_prompt_alone_is_one_png_of_the_default_size() -> None:
    assert parse_image_call({"prompt": "一只猫"}) == ImageCall(
        prompt="一只猫",
        task_type="text_to_image",
        image_url=None,
        negative_prompt=None,
        style=None,
        size="2048x2048",
        n=1,
        seed=None,
        output_format="png",
    )


def test_the_published_anime_example_becomes_two_bodies_with_one_prompt() -> None:
    call = parse_image_call(
        {
            "model": "doubao-seedream-5-0-260128",
            "task_type": "text_to_image",
            "prompt": "一个穿着汉服的少女",
            "negative_prompt": "模糊, 低质量",
            "size": "1024x1024",
            "style": "anime",
            "n": 2,
        }
    )

    bodies = sent_up(call, "ep-1")

    assert bodies == 2 * [
        {
            "model": "ep-1",
            "prompt": "一个穿着汉服的少女\n动漫风格\n画面中不要出现：模糊, 低质量",
            "size": "2048x2048",
            "output_format": "png",
            "sequential_image_generation": "disabled",
            "response_format": "url",
            "stream": False,
            "watermark": False,
        }
    ]


def test_the_published_watercolor_example_sends_its_picture() -> None:
    call = parse_image_call(
        {
            "task_type": "image_to_image",
            "prompt": "将图片风格转换为水彩画",
            "image_url": "https://example.com/photo.jpg",
            "size": "1024x1024",
            "style": "watercolor",
        }
    )

    [body] = sent_up(call, "m")

    assert (body["image"], body["prompt"]) == ("https://example.com/photo.jpg", "将图片风格转换为水彩画\n水彩画风格")


@pytest.mark.parametrize("image_url", [5, {}, ["https://a.b/c.png"], True])
def test_an_image_url_of_another_type_is_refused_also_where_it_is_ignored(image_url: Any) -> None:
    with pytest.raises(InvalidParameterError) as refused:
        parse_image_call({"prompt": "a", "image_url": image_url})

    assert refused.value.param == "image_url"


def test_a_picture_is_not_sent_where_the_task_takes_none() -> None:
    call = parse_image_call({"prompt": "a", "image_url": "not even a URL", "image": "https://example.com/x.png"})

    assert "image" not in sent_up(call, "m")[0]


@pytest.mark.parametrize(
    "image_url", [{}, {"image_url": None}, {"image_url": ""}, {"image_url": "photo.jpg"}, {"image": "https://a.b/c"}]
)
def test_image_to_image_needs_an_image_url(image_url: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameterError) as refused:
        parse_image_call({"prompt": "a", "task_type": "image_to_image"} | image_url)

    assert refused.value.param == "image_url"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("n", 5),
        ("n", "2"),
        ("n", True),
        ("n", 2.0),
        ("seed", -2),
        ("seed", 2_147_483_648),
        ("seed", "7"),
        ("seed", False),
        ("task_type", "inpaint"),
        ("task_type", 1),
        ("size", 1024),
        ("style", 5),
        ("style", "x" * 101),
        ("negative_prompt", ["模糊"]),
        ("negative_prompt", "x" * 2_001),
        ("output_format", "gif"),
        ("output_format", "PNG"),
        ("output_format", "webp"),
        ("response_format", "b64_json"),
        ("response_format", 1),
        ("stream", True),
        ("prompt", 5),
        ("N", 1),
        ("Model", "a"),
        ("Size", "2048x2048"),
    ],
)
def test_a_bad_field_is_refused_under_its_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidParameterError) as refused:
        parse_image_call({"prompt": "a"} | {field: value})

    assert refused.value.param == field
    assert field in refused.value.message


def test_webp_and_base64_are_refused_in_words() -> None:
    with pytest.raises(InvalidParameterError, match="webp is not available"):
        parse_image_call({"prompt": "a", "output_format": "webp"})
    with pytest.raises(InvalidParameterError, match="links only"):
        parse_image_call({"prompt": "a", "response_format": "b64_json"})


def test_a_missing_prompt_has_its_own_code() -> None:
    with pytest.raises(MissingPromptError):
        parse_image_call({"model": "doubao-seedream-5-0-260128"})


def test_what_openai_has_besides_is_ignored() -> None:
    besides = {
        "quality": "hd",
        "user": "u",
        "background": "transparent",
        "moderation": "low",
        "response_format": "url",
        "stream": False,
    }

    assert parse_image_call({"prompt": "a"} | besides) == ImageCall("a")


@pytest.mark.parametrize(("asked", "sent"), [("png", "png"), ("jpg", "jpeg"), ("jpeg", "jpeg")])
def test_a_format_goes_up_in_arks_word(asked: str, sent: str) -> None:
    [body] = sent_up(parse_image_call({"prompt": "a", "output_format": asked}), "m")

    assert body["output_format"] == sent


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("1024x1024", "2048x2048"),  # published example
        ("1280x720", "2560x1440"),  # published example; 3840x2160 has the same ratio and is larger
        ("720x1280", "1440x2560"),
        ("1024x768", "2560x1920"),
        ("768x1024", "1920x2560"),
        ("1536x1024", "2400x1600"),
        ("1024x1536", "1920x2560"),  # 2:3: 3:4 is 1.125 away, 9:16 is 1.185
        ("512X512", "2048x2048"),
        ("1919x1920", "2048x2048"),  # 3,684,480 pixels: just under
        ("1920x1920", "1920x1920"),  # 3,686,400 pixels: the minimum
        ("2560x1440", "2560x1440"),
        ("4096x4096", "4096x4096"),  # 16,777,216 pixels: the maximum
        ("16x1", "2560x1440"),
        ("02048x2048", "2048x2048"),
        ("2K", "2K"),
        ("3k", "3K"),
        ("4K", "4K"),
        ("auto", "2048x2048"),
    ],
)
def test_a_size_goes_up_or_is_raised_to_the_nearest_listed_ratio(asked: str, sent: str) -> None:
    assert upstream_size(asked) == sent


@pytest.mark.parametrize("size", ["2048x2048", "2560x1440", "1440x2560", "2560x1920", "1920x2560", "2400x1600", "3840x2160"])
def test_each_published_size_goes_up_as_it_is(size: str) -> None:
    assert upstream_size(size) == size


@pytest.mark.parametrize(
    "size",
    [
        "4096x4097",
        "99999x99999",
        "17x1",
        "1x17",
        "8192x500",
        "0x2048",
        "2048",
        "2048x",
        "x",
        "-1x5",
        "1024*1024",
        "large",
        "1K",
        "٢x٢",
        "1e3x9",
    ],
)
def test_a_size_that_is_none_or_too_large_or_too_long_is_refused(size: str) -> None:
    with pytest.raises(InvalidParameterError) as refused:
        upstream_size(size)

    assert refused.value.param == "size"


@given(st.integers(1, 5_000), st.integers(1, 5_000))
def test_what_goes_up_is_a_size_that_ark_takes(width: int, height: int) -> None:
    try:
        size = upstream_size(f"{width}x{height}")
    except InvalidParameterError:
        assert width * height > 16_777_216 or max(width, height) > 16 * min(width, height)
        return

    sent_width, sent_height = map(int, size.split("x"))
    assert 3_686_400 <= sent_width * sent_height <= 16_777_216
    assert (width > height) == (sent_width > sent_height) or width * height < 3_686_400


def test_a_seed_counts_up_so_that_images_differ() -> None:
    bodies = sent_up(parse_image_call({"prompt": "a", "seed": 7, "n": 3}), "m")

    assert [body["seed"] for body in bodies] == [7, 8, 9]


def test_the_last_seed_is_followed_by_the_first() -> None:
    bodies = sent_up(parse_image_call({"prompt": "a", "seed": 2_147_483_647, "n": 2}), "m")

    assert [body["seed"] for body in bodies] == [2_147_483_647, 0]


@pytest.mark.parametrize("seed", [{}, {"seed": None}, {"seed": -1}])
def test_a_random_seed_is_not_sent(seed: dict[str, Any]) -> None:
    bodies = sent_up(parse_image_call({"prompt": "a", "n": 2} | seed), "m")

    assert not any("seed" in body for body in bodies)


@pytest.mark.parametrize(
    ("style", "words"),
    [
        ("anime", "动漫风格"),
        ("realistic", "写实摄影风格"),
        ("oil_painting", "油画风格"),
        ("Oil Painting", "油画风格"),
        ("watercolor", "水彩画风格"),
        ("sketch", "素描风格"),
        ("ukiyo-e", "ukiyo-e style"),
    ],
)
def test_a_style_is_words_in_the_prompt(style: str, words: str) -> None:
    assert folded_prompt(ImageCall("猫", style=style)) == f"猫\n{words}"


def test_two_images_are_held_and_charged_at_36_fen() -> None:
    call = parse_image_call({"prompt": "a", "n": 2})

    assert hold_for(call, PRICE) == 360_000_000  # 2 x 0.18
    assert charge_for(1, PRICE) == 180_000_000
    assert charge_for(0, PRICE) == 0
    assert orjson.dumps(total_cost(hold_for(call, PRICE))) == b"0.36"


@given(st.integers(0, 4), st.integers(0, 1_000_000))
def test_a_cost_prints_as_the_decimal_that_it_is(made: int, price_milliyuan: int) -> None:
    shown = repr(total_cost(charge_for(made, ImagePrice(Nanos(price_milliyuan * 1_000_000)))))

    assert float(shown) * 1000 == pytest.approx(made * price_milliyuan)
    assert len(shown.partition(".")[2]) <= 3 or "e" in shown


WRAPPED = {"error": {"code": "InvalidParameter", "message": "too small", "param": "size", "type": "BadRequest"}}


@pytest.mark.parametrize(
    ("status", "answer", "result"),
    [
        (200, {"model": "m", "data": [{"url": "https://a/1.png", "size": "2048x2048"}]}, ImageResult("https://a/1.png", "2048x2048")),
        (200, {"data": [{"url": "https://a/1.png"}]}, ImageResult("https://a/1.png", "")),
        (200, {"data": [{"error": {"code": "E", "message": "m"}}, {"url": "https://a/2.png"}]}, ImageResult("https://a/2.png")),
        (200, {"data": [{"error": {"code": "E", "message": "m"}}]}, ArkError(200, "E", "m")),
        (200, {"data": [], "error": {"code": "E", "message": "m"}}, ArkError(200, "E", "m")),
        (200, {"error": {"code": "E", "message": "m"}}, ArkError(200, "E", "m")),
        (400, WRAPPED, ArkError(400, "InvalidParameter", "too small", "size")),
        (400, WRAPPED["error"], ArkError(400, "InvalidParameter", "too small", "size")),
        (429, {"ResponseMetadata": {"Error": {"Code": "QuotaExceeded", "Message": "m"}}}, ArkError(429, "QuotaExceeded", "m")),
        (500, {"data": [{"url": "https://a/1.png"}]}, None),
        (502, None, None),
        (200, None, None),
        (200, [], None),
        (200, {}, None),
        (200, {"data": []}, None),
        (200, {"data": [{"url": ""}]}, None),
        (200, {"data": [{"url": 5}, None, "x"]}, None),
        (200, {"data": {"url": "https://a/1.png"}}, None),
        (200, {"error": {}}, None),
    ],
)
def test_an_answer_is_an_image_an_error_or_neither(status: int, answer: object, result: object) -> None:
    assert parse_image_answer(status, answer) == result


FORMAT_REFUSED = "the parameter `output_format` is not supported by the current model. Request id: 0217"


@pytest.mark.parametrize(
    ("error", "dropped"),
    [
        (ArkError(400, "InvalidParameter", FORMAT_REFUSED, "output_format"), "output_format"),
        (ArkError(400, "InvalidParameter", "T" + FORMAT_REFUSED[1:]), "output_format"),
        (ArkError(400, "InvalidParameter", "not valid", "seed"), "seed"),
        (ArkError(400, "InvalidParameter", "The parameter `seed` specified in the request is not valid"), "seed"),
        (ArkError(400, "InvalidParameter.UnsupportedParameter", "the parameter seed is not supported by this model"), "seed"),
        # another refusal of the same field, another field, another status
        (ArkError(400, "InvalidParameter", "The parameter `output_format` is not valid: expected png", "output_format"), None),
        (ArkError(400, "InvalidParameter", "the parameter `size` is not supported by the current model", "size"), None),
        (ArkError(400, "InvalidParameter", "the prompt names seeds and seedlings", "prompt"), None),
        (ArkError(500, "InternalServiceError", FORMAT_REFUSED, "output_format"), None),
        (ArkError(429, "RateLimitExceeded", "", "seed"), None),
    ],
)
def test_only_what_the_model_does_not_know_is_left_out(error: ArkError, dropped: str | None) -> None:
    body: dict[str, object] = {"model": "m", "prompt": "p", "output_format": "png", "seed": 7}

    fewer = without_refused(UpstreamBody(body, b"{}"), error)

    assert fewer == (None if dropped is None else UpstreamBody({name: value for name, value in body.items() if name != dropped}, b"{}"))


def test_a_field_that_was_not_sent_is_not_left_out_again() -> None:
    error = ArkError(400, "InvalidParameter", "not valid", "seed")

    assert without_refused(UpstreamBody({"model": "m", "prompt": "p"}, b"{}"), error) is None
