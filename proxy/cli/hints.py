"""Hints after a refusal: one line that tells the operator what to do next.

Refusals come as text from the store, from operations and over the admin socket. A hint is chosen by how that text begins.
"""

import difflib
import re
import shlex
from collections.abc import Callable, Sequence

Names = Callable[[], Sequence[str]]
"""Returns the names of all accounts; called only when a hint needs them."""

_HINTS = (
    (r"there is an account (?P<name>.+) already", "to add money: `llm-proxy account credit {name} AMOUNT`"),
    (r"reference .+ stands for another payment", "each payment has a reference of its own: look for the right one, or name another"),
    (r"Object contains unknown field", "the gateway that runs is older than this command: restart it"),
    (r"key (?P<key>\S+) was revoked", "make another: `llm-proxy key create ACCOUNT`"),
    (r"key (?P<key>\S+) ended on ", "`llm-proxy key set {key} --expires never` lets one that has expired live again"),
    (r"spend: no decimal number", "write yuan with a point and no unit, such as 5/day or 5.50/day,50/month"),
    (r"old requests are folded into days of the time zone", "days once folded keep their time zone"),
    (r"there is no key ", "`llm-proxy key list` shows all keys with their ids"),
    (
        r"there is no store at ",
        "`llm-proxy serve` makes it, or the first `llm-proxy account create NAME`; if there should be one, look at store.url",
    ),
    (r"there is no request ", "its id is in the x-request-id of its answer, and in the log"),
    (r"(?P<file>.+) exists: a backup is never", 'name another file, such as "{file}.$(date +%Y%m%d-%H%M%S)"'),
    (r"(?:amount|credit): no decimal number", "write yuan with a point and no unit, such as 12.50"),
    (r"account (?P<name>.+) has ¥\S+ available, ¥\S+ cannot", "`llm-proxy account show {name}` says what is held by calls under way"),
    (r"request \S+ cost ¥", "`llm-proxy receipt` shows what it cost and what was given back"),
    (r"account (?P<name>.+) has requests under way", "`llm-proxy key list {name}` shows its keys: without them it begins no other"),
    (r"there is no file ", "name what `llm-proxy backup` wrote"),
)


def hint(refusal: str, names: Names = lambda: ()) -> str:
    """Return the hint for a refusal, or an empty string if the refusal needs none."""
    if found := re.match(r"there is no account (.+)", refusal):
        return _other_account(found[1], names())
    for pattern, advice in _HINTS:
        if found := re.match(pattern, refusal):
            return advice.format(**{name: _quoted(name, text) for name, text in found.groupdict().items()})
    return ""


def _other_account(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return (f"did you mean {near[0]}? " if near else "") + "`llm-proxy account list` shows all accounts"


def _quoted(name: str, text: str) -> str:
    return text if name == "file" else shlex.quote(text)
