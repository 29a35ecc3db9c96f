"""Field names of images and videos: the gateway renames and adds fields, so refusals are translated, and blamed on the right side."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from proxy.core.ark.named_field import refused_path
from proxy.core.ark.text import ArkError

_UNSUPPORTED = "InvalidParameter.UnsupportedParameter"
_WRITTEN = re.compile(r"\b[A-Za-z_]+\[\d+\](?:\.?[A-Za-z_]+(?:\[\d+\])?)*|(?<=[`'\"])[A-Za-z_]+(?=[`'\"])")
"""A field in a message: a path, or a quoted word."""


@dataclass(frozen=True, slots=True)
class FieldNames:
    """Names of one endpoint's fields, the customers' and Ark's."""

    published: frozenset[str]
    renamed: Mapping[str, str]
    """Patterns of Ark's paths → the published names."""
    added: frozenset[str]
    """Fields that the gateway adds itself: a model that does not accept one is not the customer's fault."""

    def published_name(self, path: str) -> str | None:
        """Return the published name for a path of Ark's (``content[1].image_url.url`` → ``image_url``); None if there is none."""
        last = path.rpartition(".")[2]
        if last in self.published:
            return last
        return next((name for pattern, name in self.renamed.items() if re.fullmatch(pattern, path)), None)

    def told(self, message: str) -> str:
        """Return Ark's message with published names in place of Ark's fields."""
        return _WRITTEN.sub(self._told_field, message)

    def is_ours(self, error: ArkError) -> bool:
        """Return whether a refusal is about a field that the gateway added, and not one that the customer sent."""
        name = refused_field(error)
        return name in self.added and (name not in self.published or error.code == _UNSUPPORTED)

    def _told_field(self, found: re.Match[str]) -> str:
        return self.published_name(found[0]) or ("the request" if "[" in found[0] else found[0])


def refused_field(error: ArkError) -> str:
    """Return the last step of the field that a refusal names, as Ark calls it; "" if it names none."""
    return refused_path(error).rpartition(".")[2]


def without_unsupported(body: Mapping[str, object], error: ArkError | None, optional: frozenset[str]) -> dict[str, object] | None:
    """Return the body without the one field that the model does not support, to be sent once more; None if it must not be dropped.

    An optional field may be dropped, and so may a false: a model without a feature does not use it anyway.
    Only a 400 with Ark's own code says so, and proves that nothing was made.
    """
    if error is None or error.status != 400 or error.code != _UNSUPPORTED:
        return None
    name = refused_field(error)
    if name not in body or (name not in optional and body[name] is not False):
        return None
    return {field: value for field, value in body.items() if field != name}
