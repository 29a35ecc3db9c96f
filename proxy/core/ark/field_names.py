"""Fields of pictures and videos go up under other names, and with more beside them: whose fault a refusal is, in our names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from proxy.core.ark.text import ArkError

_UNSUPPORTED = "InvalidParameter.UnsupportedParameter"
_NAMED = re.compile(r"\bparameter [`'\"]?([A-Za-z_][\w.\[\]]*)", re.IGNORECASE)
_WRITTEN = re.compile(r"\b[A-Za-z_]+\[\d+\](?:\.?[A-Za-z_]+(?:\[\d+\])?)*|(?<=[`'\"])[A-Za-z_]+(?=[`'\"])")
"""A field in a message: a path, or a quoted word."""


@dataclass(frozen=True, slots=True)
class FieldNames:
    """What the fields of one endpoint are called by its customers, and by Ark."""

    published: frozenset[str]
    renamed: Mapping[str, str]
    """Ark's paths, as patterns, and what they are called here."""
    added: frozenset[str]
    """Fields that go up though nobody asked for them: a model that does not take one is no customer's fault."""

    def published_name(self, path: str) -> str | None:
        """Return a customer's word for a path of Ark's (``content[1].image_url.url`` → ``image_url``); None where there is none."""
        last = path.rpartition(".")[2]
        if last in self.published:
            return last
        return next((name for pattern, name in self.renamed.items() if re.fullmatch(pattern, path)), None)

    def told(self, message: str) -> str:
        """Return a message of Ark's with the customer's words for its fields."""
        return _WRITTEN.sub(self._told_field, message)

    def is_ours(self, error: ArkError) -> bool:
        """Return whether a refusal is about what the gateway added, and not about what its customer sent."""
        name = refused_field(error)
        return name in self.added and (name not in self.published or error.code == _UNSUPPORTED)

    def _told_field(self, found: re.Match[str]) -> str:
        return self.published_name(found[0]) or ("the request" if "[" in found[0] else found[0])


def refused_field(error: ArkError) -> str:
    """Return the last step of the field that a refusal names, as Ark calls it; "" where it names none."""
    named = _NAMED.search(error.message)
    path = error.param or (named[1] if named else "")
    return path.rpartition(".")[2]


def without_unsupported(body: Mapping[str, object], error: ArkError | None, optional: frozenset[str]) -> dict[str, object] | None:
    """Return the body without the one field that the model does not know, to be sent once more; None where it does not do without.

    It does without what is optional, and without a false: a model that does not know what it should not do will not do it.
    Only a 400 in Ark's own words says so, and proves that nothing was made.
    """
    if error is None or error.status != 400 or error.code != _UNSUPPORTED:
        return None
    name = refused_field(error)
    if name not in body or (name not in optional and body[name] is not False):
        return None
    return {field: value for field, value in body.items() if field != name}
