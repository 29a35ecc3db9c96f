"""The field that a refusal is about, named by its `param` or only in its message."""

import pytest

from proxy.core.ark.named_field import refused_chat_field
from proxy.core.ark.text import ArkError


@pytest.mark.parametrize(
    ("param", "message", "field"),
    [
        ("max_tokens", "is wrong", "max_tokens"),
        ("", "The parameter `max_tokens` specified in the request is not valid: expected a value <= 32768", "max_tokens"),
        ("", "The parameter `messages.role` specified in the request are not valid: invalid value: `x`", "messages.role"),
        ("", "the parameter service_tier specified in the request is not supported.", "service_tier"),
        ("", "Unsupported parameter: 'max_tokens' is not supported with this model.", "max_tokens"),
        ("", "Missing required parameter: 'messages[0].content'.", "messages[0].content"),
        ("", "Invalid type for 'messages[0].content': expected a string.", "messages[0].content"),
        ("", "Unsupported value: 'temperature' does not support 0.2 with this model.", "temperature"),
        ("", "Unrecognized request argument supplied: top_k", "top_k"),
        ("", "temperature must be in [0, 2], got 3", "temperature"),
        ("", "The request is not valid: logprobs is not supported by this model.", "logprobs"),
        ("", "`response_format` of this kind needs the word json", "response_format"),
        ("", "Invalid schema for function 'get_weather': 'properties' must be an object.", "tools"),
        ("", "tool names must be unique", "tools"),
        ("input_tokens", "The parameter `max_tokens` is not valid", "max_tokens"),
        ("", "The parameter is missing", None),
        ("", "The parameter `account.2100987654` is wrong", None),
        ("", "'content' must be a string", None),  # a field of messages, not of the request
        ("", "one or more parameters are not valid", None),
        ("", "", None),
    ],
)
def test_a_field_is_found_in_its_param_or_in_the_message(param: str, message: str, field: str | None) -> None:
    assert refused_chat_field(ArkError(400, "InvalidParameter", message, param)) == field
