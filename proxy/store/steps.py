"""What the books require of a video task that is placed, and of each step of it, whichever engine stores them.

`proxy.core.video.task` decides each step; a store checks it here first, and stores all of it or nothing.
"""

from proxy.core.catalog import Kind
from proxy.core.video.record import TRANSITIONS, TaskState, VideoTask
from proxy.core.video.task import Step
from proxy.store.task_row import asked
from proxy.store.values import NewRequest


def require_pair(request: NewRequest, task: VideoTask) -> None:
    """Check that a new task matches its request. Raises: ValueError."""
    if request.kind is not Kind.VIDEO or task.state is not TaskState.SUBMITTING:
        raise ValueError(f"a new task is that of a video's request, and submitting: {request.kind}, {task.state}")
    said = (request.id, request.account_id, request.model, request.upstream, request.upstream_model, request.hold_nanos)
    recorded = (task.id, task.account_id, task.model, task.upstream, task.upstream_model, task.hold_nanos)
    if (*said, request.key_name, request.created_at_ms) != (*recorded, task.key_name, task.created_at_ms):
        raise ValueError(f"task {task.id} is not that of request {request.id}")


def require_sound(task: VideoTask, step: Step) -> None:
    """Check a step against the rules that the books depend on. Raises: ValueError."""
    after, settlement = step.task, step.settlement
    if asked(after) != asked(task):
        raise ValueError(f"task {task.id} was asked otherwise than its step says")
    if after.state not in TRANSITIONS[task.state]:
        raise ValueError(f"task {task.id} cannot go from {task.state} to {after.state}")
    if (step.ignored or task.ended) and (after != task or settlement is not None):
        raise ValueError(f"task {task.id} is changed by a step that comes too late")
    if (step.due_at_ms is None) != after.ended or (settlement is not None) != (after.ended and not task.ended):
        raise ValueError(f"task {task.id} is {after.state}: it is due, or settled, at the wrong time")
    if settlement is not None and settlement.charge_nanos != after.charge_nanos:
        raise ValueError(f"task {task.id} says {after.charge_nanos}, its settlement {settlement.charge_nanos}")
