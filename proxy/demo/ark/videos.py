"""`/contents/generations/tasks`: tasks that go queued → running → ended, by the clock or as a test sets them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.clock import Clock
from proxy.demo.ark.call import Call
from proxy.demo.ark.dialect import Account, ArkError, Ids
from proxy.demo.ark.media import link
from proxy.demo.ark.rates import Rates
from proxy.demo.ark.reply import asked, reply
from proxy.demo.ark.script import Step
from proxy.demo.ark.video_rules import Order, dimensions, tokens, understand

_BUCKET = "ark-content-generation-cn-beijing"
_KEPT_SECONDS = 7 * 86_400
_CANCELLED_KEPT_SECONDS = 86_400
_TASKS_MAX = 100_000
_CANCELLED = ("cancelled", "canceled")

FAILURE = (
    "OutputVideoSensitiveContentDetected.PolicyViolation",
    "The request failed because the output video may be related to copyright restrictions.",
)


@dataclass(frozen=True, slots=True)
class Timeline:
    """Seconds by the clock that each task is queued, then runs. After that it has succeeded."""

    queued_seconds: float = 1.0
    running_seconds: float = 5.0


@dataclass(slots=True)
class Task:
    """A task. `status` may be any word: tests invent some. `overrides` replace fields of GET's answer; None leaves one out."""

    id: str
    order: Order
    seed: int
    created_at_ms: int
    request_id: str
    status: str = "queued"
    updated_at_ms: int = 0
    error: tuple[str, str] | None = None
    is_manual: bool = False
    overrides: dict[str, Any] = field(default_factory=dict)


