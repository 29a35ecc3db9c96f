"""A video task as its owner sees it: only the published fields, in the published order."""

import hashlib

from proxy.core.timestamps import iso
from proxy.core.video.price import total_cost
from proxy.core.video.record import TaskState, VideoTask
from proxy.core.video.request import DURATION_SECONDS_MIN, RESOLUTIONS

_PUBLIC_STATUS = {
    TaskState.SUBMITTING: "pending",
    TaskState.PENDING: "pending",
    TaskState.PROCESSING: "processing",
    TaskState.SUCCEEDED: "succeeded",
    TaskState.FAILED: "failed",
}
PUBLIC_STATUSES = tuple(dict.fromkeys(_PUBLIC_STATUS.values()))


def public_status(state: TaskState) -> str:
    """Return the published word for a state: ``pending``, ``processing``, ``succeeded`` or ``failed``."""
    return _PUBLIC_STATUS[state]


def hold_advice(task: VideoTask) -> str:
    """Return what makes the hold as large as it is, and how to lower it."""
    sound = "with" if task.generate_audio else "without"
    made = f"{task.duration_seconds} seconds at {task.resolution} {sound} sound"
    lower = ["'duration'"] if task.duration_seconds > DURATION_SECONDS_MIN else []
    lower += ["'resolution'"] if task.resolution != RESOLUTIONS[0] else []
    less = f". To need less: lower {' or '.join(lower)}" if lower else ""
    return f"It is the price of {made}{less}"


def created_task(task: VideoTask) -> dict[str, object]:
    """Return the answer to the submit."""
    return {
        "id": task.id,
        "task_id": task_number(task),
        "status": _PUBLIC_STATUS[task.state],
        "model": task.model,
        "created": task.created_at_ms // 1000,
        "object": "video.generation.task",
    }


def public_task(task: VideoTask) -> dict[str, object]:
    """Return one task, as ``GET /videos/tasks/{id}`` shows it."""
    return {
        "id": task.id,
        "task_id": task_number(task),
        "status": _PUBLIC_STATUS[task.state],
        "model": task.model,
        "prompt": task.prompt,
        **_shape(task),
        "task_type": task.task_type,
        **_links(task),
        **_cost_and_times(task),
    }


def listed_task(task: VideoTask) -> dict[str, object]:
    """Return one entry of the list, which has neither `task_id` nor `thumbnail_url`."""
    entry: dict[str, object] = {
        "id": task.id,
        "status": _PUBLIC_STATUS[task.state],
        "model": task.model,
        "task_type": task.task_type,
        "prompt": task.prompt,
        **_shape(task),
        **_links(task),
        **_cost_and_times(task),
    }
    entry.pop("thumbnail_url", None)
    return entry


def task_list(tasks: list[VideoTask]) -> dict[str, object]:
    """Return a page of tasks in the order given."""
    return {"object": "list", "data": [listed_task(task) for task in tasks]}


def task_number(task: VideoTask) -> str:
    """Return the published `task_id`: 16 digits, always the same ones for a task. Ark's own id stays inside."""
    return str(10**15 + int.from_bytes(hashlib.sha256(task.id.encode()).digest()[:8]) % (9 * 10**15))


def _shape(task: VideoTask) -> dict[str, object]:
    return {"resolution": task.resolution, "duration": task.duration_seconds, "generate_audio": task.generate_audio}


def _links(task: VideoTask) -> dict[str, object]:
    """Return the links of a finished task, or the error instead of them."""
    if task.error is not None:
        return {"error": {"code": task.error.code, "message": task.error.message}}
    links = {"video_url": task.video_url, "thumbnail_url": task.thumbnail_url}
    return {name: url for name, url in links.items() if url}


def _cost_and_times(task: VideoTask) -> dict[str, object]:
    succeeded = task.state is TaskState.SUCCEEDED
    fields: dict[str, object] = {
        "total_cost": total_cost(task.charge_nanos) if succeeded else "0",
        "created_at": iso(task.created_at_ms),
    }
    if task.ended_at_ms is not None:
        fields["completed_at"] = iso(task.ended_at_ms)
    return fields
