"""Video requests that are refused before any hold and any call, each with its documented code and field."""

from typing import Any

import pytest

from tests.support.gateway import Bench
from tests.support.videos import MODEL, SUBMIT

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPT = "canary-prompt-3b91"
IMAGE = {"task_type": "image_to_video"}
SEEDANCE_2 = {"model": "doubao-seedance-2-0"}

BAD: dict[str, tuple[Any, int, str, str | None]] = {
    "no object": ([1], 400, "INVALID_JSON", None),
    "null": (None, 400, "INVALID_JSON", None),
    "no prompt": ({"prompt": None}, 400, "MISSING_PROMPT", "prompt"),
    "an empty prompt": ({"prompt": ""}, 400, "MISSING_PROMPT", "prompt"),
    "a blank prompt": ({"prompt": " \n"}, 400, "MISSING_PROMPT", "prompt"),
    "a number as prompt": ({"prompt": 5}, 400, "INVALID_PARAMETER", "prompt"),
    "a prompt without end": ({"prompt": "x" * 10_001}, 400, "INVALID_PARAMETER", "prompt"),
    "an unknown model": ({"model": "doubao-seedance-9"}, 404, "MODEL_NOT_FOUND", "model"),
    "a chat model": ({"model": "doubao-pro-32k"}, 400, "WRONG_ENDPOINT", "model"),
    "an image model": ({"model": "doubao-seedream-5-0-260128"}, 400, "WRONG_ENDPOINT", "model"),
    "a list as model": ({"model": [MODEL]}, 400, "INVALID_PARAMETER", "model"),
    "an unknown task type": ({"task_type": "video_to_video"}, 400, "INVALID_PARAMETER", "task_type"),
    "a task type in capitals": ({"task_type": "Text_To_Video"}, 400, "INVALID_PARAMETER", "task_type"),
    "no picture": (IMAGE, 400, "INVALID_PARAMETER", "image_url"),
    "a file as picture": (IMAGE | {"image_url": "file:///etc/passwd"}, 400, "INVALID_PARAMETER", "image_url"),
    "ftp": (IMAGE | {"image_url": "ftp://example.com/a.png"}, 400, "INVALID_PARAMETER", "image_url"),
    "no host": (IMAGE | {"image_url": "https:///a.png"}, 400, "INVALID_PARAMETER", "image_url"),
    "a page as data URL": (IMAGE | {"image_url": "data:text/html;base64,AAAA"}, 400, "INVALID_PARAMETER", "image_url"),
    "an object as picture": (IMAGE | {"image_url": {"url": "https://example.com/a.png"}}, 400, "INVALID_PARAMETER", "image_url"),
    "an unknown resolution": ({"resolution": "4k"}, 400, "INVALID_PARAMETER", "resolution"),
    "a number as resolution": ({"resolution": 720}, 400, "INVALID_PARAMETER", "resolution"),
    "too short": ({"duration": 3}, 400, "INVALID_PARAMETER", "duration"),
    "too long": ({"duration": 13}, 400, "INVALID_PARAMETER", "duration"),
    "as the model likes": ({"duration": -1}, 400, "INVALID_PARAMETER", "duration"),
    "half a second": ({"duration": 5.5}, 400, "INVALID_PARAMETER", "duration"),
    "a whole float": ({"duration": 5.0}, 400, "INVALID_PARAMETER", "duration"),
    "a string as number": ({"duration": "5"}, 400, "INVALID_PARAMETER", "duration"),
    "a boolean as number": ({"duration": True}, 400, "INVALID_PARAMETER", "duration"),
    "a number as boolean": ({"generate_audio": 1}, 400, "INVALID_PARAMETER", "generate_audio"),
    "a string as boolean": ({"watermark": "false"}, 400, "INVALID_PARAMETER", "watermark"),
    "a seed below": ({"seed": -2}, 400, "INVALID_PARAMETER", "seed"),
    "a seed above": ({"seed": 2**32}, 400, "INVALID_PARAMETER", "seed"),
    "a boolean as seed": ({"seed": False}, 400, "INVALID_PARAMETER", "seed"),
    "an unknown tier": ({"service_tier": "fast"}, 400, "INVALID_PARAMETER", "service_tier"),
    "flex where there is none": (SEEDANCE_2 | {"service_tier": "flex"}, 400, "INVALID_PARAMETER", "service_tier"),
    "a price key in other letters": ({"Duration": 12}, 400, "INVALID_PARAMETER", "Duration"),
    "the tier in other letters": ({"SERVICE_TIER": "flex"}, 400, "INVALID_PARAMETER", "SERVICE_TIER"),
}


@pytest.mark.parametrize(("fields", "status", "code", "param"), BAD.values(), ids=BAD)
async def test_a_bad_submit_is_refused(refusing: Bench, fields: Any, status: int, code: str, param: str | None) -> None:
    body = {"prompt": PROMPT} | fields if isinstance(fields, dict) else fields
    refused = await refusing.ask(SUBMIT, body if body is not None else b"null")

    assert (refused.status, refused.error["code"], refused.error["param"]) == (status, code, param)
    assert refused.error["type"] == "invalid_request_error"
    assert refused.error["message"]
    assert (await refusing.ask("/videos/tasks")).json == {"object": "list", "data": []}


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/videos/tasks/vreq_1/cancel"), ("POST", "/videos/tasks"), ("GET", "/videos/generations")]
)
async def test_what_is_not_offered_is_not_allowed(refusing: Bench, method: str, path: str) -> None:
    refused = await refusing.ask(path, {"prompt": PROMPT} if method == "POST" else None, method=method)

    assert (refused.status, refused.error["code"]) == (405, "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize("task_id", ["x", "..%2f..%2fadmin", "vreq_%00", "vreq_' OR 1=1 --", "a/b", "%ff", "x" * 5000])
async def test_odd_ids_are_unknown_tasks(refusing: Bench, task_id: str) -> None:
    for method in ("GET", "DELETE"):
        refused = await refusing.ask(f"/videos/tasks/{task_id}", method=method)

        assert (refused.status, refused.error["code"]) == (404, "TASK_NOT_FOUND")
