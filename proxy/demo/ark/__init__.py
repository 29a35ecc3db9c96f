"""A stand-in for Volcengine Ark on real sockets. It behaves like Ark by default; scripts control each byte and its timing.

`StandIn` listens. `Settings` configures its account. A script (`Send`, `Pause`, `Reset` …) replaces the default of one answer.
`python -m proxy.demo.ark` runs it as a separate process.
"""

from proxy.demo.ark.behaviour import TASKS, Settings
from proxy.demo.ark.call import Call
from proxy.demo.ark.chat_reply import ChatReply, ToolCall, paced_reply
from proxy.demo.ark.dialect import Account, ArkError
from proxy.demo.ark.faults import CANARIES, FAULTS, Fault, known_error
from proxy.demo.ark.script import (
    LAST_CHUNK,
    REQUEST_ID,
    Answer,
    Ask,
    Check,
    Close,
    Hang,
    Pause,
    Perform,
    Reset,
    Script,
    Send,
    Step,
    Stream,
    Wait,
    answer_head,
    answer_json,
    answer_sse,
    chunk,
    cut,
    error,
    lost,
)
from proxy.demo.ark.server import StandIn
from proxy.demo.ark.videos import Task, Timeline, Videos

__all__ = [
    "CANARIES",
    "FAULTS",
    "LAST_CHUNK",
    "REQUEST_ID",
    "TASKS",
    "Account",
    "Answer",
    "ArkError",
    "Ask",
    "Call",
    "ChatReply",
    "Check",
    "Close",
    "Fault",
    "Hang",
    "Pause",
    "Perform",
    "Reset",
    "Script",
    "Send",
    "Settings",
    "StandIn",
    "Step",
    "Stream",
    "Task",
    "Timeline",
    "ToolCall",
    "Videos",
    "Wait",
    "answer_head",
    "answer_json",
    "answer_sse",
    "chunk",
    "cut",
    "error",
    "known_error",
    "lost",
    "paced_reply",
]
