"""JSON Schema in a few words, for the tables that stand beside the parsers: what a field may be, by the parser's own constants.

A field that is absent or null takes its default, so most types have null beside them.
"""

from collections.abc import Collection, Mapping
from typing import Any

Schema = dict[str, Any]
Fields = Mapping[str, Schema]
"""Schemas of an object's fields by their names. None of them says what a field means: that is in `reference/words`."""

NULL: Schema = {"type": "null"}


def optional(kind: str, **rules: Any) -> Schema:
    """Return the schema of a value of a JSON type, or null."""
    return {"type": [kind, "null"], **rules}


def one_of(choices: Collection[str], default: str | None = None) -> Schema:
    """Return the schema of one of several strings, or null."""
    return optional("string", enum=[*choices, None], **({} if default is None else {"default": default}))


def component(name: str) -> Schema:
    """Return a reference to a component of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def maybe(schema: Schema) -> Schema:
    """Return the schema of a value, or null."""
    return {"anyOf": [schema, NULL]}


def described(fields: Fields, required: Collection[str] = (), **rules: Any) -> Schema:
    """Return the schema of an object."""
    return {"type": "object", "properties": dict(fields), **({"required": sorted(required)} if required else {}), **rules}


def answer(fields: Fields, optional_fields: Collection[str] = (), **rules: Any) -> Schema:
    """Return the schema of an object of ours: all fields are always there, but for those named."""
    return described(fields, [name for name in fields if name not in optional_fields], **rules)
