"""Refusals of pictures and videos: the customer's field, named only in the message too, and whether to ask again."""

import pytest

from proxy.core.ark.creation import creation_refusal
from proxy.core.ark.field_names import FieldNames
from proxy.core.images import upstream as images
from proxy.core.video import upstream as videos


def body(message: str, code: str = "InvalidParameter", param: str = "") -> dict[str, object]:
    return {"error": {"code": code, "message": message, "param": param}}


@pytest.mark.parametrize(
    ("names", "message", "param", "shown"),
    [
        (images.FIELD_NAMES, "The parameter `size` is not valid: at least 3686400 pixels.", "size", None),
        (
            images.FIELD_NAMES,
            "The parameter `image` is not valid: resource download failed.",
            "image_url",
            "The parameter `image_url` is",
        ),
        (videos.FIELD_NAMES, "the parameter duration must be less than or equal to 12", "duration", None),
        (
            videos.FIELD_NAMES,
            "The parameter `content[1].image_url` is not valid.",
            "image_url",
            "The parameter `image_url` is not valid.",
        ),
        (videos.FIELD_NAMES, "The request is not valid.", None, None),
    ],
)
def test_the_field_that_only_the_message_names_is_told(names: FieldNames, message: str, param: str | None, shown: str | None) -> None:
    error = creation_refusal(400, body(message), names, upstream_model="ep-x").error

    assert (error.code, error.param) == ("INVALID_PARAMETER", param)
    assert error.message.startswith(shown or message)


@pytest.mark.parametrize(
    ("status", "answer", "should_retry", "waits"),
    [
        (400, body("not supported", "InvalidParameter.UnsupportedParameter", "watermark"), False, False),  # a field of the gateway's
        (401, body("no", "AuthenticationError"), False, False),
        (400, body("no", "InputTextSensitiveContentDetected"), False, False),
        (409, body("busy", "Conflict"), None, True),  # judges no request, and made nothing
        (400, None, None, True),
        (429, body("busy", "ServerOverloaded"), None, True),
        (500, body("boom", "InternalServiceError"), None, True),
        (500, {"error": "boom"}, False, False),  # not Ark's own words
        (502, None, False, False),
        (504, body("boom", "InternalServiceError"), False, False),
    ],
)
def test_waiting_is_advised_only_where_nothing_was_made_and_it_helps(
    status: int, answer: object, should_retry: bool | None, waits: bool
) -> None:
    error = creation_refusal(status, answer, images.FIELD_NAMES, upstream_model="ep-x").error

    assert (error.should_retry, error.retry_after_seconds is not None) == (should_retry, waits)
