"""The fields of a chat request that `request` and `measure` judge, and the most common of those that pass unjudged.

A field with a bound or a choice is judged here; of one that has none the model is the judge, and its type is only what it should be.
"""

from proxy.core.chat.bounds import OUTPUT_TOKENS_MAX
from proxy.core.chat.measure import FIELDS_MAX, MAY_BE_EMPTY, MESSAGES_MAX, ROLES
from proxy.core.chat.pictures import DETAIL_TOKENS
from proxy.core.chat.request import CHOICES_MAX, SERVICE_TIERS
from proxy.core.schema import NULL, Fields, Schema, component, described, maybe, optional

_LIST_OF_OBJECTS = optional("array", items={"type": "object"})

FIELDS: Fields = {
    "model": {"type": "string", "minLength": 1},
    "messages": {"type": "array", "minItems": 1, "maxItems": MESSAGES_MAX, "items": component("ChatMessage")},
    "stream": optional("boolean", default=False),
    "stream_options": maybe(component("StreamOptions")),
    "max_tokens": optional("integer", minimum=1, maximum=OUTPUT_TOKENS_MAX),
    "max_completion_tokens": optional("integer", minimum=1, maximum=OUTPUT_TOKENS_MAX),
    "n": optional("integer", minimum=1, maximum=CHOICES_MAX, default=1),
    "temperature": optional("number"),
    "top_p": optional("number"),
    "stop": {"type": ["string", "array", "null"]},
    "seed": optional("integer"),
    "presence_penalty": optional("number"),
    "frequency_penalty": optional("number"),
    "tools": _LIST_OF_OBJECTS,
    "tool_choice": {"type": ["string", "object", "null"]},
    "parallel_tool_calls": optional("boolean"),
    "functions": _LIST_OF_OBJECTS,
    "response_format": optional("object"),
    "thinking": optional("object"),
    "reasoning_effort": optional("string"),
    "service_tier": optional("string", enum=list(SERVICE_TIERS)),
    "prompt_cache_key": optional("string"),
    "user": optional("string"),
}
REQUEST = described(FIELDS, ["model", "messages"], maxProperties=FIELDS_MAX)

STREAM_OPTIONS = described(
    {"include_usage": optional("boolean", default=False), "chunk_include_usage": optional("boolean", default=False)},
    maxProperties=FIELDS_MAX,
)

MESSAGE_FIELDS: Fields = {
    "role": {"type": "string", "enum": list(ROLES)},
    "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": component("ContentPart")}, NULL]},
    "name": optional("string"),
    "tool_calls": _LIST_OF_OBJECTS,
    "tool_call_id": optional("string"),
    "function_call": optional("object"),
    "reasoning_content": optional("string"),
    "refusal": optional("string"),
    "annotations": optional("array"),
    "audio": optional("object"),
}
MESSAGE = described(MESSAGE_FIELDS, ["role"], maxProperties=FIELDS_MAX) | {
    "if": {"properties": {"role": {"enum": [role for role in ROLES if role not in MAY_BE_EMPTY]}}, "required": ["role"]},
    "then": {"required": ["content"], "properties": {"content": {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1}]}}},
}

PART_FIELDS: Fields = {
    "type": {"type": "string", "examples": ["text", "image_url"]},
    "text": optional("string"),
    "image_url": component("ImageUrl"),
    "video_url": optional("object"),
    "audio_url": optional("object"),
    "input_audio": optional("object"),
    "file": optional("object"),
}


def _needs(kind: str, schema: Schema) -> Schema:
    return {
        "if": {"properties": {"type": {"const": kind}}, "required": ["type"]},
        "then": {"required": [kind], "properties": {kind: schema}},
    }


PART = described(PART_FIELDS, ["type"], maxProperties=FIELDS_MAX) | {
    "allOf": [_needs("text", {"type": "string"}), _needs("image_url", {"type": "object"})]
}
IMAGE_URL = described(
    {
        "url": {"type": "string", "minLength": 1},
        "detail": optional("string", examples=[name for name in DETAIL_TOKENS if isinstance(name, str)]),
        "image_pixel_limit": optional("object"),
    },
    ["url"],
)
