"""Names that a customer chose himself, for functions and calls: an upstream's message may repeat them to him.

Of what the operator's ids look like, nothing is let through, even if the customer sent the same: a message that shows it would confirm
a guess.
"""

import re
from collections.abc import Collection

from proxy.core.ark.plain_text import is_telling
from proxy.core.ark.text import clean_message

NAMES_MAX = 128
"""Of one call. They are kept until its answer is there: about 10 KB at most."""
NAME_CHARACTERS_MAX = 64

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}|functions\.[A-Za-z0-9_-]{1,64}:[0-9]{1,4}|[A-Za-z_]{1,32}\.[A-Za-z_]{1,32}")
"""OpenAI allows letters, digits, ``_`` and ``-``; Moonshot's ids of calls are ``functions.get_weather:0``.

And ``get.weather``, which upstreams refuse.
"""
_OF_THE_OPERATOR = re.compile(r"(?:ep|cgt|bot|asset|ark|sk|ak|req|request|account|acct)[-_].*[0-9]|AKLT|AKTP|.*[0-9]{9}", re.IGNORECASE)
"""Endpoints, tasks, keys, request ids, accounts; and any long number."""


def own_names(names: Collection[str], upstream_model: str) -> frozenset[str]:
    """Return those of a customer's names that may be shown: none that could be the operator's, or the model's id upstream."""
    model = upstream_model.lower()
    return frozenset(name for name in names if _NAME.fullmatch(name) and model not in name.lower() and _is_harmless(name))


def _is_harmless(name: str) -> bool:
    return not _OF_THE_OPERATOR.match(name) and not is_telling(name) and clean_message(name) == name
