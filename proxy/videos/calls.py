"""Upstream calls about videos, each kind at its own rate; their answers are returned as reports.

No failure is raised or tried again here: it is a report like any other, and `core.video.task.advance` decides what it means.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from proxy.core.ark.creation import creation_refusal
from proxy.core.ark.field_names import without_unsupported
from proxy.core.ark.refusal import outage, with_delay
from proxy.core.ark.text import read_error
from proxy.core.errors import GatewayError, ModelUnavailableError
from proxy.core.health import Trouble, retry_after_seconds
from proxy.core.settlement import Outcome
from proxy.core.video.answers import CLOCK_BEHIND_MS, is_endpoint, read_poll, read_submit
from proxy.core.video.record import VideoTask
from proxy.core.video.report import Polled, PollFailed, PollFailure, SubmitRefused, Submitted, SubmitUnknown
from proxy.core.video.upstream import FIELD_NAMES, UPSTREAM_OPTIONAL
from proxy.exchange.ends import restarting
from proxy.live.settings import Live
from proxy.tasks import TaskGroup
from proxy.telemetry.metrics import Metrics
from proxy.upstream.ark_client import PAGE_SIZE_MAX, ArkClient, Reply
from proxy.upstream.failures import UnconfirmedError, UpstreamFailure, UpstreamUnreachableError
from proxy.upstream.routing import Routing
from proxy.upstream.upstreams import Access

logger = logging.getLogger(__name__)

PAGES_MAX = 20
"""Of the list: 10,000 tasks of one model, made since the lost one; 2000 if Ark gives only 100 a page."""
_VIDEOS, _LIST = "videos", "lost submits"
"""Topics of calls: an upstream that shows tasks may refuse its list, and the other way round."""
STATUS_SECONDS_MAX = 10.0
"""A status is answered in moments. At Ark's 20 a second, an upstream that hangs blocks 200 polls: fewer than may run."""


@dataclass(frozen=True, slots=True)
class Submission:
    """The report of a submit and, if it was refused, the error for its customer."""

    report: Submitted | SubmitRefused | SubmitUnknown
    error: GatewayError | None = None


@dataclass(frozen=True, slots=True)
class _Listing:
    """A list that is being read back to a time, shared by all who wait for it."""

    since_ms: int
    items: "asyncio.Task[Sequence[object] | None]"


@dataclass(frozen=True, slots=True)
class _Page:
    items: Sequence[object]
    total: int
    """Of all pages: a page shorter than was asked for need not be the last."""


