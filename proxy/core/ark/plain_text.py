"""An allow list of words: it decides whether a text of the upstream's is plain enough for a customer to read.

A deny list would never be complete: the next id, host or stack trace has an unforeseen form. So a text is plain only if every single
word of it is: letters, short numbers, sizes, the names of request fields. A text with one other word is not shown.
"""

import re
from collections.abc import Collection


def words(text: str) -> frozenset[str]:
    """Return the words of a text, as a constant is written."""
    return frozenset(text.split())


_FIELDS = words(
    """
    audio audio_url bit_depth callback_url camera_fixed choices content data_url detail dimensions draft duration encoding_format
    execution_expires_after file format frames frequency_penalty function functions generate_audio guidance_scale height image image_url
    image_urls images input input_audio input_image input_text input_video json_object json_schema last_frame logit_bias logprobs
    max_completion_tokens max_images max_tokens messages metadata model modalities n name negative_prompt
    optimize_prompt_options output_format parallel_tool_calls parameters presence_penalty priority prompt quality ratio reasoning
    reasoning_content reasoning_effort reference_image reference_video reference_audio first_frame repetition_penalty resolution
    response_format return_last_frame role safety_identifier schema seed sequential_image_generation
    sequential_image_generation_options service_tier size stop stream stream_options strength strict style temperature text thinking
    tool tool_call_id tool_calls tool_choice tools top_k top_logprobs top_p type url user video video_url watermark width
    """
)
"""Names of the fields that a customer can send."""

_INDEXES = r"(?:\[[0-9]{1,3}\]){0,3}"
_PARAM = re.compile(rf"([A-Za-z_]{{1,40}}){_INDEXES}(?:\.[A-Za-z_]{{1,40}}{_INDEXES}){{0,5}}")
_STEP = re.compile(r"\[[0-9]{1,3}\]")

_OPENS_AND_CLOSES = "\"'`,.;:!?…“”‘’"
_BRACKETS = "()[]{}<>"
_EAST_ASIAN = re.compile(r"[\u3001-\u303f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40]+")
"""Letters and punctuation of Chinese, Japanese and Korean, without full-width digits and letters, which could spell anything."""

_NUMBER = r"[0-9]{1,8}(?:\.[0-9]{1,4})?"
_UNIT = r"(?:%|px|fps|ms|s|sec|seconds?|min|h|[KMG]i?B|bytes|MP|[kKM]|p|x|dB|Hz|kHz)?"
_NUMBERS = re.compile(
    rf"[-+<>=≤≥~]{{0,2}}(?:{_NUMBER}{_UNIT}"  # 12  -0.5  720p  >=3686400
    rf"|[0-9]{{1,3}}(?:,[0-9]{{3}}){{1,2}}"  # 3,686,400
    rf"|{_NUMBER}[,~–-]{_NUMBER}{_UNIT}"  # 4~12  [0,2]
    r"|[0-9]{1,5}[x×*][0-9]{1,5}"  # 2048x2048
    r"|[0-9]{1,3}:[0-9]{1,3})"  # 16:9
)
_MEASURE = re.compile(r"[0-9]{1,5}(?:[x×*:][0-9]{1,5}|p|K)")
"""Sizes, which come in lists (480p, 720p; 16:9, 4:3): their digits do not count towards `_DIGITS_MAX`."""
_WORD = re.compile(r"(?:[A-Za-z]?[a-z]{1,15}|[A-Z]{1,10}s?)(?:['’][a-z]{1,2}|\(e?s\))?|[A-Za-z0-9]{1,4}|[-–—=+*~&/|%<>≤≥×#]{1,2}|")
_JOINED = words(
    """
    and/or base64 base64-encoded e.g first-frame i.e image-to-image image-to-video image/* image/bmp image/gif image/jpeg image/png
    image/webp input/output jpg/png jpeg/png keep-alive last-frame non-empty non-negative re-submit re-upload text-to-image
    text-to-video utf-8 video/mp4
    """
)
_TELLING = words(
    """
    alibaba anthropic baidu bytedance byteplus claude deepseek dola doubao dreamina errno exception gemini glm goroutine
    kimi minimax mistral moonshot openai panic qwen seedance seededit seedream skylark sql stacktrace tiktok traceback volcano
    volcengine volces zhipu
    """
)
"""Words that reveal the real model, or the place of a failure."""
_TELLING_PART = re.compile("|".join(sorted(_TELLING)))
_NAME = re.compile(
    r"(?P<before>\b(?:(?:functions?|tools?)(?:[ _]names?)?|(?:tool_)?call_id)(?:[:=] ?| |(?=[\"'`])))"
    r"(?P<quote>[\"'`]?)(?P<name>[A-Za-z0-9_.:-]{1,128})",
    re.IGNORECASE,
)
"""A function's or a call's name: the customer chose it, since an upstream calls no functions of its own."""
_NAME_OF_WORDS = re.compile(r"[A-Za-z]{1,15}(?:_(?:[a-z]{1,15}|[0-9]{1,2}))+")
_LEFT_OUT = "…"
_DIGITS_MAX = 8
"""Digits of numbers in a row: the largest harmless one, a pixel count, has eight; an account number has ten, also with spaces in it."""


