"""Three upstreams of which one at a time is ill, in five ways, under load: none paid twice, none lost that another could answer."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from proxy.demo.ark import Answer, Call, Hang, Reset, Send, Step, known_error
from tests.support.limits import limit_key
from tests.support.promises import Faults
from tests.support.routes import ROUTED, Routed, routed

FAILED_OVER = "an upstream that refuses, fails, breaks or hangs, of three: none paid twice, none lost that another could answer"
MODES = ("refusing", "429", "500", "half a head", "nothing")
MAY_HAVE_RUN = ("half a head", "nothing")
AT_ONCE = 24
COST = 40_000
"""Of the stand-in's default answer, in nano-yuan."""


@dataclass
class Ill:
    """Which upstream is ill, and how; and what each was asked for."""

    at: int = -1
    mode: str = ""
    bought: Counter[str] = field(default_factory=Counter)
    """By the call's text: how often an upstream may have worked on it."""
    asked: list[Counter[str]] = field(default_factory=lambda: [Counter() for _ in range(3)])

    def answer(self, at: int, call: Call) -> Sequence[Step]:
        """Return how an upstream answers a call now."""
        text = str(call.json["messages"][0]["content"])
        self.asked[at][text] += 1
        mode = self.mode if at == self.at else ""
        if mode == "429":
            return known_error("RateLimitExceeded.EndpointRPMExceeded")
        if mode == "500":
            return known_error("InternalServiceError")
        self.bought[text] += 1
        if mode == "half a head":
            return [Send(b"HTTP/1.1 200 OK\r\nContent-Ty"), Reset()]
        return [Hang()] if mode == "nothing" else [Answer()]


@dataclass
class Told:
    text: str
    status: int
    request_id: str
    body: bytes


async def call(house: Routed, number: int) -> Told:
    text = f"call {number}"
    fields: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "stream": number % 3 == 0}
    reply = await house.gateway.chat(model=ROUTED, **fields)
    return Told(text, reply.status, reply.headers["x-request-id"], reply.body)


async def in_crowds(house: Routed, first: int, count: int) -> list[Told]:
    """Make so many calls, `AT_ONCE` at a time."""
    numbers = iter(range(first, first + count))
    found: list[Told] = []

    async def customer() -> None:
        found.extend([await call(house, number) for number in numbers])

    await asyncio.gather(*(customer() for _ in range(AT_ONCE)))
    return found


async def losses(house: Routed, ill: Ill, told: Sequence[Told]) -> list[str]:
    """Return what went wrong with some calls, each told of by its text."""
    lost: list[str] = []
    for one in told:
        receipt = await house.receipt(one.request_id)
        attempts = receipt["attempts"] or [{"upstream": receipt["upstream"], "result": "?"}]
        by_receipt = Counter(attempt["upstream"] for attempt in attempts if attempt["result"] != "unreachable")
        by_upstreams = Counter({f"u{at}": asked[one.text] for at, asked in enumerate(ill.asked) if asked[one.text]})
        if by_receipt != by_upstreams and not (one.status != 200 and not receipt["attempts"]):
            lost.append(f"{one.text}: its receipt says {dict(by_receipt)}, the upstreams {dict(by_upstreams)}")
        if ill.bought[one.text] > 1:
            lost.append(f"{one.text} was bought {ill.bought[one.text]} times")
        if one.status != 200 and ill.mode not in MAY_HAVE_RUN:
            lost.append(f"{one.text}: {one.status} while two upstreams were well: {attempts}")
        if one.status != 200 and not ill.asked[ill.at][one.text]:
            lost.append(f"{one.text}: {one.status}, and the ill upstream was not asked")
        if len(attempts) > 2:
            lost.append(f"{one.text} was asked {len(attempts)} times: only one upstream is ill")
        if (one.status == 200) != (receipt["outcome"] == "complete"):
            lost.append(f"{one.text}: {one.status}, and its receipt says {receipt['outcome']}")
    return lost


async def chaos(directory: Path, calls: int, faults: Faults) -> None:
    """Let each upstream be ill in each way for so many calls."""
    health = "health = { failures = 4, rest_seconds = [0.1, 0.4] }"
    async with routed(directory, options=("", "", ""), upstream=health, first_byte_seconds=0.6) as house:
        await limit_key(house.gateway, concurrent=AT_ONCE)  # a slot that is lost is missed by the next call
        ill, number, answered = Ill(), 0, 0
        for at, ark in enumerate(house.arks):
            ark.enqueue(lambda asked, at=at: ill.answer(at, asked), times=None)  # type: ignore[misc]
        for at, ark in enumerate(house.arks):
            for mode in MODES:
                ill.at, ill.mode = at, mode
                if mode == "refusing":
                    ark.stop_listening()
                    ark.drop_idle()
                told = await in_crowds(house, number, calls)
                if mode == "refusing":
                    await ark.open()
                number += calls
                faults.injected += sum(ill.asked[at][one.text] for one in told) if mode != "refusing" else calls
                answered += sum(one.status == 200 for one in told)
                faults.cost(await losses(house, ill, told))
        assert sum(sum(asked.values()) for asked in ill.asked) >= number, "every call reached an upstream"
        assert answered > 0.9 * number
        await house.gateway.assert_charged(answered * COST)


@pytest.mark.promise(FAILED_OVER)
async def test_three_upstreams_of_which_one_is_ill(tmp_path: Path, faults: Faults) -> None:
    await chaos(tmp_path, 40, faults)


@pytest.mark.long
@pytest.mark.promise(FAILED_OVER)
async def test_three_upstreams_of_which_one_is_ill_for_30_000_calls(tmp_path: Path, faults: Faults) -> None:
    await chaos(tmp_path, 2_000, faults)
