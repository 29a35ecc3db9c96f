"""The tour through gateways that share a ledger: one of them is killed in the middle of a stream, and the books balance."""

import asyncio
from dataclasses import dataclass

import aiohttp

from proxy.demo.ark import ChatReply, paced_reply
from proxy.demo.cluster import Cluster, Member
from proxy.demo.setting import CHAT_MODEL
from proxy.demo.tour import Tour, TourError

EVENTS_SEEN = 5
"""Events of the stream that its client gets before the gateway is killed."""
LONG_REPLY = paced_reply(400, 4)
"""At the stand-in's pace a stream of 20 s."""
LONG_QUESTION = [{"role": "user", "content": "Count from one to two hundred, in words."}]
RELEASE_SECONDS = 60.0
"""A lease of 20 s, two beats of 2 s, and time for a machine that is busy."""


@dataclass
class Failover:
    """The steps, with those of the ordinary tour in between."""

    tour: Tour
    cluster: Cluster

    async def walk(self) -> None:
        """Run all steps. Raises: TourError at the first that fails."""
        self._introduce()
        await self.tour.models()
        requests = [*await self._by_each(), await self.tour.stream()]
        cut, killed = await self._kill_one()
        began = asyncio.get_running_loop().time()
        requests += [await self.tour.chat(), await self.tour.image(), await self.tour.video()]
        await self._released(killed, began)
        await self.tour.receipts([*requests, cut])
        await self.tour.nodes()
        await self.tour.verify()

    def _introduce(self) -> None:
        cluster, console = self.cluster, self.tour.console
        console.print(f"{len(cluster.members)} gateways at {cluster.setting.base_url}, one ledger in {cluster.database}, ¥100.00")
        for member in cluster.members:
            console.print(f"  gateway {member.number}  {member.address}  pid {member.pid}", markup=False)
        console.print()

    async def _by_each(self) -> list[str]:
        """Ask each gateway for a chat; return the requests."""
        requests, answered = [], []
        for _ in self.cluster.members:
            requests.append(await self.tour.chat())
            answered.append(str(self.cluster.newest.number))
        self.tour.note(f"answered by gateways {', '.join(answered)}, each in its turn")
        return requests

    async def _kill_one(self) -> tuple[str, Member]:
        """Kill the gateway that serves a stream; return the stream's request and the gateway."""
        if (ark := self.cluster.upstream.ark) is not None:
            ark.chat.reply = LONG_REPLY
        try:
            request, killed, events = await self._cut_stream()
        finally:
            if ark is not None:
                ark.chat.reply = ChatReply()
        account = await self.tour.call("GET", "/account")
        self.tour.say(
            f"kill -9 {killed.pid}",
            f"gateway {killed.number} dies in the middle of a stream",
            f"its client saw {events} events and no [DONE]",
            f"¥{account['held']} is held for it",
        )
        return request, killed

    async def _cut_stream(self) -> tuple[str, Member, int]:
        body = {"model": CHAT_MODEL, "messages": LONG_QUESTION, "stream": True}
        async with self.tour.session.post(self.cluster.setting.base_url + "/chat/completions", json=body) as response:
            killed, events, text = self.cluster.newest, 0, b""
            try:
                async for line in response.content:
                    text = line or text
                    events += line.startswith(b"data: {")
                    if events == EVENTS_SEEN and not killed.has_ended:
                        await killed.kill()
            except (aiohttp.ClientError, ConnectionError):
                return response.headers["x-request-id"], killed, events
        raise TourError(f"the stream of a gateway that was killed looks whole: it ended with {text!r}")

    async def _released(self, killed: Member, began: float) -> None:
        """Wait until the others have found the gateway dead and given back what it held."""
        loop = asyncio.get_running_loop()
        with self.tour.console.status(f"the others watch gateway {killed.number}: 20 s without a beat, and it is dead"):
            async with asyncio.timeout(RELEASE_SECONDS):
                while float((await self.tour.call("GET", "/account"))["held"]):  # noqa: ASYNC110  as a customer would see it
                    await asyncio.sleep(0.25)
        released = f"{loop.time() - began:.1f} s after its death gateway {killed.number}'s hold is released: nothing is held"
        self.tour.say("the gateways that live", released)
