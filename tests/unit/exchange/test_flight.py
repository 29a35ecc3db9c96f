"""One call between a client's connection and an upstream's answer: when either side is paused, notified, drained or cut."""

import asyncio
from typing import Any

import pytest

from proxy.clock import SystemClock
from proxy.config import BillingConfig
from proxy.core.chat.tap import Tap
from proxy.core.settlement import Outcome
from proxy.edge.peer import Watcher
from proxy.exchange.deadline import Deadline
from proxy.exchange.flight import Flight, Relay
from proxy.telemetry.metrics import Metrics
from proxy.upstream.http1.pool import Sink, UpstreamBrokenError
from tests.support.settings import live

EVENT = b'data: {"choices":[{"delta":{"content":"Hel"}}],"id":"0217","usage":null}\n\n'
ERROR = b'data: {"error":{"code":"ServerOverloaded"}}\n\n'
END = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}],"id":"0217","usage":null}\n\n'
DONE = b"data: [DONE]\n\n"
HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Transport:
    """Records all writes, piece by piece."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, piece: bytes) -> None:
        self.written.append(piece)


class Client:
    def __init__(self) -> None:
        self.watcher: Watcher | None = None
        self.left = False
        self.writing_paused = False
        self.transport: Any = Transport()

    def is_lost(self) -> bool:
        return self.left

    def leave(self) -> None:
        self.left = True
        if self.watcher is not None:
            self.watcher.client_lost()


class Answer:
    """An upstream's answer that the test feeds by hand."""

    def __init__(self) -> None:
        self.sink: Sink | None = None
        self.spliced = asyncio.Event()
        self.did: list[str] = []

    def splice(self, sink: Sink) -> None:
        self.sink = sink
        self.spliced.set()

    def pause(self) -> None:
        self.did.append("pause")

    def resume(self) -> None:
        self.did.append("resume")

    def abort(self) -> None:
        self.did.append("abort")

    def feed(self, piece: bytes) -> None:
        assert self.sink is not None
        self.sink.feed(piece, b"%x\r\n%b\r\n" % (len(piece), piece))

    def end(self, failure: UpstreamBrokenError | None = None) -> None:
        assert self.sink is not None
        self.sink.end(failure)


class Call:
    """A flight that is being spliced, in a separate task."""

    def __init__(self, policy: BillingConfig, *, chunked: bool = True, relay: Relay | None = None, account: int = 1) -> None:
        self.relay = Relay(live(billing=policy), Metrics(), SystemClock()) if relay is None else relay
        self.client = Client()
        self.answer: Any = Answer()
        self.tap = Tap(withhold_usage=True)
        self.flight = self.relay.depart(self.client, account)
        self.chunked = chunked
        self.task = asyncio.get_running_loop().create_task(self._fly())

    async def _fly(self) -> Any:
        try:
            with self.flight.deadline:
                return await self.flight.splice(self.answer, self.flight.open_stream(self.tap, self._begin, chunked=self.chunked))
        finally:
            self.relay.land(self.flight)

    def _begin(self, first: bytes) -> Any:
        self.client.transport.write(HEAD + first)
        return self.client.transport

    async def begin(self) -> "Call":
        await self.answer.spliced.wait()
        return self

    @property
    def written(self) -> list[bytes]:
        written: list[bytes] = self.client.transport.written
        return written


def drain(seconds: float = 60, most: int = 10) -> BillingConfig:
    return BillingConfig(disconnect="drain", drain_after_seconds=seconds, drains_max=most)


CANCEL = BillingConfig(disconnect="cancel", drain_after_seconds=60, drains_max=10)


