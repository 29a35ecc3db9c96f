"""Ark's own books: the calls that the stand-in received and what it would bill, recorded independently of the gateway.

Every chat costs a different sum and names its owner in its prompt: ``ACCOUNT SERIAL``. Its ``max_tokens`` is computed from the serial,
so that the gateway's hold identifies the call too, even if the gateway died before it learnt an id.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.demo.ark import Answer, Ask, Call, ChatReply, Hang, Pause, StandIn, Step, Wait, answer_sse
from tests.support.images import PRICE as IMAGE_PRICE
from tests.support.images import ROUTE as IMAGES

CHATS = "/chat/completions"
INPUT, OUTPUT = 800, 2_000
"""Price of the standard model in nano-yuan a token."""
TOKENS_MIN = 1_000
"""``max_tokens`` of the call with serial 0."""
PROMPT = "{account} {serial:09d}"
"""Thirteen bytes, if the account's name has three."""
HOLD_MIN = (13 + 32 + 256) * INPUT + TOKENS_MIN * OUTPUT
"""The hold of serial 0: thirteen bytes, 32 for a message and 256 for a request, at the input price; plus ``max_tokens``."""
NEVER_ENDS = "999"
"""The account whose streams send one event and never end."""
WORDS = 10
_EVENT = b'data: {"choices":[{"delta":{"content":"Hel"},"index":0}],"id":"%b","usage":null}\n\n'


@dataclass(frozen=True, slots=True)
class Chat:
    """One chat call that the stand-in received."""

    call: Call
    account: str
    serial: int
    prompt_tokens: int
    completion_tokens: int

    @property
    def nanos(self) -> int:
        return self.prompt_tokens * INPUT + self.completion_tokens * OUTPUT


@dataclass(frozen=True, slots=True)
class Image:
    """One image call that the stand-in received; each call makes one picture."""

    call: Call
    account: str
    nanos: int = IMAGE_PRICE


class ArkBooks:
    """The calls that one stand-in received, by Ark's ids. The stand-in records its videos itself (`StandIn.videos`).

    Attributes:
        gate: while it is clear, Ark accepts chats and does not answer them.
        hold_back: answer those with one event and then hang.
    """

    def __init__(self, ark: StandIn, *, event_seconds: float = 0.0, first_byte_seconds: float = 0.0) -> None:
        self.chats: dict[str, Chat] = {}
        self.images: dict[str, Image] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.hold_back = False
        self._ark = ark
        self._first_byte_seconds = first_byte_seconds
        ark.chat.event_seconds = event_seconds
        ark.enqueue(self.chat, CHATS, times=None)
        ark.enqueue(self._image, IMAGES, times=None)

    def chat(self, call: Call) -> Sequence[Step]:
        """Record one chat and return its script."""
        account, serial = call.json["messages"][0]["content"].split()
        chat = Chat(call, account, int(serial), 20 + call.number % 53, WORDS + 5 + call.number % 31)
        self.chats[call.request_id] = chat
        self._ark.changed()  # wakes tests that wait for this record
        begins = [*answer_sse(_EVENT % call.request_id.encode(), end=False), Hang()]
        if account == NEVER_ENDS:
            return begins
        said = "word " * WORDS
        reply = ChatReply(said, prompt_tokens=chat.prompt_tokens, completion_tokens=chat.completion_tokens, cuts=False)
        self._ark.chat.enqueue(reply)
        steps = self._ark.chat.answer(call)
        if not self.gate.is_set():
            return [Wait(self.gate), Ask(lambda _: begins if self.hold_back else steps)]
        return [Pause(self._first_byte_seconds), *steps] if self._first_byte_seconds else steps

    def _image(self, call: Call) -> Sequence[Step]:
        self.images[call.request_id] = Image(call, call.json["prompt"].split()[0])
        return [Answer()]