def is_plain_text(text: str, known: Collection[str] = ()) -> bool:
    """Return whether every word of a text may be shown. The empty text is plain.

    Args: known: words that are shown whatever they are: names that the customer sent himself.
    """
    digits = 0
    for word in _EAST_ASIAN.sub(" ", text).split():
        if known and word.strip(_OPENS_AND_CLOSES + _BRACKETS) in known:
            continue
        if not _is_plain_word(word):
            return False
        found = sum(map(str.isdigit, word))
        if found and _MEASURE.fullmatch(word.strip(_OPENS_AND_CLOSES + _BRACKETS)):
            found = 0
        digits = digits + found if found else 0
        if digits > _DIGITS_MAX:
            return False
    return True


def named_plainly(text: str, known: Collection[str] = ()) -> tuple[str, frozenset[str]]:
    """Return a text in which names of functions and calls are shown or left out, and those that are shown.

    Shown are `known` names, plain words, and a quoted name of plain words (``'get_weather'``). Of any other only "…" is left, so that
    the rest of the sentence can be judged without it.
    """
    shown: set[str] = set()

    def judged(found: re.Match[str]) -> str:
        name = found["name"].rstrip(".:-")
        if name in known or (found["quote"] and _NAME_OF_WORDS.fullmatch(name) and not is_telling(name)):
            shown.add(name)
        elif not _is_plain_word(name):
            return found["before"] + found["quote"] + _LEFT_OUT + found["name"][len(name) :]
        return found[0]

    return _NAME.sub(judged, text), frozenset(shown)


def is_telling(text: str) -> bool:
    """Return whether a word holds one that reveals the real model, or the place of a failure."""
    return _TELLING_PART.search(text.lower()) is not None


def public_param(param: str) -> str | None:
    """Return the path of a request field, such as ``messages[2].content``, or None for any other text."""
    found = _PARAM.fullmatch(param)
    return param if found and found[1] in _FIELDS else None


def _is_plain_word(word: str) -> bool:
    word = word.strip(_OPENS_AND_CLOSES)
    bare = word.strip(_OPENS_AND_CLOSES + _BRACKETS)
    if is_telling(bare):
        return False
    # The cheapest and most common first: texts of the upstream's own making are judged on the event loop.
    forms = (bare,) if bare == word else (bare, word)
    return (
        any(_WORD.fullmatch(form) or _NUMBERS.fullmatch(form) for form in forms)
        or bare.lower() in _JOINED
        or any(_is_field(form) for form in forms)
    )


def _is_field(word: str) -> bool:
    """Return whether each step of a path is the name of a request field."""
    return public_param(word) is not None and all(step in _FIELDS for step in _STEP.sub("", word).split("."))
