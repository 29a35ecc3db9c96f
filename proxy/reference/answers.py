"""Schemas of the answers. Real answers are held to them by a test, field by field: none may be missing, and none be more."""

from proxy.core.catalog import Kind
from proxy.core.limits import Period
from proxy.core.listing import CURRENCY
from proxy.core.schema import NULL, Fields, Schema, answer, component, described, maybe, one_of, optional
from proxy.core.settlement import Outcome, TokenUsage, UsageSource
from proxy.core.video.failure import FAILURE_CODES
from proxy.core.video.request import RESOLUTIONS, TASK_TYPES
from proxy.core.video.view import PUBLIC_STATUSES

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
URL: Schema = {"type": "string", "format": "uri"}
MOMENT: Schema = {"type": "string", "format": "date-time"}
YUAN: Schema = {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?$"}
KIND: Schema = {"type": "string", "enum": [kind.value for kind in Kind]}
IS_CNY: Schema = {"type": "string", "const": CURRENCY}


def _const(value: str) -> Schema:
    return {"type": "string", "const": value}


def _listed(entry: Schema) -> Schema:
    return {"type": "array", "items": entry}


# chat: the upstream's own bytes, of which only what is certain is promised

_CHOICE: Fields = {"index": WHOLE, "message": component("AnswerMessage"), "finish_reason": optional("string")}
_CHUNK_CHOICE: Fields = {"index": WHOLE, "delta": component("AnswerMessage"), "finish_reason": optional("string")}
_CHAT: dict[str, Schema] = {
    "ChatCompletion": described(
        {
            "id": TEXT,
            "object": TEXT,
            "created": WHOLE,
            "model": TEXT,
            "choices": {"type": "array", "minItems": 1, "items": component("ChatChoice")},
            "usage": maybe(component("ChatUsage")),
        },
        ["choices"],
        additionalProperties=True,
    ),
    "ChatChoice": described(_CHOICE, additionalProperties=True),
    "AnswerMessage": described(
        {
            "role": TEXT,
            "content": optional("string"),
            "reasoning_content": optional("string"),
            "tool_calls": optional("array", items={"type": "object"}),
        },
        additionalProperties=True,
    ),
    "ChatUsage": described(
        {"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT, "prompt_tokens_details": optional("object")},
        additionalProperties=True,
    ),
    "ChatChunk": described(
        {
            "id": TEXT,
            "object": TEXT,
            "created": WHOLE,
            "model": TEXT,
            "choices": _listed(component("ChunkChoice")),
            "usage": maybe(component("ChatUsage")),
        },
        additionalProperties=True,
    ),
    "ChunkChoice": described(_CHUNK_CHOICE, additionalProperties=True),
}

# images and videos

_MEDIA: dict[str, Schema] = {
    "ImageAnswer": answer(
        {
            "request_id": TEXT,
            "model": TEXT,
            "image_urls": {"type": "array", "minItems": 1, "items": URL},
            "total_cost": {"type": "number", "minimum": 0},
            "created": WHOLE,
            "data": {"type": "array", "minItems": 1, "items": component("ImageLink")},
        }
    ),
    "ImageLink": answer({"url": URL}),
    "VideoTaskCreated": answer(
        {
            "id": TEXT,
            "task_id": {"type": "string", "pattern": "^[0-9]{16}$"},
            "status": {"type": "string", "enum": list(PUBLIC_STATUSES)},
            "model": TEXT,
            "created": WHOLE,
            "object": _const("video.generation.task"),
        }
    ),
    "TaskFailure": answer({"code": {"type": "string", "enum": list(FAILURE_CODES)}, "message": TEXT}),
}
_TASK: Fields = {
    "id": TEXT,
    "task_id": {"type": "string", "pattern": "^[0-9]{16}$"},
    "status": {"type": "string", "enum": list(PUBLIC_STATUSES)},
    "model": TEXT,
    "prompt": TEXT,
    "resolution": {"type": "string", "enum": list(RESOLUTIONS)},
    "duration": WHOLE,
    "generate_audio": FLAG,
    "task_type": {"type": "string", "enum": list(TASK_TYPES)},
    "video_url": URL,
    "thumbnail_url": URL,
    "error": component("TaskFailure"),
    "total_cost": YUAN,
    "created_at": MOMENT,
    "completed_at": MOMENT,
}
_OF_ENDED = ("video_url", "thumbnail_url", "error", "completed_at")
_NOT_LISTED = ("task_id", "thumbnail_url")
_MEDIA |= {
    "VideoTask": answer(_TASK, _OF_ENDED),
    "ListedVideoTask": answer({name: schema for name, schema in _TASK.items() if name not in _NOT_LISTED}, _OF_ENDED),
    "VideoTaskList": answer({"object": _const("list"), "data": _listed(component("ListedVideoTask"))}),
}

# models

_TIER: Fields = {"prompt": YUAN, "completion": YUAN, "input_cache_read": YUAN}
_RATE: Fields = {"silent": YUAN, "audio": YUAN}
_OF_CHAT = ("context_length", "max_output_tokens", "top_provider")
_MODELS: dict[str, Schema] = {
    "ModelList": answer({"object": _const("list"), "data": _listed(component("Model"))}),
    "Model": answer(
        {
            "id": TEXT,
            "object": _const("model"),
            "created": WHOLE,
            "owned_by": TEXT,
            "description": TEXT,
            "kind": KIND,
            "architecture": component("Architecture"),
            "context_length": optional("integer"),
            "max_output_tokens": optional("integer"),
            "top_provider": component("ModelLimits"),
            "pricing": {"oneOf": [component("ChatPricing"), component("ImagePricing"), component("VideoPricing")]},
        },
        _OF_CHAT,
    ),
    "Architecture": answer({"modality": TEXT, "input_modalities": _listed(TEXT), "output_modalities": _listed(TEXT)}),
    "ModelLimits": answer({"context_length": optional("integer"), "max_completion_tokens": optional("integer")}),
    "ChatPricing": answer({"currency": IS_CNY, **_TIER, "tiers": _listed(component("ChatTier"))}, ["tiers"]),
    "ChatTier": answer({"up_to_tokens": optional("integer"), **_TIER}),
    "ImagePricing": answer({"currency": IS_CNY, "unit": _const("image"), "image": YUAN}),
    "VideoPricing": answer(
        {
            "currency": IS_CNY,
            "unit": _const("million video tokens"),
            **_RATE,
            "by_resolution": {"type": "object", "additionalProperties": component("VideoRate")},
            "flex_factor": YUAN,
        },
        ["by_resolution", "flex_factor"],
    ),
    "VideoRate": answer(_RATE),
}

# the account

_LIMIT_KINDS = ("spend", "requests", "tokens", "concurrent")
_PERIODS = ("minute", *(period.value for period in Period))
_ACCOUNT: dict[str, Schema] = {
    "Account": answer(
        {
            "object": _const("account"),
            "name": TEXT,
            "balance": YUAN,
            "held": YUAN,
            "available": YUAN,
            "currency": IS_CNY,
            "key": maybe(component("AccountKey")),
            "limits": _listed(component("Limit")),
        }
    ),
    "AccountKey": answer(
        {
            "id": TEXT,
            "name": TEXT,
            "expires_at": {"anyOf": [MOMENT, NULL]},
            "models": _listed(TEXT),
            "limits": _listed(component("Limit")),
        }
    ),
    "Limit": answer(
        {
            "kind": {"type": "string", "enum": list(_LIMIT_KINDS)},
            "per": one_of(_PERIODS),
            "limit": {"anyOf": [YUAN, COUNT]},
            "used": {"anyOf": [YUAN, COUNT]},
            "resets_at": {"anyOf": [MOMENT, NULL]},
        }
    ),
    "TokenUsage": answer(dict.fromkeys(TokenUsage.__struct_fields__, COUNT)),
}
_SETTLED: Fields = {
    "settled_at": MOMENT,
    "outcome": {"type": "string", "enum": [outcome.value for outcome in Outcome]},
    "usage_source": {"type": "string", "enum": [source.value for source in UsageSource]},
    "usage": component("TokenUsage"),
    "units": COUNT,
    "shortfall": YUAN,
    "formula": TEXT,
    "http_status": WHOLE,
    "first_byte_ms": optional("integer"),
    "total_ms": optional("integer"),
    "cost": YUAN,
    "refunded": YUAN,
}
_ACCOUNT["Receipt"] = answer(
    {
        "object": _const("usage"),
        "id": TEXT,
        "kind": KIND,
        "status": {"type": "string", "enum": ["open", "settled"]},
        "model": TEXT,
        "stream": FLAG,
        "created_at": MOMENT,
        "currency": IS_CNY,
        "hold": YUAN,
        "discount": YUAN,
        **_SETTLED,
    },
    list(_SETTLED),
)

_PROBES: dict[str, Schema] = {
    "Alive": answer({"status": _const("ok")}),
    "Ready": answer({"status": {"type": "string", "enum": ["ready", "draining", "store unavailable"]}}),
}

ANSWERS: dict[str, Schema] = {**_CHAT, **_MEDIA, **_MODELS, **_ACCOUNT, **_PROBES}
"""All of them, by the names of their components."""
