"""Chat completions as an `ApiProtocol`."""

import orjson

from proxy.core.catalog import Kind
from proxy.core.chat.answer import read_answer
from proxy.core.chat.conversation import conversation_of
from proxy.core.chat.refusal import chat_refusal, chosen_names
from proxy.core.chat.request import ChatCall, asking, parse_chat_call, readdressed, requested_model, upstream_body
from proxy.core.chat.tap import Tap
from proxy.core.errors import GatewayError
from proxy.core.protocol import ApiProtocol


def new_tap(call: ChatCall) -> Tap:
    """Return the tap on a chat's stream; the usage event passes only if the client asked for it."""
    return Tap(withhold_usage=not call.include_usage, choices=call.output.choices)


def error_event(error: GatewayError) -> bytes:
    """Return an error as an event without a name, as Ark and OpenAI send it."""
    return b"data: " + orjson.dumps(error.body()) + b"\n\n"


CHAT = ApiProtocol(
    kind=Kind.CHAT,
    path="/chat/completions",
    requested_model=requested_model,
    parse_call=parse_chat_call,
    upstream_body=upstream_body,
    asking=asking,
    readdressed=readdressed,
    conversation=conversation_of,
    read_answer=read_answer,
    chosen_names=chosen_names,
    read_refusal=chat_refusal,
    new_tap=new_tap,
    error_event=error_event,
)