class VideoCalls:
    """The calls to all upstreams."""

    def __init__(self, live: Live, metrics: Metrics, routing: Routing) -> None:
        self._live = live
        self._routing = routing
        self._metrics = metrics
        self._tasks = TaskGroup("listing")
        self._listings: dict[tuple[str, str, str, str], _Listing] = {}
        self._troubled: set[tuple[str, str]] = set()
        """Upstreams and topics whose last call failed, so that an outage is two lines in the log and not thousands."""

    async def submit(self, task: VideoTask, body: Mapping[str, object]) -> Submission:
        """Submit a task, once."""
        asked_at = self._routing.now()
        try:
            reply = await self._created(self._submitted_by(task), body)
        except UnconfirmedError as fault:
            error = restarting(asked=False)
            return Submission(SubmitRefused(None, str(fault), error.status), error)
        except UpstreamFailure as failure:
            self._learn(task, Trouble.UNREACHABLE if failure.is_unasked else Trouble.UNKNOWN, asked_at, why=str(failure))
            return self._unanswered(task, failure)
        report = read_submit(reply.status, reply.answer)
        if isinstance(report, SubmitRefused):
            return self._refused(task, report, reply, asked_at)
        if isinstance(report, SubmitUnknown):
            self._metrics.upstream_failed(task.upstream, "submit_unknown")
        self._learn(task, Trouble.UNKNOWN if isinstance(report, SubmitUnknown) else None, asked_at)
        return Submission(report)

    async def status(self, task: VideoTask, *, urgent: bool = False) -> Polled | PollFailed:
        """Return what the upstream says about a task now. ``urgent``: a customer waits for it."""
        reply = await self._get(task, urgent=urgent)
        report = PollFailed(PollFailure.TRANSIENT) if reply is None else _read(task, reply)
        self._metrics.video_polled(task.upstream, report.kind if isinstance(report, PollFailed) else "answered")
        return report

    async def cancel_turn(self, task: VideoTask) -> None:
        """Wait until the upstream may be asked to `cancel`."""
        if (access := self._access(task)) is not None:
            await access.deletes.turn(urgent=True)

    async def cancel(self, task: VideoTask) -> bool:
        """Ask the upstream, after `cancel_turn`, to cancel a task that is queued; return whether it says that it has.

        False proves nothing. Neither does True: if the task had ended, its record was deleted.
        """
        access = self._access(task)
        if access is None:
            return False
        try:
            reply = await access.client.delete_task(task.upstream_id)
        except (UpstreamFailure, ValueError) as failure:  # ValueError: its id fits no path
            logger.warning("video %s: its cancel was not answered: %s", task.id, failure)
            return False
        return 200 <= reply.status < 300

    async def listed(self, task: VideoTask) -> Sequence[object] | None:
        """Return the upstream's list of such tasks, back to when this one was made; None if it cannot be read.

        One request a second is allowed, for all: a caller that comes while a list is being read shares it.
        """
        key = (task.upstream, task.key_name, task.upstream_model, task.service_tier)
        since_ms = task.created_at_ms - CLOCK_BEHIND_MS
        listing = self._listings.get(key)
        if listing is None or listing.since_ms > since_ms:
            listing = self._listings[key] = _Listing(since_ms, self._tasks.spawn(self._list(task, since_ms), task.upstream))
        try:
            return await asyncio.shield(listing.items)
        finally:
            if self._listings.get(key) is listing:
                del self._listings[key]

    async def entry(self, task: VideoTask, upstream_id: str) -> object | None:
        """Return the upstream's record of a task that may be the lost one; None if it cannot be read."""
        reply = await self._get(replace(task, upstream_id=upstream_id), urgent=False)
        return reply.answer if reply is not None and reply.status == 200 else None

    async def close(self) -> None:
        await self._tasks.cancel()

    # steps

    def _learn(
        self,
        task: VideoTask,
        trouble: Trouble | None,
        asked_at: float,
        retry_after: float | None = None,
        *,
        is_refused: bool = False,
        why: str = "",
    ) -> None:
        """Tell the choice of routes what came of a submit, for the next ones. ``why``: for the log."""
        routes = self._live.now.routes.get(task.model)
        target = None if routes is None else routes.by_name.get((task.upstream, task.key_name, task.upstream_model))
        if target is None:
            return
        if trouble is not None:
            self._routing.failed(target, trouble, asked_at, retry_after=retry_after, why=why)
        elif is_refused:
            self._routing.refused(target, asked_at)
        else:
            target.answers[0] += 1
            self._routing.answered(target, asked_at)

    async def _created(self, client: ArkClient, body: Mapping[str, object]) -> Reply:
        """Ask for a task; ask again without the optional fields that the model refuses."""
        while True:
            reply = await client.create_task(body)
            fewer = without_unsupported(body, read_error(reply.status, reply.answer), UPSTREAM_OPTIONAL)
            if fewer is None:
                return reply
            body = fewer

    def _unanswered(self, task: VideoTask, failure: UpstreamFailure) -> Submission:
        """Report a submit as refused if it was never sent, else as unknown."""
        self._metrics.upstream_failed(task.upstream, "unreachable" if failure.is_unasked else "submit_unknown")
        if not failure.is_unasked:
            logger.warning("video %s: its submit was not answered, it is looked for: %s", task.id, failure)
            return Submission(SubmitUnknown(str(failure)))
        refusal = outage(str(failure))
        return Submission(SubmitRefused(None, str(failure), refusal.error.status), refusal.error)

    def _refused(self, task: VideoTask, report: SubmitRefused, reply: Reply, asked_at: float) -> Submission:
        names, error = FIELD_NAMES, report.error
        refusal = with_delay(creation_refusal(reply.status, reply.answer, names, upstream_model=task.upstream_model), reply.retry_after)
        retry_after = retry_after_seconds(reply.retry_after)
        self._learn(task, refusal.trouble, asked_at, retry_after, is_refused=True, why=refusal.note)
        if refusal.outcome is not Outcome.REFUSED:
            self._metrics.upstream_failed(task.upstream, "operator" if refusal.operator else "error")
            logger.warning("video %s: %s", task.id, refusal.note)
        if error is None or isinstance(refusal.error, ModelUnavailableError):
            return Submission(SubmitRefused(None, refusal.note, refusal.error.status), refusal.error)
        said = replace(error, message=names.told(error.message))
        return Submission(replace(report, error=said, http_status=refusal.error.status), refusal.error)

    def _access(self, task: VideoTask) -> Access | None:
        """Return the way to a task: its upstream, by the key that it was submitted by. By another it might seem not to exist."""
        upstream = self._live.now.upstreams.get(task.upstream)
        return None if upstream is None else upstream.access(task.key_name)

    def _submitted_by(self, task: VideoTask) -> ArkClient:
        access = self._access(task)
        if access is None:
            raise UpstreamUnreachableError(f"upstream: {_gone(task)}")
        return access.client

    async def _get(self, task: VideoTask, *, urgent: bool) -> Reply | None:
        access = self._access(task)
        if access is None:
            self._note_trouble(task.upstream, _gone(task))
            return None
        await access.gets.turn(urgent=urgent)
        try:
            async with asyncio.timeout(STATUS_SECONDS_MAX):
                reply = await access.client.get_task(task.upstream_id)
        except ValueError as fault:  # only this task's fault: recorded before ids were checked
            logger.warning("video %s cannot be asked for: %s", task.id, fault)
            return None
        except (UpstreamFailure, TimeoutError) as failure:
            self._note_trouble(task.upstream, str(failure) or f"no answer within {STATUS_SECONDS_MAX:g} s")
            return None
        if reply.status >= 400 and reply.status != 404:
            self._note_trouble(task.upstream, f"status {reply.status}")
        else:
            self._note_recovery(task.upstream)
        return reply

    async def _list(self, task: VideoTask, since_ms: int) -> Sequence[object] | None:
        access = self._access(task)
        items: list[object] = []
        for number in range(1, PAGES_MAX + 1):
            page = None if access is None else await self._page(access, task, number)
            self._metrics.video_polled(task.upstream, "list_failed" if page is None else "listed")
            if page is None:
                return None
            items += page.items
            if not page.items or len(items) >= page.total or _is_older(page.items[-1], since_ms):
                break
        return items

    async def _page(self, access: Access, task: VideoTask, number: int) -> _Page | None:
        await access.lists.turn()
        model = None if is_endpoint(task.upstream_model) else task.upstream_model  # its tasks are listed under the model behind it
        try:
            reply = await access.client.list_tasks(model=model, service_tier=task.service_tier, page_num=number)
        except UpstreamFailure as failure:
            self._note_trouble(task.upstream, str(failure), _LIST)
            return None
        items = reply.answer.get("items") if isinstance(reply.answer, dict) else None
        if reply.status != 200 or not isinstance(items, list) or len(items) > PAGE_SIZE_MAX:  # each entry is looked at, on the loop
            self._note_trouble(task.upstream, f"status {reply.status}", _LIST)
            return None
        self._note_recovery(task.upstream, _LIST)
        return _Page(items, _total(reply.answer, items, number))

    def _note_trouble(self, upstream: str, why: str, what: str = _VIDEOS) -> None:
        self._metrics.upstream_failed(upstream, "poll")
        if (upstream, what) not in self._troubled:
            self._troubled.add((upstream, what))
            logger.warning("upstream %s cannot be asked about %s: %s; their tasks wait", upstream, what, why)

    def _note_recovery(self, upstream: str, what: str = _VIDEOS) -> None:
        if (upstream, what) in self._troubled:
            self._troubled.remove((upstream, what))
            logger.info("upstream %s can be asked about %s again", upstream, what)


def _gone(task: VideoTask) -> str:
    return f"it, or its key {task.key_name or 'default'}, is not configured any more"


def _read(task: VideoTask, reply: Reply) -> Polled | PollFailed:
    return read_poll(reply.status, reply.answer, _retry_after_ms(reply), upstream_id=task.upstream_id)


def _total(answer: object, items: Sequence[object], number: int) -> int:
    """Return the number of tasks on all pages; if Ark does not say, a full page counts as not the last."""
    total = answer.get("total") if isinstance(answer, dict) else None
    return total if type(total) is int else number * PAGE_SIZE_MAX + (len(items) >= PAGE_SIZE_MAX)


def _is_older(item: object, since_ms: int) -> bool:
    created = item.get("created_at") if isinstance(item, dict) else None
    return isinstance(created, int) and created * 1000 < since_ms


def _retry_after_ms(reply: Reply) -> int:
    """Return a ``Retry-After`` in whole seconds as milliseconds; 0 for none, or a date."""
    asked = reply.retry_after or ""
    return int(asked) * 1000 if asked.isascii() and asked.isdecimal() and len(asked) < 7 else 0
