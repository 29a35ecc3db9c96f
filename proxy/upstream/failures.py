"""Failures of a call to an upstream, by cause and phase. Messages are for the log, never for a customer."""

from typing import Literal

Phase = Literal["connect", "first_byte", "idle"]


class UpstreamFailure(Exception):  # noqa: N818 - the family's name; its members are errors
    """The upstream did not do its part."""

    @property
    def cause(self) -> str:
        """Return one word for the metrics."""
        return "broken"

    @property
    def is_unasked(self) -> bool:
        """Return whether it is proven that no request was sent, so that nothing can have been done."""
        return False


class UpstreamUnreachableError(UpstreamFailure):
    """No connection could be made (DNS, TCP, TLS, or the limit of open ones): no request was sent."""

    @property
    def cause(self) -> str:
        return "unreachable"

    @property
    def is_unasked(self) -> bool:
        return True


class UnconfirmedError(UpstreamUnreachableError):
    """Nothing was sent, through no fault of the upstream's: this process may have been taken for dead by its peers (`guard`)."""


class UpstreamTimeoutError(UpstreamFailure):
    """The upstream exceeded a time limit."""

    def __init__(self, phase: Phase, seconds: float) -> None:
        super().__init__(f"upstream: no {_AWAITED[phase]} within {seconds:g} s")
        self.phase: Phase = phase

    @property
    def cause(self) -> str:
        return f"{self.phase}_timeout"

    @property
    def is_unasked(self) -> bool:
        return self.phase == "connect"


class UpstreamBrokenError(UpstreamFailure):
    """The upstream cut its answer short, or sent something that is not HTTP. It may have worked, and may charge, all the same."""


_AWAITED: dict[Phase, str] = {"connect": "connection", "first_byte": "answer", "idle": "further byte"}
