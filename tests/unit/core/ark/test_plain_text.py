"""Words of an upstream that a customer may read: good messages are shown, planted words never, whatever is around them."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.core.ark.plain_text import is_plain_text, public_param
from proxy.core.ark.text import ArkError, public_message
from proxy.core.video.failure import public_error


@pytest.mark.parametrize(
    "said",
    [
        "",
        "The parameter `size` specified in the request is not valid: image size must be at least 3686400 pixels.",
        "takes at most 10 images.",
        "the parameter service_tier specified in the request is not supported.",
        "The parameter `content[1].image_url` specified in the request is not valid: resource download failed.",
        "The request failed because the input image 'content[1]' may contain real person.",
        "the parameter duration specified in the request must be less than or equal to 12 for model in t2v",
        "The parameter `messages.role` specified in the request are not valid: invalid value: `developer`, supported are: `tool`",
        "Total tokens of image and text exceed max message tokens.",
        "ratio must be one of [16:9, 4:3, 1:1, 3:4, 9:16, 21:9]",
        "resolution must be one of 480p, 720p, 1080p",
        "size should be 2048x2048, 1024x1024 or 4K (at most 16,777,216 pixels)",
        "temperature must be in [0,2], got 3.5; `top_p` isn't supported",
        "image(s) too large: 12MB > 10MB",
        "生成内容可能包含敏感信息。",
        "图片尺寸必须至少3686400像素（2048x2048）",
    ],
)
def test_a_message_of_plain_words_is_shown_as_it_is(said: str) -> None:
    assert public_message(said) == said


CANARIES = [
    "account_2100123456",
    "acct2100123456",
    "2100-123-456",
    "2,100,123,456",
    "2100\u200b123456",
    "２１００１２３４５６",
    "٢١٠٠١٢٣٤٥٦",
    "ark-CANARYKEY-1234567890",
    "sk-canarykey",
    "AKLTcanary",
    "canarycanarycanarycanary",
    "Doubao-Seed-9-canary_x",
    "deepseek-v3-2-251201",
    "DeepSeek",
    "kimi-latest",
    "glm-4.5",
    "bot-20260101-abc12",
    "rid:0217canaryid",
    "20260102030405ABCDEF",
    "0217canaryid",
    "123e4567e89b12d3a456426614174000",
    "/data00/x.py",
    "/opt/tiger/inference",
    "C:\\tiger\\server",
    "server.py",
    "server.py:88",
    "tiger.inference.Server",
    "Traceback",
    "goroutine",
    "NullPointerException",
    "ark.cn-beijing.volces.com",
    "canary-host",
    "localhost:8080",
    "fe80::1",
    "2001:db8::c0ff:ee",
    "[::1]:8080",
    "a@example.com",
    "user=canary",
    "https://canary.example/x",
    "<canary>x</canary>",
    "canary_table",
]


@pytest.mark.parametrize("canary", CANARIES)
def test_a_word_that_is_not_plain_goes_with_or_without_its_message(canary: str) -> None:
    shown = public_message(f"The size {canary} was refused")

    assert shown in ("", "The size was refused", "The size the model was refused")


@given(
    st.text(alphabet="ab 2。,.'`[(", max_size=12),
    st.sampled_from(CANARIES),
    st.text(alphabet="ab 2。,.'`])", max_size=12),
)
@example("size (", "deepseek-v3-2-251201", ").")
def test_no_planted_word_survives_whatever_stands_around_it(before: str, canary: str, after: str) -> None:
    said = f"{before}{canary}{after}"

    shown = [
        public_message(said),
        public_error(ArkError(200, "InvalidParameter", said)).message,
        public_error(ArkError(200, "OutputVideoSensitiveContentDetected", said)).message,
        public_error(ArkError(200, "SomethingNew", said)).message,
    ]

    assert [message for message in shown if canary.casefold() in message.casefold()] == []


@given(st.text(alphabet="0123456789", min_size=9, max_size=24), st.text(alphabet=" ,-./:;_xap年", max_size=30), st.integers(1, 4))
def test_no_long_number_is_plain_whole_or_in_pieces_with_spaces(digits: str, between: str, size: int) -> None:
    pieces = " ".join(digits[at : at + size] for at in range(0, len(digits), size))

    assert not is_plain_text(digits)
    assert not is_plain_text(pieces)
    assert not is_plain_text(f"{between} {digits} {between}")


@pytest.mark.parametrize(
    ("param", "shown"),
    [
        ("messages", "messages"),
        ("messages[2].content", "messages[2].content"),
        ("content[1].image_url", "content[1].image_url"),
        ("tools[0].function.parameters", "tools[0].function.parameters"),
        ("", None),
        ("account.2100123456", None),
        ("account", None),
        ("messages.2100123456", None),
        ("messages[2100123456]", None),
        ("size\n", None),
        ("<script>", None),
        ("size.doubao-seed", None),
        ("_internal", None),
    ],
)
def test_a_param_is_the_path_of_a_request_field_or_none(param: str, shown: str | None) -> None:
    assert public_param(param) == shown