def framed(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


@pytest.mark.parametrize("chunked", [True, False])
async def test_pieces_pass_in_the_clients_framing(chunked: bool) -> None:
    call = await Call(drain(), chunked=chunked).begin()

    call.answer.feed(EVENT)
    call.answer.feed(EVENT[:10])
    call.answer.feed(EVENT[10:] + END + DONE)
    call.answer.end()

    assert await call.task is None
    rest = EVENT + END + DONE
    assert call.written == ([HEAD + framed(EVENT), framed(rest)] if chunked else [HEAD + EVENT, rest])
    assert len(call.relay) == 0


async def test_a_client_that_left_before_its_stream_began_is_written_nothing() -> None:
    call = Call(drain())
    call.client.left = True
    await call.begin()

    call.answer.feed(EVENT + DONE)
    call.answer.end()

    assert await call.task is None
    assert (call.written, call.flight.sent_bytes(), call.tap.done) == ([], 0, True)


async def test_the_upstream_is_paused_and_resumed_with_the_client() -> None:
    call = await Call(drain()).begin()

    call.flight.client_paused()
    call.flight.client_resumed()
    call.answer.end()
    await call.task

    assert call.answer.did == ["pause", "resume", "abort"]  # to abort an answer that has ended does nothing


async def test_a_client_that_cannot_take_more_when_the_body_begins_pauses_it_at_once() -> None:
    call = Call(drain())
    call.client.writing_paused = True

    await call.begin()

    assert call.answer.did == ["pause"]
    call.answer.end()
    await call.task


async def test_a_client_that_left_is_written_nothing_and_its_upstream_is_read_on() -> None:
    call = await Call(drain()).begin()
    call.flight.client_paused()

    call.client.leave()
    call.answer.feed(EVENT + DONE)
    call.answer.end()

    assert await call.task is None
    assert (call.written, call.tap.done, call.flight.has_client_left()) == ([], True, True)
    assert call.answer.did[:2] == ["pause", "resume"]


@pytest.mark.parametrize("policy", [CANCEL, drain(seconds=0), drain(most=0)], ids=["cancel", "no time", "no room"])
async def test_a_call_that_is_not_to_be_drained_ends_at_once(policy: BillingConfig) -> None:
    call = await Call(policy).begin()

    call.client.leave()

    with pytest.raises(TimeoutError):
        await call.task
    assert (call.flight.cause, call.answer.did[-1]) == (Outcome.CLIENT_GONE, "abort")


async def test_a_call_that_nothing_stops_upstream_is_waited_for_only_so_long() -> None:
    relay = Relay(live(billing=drain(seconds=0, most=0)), Metrics(), SystemClock())
    client = Client()
    flight = relay.depart(client, 1, stoppable=False)
    task = asyncio.get_running_loop().create_task(waiting(flight.deadline))
    await asyncio.sleep(0)

    client.leave()

    with pytest.raises(TimeoutError):
        await task
    assert flight.cause is Outcome.CLIENT_GONE


async def test_streams_that_are_read_on_are_counted_for_who_scrapes() -> None:
    metrics = Metrics()
    relay = Relay(live(billing=drain()), metrics, SystemClock())
    call = await Call(drain(), relay=relay).begin()
    counted = []

    call.client.leave()
    counted.append(b"llm_proxy_draining_streams 1.0" in metrics.render())
    call.answer.end()
    await call.task
    counted.append(b"llm_proxy_draining_streams 0.0" in metrics.render())

    assert counted == [True, True]


async def test_room_for_a_drain_is_free_again_when_one_has_landed() -> None:
    relay = Relay(live(billing=drain(most=1)), Metrics(), SystemClock())
    first, second, third = [await Call(drain(), relay=relay).begin() for _ in range(3)]

    first.client.leave()
    second.client.leave()
    with pytest.raises(TimeoutError):
        await second.task
    first.answer.end()
    await first.task
    third.client.leave()
    third.answer.end()

    assert await third.task is None


async def test_a_drain_that_lands_twice_frees_its_room_once() -> None:
    relay = Relay(live(billing=drain(most=2)), Metrics(), SystemClock())
    first, second, third = [await Call(drain(), relay=relay, account=account).begin() for account in (1, 2, 3)]
    for call in (first, second):
        call.client.leave()
        assert call.flight.drains

    first.answer.end()
    await first.task  # this lands the flight
    relay.land(first.flight)
    third.client.leave()
    fourth = await Call(drain(), relay=relay, account=4).begin()
    fourth.client.leave()

    # the second and the third are still being drained, so there is no room for the fourth
    assert (third.flight.drains, fourth.flight.drains) == (True, False)
    with pytest.raises(TimeoutError):
        await fourth.task
    for call in (second, third):
        call.answer.end()
        await call.task


async def test_a_cut_ends_all_calls_and_each_keeps_its_own_cause() -> None:
    relay = Relay(live(billing=drain()), Metrics(), SystemClock())
    calls = [await Call(drain(), relay=relay).begin() for _ in range(3)]
    calls[0].client.leave()

    relay.cut()
    ends = await asyncio.gather(*(call.task for call in calls), return_exceptions=True)

    assert [type(end) for end in ends] == [TimeoutError] * 3
    assert [call.flight.cause for call in calls] == [Outcome.CLIENT_GONE, Outcome.INTERRUPTED, Outcome.INTERRUPTED]


async def test_no_account_can_use_up_what_is_read_on_for_everybody() -> None:
    relay = Relay(live(billing=drain(most=4)), Metrics(), SystemClock())
    calls = [await Call(drain(), relay=relay, account=account).begin() for account in (1, 1, 1, 2)]

    for call in calls:
        call.client.leave()

    assert [call.flight.drains for call in calls] == [True, True, False, True]
    for call in calls:
        if call.flight.drains:
            call.answer.end()
    await asyncio.gather(*(call.task for call in calls), return_exceptions=True)


async def test_a_call_that_departs_after_the_cut_has_ended_before_it_asks() -> None:
    relay = Relay(live(billing=drain()), Metrics(), SystemClock())
    relay.cut()

    flight = relay.depart(Client())

    assert (flight.is_over(), flight.cause) == (True, Outcome.INTERRUPTED)


async def test_a_landed_call_is_no_longer_told_of_anything() -> None:
    call = await Call(drain()).begin()
    call.answer.end()
    await call.task

    call.client.leave()
    call.relay.cut()
    call.relay.land(call.flight)

    assert (call.client.watcher, call.flight.cause) == (None, None)


async def test_an_error_of_the_upstreams_ends_the_call_and_lets_go_of_the_upstream() -> None:
    call = await Call(drain()).begin()

    call.answer.feed(EVENT + ERROR)
    call.answer.feed(EVENT)

    assert await call.task is None
    assert call.written == [HEAD + framed(EVENT)]
    assert call.tap.error == {"code": "ServerOverloaded"}
    assert call.answer.did == ["abort"]


async def test_an_event_too_large_ends_the_call_as_broken_and_lets_go_of_the_upstream() -> None:
    call = await Call(drain()).begin()

    call.answer.feed(EVENT + b"data: ")
    for _ in range(5):
        call.answer.feed(b"x" * 1_000_000)

    assert isinstance(await call.task, UpstreamBrokenError)
    assert call.written == [HEAD + framed(EVENT)]
    assert call.answer.did == ["abort"]


async def test_half_an_event_is_not_passed_on_when_the_upstream_breaks() -> None:
    call = await Call(drain()).begin()
    failure = UpstreamBrokenError("cut")

    call.answer.feed(EVENT + EVENT[:20])
    call.answer.end(failure)

    assert await call.task is failure
    assert call.written == [HEAD + framed(EVENT)]


async def test_a_flight_knows_a_client_that_was_lost_before_it_departed() -> None:
    client = Client()
    client.left = True

    flight: Flight = Relay(live(billing=drain()), Metrics(), SystemClock()).depart(client)

    assert (flight.is_over(), flight.has_client_left()) == (True, True)


async def waiting(deadline: Deadline) -> None:
    with deadline:
        await asyncio.Event().wait()


async def test_a_deadline_that_expires_is_a_timeout() -> None:
    deadline = Deadline(asyncio.get_running_loop())
    task = asyncio.get_running_loop().create_task(waiting(deadline))
    await asyncio.sleep(0)

    deadline.expire_in(60)
    deadline.expire_in(0)

    with pytest.raises(TimeoutError):
        await task
    assert task.cancelling() == 0


async def test_a_deadline_that_is_set_anew_forgets_the_sooner_one() -> None:
    loop = asyncio.get_running_loop()
    deadline = Deadline(loop)
    task = loop.create_task(waiting(deadline))
    await asyncio.sleep(0)

    deadline.expire_in(0)
    deadline.expire_in(60)
    over = asyncio.Event()
    loop.call_later(0, loop.call_later, 0, over.set)  # after everything that was due at once
    await over.wait()

    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


async def test_a_deadline_that_was_set_before_runs_from_when_it_is_entered() -> None:
    deadline = Deadline(asyncio.get_running_loop())
    deadline.expire_in(0)

    with pytest.raises(TimeoutError):
        await waiting(deadline)


@pytest.mark.parametrize("expires", [False, True])
async def test_a_cancel_is_a_cancel_whether_or_not_the_deadline_expires_with_it(*, expires: bool) -> None:
    deadline = Deadline(asyncio.get_running_loop())
    task = asyncio.get_running_loop().create_task(waiting(deadline))
    await asyncio.sleep(0)

    if expires:
        deadline.expire_in(0)
        await asyncio.sleep(0)  # it has expired, but its task does not know yet
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_deadline_that_is_left_in_time_does_nothing_more() -> None:
    deadline = Deadline(asyncio.get_running_loop())

    with deadline:
        deadline.expire_in(0)
    deadline.expire_in(0)
    await asyncio.sleep(0.01)

    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
