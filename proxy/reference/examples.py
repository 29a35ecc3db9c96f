"""An answer of each kind, to look at. A test holds each to its schema."""

from collections.abc import Mapping

from proxy.reference.samples import CHAT_MODEL, TASK

_PICTURE = "https://cdn.example.com/images/output-1.png"
_TASK: dict[str, object] = {
    "id": TASK,
    "task_id": "7483920174839201",
    "status": "succeeded",
    "model": "doubao-seedance-1-5-pro-251215",
    "prompt": "Waves on a reef at sunset",
    "resolution": "720p",
    "duration": 5,
    "generate_audio": False,
    "task_type": "text_to_video",
    "video_url": "https://cdn.example.com/videos/output.mp4",
    "total_cost": "0.8640",
    "created_at": "2026-11-30T08:00:00.000Z",
    "completed_at": "2026-11-30T08:01:23.000Z",
}
_MODEL: dict[str, object] = {
    "id": CHAT_MODEL,
    "object": "model",
    "created": 1710000000,
    "owned_by": "volcengine",
    "description": "豆包 Pro 32K",
    "kind": "chat",
    "architecture": {"modality": "text+image->text", "input_modalities": ["text", "image"], "output_modalities": ["text"]},
    "context_length": 32768,
    "max_output_tokens": 4096,
    "top_provider": {"context_length": 32768, "max_completion_tokens": 4096},
    "pricing": {"currency": "CNY", "prompt": "0.0000008", "completion": "0.000002", "input_cache_read": "0.00000016"},
}
_SPEND = {"kind": "spend", "per": "day", "limit": "5.00", "used": "1.20", "resets_at": "2026-11-30T16:00:00.000Z"}

EXAMPLES: Mapping[str, object] = {
    "createChatCompletion": {
        "id": "chatcmpl-xxxxxxxxxxxx",
        "object": "chat.completion",
        "created": 1710000000,
        "model": CHAT_MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello! How can I help you today?"},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 12, "total_tokens": 32},
    },
    "createImage": {
        "request_id": "img-1710000000000-AbCdEf",
        "model": "doubao-seedream-5-0-260128",
        "image_urls": [_PICTURE],
        "total_cost": 0.18,
        "created": 1710000000,
        "data": [{"url": _PICTURE}],
    },
    "createVideo": {
        "id": TASK,
        "task_id": "7483920174839201",
        "status": "pending",
        "model": "doubao-seedance-1-5-pro-251215",
        "created": 1710000000,
        "object": "video.generation.task",
    },
    "getVideoTask": _TASK,
    "listVideoTasks": {"object": "list", "data": [{name: value for name, value in _TASK.items() if name != "task_id"}]},
    "cancelVideoTask": {
        **{name: value for name, value in _TASK.items() if name != "video_url"},
        "status": "failed",
        "error": {"code": "TASK_CANCELLED", "message": "The task was cancelled; nothing was charged"},
        "total_cost": "0",
    },
    "listModels": {"object": "list", "data": [_MODEL]},
    "listPublicModels": {"object": "list", "data": [_MODEL]},
    "getModel": _MODEL,
    "getAccount": {
        "object": "account",
        "name": "acme",
        "balance": "99.99996",
        "held": "0.00",
        "available": "99.99996",
        "currency": "CNY",
        "key": {"id": "key_…", "name": "laptop", "expires_at": None, "models": [], "limits": [_SPEND]},
        "limits": [],
    },
    "getReceipt": {
        "object": "usage",
        "id": "req_…",
        "kind": "chat",
        "status": "settled",
        "model": CHAT_MODEL,
        "stream": False,
        "created_at": "2026-11-30T08:00:00.000Z",
        "currency": "CNY",
        "hold": "0.009",
        "discount": "1",
        "settled_at": "2026-11-30T08:00:02.000Z",
        "outcome": "complete",
        "usage_source": "reported",
        "usage": {"prompt_tokens": 20, "completion_tokens": 12, "cached_tokens": 0, "reasoning_tokens": 0},
        "units": 0,
        "shortfall": "0.00",
        "formula": "20 × ¥0.8/M + 12 × ¥2/M = ¥0.00004",
        "http_status": 200,
        "first_byte_ms": 412,
        "total_ms": 1980,
        "cost": "0.00004",
        "refunded": "0.00",
    },
    "isAlive": {"status": "ok"},
    "isReady": {"status": "ready"},
}
"""By the ids of their operations."""
