"""Texts of Ark's errors: the shapes that the errors come in, and messages without ids, accounts or addresses for the customer."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from proxy.core.ark.plain_text import is_plain_text, named_plainly

MESSAGE_CHARACTERS_MAX = 500
CODE_CHARACTERS_MAX = 128
_READ_CHARACTERS_MAX = 2_000
"""Characters of a message that are read; the rest is ignored. The worst ones take 15 ms: some patterns look on from each character."""

# Linear: no repeat can be tried again from within itself. A digit of an id and the host of a URL are looked for a bounded way ahead;
# what is beyond it stays, and `is_plain_text` refuses it. Blanks are single, or two where something between them was cut.
_CUTS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), put)
    for pattern, put in (
        (r"[\s\x00-\x1f\x7f]+", " "),
        # "… Request id: 021765952525…", "(request_id=…)", also log and trace ids
        (r"[ ,;(\[]{0,4}\b(?:request|log|trace)[ _-]?id\b {0,2}[:=]? {0,2}[\"'`]?(?=[\w.-]{0,64}\d)[\w.-]++[\"'`]?[)\]]?", ""),
        (
            r"https?://(?=[^\s\"'`<>]{0,128}\b(?:volces|volcengine|volccdn|bytepluses|byteplus)\.)[^\s\"'`<>]++",
            "the upstream's address",
        ),
        (r"\b(account)(?:[ _-]?id)? {0,2}[:=]? {0,2}[\"'`]?\d{6,}[\"'`]?", r"\1"),
        # tasks, endpoints, assets, access keys
        (r"\b(task|endpoint|model|asset) {1,2}[\"'`]?(?:cgt|ep|asset)-(?=[\w-]{0,64}\d)[\w-]++[\"'`]?", r"\1"),
        (r"[\"'`]?\b(?:cgt|ep|asset)-(?=[\w-]{0,64}\d)[\w-]++[\"'`]?", "it"),
        (r"[\"'`]?\b(?:AKLT|AKTP)[\w=+/-]{8,}[\"'`]?", "the key"),
        (r"\b(model|endpoint) {1,2}[\"'`]?(?:doubao|dreamina|dola|seedance|seedream)-[\w.-]*\w[\"'`]?", r"\1"),
        (r"[\"'`]?\b(?:doubao|dreamina|dola|seedance|seedream)-[\w.-]*\w[\"'`]?", "the model"),
        # request ids that stand alone: 0217…, 39 characters; UUIDs
        (r"[\"'`]?\b02[0-9a-z]{20,}\b[\"'`]?", ""),
        (r"[\"'`]?\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b[\"'`]?", ""),
        (r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b", "the upstream's address"),
        # account numbers that stand alone have ten digits and more; the largest harmless number, a pixel count, has eight
        (r"\b\d{10,}\b", ""),
        (r" {2,}", " "),
        (r" ([.,;:!?)])", r"\1"),
    )
)


@dataclass(frozen=True, slots=True)
class ArkError:
    """A raw error of Ark's, for mapping and for the log. Customers see `public_message(message)` at most."""

    status: int
    """Status of the HTTP answer; an error can also come inside a 200."""
    code: str
    message: str
    param: str = ""


def clean_message(text: str) -> str:
    """Return the upstream's message without known operator data: request ids, account numbers, addresses.

    At most ``MESSAGE_CHARACTERS_MAX`` characters, on one line; may be empty.
    """
    cleaned = text[:_READ_CHARACTERS_MAX]
    for pattern, put in _CUTS:
        cleaned = pattern.sub(put, cleaned)
    cleaned = cleaned.strip()
    return cleaned if len(cleaned) <= MESSAGE_CHARACTERS_MAX else cleaned[: MESSAGE_CHARACTERS_MAX - 1] + "…"


def public_message(text: str, known: Collection[str] = ()) -> str:
    """Return the upstream's message as the customer may read it, or "" if anything in it might be the operator's.

    Cleaning removes the known patterns; the rest is checked word by word against the allow list.

    Args: known: names that the customer sent himself (`identifiers.own_names`).
    """
    cleaned, names = named_plainly(clean_message(text), known)
    return cleaned if is_plain_text(cleaned, {*known, *names}) else ""


def read_error(status: int, answer: object) -> ArkError | None:
    """Return the error in a parsed answer, in any of the three shapes seen; None if there is none.

    ``{"error": {"code", "message", "param"}}`` · the same unwrapped · ``{"ResponseMetadata": {"Error": {"Code", "Message"}}}``
    """
    if not isinstance(answer, dict):
        return None
    wrapped = answer.get("error")
    if isinstance(wrapped, dict) and wrapped:
        return ArkError(status, _text(wrapped.get("code")), _text(wrapped.get("message")), _text(wrapped.get("param")))
    if isinstance(wrapped, str) and wrapped:
        return ArkError(status, "", wrapped[:_READ_CHARACTERS_MAX])
    if code := _text(answer.get("code")):
        return ArkError(status, code, _text(answer.get("message")), _text(answer.get("param")))
    metadata = answer.get("ResponseMetadata")
    inner = metadata.get("Error") if isinstance(metadata, dict) else None
    if isinstance(inner, dict) and inner:
        return ArkError(status, _text(inner.get("Code")), _text(inner.get("Message")))
    return None


def read_chat_error(status: int, answer: object) -> ArkError | None:
    """Return the error in a chat's answer: in Ark's shapes, and in those of other servers that speak OpenAI's API.

    Those have a number for a code (llama.cpp, vLLM) or none, and a `type`; some come unwrapped (SGLang). Then the type stands for the
    code, and the number for the status of a 200.
    """
    error = read_error(status, answer)
    body = answer.get("error") or answer if isinstance(answer, dict) else None
    if not isinstance(body, dict) or (error is not None and error.code):
        return error
    number, kind, message = body.get("code"), _text(body.get("type")), _text(body.get("message"))
    is_number = type(number) is int and 400 <= number < 600
    if error is None and not (message and (is_number or "error" in kind.lower())):
        return None
    return ArkError(number if status == 200 and type(number) is int and is_number else status, kind, message, _text(body.get("param")))


def is_moderation(code: str) -> bool:
    """Return whether the code is one of Ark's content refusals: ``…SensitiveContentDetected…``, ``…RiskDetection``."""
    return "SensitiveContentDetected" in code or "RiskDetection" in code


def _text(value: object) -> str:
    return value[:_READ_CHARACTERS_MAX] if isinstance(value, str) else ""
