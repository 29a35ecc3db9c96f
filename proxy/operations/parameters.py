"""Types and checks of the operations' parameters. A check's error names its parameter."""

from pathlib import Path
from typing import Annotated

from msgspec import Meta

from proxy.core.days import Zone
from proxy.core.money import Nanos, parse_discount, parse_yuan
from proxy.core.retention import REQUEST_DAYS_MAX, REQUEST_DAYS_MIN
from proxy.core.shown_text import first_unseen
from proxy.operations.dates import parse_moment

AccountName = Annotated[str, Meta(min_length=1, max_length=100)]
Label = Annotated[str, Meta(max_length=200)]
ReferenceText = Annotated[str, Meta(max_length=200)]
KeyId = Annotated[str, Meta(pattern="^(key_[A-Za-z0-9]{12})?$")]
KeySecret = Annotated[str, Meta(pattern="^(sk_[A-Za-z0-9_-]{43})?$")]
PathText = Annotated[str, Meta(min_length=1, max_length=4096)]
RequestDays = Annotated[int, Meta(ge=REQUEST_DAYS_MIN, le=REQUEST_DAYS_MAX)]


class ParameterError(ValueError):
    """An operation does not take these parameters; nothing was done."""


class UnknownOperationError(ParameterError):
    """There is no operation of this name."""


def yuan(parameter: str, amount: str) -> Nanos:
    """Return an amount such as ``12.50`` in nano-yuan. Raises: ValueError."""
    try:
        return parse_yuan(amount)
    except ValueError as error:
        raise ValueError(f"{parameter}: {error}") from None


def discount(parameter: str, text: str) -> int:
    """Return a factor such as ``0.85`` in ten-thousandths. Raises: ValueError."""
    try:
        return parse_discount(text)
    except ValueError as error:
        raise ValueError(f"{parameter}: {error}") from None


def moment(parameter: str, text: str | None, now_ms: int, zone: Zone) -> int | None:
    """Return a moment (see `parse_moment`) in unix milliseconds; of None, None. Raises: ValueError."""
    try:
        return None if text is None else parse_moment(text, now_ms, zone)
    except ValueError as error:
        raise ValueError(f"{parameter}: {error}") from None


def check_path(parameter: str, text: str) -> None:
    """Refuse a path that is not absolute: the gateway's directory is not the operator's. Raises: ValueError."""
    if "\0" in text or not Path(text).is_absolute():
        raise ValueError(f"{parameter}: must be an absolute path")


def check_reference(parameter: str, text: str) -> None:
    """Refuse a reference that could not be typed again as it was printed. Raises: ValueError."""
    check_label(parameter, text)
    if text != text.strip():
        raise ValueError(f"{parameter}: must not begin or end with a space")


def check_label(parameter: str, text: str) -> None:
    """Refuse characters that are not seen: a terminal would obey them, and two names would look alike. Raises: ValueError."""
    at = first_unseen(text)
    if at is not None:
        raise ValueError(f"{parameter}: must have no control characters or invisible ones: character {at + 1} is U+{ord(text[at]):04X}")
