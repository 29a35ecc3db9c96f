"""Cleaning of Ark's messages before they are shown: planted ids are removed, the meaning stays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.ark.text import ArkError, clean_message, is_moderation, read_error


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "The request failed because the output video may be related to copyright restrictions. Request id: 0217842797860001",
            "The request failed because the output video may be related to copyright restrictions.",
        ),
        (
            "The parameter `size` specified in the request is not valid: image size must be at least 3686400 pixels. Request id: 02176",
            "The parameter `size` specified in the request is not valid: image size must be at least 3686400 pixels.",
        ),
        ("at most 16777216 pixels (request_id=abc-123)", "at most 16777216 pixels"),
        (
            "Your account 2100123456 has not activated the model doubao-seedance-2-0-mini-260615. Please activate it.",
            "Your account has not activated the model. Please activate it.",
        ),
        (
            "Cannot delete task `cgt-20260119201255-2tnnx` because it is currently running.",
            "Cannot delete task because it is currently running.",
        ),
        ("The endpoint ep-20260101120000-abcde is closed", "The endpoint is closed"),
        ("The specified model doubao-seed-2-0-pro does not support this api.", "The specified model does not support this api."),
        ("doubao-seedream-5-0-260128 is busy", "the model is busy"),
        ("seen 0217659525251112223334445556667778889990 twice", "seen twice"),
        ("id 123e4567-e89b-12d3-a456-426614174000", "id"),
        ("dial 10.1.2.3:8443: refused", "dial the upstream's address: refused"),
        ("get https://ark.cn-beijing.volces.com/api/v3/x?k=1 failed", "get the upstream's address failed"),
        ("two\nlines\tand\x00nulls", "two lines and nulls"),
        ("生成内容可能包含敏感信息。", "生成内容可能包含敏感信息。"),
        ("duration must be less than or equal to 12", "duration must be less than or equal to 12"),
        ("the input image 'content[1]' may contain real person", "the input image 'content[1]' may contain real person"),
        ("", ""),
    ],
)
def test_a_message_loses_what_is_the_operators_and_keeps_its_sense(said: str, shown: str) -> None:
    assert clean_message(said) == shown


def test_a_message_is_bounded() -> None:
    assert len(clean_message("很长 " * 10_000)) == 500


@given(st.text(alphabet="ab 。,.", max_size=40), st.text(alphabet="ab 。,.", max_size=40))
def test_no_planted_id_survives_wherever_it_stands(before: str, after: str) -> None:
    canaries = ("2100987654", "cgt-20260119201255-2tnnx", "ep-20260101120000-abcde", "02176595252511122233344455566677788899901")

    for canary in canaries:
        assert canary not in clean_message(f"{before} {canary} {after}")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"error": {"code": "C", "message": "m", "param": "p"}}, ArkError(400, "C", "m", "p")),
        ({"error": {"code": 5, "message": None}}, ArkError(400, "", "")),
        ({"error": "broken"}, ArkError(400, "", "broken")),
        ({"code": "C", "message": "m", "param": ""}, ArkError(400, "C", "m")),
        ({"ResponseMetadata": {"Error": {"Code": "C", "Message": "m"}}}, ArkError(400, "C", "m")),
        ({"ResponseMetadata": {}}, None),
        ({"error": None}, None),
        ({"message": "hello"}, None),
        ("text", None),
        (None, None),
        ([], None),
    ],
)
def test_an_error_is_read_in_each_shape(answer: object, error: ArkError | None) -> None:
    assert read_error(400, answer) == error


def test_moderation_is_known_by_its_code() -> None:
    assert is_moderation("OutputVideoSensitiveContentDetected.PolicyViolation")
    assert is_moderation("InputTextRiskDetection")
    assert not is_moderation("ContentSecurityDetectionError")  # Ark's detector failed: retry
    assert not is_moderation("InvalidParameter")
