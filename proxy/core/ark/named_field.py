"""The field that a refusal is about: the one that it names as its `param`, or in its message."""

import re

from proxy.core.ark.plain_text import public_param, words
from proxy.core.ark.text import ArkError

_PATH = r"[`'\"]?([A-Za-z_][\w.\[\]]{0,120})"
_NAMED = re.compile(rf"\bparameter:? {_PATH}", re.IGNORECASE)
"""Ark: "The parameter `max_tokens` specified in the request …"; OpenAI: "Unsupported parameter: 'max_tokens' …"."""

_CHAT_FIELDS = words(
    """
    frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens messages metadata modalities n
    parallel_tool_calls presence_penalty reasoning_effort repetition_penalty response_format seed service_tier stop stream
    stream_options temperature thinking tool_choice tools top_k top_logprobs top_p user
    """
)
_NAMED_IN_CHAT = tuple(
    re.compile(pattern)
    for pattern in (
        # OpenAI says "Invalid type for 'messages[0].content': …", "Unrecognized request argument supplied: top_n"
        rf"(?i:\b(?:invalid|wrong|unsupported) (?:value|type)(?: for|:)) {_PATH}",
        rf"(?i:\b(?:argument|field|property)(?: supplied)?:?) {_PATH}",
        # "temperature must be in [0, 2]", at the start of the message or of its reason
        r"(?:^|: )[`'\"]?([a-z_]{1,40})[`'\"]? (?:must|should|is not|are not|cannot|can not|does not) ",
        r"[`'\"]([a-z_]{1,40})[`'\"]",
    )
)
_STEP_END = re.compile(r"[.\[]")
_OF_A_TOOL = re.compile(r"\b(?:tool|function)(?: name)?:? [`'\"]|\b(?:tool|function) names?\b", re.IGNORECASE)
"""OpenAI and Ark: "Invalid schema for function 'get_weather': …"."""


def refused_path(error: ArkError) -> str:
    """Return the path that a refusal names, as the upstream calls it; "" if it names none."""
    return error.param or next(iter(_NAMED.findall(error.message)), "").rstrip(".")


def refused_chat_field(error: ArkError) -> str | None:
    """Return the path of the chat field that a refusal is about, as the customer sent it; None if it names none."""
    for path in (error.param, *_NAMED.findall(error.message)):
        if shown := public_param(path.rstrip(".")):
            return shown
    for pattern in _NAMED_IN_CHAT:
        for path in pattern.findall(error.message):
            if _STEP_END.split(path, 1)[0] in _CHAT_FIELDS and (shown := public_param(path.rstrip("."))):
                return shown
    return "tools" if _OF_A_TOOL.search(error.message) else None
