"""What an operation's parameters may be."""

from pathlib import Path

from proxy.core.money import Nanos, parse_yuan
from proxy.operations.dates import parse_moment


class ParameterError(ValueError):
    """The parameters of an operation are not what it takes: nothing was tried."""


class UnknownOperationError(ParameterError):
    """There is no operation of this name."""


def yuan(parameter: str, amount: str) -> Nanos:
    try:
        return parse_yuan(amount)
    except ValueError as error:
        raise ValueError(f"{parameter}: {error}") from None


def moment(parameter: str, text: str | None, now_ms: int) -> int | None:
    try:
        return None if text is None else parse_moment(text, now_ms)
    except ValueError as error:
        raise ValueError(f"{parameter}: {error}") from None


def check_path(parameter: str, text: str) -> None:
    if "\0" in text or not Path(text).is_absolute():
        raise ValueError(f"{parameter}: must be an absolute path")


def check_label(parameter: str, text: str) -> None:
    if not all(char.isprintable() for char in text):
        raise ValueError(f"{parameter}: must have no control characters")
