"""The attempts of one call: what is asked, what came of it, and what may be asked next.

Never pay twice: another target is asked only after a trouble that proves that nothing was bought.
"""

import asyncio
from typing import Any, TypeVar

from msgspec import Struct

from proxy.core.affinity import NOTED_SECONDS
from proxy.core.health import Trouble
from proxy.core.protocol import ApiProtocol, Call
from proxy.core.settlement import Attempt, Outcome
from proxy.upstream.failures import UpstreamTimeoutError
from proxy.upstream.http1.pool import Answer, Upload
from proxy.upstream.http1.upload import REPEATABLE_BYTES_MAX
from proxy.upstream.routing import AccessRoutes, AccessTarget, Routing

C = TypeVar("C", bound=Call)

ATTEMPTS_TOLD_MAX = 64
ASKING_BYTES_MAX = 4_096
"""Honest ``stream_options`` are a few flags. A call with longer ones is not passed on between targets that differ in them."""
MOVING = frozenset(Trouble) - {Trouble.UNKNOWN}
"""Troubles after which another target may be asked."""


class Way(Struct, eq=False, gc=False):
    """One call's way to an answer: the target that is asked now, and those that were asked before it."""

    routing: Routing
    routes: AccessRoutes
    target: AccessTarget
    conversation: int | None = None
    only: bool = True
    """True if there is no other target."""
    is_noted: bool = True
    """True if the conversation need not be noted, since this target was a moment ago, and nothing is told yet."""
    began_at: float | None = None
    """Time of the first attempt; None: nothing was asked yet."""
    asked_at: float = 0.0
    """Time of the attempt under way."""
    chosen_at: float = 0.0
    """Time at which the target was chosen, where anything rested: the choice may have taken the one try of what had rested."""
    is_open: bool = False
    """True while an attempt for a picture is under way."""
    kept: bytes = b""
    """The request's body, while another target may still be asked for it."""
    asking: bytes | None = b""
    """How the body ends where it asks for its usage; None: with more than is kept for that. Only where targets differ in it."""
    told: tuple[Attempt, ...] = ()
    """All attempts that have ended, of a model that has more than one target."""
    tried: frozenset[AccessTarget] = frozenset()
    """What need not be asked any more."""

    @staticmethod
    def chosen(routing: Routing, routes: AccessRoutes, conversation: int, now: float) -> "Way":
        """Choose the first target, where there are several. Raises: ModelUnavailableError."""
        known = routing.conversations.known.get(conversation)
        if known is not None and not routes.unrest.count:
            target, noted_at = known
            if now - noted_at < NOTED_SECONDS and target.home is routes and target.is_first:  # as nearly always
                return Way(routing, routes, target, conversation, False)
        if routes.unrest.count:
            now = routing.now()  # its body may have taken long, and a rest may be over meanwhile
        first = routing.first(routes, now, conversation)
        return Way(routing, routes, first, conversation, only=False, is_noted=False, chosen_at=now)

    @staticmethod
    def rested(routing: Routing, routes: AccessRoutes) -> "Way":
        """Return the way of a model that has one target, which may rest. Raises: ModelUnavailableError."""
        now = routing.now()
        return Way(routing, routes, routing.first(routes, now), chosen_at=now)

    def keep(self, body: bytes, protocol: ApiProtocol[C], call: C) -> None:
        """Keep what may have to be asked again. A long body is sent once: only what no connection can be made to is passed by."""
        if len(body) <= REPEATABLE_BYTES_MAX:
            self.kept = body
        if self.routes.is_mixed:
            asking = protocol.asking(call)
            self.asking = asking if len(asking) <= ASKING_BYTES_MAX else None

    def let_go(self) -> None:
        """Keep nothing any more: an answer has begun, and no other target may be asked."""
        self.kept = b""

    def begin(self, now: float) -> None:
        """Begin the first attempt for a picture: all of them are told of, also those that succeed at once."""
        self.began_at = self.asked_at = now
        self.is_open = True

    def answered(self) -> None:
        target = self.target
        target.answers[0] += 1
        if not (self.is_noted and target.rest.is_quiet and target.key_rest.is_quiet):
            self.routing.answered(target, self.asked_at, self.conversation)
            if self.told:
                self._tell("answered")

    def made(self) -> None:
        """Note the answer to an attempt for a picture."""
        self.target.answers[0] += 1
        self.routing.answered(self.target, self.asked_at)
        self._tell("answered")
        self.is_open = False

    def refused(self) -> None:
        """Note a refusal that is the request's own fault."""
        self.is_open = False
        self.routing.refused(self.target, self.asked_at)
        self._tell("refused")

    def broke_off(self, outcome: Outcome, note: str, *, is_asked: bool) -> None:
        """Note an attempt that was broken off: by the upstream, or by the client or this process, which proves nothing about it."""
        if outcome in (Outcome.UPSTREAM_CUT, Outcome.UPSTREAM_ERROR):
            self.failed(Trouble.UNKNOWN, why=note)
            return
        if is_asked:
            self.is_open = False
            self.routing.count(self.target, "left")
            self._tell("left")
        self.untried()

    def untried(self) -> None:
        """Give back the try that the choice took, where it took one: nothing was asked, or nothing came of it."""
        if self.chosen_at:
            self.target.untried(self.chosen_at)

    def failed(self, trouble: Trouble, retry_after: float | None = None, why: str = "") -> None:
        self.is_open = False
        self.routing.failed(self.target, trouble, self.asked_at, retry_after=retry_after, why=why)
        self._tell(trouble.value)

    def move(self, trouble: Trouble, upload: Upload, protocol: ApiProtocol[Any]) -> Upload | None:
        """Go on to the next target after a trouble that `failed` has noted; return what to send it, or None: there is none.

        Args: upload: what the last one was sent, or, where it could not be reached, what it would have been.
        """
        before, body = self.target.model, self.kept or upload.body
        if not body or self.asking is None or not self.turn(trouble):
            return None
        upload.body = b""  # its caller keeps the upload for as long as the next target thinks
        body = protocol.readdressed(body, before, self.target.model, self.asking)
        self.kept = body if self.kept else b""
        return Upload(body, upload.sent)

    def turn(self, trouble: Trouble) -> bool:
        """Take the next target after a trouble; return whether there is one, and time left for it."""
        now = self.routing.now()
        if trouble not in MOVING or self.only:
            return False
        self.tried = self.tried.union(self.routes.spent(self.target, trouble))
        target = self.routes.choose(now, tried=self.tried)
        if target is None or self.began_at is None:
            return False
        if now - self.began_at >= target.access.config.first_byte_seconds:
            target.untried(now)
            return False
        self.target, self.chosen_at = target, now
        self.is_noted = False
        return True

    @property
    def seconds(self) -> float:
        """Return the time to the first byte that the target allows, for all attempts together."""
        return self.target.access.config.first_byte_seconds

    @property
    def seconds_left(self) -> float | None:
        """Return what an attempt after the first has of it; None: the first is limited by its client."""
        return None if not self.told or self.began_at is None else self.began_at + self.seconds - self.asked_at

    def ask_again(self) -> None:
        """Begin the next attempt for a picture."""
        self.asked_at = self.routing.now()
        self.is_open = True

    async def ask(self, path: str, upload: Upload) -> Answer:
        """Ask the next target as `Pool.ask` does, in what is left of the time to the first byte."""
        self.asked_at = self.routing.now()
        try:
            async with asyncio.timeout(self.seconds_left):
                return await self.target.access.pool.ask(path, upload)
        except TimeoutError:
            raise UpstreamTimeoutError("first_byte", self.seconds) from None

    def _tell(self, result: str) -> None:
        if not self.only:
            upstream, key_name, model = self.target.name
            ms = round((self.routing.now() - self.asked_at) * 1000)
            self.told = (*self.told, Attempt(upstream, key_name, model, result, ms))


def at_hand(answer: Answer) -> bytes | None:
    """Return a JSON body that came whole with its head, as nearly all do; None: it has to be read, or is none."""
    return answer.at_hand() if answer.status == 200 and answer.header(b"content-encoding") is None else None
