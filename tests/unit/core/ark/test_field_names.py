"""Field names in Ark's refusals: Ark uses its own names, the customer sees the names of their request."""

import pytest

from proxy.core.ark.field_names import without_unsupported
from proxy.core.ark.text import ArkError
from proxy.core.images import upstream as images
from proxy.core.video import upstream as videos

UNSUPPORTED = "InvalidParameter.UnsupportedParameter"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("content", "prompt"),
        ("content[0].text", "prompt"),
        ("contents[0].text.ratio", "prompt"),
        ("contents[0].text.duration", "duration"),
        ("content[1]", "image_url"),
        ("content[1].image_url", "image_url"),
        ("content[1].image_url.url", "image_url"),
        ("content[1].role", "image_url"),
        ("resolution", "resolution"),
        ("seed", "seed"),
        ("ratio", None),
        ("safety_identifier", None),
        ("", None),
    ],
)
def test_a_field_of_a_video_has_the_published_name_or_none(path: str, name: str | None) -> None:
    assert videos.FIELD_NAMES.published_name(path) == name


@pytest.mark.parametrize(("path", "name"), [("image", "image_url"), ("image[0]", "image_url"), ("size", "size"), ("stream", None)])
def test_a_field_of_an_image_has_the_published_name_or_none(path: str, name: str | None) -> None:
    assert images.FIELD_NAMES.published_name(path) == name


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("The parameter `content[1].image_url` is not valid.", "The parameter `image_url` is not valid."),
        ("The parameter `content[1].image_url.url` is not valid.", "The parameter `image_url` is not valid."),
        ("the input image 'content[1]' may contain", "the input image 'image_url' may contain"),
        ("content[0].text is too long.", "prompt is too long."),
        ("The content `auto` is none of 'low'", "The content `auto` is none of 'low'"),
        ("messages[3] is no field of ours", "the request is no field of ours"),
    ],
)
def test_a_message_about_a_video_names_the_customers_field(said: str, told: str) -> None:
    assert videos.FIELD_NAMES.told(said) == told


@pytest.mark.parametrize(
    ("error", "is_ours"),
    [
        (ArkError(400, UNSUPPORTED, "no", "safety_identifier"), True),
        (ArkError(400, UNSUPPORTED, "the parameter safety_identifier specified in the request is not supported by model x"), True),
        (ArkError(400, "InvalidParameter", "no", "ratio"), True),
        (ArkError(400, UNSUPPORTED, "no", "service_tier"), False),
        (ArkError(400, "InvalidParameter", "no", "seed"), False),
        (ArkError(400, "InvalidParameter", "no"), False),
    ],
)
def test_what_the_gateway_added_is_no_customers_fault(error: ArkError, is_ours: bool) -> None:
    assert videos.FIELD_NAMES.is_ours(error) is is_ours


def test_an_answer_as_a_link_is_the_gateways_wish() -> None:
    assert images.FIELD_NAMES.is_ours(ArkError(400, UNSUPPORTED, "no", "response_format"))


@pytest.mark.parametrize(
    ("error", "left"),
    [
        (ArkError(400, UNSUPPORTED, "no", "seed"), {"duration": 5, "watermark": False}),
        (ArkError(400, UNSUPPORTED, "the parameter `watermark` is not supported"), {"duration": 5, "seed": 7}),
        (ArkError(400, UNSUPPORTED, "no", "duration"), None),
        (ArkError(400, UNSUPPORTED, "no", "return_last_frame"), None),  # it was not sent
        (ArkError(400, "InvalidParameter", "no", "seed"), None),
        (ArkError(500, UNSUPPORTED, "no", "seed"), None),
        (None, None),
    ],
)
def test_only_what_a_model_can_do_without_is_left_out(error: ArkError | None, left: dict[str, object] | None) -> None:
    body = {"duration": 5, "seed": 7, "watermark": False}

    assert without_unsupported(body, error, videos.UPSTREAM_OPTIONAL) == left
