"""``/videos``: submit, show, list and cancel tasks. Customers see only their own.

Reading never asks the upstream: tasks are advanced by the scheduler, and by a cancel.
"""

import asyncio
import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from proxy import ids
from proxy.billing.idempotency import Idempotency
from proxy.clock import Clock
from proxy.core import fields
from proxy.core.catalog import Kind, VideoPrice, find_model
from proxy.core.days import Zone, date_of
from proxy.core.errors import (
    GatewayError,
    InternalError,
    InvalidParameterError,
    TaskNotFoundError,
)
from proxy.core.money import DISCOUNT_WHOLE, discounted
from proxy.core.pricing import with_discount
from proxy.core.video.price import hold_for, nanos_per_kilotoken, quote
from proxy.core.video.record import VideoTask, new_task
from proxy.core.video.request import (
    DEFAULT_MODEL,
    LIMIT_DEFAULT,
    LIMIT_MAX,
    OFFSET_MAX,
    PUBLISHED_KEYS,
    VideoCall,
    parse_video_call,
)
from proxy.core.video.upstream import upstream_body
from proxy.core.video.view import created_task, public_status, public_task, task_list
from proxy.core.waiting import answered_within, wait_seconds
from proxy.edge.body import Posted
from proxy.edge.context import Context
from proxy.edge.response import Response
from proxy.exchange.admission import Admission
from proxy.live.keys import LiveKeys
from proxy.live.settings import Live, Settings
from proxy.store.contract import Books, VideoTasks
from proxy.store.values import Grant, IdempotencyClaim, NewRequest
from proxy.upstream.routing import AccessTarget, Routing
from proxy.videos.cancel import VideoCancels
from proxy.videos.tasks import SUBMIT_MARGIN_SECONDS, SUBMIT_SECONDS_MAX, VideoJobs

_WHOLE = re.compile("[0-9]{1,10}")


