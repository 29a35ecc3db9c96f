"""A schema as rows of a table, one a field. Those within it come after them, named by their place (``messages[].role``). Pure."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from proxy.reference.words import Words

DEPTH_MAX = 6
Schemas = dict[str, Any]


class Row(NamedTuple):
    """One field as a reader sees it."""

    name: str
    kind: str
    """Its JSON types, such as ``string | null``."""
    required: bool
    text: str
    notes: tuple[tuple[str, tuple[str, ...]], ...]
    """What else is said of it: a word, and values."""


def rows_of(name: str, schemas: Schemas, words: Words, *, is_answer: bool) -> list[Row]:
    """Return the rows of a component; of fields that stand in several alternatives the first.

    Args: is_answer: null is told, and required is not: of an answer the one is news and the other is not.
    """
    table = _Table(schemas, words["page"], is_answer=is_answer)
    unique: dict[str, Row] = {}
    for row in table.rows(schemas[name], "", 0):
        unique.setdefault(row.name, row)
    return list(unique.values())


class _Table:
    def __init__(self, schemas: Schemas, words: dict[str, str], *, is_answer: bool) -> None:
        self._schemas = schemas
        self._words = words
        self._is_answer = is_answer

    def rows(self, schema: dict[str, Any], prefix: str, depth: int) -> Iterator[Row]:
        """Yield the rows of an object's fields, then of those within each."""
        if depth > DEPTH_MAX:
            return
        required = schema.get("required", ())
        fields = schema.get("properties", {})
        forms_of = {
            name: [self._resolved(form) for form in field.get("oneOf", field.get("anyOf", [field]))] for name, field in fields.items()
        }
        for name, field in fields.items():
            yield Row(
                prefix + name,
                self._kind(forms_of[name]),
                name in required and not self._is_answer,
                field.get("description", ""),
                tuple(self._notes(field)),
            )
        for name, forms in forms_of.items():
            for form in forms:
                yield from self._within(form, prefix + name, depth)

    def _within(self, form: dict[str, Any], place: str, depth: int) -> Iterator[Row]:
        if "properties" in form:
            yield from self.rows(form, f"{place}.", depth + 1)
        elif "items" in form:
            yield from self._within(self._resolved(form["items"]), f"{place}[]", depth)
        elif isinstance(each := form.get("additionalProperties"), dict):
            yield from self._within(self._resolved(each), f"{place}.*", depth)

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        name = schema.get("$ref", "").rpartition("/")[2]
        found: dict[str, Any] = self._schemas[name] if name else schema
        return found

    def _kind(self, forms: list[dict[str, Any]]) -> str:
        kinds: dict[str, None] = {}
        for form in forms:
            told = form.get("type", self._words["any_type"])
            for kind in told if isinstance(told, list) else [told]:
                if kind != "null" or self._is_answer:
                    kinds[kind] = None
        return " | ".join(kinds)

    def _notes(self, field: dict[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
        words = self._words
        if choices := [
            str(choice).lower() if isinstance(choice, bool) else choice for choice in field.get("enum", ()) if choice is not None
        ]:
            yield words["one_of"], tuple(choices)
        if "const" in field:
            yield words["one_of"], (str(field["const"]),)
        if "minimum" in field and "maximum" in field:
            yield "", (f"{field['minimum']:,} … {field['maximum']:,}",)
        elif "minimum" in field and not self._is_answer:
            yield words["at_least"], (f"{field['minimum']:,}",)
        if "maxLength" in field:
            yield f"{words['at_most']} {field['maxLength']:,} {words['characters']}", ()
        if "maxItems" in field:
            yield f"{words['at_most']} {field['maxItems']:,} {words['entries']}", ()
        if examples := field.get("examples"):
            yield words["example"], tuple(str(example) for example in examples)
        if "default" in field:
            default = field["default"]
            yield words["default"], (str(default).lower() if isinstance(default, bool) else str(default),)
