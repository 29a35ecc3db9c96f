"""Ark's answers about video tasks, turned into reports. An answer that proves nothing becomes a report that costs nobody money.

Statuses are those of HTTP; answers are parsed JSON, None if the body was not JSON.
"""

import re
from collections.abc import Collection, Mapping, Sequence

from proxy.core.ark.refusal import TIMEOUTS
from proxy.core.ark.text import read_error
from proxy.core.video.record import VideoTask
from proxy.core.video.report import Found, NotFound, Polled, PollFailed, PollFailure, SubmitRefused, Submitted, SubmitUnknown

TEXT_CHARACTERS_MAX = 8_192
"""Length of a URL. A longer one counts as absent."""
CLOCK_SKEW_MS = 60_000
"""Most that Ark's clock may be ahead of ours."""
CLOCK_BEHIND_MS = 5_000
"""Most that it may be behind. A task created longer than that before our record belongs to somebody else."""
SUBMIT_MS_MAX = 600_000
"""Longest time from the record of a task to its creation upstream."""

_PLAIN_ID = re.compile(r"(?!\.+\Z)[!-~]{1,128}")
"""An id that can be part of a URL's path: not ``..``, no control characters."""


def read_submit(status: int, answer: object) -> Submitted | SubmitRefused | SubmitUnknown:
    """Return what the answer to a create call proves.

    A 2xx with a plain id: created. A 4xx, or a 2xx or 5xx with an error of Ark's in it: not created. Anything else: perhaps created.
    """
    error = read_error(status, answer)
    if 200 <= status < 300:
        if upstream_id := _id(answer):
            return Submitted(upstream_id)
        if error is None or not error.code:
            return SubmitUnknown(f"{status} without an id that can be asked for")
    if status in TIMEOUTS or (status >= 500 and error is None):
        return SubmitUnknown(f"{status} without an answer of the upstream's")
    return SubmitRefused(error, why=f"status {status}")


def read_poll(status: int, answer: object, retry_after_ms: int = 0, *, upstream_id: str = "") -> Polled | PollFailed:
    """Return what the answer to a GET says about the task; only a 404 with an error of Ark's says that it is gone.

    Args: upstream_id: id of the task that was asked for. An answer with another id would show a customer somebody else's video.
    """
    if status == 404 and read_error(status, answer) is not None:
        return PollFailed(PollFailure.NOT_FOUND)
    if not 200 <= status < 300 or not isinstance(answer, dict) or not isinstance(answer.get("status"), str):
        return PollFailed(PollFailure.TRANSIENT, retry_after_ms)
    if upstream_id and answer.get("id", upstream_id) not in (None, "", upstream_id):
        return PollFailed(PollFailure.TRANSIENT, retry_after_ms)
    content = answer.get("content")
    return Polled(
        status=answer["status"].lower(),
        video_url=_url(content, "video_url"),
        last_frame_url=_url(content, "last_frame_url"),
        completion_tokens=_whole(answer.get("usage"), "completion_tokens"),
        error=read_error(status, answer) or read_error(status, {"error": answer.get("failure_reason")}),
        updated_at_ms=_milliseconds(answer, "updated_at"),
    )


def find_lost(task: VideoTask, items: Sequence[object], taken: Collection[str], rivals: Sequence[VideoTask] = ()) -> Found | NotFound:
    """Return the one entry of Ark's list that is certainly the lost submit of ``task``, or `NotFound`.

    An entry is a candidate if no other task has it, its time fits, nothing that it echoes contradicts the task, and it echoes a mark of
    the task: its seed, its safety identifier. Two equally good entries, or a rival that an entry fits as well, leave a doubt, and a
    customer must never be shown another's video. Entries without any mark are left to `lone_unmarked`.

    Args:
        task: the one whose submit was lost.
        items: the entries of the list, as parsed.
        taken: upstream ids that other tasks have.
        rivals: other tasks whose submits are lost too, including those no longer looked for.
    """
    marks = {id(item): _marks(task, item) for item in items}
    candidates = [item for item in items if (found := _id(item)) and found not in taken and marks[id(item)] > 0]
    best = max((marks[id(item)] for item in candidates), default=0)
    strongest = {_id(item): item for item in candidates if marks[id(item)] == best}
    if len(strongest) != 1:
        return NotFound()
    [(upstream_id, item)] = strongest.items()
    if any(_marks(rival, item) >= best for rival in rivals if rival.id != task.id):
        return NotFound()
    return Found(upstream_id)


