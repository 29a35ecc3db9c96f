"""The result of a check: one line, and advice on what to do."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """It works but may fail one day, or it could not be checked."""
    FAILED = "failed"
    """The gateway cannot work like this."""


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    state: State
    says: str
    advice: str = ""

    def view(self) -> dict[str, Any]:
        return {**asdict(self), "state": str(self.state)}


def ok(check: str, says: str) -> Finding:
    return Finding(check, State.OK, says)


def warning(check: str, says: str, advice: str) -> Finding:
    return Finding(check, State.WARNING, says, advice)


def failed(check: str, says: str, advice: str) -> Finding:
    return Finding(check, State.FAILED, says, advice)