class Videos:
    """The tasks and the routes that work on them.

    Attributes:
        tasks: by id, in the order of creation, including those whose creation was never answered.
        adaptive_ratio: the ratio that the model chooses for "adaptive".
        queued_max: limit of queued tasks, above which creation gets 429 `QuotaExceeded`; None: no limit.
    """

    def __init__(
        self,
        account: Account,
        clock: Clock,
        ids: Ids,
        origin: Callable[[], str] | None,
        timeline: Timeline | None,
        enforces_rates: bool,
    ) -> None:
        self.tasks: dict[str, Task] = {}
        self.adaptive_ratio = "16:9"
        self.queued_max: int | None = None
        self._account = account
        self._clock = clock
        self._ids = ids
        self._origin = origin
        self._timeline = timeline
        self._rates = Rates({"get": 20, "list": 1, "delete": 20} if enforces_rates else {}, clock)

    # Control by tests.

    def advance(self, task_id: str, status: str, *, error: tuple[str, str] | None = None, **overrides: Any) -> Task:
        """Set the status of a task, to any word. From then on the clock does not change it.

        Args:
            error: code and message of a "failed" task; a refusal of the output by default.
            overrides: fields of GET's answer; None leaves a field out: `content=None` is a success without a link.

        Raises:
            KeyError: no such task.
        """
        task = self.tasks[task_id]
        task.status, task.is_manual = status, True
        if status not in ("queued", "running"):
            task.updated_at_ms = self._clock.now_ms()
        task.error = (error or FAILURE) if status == "failed" else error
        task.overrides = overrides
        return task

    def forget(self, task_id: str) -> None:
        """Lose a task, as Ark does after 7 days: 404 from now on."""
        del self.tasks[task_id]

    # The four routes.

    def create(self, call: Call) -> Sequence[Step]:
        wanted = asked(call)
        order = understand(wanted, self._account.model(wanted.get("model"), "video"))
        queued = sum(self._refresh(task).status == "queued" for task in self.tasks.values()) if self.queued_max is not None else 0
        if self.queued_max is not None and queued >= self.queued_max:
            message = f"The number of queued tasks of account {self._account.number} has reached its limit."
            raise ArkError(429, "QuotaExceeded", message)
        now_ms = self._clock.now_ms()
        seed = self._ids.seed() if order.seed is None else order.seed
        task = Task(self._ids.task_id(), order, seed, now_ms, call.request_id, updated_at_ms=now_ms)
        if len(self.tasks) >= _TASKS_MAX:
            del self.tasks[next(iter(self.tasks))]
        self.tasks[task.id] = task
        answer: dict[str, Any] = {"id": task.id}
        if order.safety_identifier is not None:
            answer["safety_identifier"] = order.safety_identifier
        return reply(call, answer)

    def get(self, call: Call, task_id: str) -> Sequence[Step]:
        self._rates.take("get")
        return reply(call, self.show(self._found(task_id)))

    def list(self, call: Call) -> Sequence[Step]:
        """Return a page of tasks, newest first. Flex tasks are hidden unless `filter.service_tier` asks for them."""
        self._rates.take("list")
        number, size = _page(call, "page_num", 1, 500), _page(call, "page_size", 20, 500)
        tasks = [self._refresh(task) for task in reversed(self.tasks.values()) if self._is_kept(task)]
        found = [task for task in tasks if _passes(task, call.query)]
        shown = found[(number - 1) * size : number * size]
        return reply(call, {"total": len(found), "items": [self.show(task) for task in shown]})

    def delete(self, call: Call, task_id: str) -> Sequence[Step]:
        """Cancel a queued task or delete the record of an ended one. A running task cannot be stopped."""
        self._rates.take("delete")
        task = self._found(task_id)
        if task.status == "queued":
            self.advance(task_id, "cancelled")
        elif task.status == "running" or task.status in _CANCELLED:
            message = f"Cannot delete task `{task_id}` because it is currently {task.status}."
            raise ArkError(409, "InvalidAction.RunningTaskDeletion", message, bare=True)
        else:
            del self.tasks[task_id]
        return reply(call, {})

    # Rendering a task.

    def show(self, task: Task) -> dict[str, Any]:
        """Return a task as GET answers it, with its keys in Ark's order."""
        shown: dict[str, Any] = {"id": task.id, "model": task.order.model, "status": task.status}
        succeeded = task.status == "succeeded"
        if succeeded:
            shown |= self._result(task)
        elif task.error is not None:
            shown["error"] = {"code": task.error[0], "message": f"{task.error[1]} Request id: {task.request_id}"}
        shown |= {"created_at": task.created_at_ms // 1000, "updated_at": task.updated_at_ms // 1000}
        if succeeded:
            order = task.order
            shown |= {"seed": task.seed, "resolution": order.resolution, "ratio": self._ratio(order), "duration": self._seconds(order)}
            shown["framespersecond"] = 24
        elif task.order.seed is not None:
            shown["seed"] = task.seed
        shown |= {"service_tier": task.order.service_tier, "execution_expires_after": task.order.execution_expires_after}
        if task.status != "failed":
            shown |= {"generate_audio": task.order.generate_audio, "draft": task.order.draft}
        if succeeded and task.order.priority is not None:
            shown["priority"] = task.order.priority
        if task.order.safety_identifier is not None:
            shown["safety_identifier"] = task.order.safety_identifier
        shown |= task.overrides
        return {name: value for name, value in shown.items() if value is not None}

    def _result(self, task: Task) -> dict[str, Any]:
        size = dimensions(task.order.model, task.order.resolution, self._ratio(task.order))
        origin = self._origin() if self._origin else None
        name = f"{task.order.model.rpartition('-')[0]}/{task.request_id}"
        content = {"video_url": link(origin, _BUCKET, f"{name}.mp4", size)}
        if task.order.return_last_frame:
            content["last_frame_url"] = link(origin, _BUCKET, f"{name}_last_frame.png", size)
        count = tokens(*size, self._seconds(task.order))
        return {"content": content, "usage": {"completion_tokens": count, "total_tokens": count}}

    def _ratio(self, order: Order) -> str:
        return self.adaptive_ratio if order.ratio == "adaptive" else order.ratio

    def _seconds(self, order: Order) -> int:
        return 5 if order.seconds == -1 else order.seconds

    # Time.

    def _found(self, task_id: str) -> Task:
        task = self.tasks.get(task_id)
        if task is None or not self._is_kept(self._refresh(task)):
            raise ArkError(404, "ResourceNotFound", "The specified resource is not found.")
        return task

    def _is_kept(self, task: Task) -> bool:
        now_ms = self._clock.now_ms()
        if task.status in _CANCELLED and now_ms - task.updated_at_ms >= _CANCELLED_KEPT_SECONDS * 1000:
            return False
        return now_ms - task.created_at_ms < _KEPT_SECONDS * 1000

    def _refresh(self, task: Task) -> Task:
        """Bring the status of a task up to date with its timeline, and return it. `updated_at` does not change while it runs."""
        if self._timeline is None or task.is_manual or task.status not in ("queued", "running"):
            return task
        runs_at_ms = task.created_at_ms + int(self._timeline.queued_seconds * 1000)
        ends_at_ms = runs_at_ms + int(self._timeline.running_seconds * 1000)
        now_ms = self._clock.now_ms()
        if now_ms >= ends_at_ms:
            task.status, task.updated_at_ms = "succeeded", ends_at_ms
        elif now_ms >= runs_at_ms:
            task.status, task.updated_at_ms = "running", runs_at_ms
        return task


def _passes(task: Task, query: dict[str, list[str]]) -> bool:
    wanted_ids = query.get("filter.task_ids")
    return (
        task.order.service_tier == query.get("filter.service_tier", ["default"])[-1]
        and query.get("filter.status", [task.status])[-1] == task.status
        and query.get("filter.model", [task.order.model])[-1] == task.order.model
        and (wanted_ids is None or task.id in wanted_ids)
    )


def _page(call: Call, name: str, default: int, most: int) -> int:
    text = call.query.get(name, [str(default)])[-1]
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise ArkError(
            400, "InvalidParameter", f"The parameter `{name}` specified in the request is not valid: must be in [1, {most}].", name
        )
    return int(text)
