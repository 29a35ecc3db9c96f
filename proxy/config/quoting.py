"""What of the configuration's text a fault may quote: a secret that was pasted in a wrong place must not be printed. Pure."""

import re
from collections.abc import Collection
from difflib import get_close_matches

_PLAIN_NAME = re.compile(r"[/~.]*(?:[A-Z]{1,16}|[A-Za-z][a-z]{0,15})(?:[/_.-]+(?:[A-Z]{1,16}|[A-Za-z][a-z]{0,15}|[0-9]{1,2})){0,16}")
"""``ARK_API_KEY``, ``ark-key``, ``/etc/llm-proxy/ark.key``: words of one case, no digits but a short number at the end of one."""
_BEGINS_AS_A_KEY = re.compile(r"sk[-_]", re.IGNORECASE)
_SHORT_CHARACTERS_MAX = 15
"""A longer word that is no name may be a key."""
_WORD = re.compile(r"[^\s'\"(),:]+")
_RUN = re.compile(r"[A-Za-z0-9_+=-]+")
_MASK = "***"


def reads_like_a_name(text: str) -> bool:
    """Return whether a text is made of short words, as names are and keys are not."""
    return _PLAIN_NAME.fullmatch(text) is not None and _BEGINS_AS_A_KEY.match(text) is None


def masked(text: str) -> str:
    """Return a text with stars for each word that may be a key: one that begins as keys do, or has a long part that is no name."""
    return _WORD.sub(lambda found: _MASK if _may_be_a_key(found[0]) else found[0], text)


def told_key(name: str, known: Collection[str]) -> str:
    """Return the name of an unknown key for a fault, or words instead where the name itself may be a secret.

    Args: known: names of the keys that there are; one that is near was mistyped.
    """
    is_short = len(name) <= _SHORT_CHARACTERS_MAX and _BEGINS_AS_A_KEY.match(name) is None
    return name if is_short or reads_like_a_name(name) or get_close_matches(name, known, n=1) else "(a key that is not shown)"


def _may_be_a_key(word: str) -> bool:
    runs = [run for run in _RUN.findall(word) if len(run) > _SHORT_CHARACTERS_MAX]
    return _BEGINS_AS_A_KEY.match(word) is not None or not all(map(reads_like_a_name, runs))
