"""How long a request may be kept waiting: ``?wait=SECONDS``."""

import re
from collections.abc import Sequence

from proxy.core.errors import InvalidParameterError

WAIT_SECONDS_MAX = 50
"""More is taken as this: proxies in front give up after a minute without a byte (nginx's proxy_read_timeout)."""
_MARGIN_SECONDS_MAX = 1.0
_SECONDS = re.compile(r"[0-9]{1,10}(?:\.[0-9]{1,10})?")


def wait_seconds(values: Sequence[str]) -> float:
    """Return the seconds that ``?wait=`` asks for, 0 without it. Raises: InvalidParameterError: not one number."""
    if not values:
        return 0.0
    if len(values) > 1 or not _SECONDS.fullmatch(values[0]):
        raise InvalidParameterError("'wait' must be given once, as a number of seconds", param="wait")
    return float(values[0])


def answered_within(seconds: float) -> float:
    """Return the seconds after a request's arrival at which its wait ends: before a client that counts the same seconds gives up.

    A tenth, and at most a second, is left for the way there and back and for reading the task once more.
    """
    seconds = min(seconds, WAIT_SECONDS_MAX)
    return seconds - min(seconds / 10, _MARGIN_SECONDS_MAX)