class VideoHandlers:
    def __init__(
        self,
        *,
        live: Live,
        tasks: VideoTasks,
        books: Books,
        jobs: VideoJobs,
        cancels: VideoCancels,
        idempotency: Idempotency,
        admission: Admission,
        keys: LiveKeys,
        clock: Clock,
        routing: Routing,
        draw_seed: Callable[[], int],
        zone: Zone,
    ) -> None:
        """Args: routing: chooses where a task is submitted; draw_seed: draws from 0 to `SEED_MAX`, for tasks that name no seed."""
        self._zone = zone
        self._live = live
        self._tasks = tasks
        self._books = books
        self._jobs = jobs
        self._cancels = cancels
        self._idempotency = idempotency
        self._admission = admission
        self._keys = keys
        self._clock = clock
        self._routing = routing
        self._draw_seed = draw_seed

    # submit

    async def create(self, context: Context) -> Response:
        """Record a task, submit it, and answer with it, even if it is not yet known whether the upstream has it."""
        context.identify(ids.video_request_id())
        body = Posted(await self._admission.body(context))
        return await self._idempotency.once(context, body, partial(self._submit, context, body))

    async def _submit(self, context: Context, body: Posted, claim: IdempotencyClaim | None) -> Response:
        checked = fields.checked_body(body.take(), PUBLISHED_KEYS)
        settings = self._live.now
        model = find_model(settings.catalog, fields.model_id(checked, DEFAULT_MODEL), Kind.VIDEO, context.bounds)
        context.model = model.id
        call = self._told_apart(parse_video_call(checked, model))
        del checked  # what is ignored of it can be tens of megabytes
        now = self._clock.monotonic()
        target = self._routing.first(settings.routes[model.id], now)
        try:
            return await self._submit_to(target, context, call, settings, claim)
        except BaseException:
            target.untried(now)  # unless the submit has shown whether it still has to rest
            raise

    async def _submit_to(
        self, target: AccessTarget, context: Context, call: VideoCall, settings: Settings, claim: IdempotencyClaim | None
    ) -> Response:
        request, task = self._drawn_up(context, call, target, settings, claim)
        body_up = upstream_body(call, task.upstream_model, task.safety_identifier)
        assert context.grant is not None
        rates = self._keys.rates(context.grant)
        rates.admit(0, self._clock.monotonic())
        submit = self._jobs.submit(request, task, body_up, rates)
        try:
            async with asyncio.timeout(SUBMIT_SECONDS_MAX + SUBMIT_MARGIN_SECONDS):
                result = await asyncio.shield(submit)
        except TimeoutError:  # the store is stuck; a second submit could be a second task
            raise InternalError("The task could not be recorded", should_retry=False) from None
        if isinstance(result, GatewayError):
            raise result
        return context.json(created_task(task))

    def _told_apart(self, call: VideoCall) -> VideoCall:
        """Return the call with a seed, which identifies the task in Ark's list if its answer is lost."""
        return call if call.seed is not None else replace(call, seed=self._draw_seed())

    def _drawn_up(
        self, context: Context, call: VideoCall, target: AccessTarget, settings: Settings, claim: IdempotencyClaim | None
    ) -> tuple[NewRequest, VideoTask]:
        """Return the request and the task, which are recorded together."""
        model = target.model
        assert context.grant is not None
        assert isinstance(model.price, VideoPrice)
        discount, price = context.grant.discount, settings.frozen[model.id]
        request = NewRequest(
            id=context.id,
            kind=Kind.VIDEO,
            account_id=context.account_id,
            key_id=context.grant.key_id,
            model=model.id,
            upstream=model.upstream,
            upstream_model=model.upstream_model,
            stream=False,
            hold_nanos=discounted(hold_for(call, model.price, settings.video_billing), discount),
            price=price if discount == DISCOUNT_WHOLE else with_discount(price, discount),
            created_at_ms=self._clock.now_ms(),
            claim=claim,
            key_name=target.key_name,
        )
        task = new_task(
            request_id=request.id,
            account_id=request.account_id,
            model=model.id,
            upstream=model.upstream,
            upstream_model=model.upstream_model,
            call=call,
            safety_identifier=_stand_in_for(context.grant),
            billing=settings.video_billing,
            hold_nanos=request.hold_nanos,
            quote_nanos=discounted(quote(call, model.price), discount),
            rate_nanos_per_kilotoken=nanos_per_kilotoken(call, model.price),
            now_ms=request.created_at_ms,
            discount=discount,
            key_name=target.key_name,
        )
        return request, task

    # look

    async def retrieve(self, context: Context) -> Response:
        """Answer with a task; with ``?wait=SECONDS``, once its status has changed or the time since the request arrived is up."""
        until = context.received_at + answered_within(wait_seconds(context.request.query_values("wait")))
        task = await self._owned(context)
        if not task.ended and (left := until - self._clock.monotonic()) > 0:
            task = await self._changed(context, left, since=task)
        return context.json(public_task(task))

    async def _changed(self, context: Context, seconds: float, *, since: VideoTask) -> VideoTask:
        with self._jobs.watching.watching(since.id, public_status(since.state)) as change:
            task = await self._owned(context)  # it may have changed before we watched
            if public_status(task.state) != public_status(since.state):
                return task
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await context.wait_for(change)
        return await self._owned(context)

    async def list(self, context: Context) -> Response:
        """Answer with a page of the account's tasks, newest first."""
        limit = _whole(context, "limit", LIMIT_DEFAULT, 1, LIMIT_MAX)
        offset = _whole(context, "offset", 0, 0, OFFSET_MAX)
        return context.json(task_list(await self._tasks.tasks(context.account_id, limit, offset)))

    async def _owned(self, context: Context) -> VideoTask:
        """Return the task that the path names. Another account's is refused byte for byte as an unknown one."""
        task = await self._tasks.task(context.tail)
        if task is None:
            folded = await self._books.folded(context.tail)
            if folded is not None and folded.account_id == context.account_id:
                raise TaskNotFoundError(f"This task of {date_of(self._zone.day(folded.day_ms))} is no longer kept")
        if task is None or task.account_id != context.account_id:
            raise TaskNotFoundError("There is no such task")
        context.model = task.model if task.model in self._live.now.catalog else ""
        return task

    # cancel

    async def cancel(self, context: Context) -> Response:
        """Cancel a task that is queued upstream, and answer with its new state.

        Raises:
            TaskNotFoundError: not a task of this account.
            TaskRunningError: it is still being submitted, or it runs, or it has ended.
            ModelUnavailableError: the upstream does not say the task's state, or whether it is cancelled.
            RateLimitedError: too many of the account's tasks are being cancelled.
        """
        return context.json(public_task(await self._cancels.cancel(await self._owned(context))))


def _stand_in_for(grant: Grant) -> str:
    """Return the account's pseudonym for the upstream: 64 characters, always the same, that do not name it."""
    return hashlib.sha256(f"{grant.account_id}:{grant.account_name}".encode()).hexdigest()


def _whole(context: Context, name: str, default: int, low: int, high: int) -> int:
    text = _single(context, name)
    if text is None:
        return default
    if not _WHOLE.fullmatch(text) or not low <= int(text) <= high:
        raise InvalidParameterError(f"'{name}' must be an integer from {low} to {high}", param=name)
    return int(text)


def _single(context: Context, name: str) -> str | None:
    """Return the one value of a query parameter."""
    values = context.request.query_values(name)
    if len(values) > 1:
        raise InvalidParameterError(f"'{name}' must be given once", param=name)
    return values[0] if values else None