def lone_unmarked(
    task: VideoTask, items: Sequence[object], taken: Collection[str], rivals: Sequence[VideoTask] = ()
) -> Found | NotFound:
    """Return the one finished entry that can only be the lost submit of ``task``, though it carries no mark.

    Needed when Ark echoes neither seed nor identifier. The entry must be of the model, have been created while the submit was under way
    (and not a minute later), have been fetched by itself without contradiction, and be alone, without any rival of that time. In a
    shared account somebody else's task of the very same seconds could still pass: such an account is better not shared.
    """
    unique = {
        _id(item): item
        for item in items
        if isinstance(item, dict) and item.get("status") == "succeeded" and _of_the_submit(task, item) and _id(item) not in taken
    }
    unique.pop("", None)
    if len(unique) != 1:
        return NotFound()
    [(upstream_id, item)] = unique.items()
    if any(_fits(rival, item) for rival in rivals if rival.id != task.id):
        return NotFound()
    return Found(upstream_id)


def _of_the_submit(task: VideoTask, item: Mapping[str, object]) -> bool:
    created_at_ms = _milliseconds(item, "created_at")
    if created_at_ms is None or task.lost_at_ms is None or created_at_ms > task.lost_at_ms + CLOCK_BEHIND_MS:
        return False
    return _is_of_model(task, item) and _fits(task, item)


def unproven(task: VideoTask, items: Sequence[object], taken: Collection[str]) -> list[str]:
    """Return the ids of succeeded entries that fit the task but lack marks, which Ark shows when such a task is fetched by itself."""
    fitting = (
        item
        for item in items
        if isinstance(item, dict)
        and item.get("status") == "succeeded"
        and _fits(task, item)
        and None in map(item.get, _own_marks(task))
    )
    ids = dict.fromkeys(_id(item) for item in fitting if _is_of_model(task, item) or is_endpoint(task.upstream_model))
    return [name for name in ids if name and name not in taken]


def is_endpoint(upstream_model: str) -> bool:
    """Return whether it is an endpoint's id. Ark lists an endpoint's tasks under the model behind it."""
    return upstream_model.startswith("ep-")


def _marks(task: VideoTask, item: object) -> int:
    """Return how many marks of the task an entry echoes; 0 if it cannot be the task's."""
    if not isinstance(item, dict) or not _fits(task, item):
        return 0
    own = _own_marks(task)
    echoed = sum(item.get(name) == value for name, value in own.items())
    return echoed if _is_of_model(task, item) or (echoed == len(own) > 1) else 0


def _own_marks(task: VideoTask) -> dict[str, object]:
    marks: dict[str, object] = {"safety_identifier": task.safety_identifier}
    if task.seed is not None and task.seed >= 0:
        marks["seed"] = task.seed
    return marks


def _is_of_model(task: VideoTask, item: Mapping[str, object]) -> bool:
    return item.get("model") == task.upstream_model


def _fits(task: VideoTask, item: Mapping[str, object]) -> bool:
    """Return whether an entry's time fits the task and nothing that it echoes contradicts it."""
    created_at_ms = _milliseconds(item, "created_at")
    if created_at_ms is None or not -CLOCK_BEHIND_MS <= created_at_ms - task.created_at_ms <= SUBMIT_MS_MAX + CLOCK_SKEW_MS:
        return False
    asked = {"service_tier": task.service_tier, "generate_audio": task.generate_audio, "duration": task.duration_seconds}
    if task.resolution != "adaptive":
        asked["resolution"] = task.resolution
    return all(item.get(name) in (None, value) for name, value in (asked | _own_marks(task)).items())


def _text(answer: object, name: str) -> str:
    value = answer.get(name) if isinstance(answer, dict) else None
    return value if isinstance(value, str) and len(value) <= TEXT_CHARACTERS_MAX else ""


def _id(answer: object) -> str:
    found = _text(answer, "id")
    return found if _PLAIN_ID.fullmatch(found) else ""


def _url(content: object, name: str) -> str:
    url = _text(content, name)
    return url if url.startswith(("http://", "https://")) else ""


def _whole(answer: object, name: str) -> int | None:
    value = answer.get(name) if isinstance(answer, dict) else None
    return value if type(value) is int and 0 <= value < 2**53 else None


def _milliseconds(answer: object, name: str) -> int | None:
    """Return, in milliseconds, a time that Ark gives in unix seconds."""
    seconds = _whole(answer, name)
    return None if seconds is None else seconds * 1000
