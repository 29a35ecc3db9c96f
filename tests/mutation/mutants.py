"""Plants small faults, one at a time, in a module's syntax tree: the ones that a test of money must notice.

Code that no test can check is left alone: docstrings, annotations, imports, decorators, asserts, log lines, and sentences (people
check the text of messages). SQL is code, so its operators are mutated inside strings.
"""

import ast
import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Plan = tuple[str, ast.AST]
"""A description, and the replacement of the node."""

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult, ast.Mod: ast.Mult,
    ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr, ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
_TWINS = {"min": "max", "max": "min", "any": "all", "all": "any", "find": "rfind", "partition": "rpartition"}
_SQL = re.compile(r"\s*(?:SELECT|INSERT|UPDATE|DELETE|WITH|VALUES|FROM|WHERE|AND)\b")
_SQL_FAULTS = (
    (r"<>", "="), (r">=", ">"), (r"<=", "<"), (r"(?<![<>=])=(?!=)", "<>"), (r"(?<![<>=-])>(?!=)", ">="), (r"<(?![>=])", "<="),
    (r"(?<= )\+(?= )", "-"), (r"(?<= )-(?= )", "+"), (r"\bAND\b", "OR"), (r"\bOR\b(?! IGNORE| REPLACE)", "AND"),
    (r"\bIS NULL\b", "IS NOT NULL"), (r"\bIS NOT NULL\b", "IS NULL"), (r"\bNOT EXISTS\b", "EXISTS"), (r"\bDESC\b", "ASC"),
    (r"\b0\b", "1"), (r"(?<!SELECT )\b1\b", "2"), (r"\bmin\(", "max("), (r"\bmax\(", "min("),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mutant:
    line: int
    says: str
    tree: ast.Module


def mutants(source: str) -> Iterator[Mutant]:
    """Yield every mutant of a module, each with exactly one fault."""
    tree = ast.parse(source)
    for number, node in enumerate(ast.walk(tree)):
        if getattr(node, "_left_alone", False):
            continue
        _mark_what_cannot_matter(node)
        for says, other in _plans(node):
            mutated = copy.deepcopy(tree)
            place = _nth(mutated, number)
            _replace(place, other)
            yield Mutant(getattr(node, "lineno", 0), says, ast.fix_missing_locations(mutated))


def _nth(tree: ast.AST, number: int) -> ast.AST:
    return next(node for index, node in enumerate(ast.walk(tree)) if index == number)


def _replace(place: ast.AST, other: ast.AST) -> None:
    """Turn a node into another in place, so that its parent is not needed."""
    position = {name: getattr(place, name) for name in ("lineno", "col_offset", "end_lineno", "end_col_offset") if hasattr(place, name)}
    place.__class__ = other.__class__
    place.__dict__.clear()
    place.__dict__.update(other.__dict__ | position)


def _mark_what_cannot_matter(node: ast.AST) -> None:
    for one in _parts_that_cannot_matter(node):
        for inner in ast.walk(one) if one is not None else ():
            inner._left_alone = True  # type: ignore[attr-defined]  # a mark for this walk, which visits parents first


def _parts_that_cannot_matter(node: ast.AST) -> list[Any]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return [*node.decorator_list, node.returns, *(arg.annotation for arg in ast.walk(node.args) if isinstance(arg, ast.arg))]
        case ast.ClassDef():
            return [*node.decorator_list, *node.bases, *node.keywords]
        case ast.AnnAssign():
            return [node.annotation]
        case ast.Raise(exc=ast.Call(args=words)):
            return [*words]
        case ast.Subscript(value=ast.Name(id="cast" | "Literal" | "dict" | "list" | "tuple" | "frozenset")):
            return [node]
        case _:
            return [node] if _says_nothing(node) else []


def _says_nothing(node: ast.AST) -> bool:
    match node:
        case ast.Assert() | ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant()):
            return True
        case ast.Assign(targets=[ast.Name(id="__slots__" | "logger")]) | ast.Call(func=ast.Name(id="NewType" | "TypeVar")):
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="logger")))):
            return True
        case _:
            return False


def _plans(node: ast.AST) -> Iterator[Plan]:
    if not getattr(node, "_left_alone", False):
        yield from _other_operators(node)
        yield from _other_statements(node)
        yield from _other_names(node)


def _other_operators(node: ast.AST) -> Iterator[Plan]:
    match node:
        case ast.Compare(ops=[op]) if type(op) in _COMPARISONS:
            yield _shown(node, ast.Compare(node.left, [_COMPARISONS[type(op)]()], node.comparators))
        case ast.BinOp(op=op) if type(op) in _OPERATORS:
            yield _shown(node, ast.BinOp(node.left, _OPERATORS[type(op)](), node.right))
        case ast.AugAssign(op=op) if type(op) in _OPERATORS:
            yield _shown(node, ast.AugAssign(node.target, _OPERATORS[type(op)](), node.value))
        case ast.BoolOp(op=op):
            yield _shown(node, ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), node.values))
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield _shown(node, node.operand)


def _other_statements(node: ast.AST) -> Iterator[Plan]:
    match node:
        case ast.If() | ast.While() | ast.IfExp():
            other = copy.copy(node)
            other.test = ast.UnaryOp(ast.Not(), node.test)
            yield f"{ast.unparse(node.test)} → its contrary", other
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield _shown(node, ast.Return(ast.Constant(None)))
        case ast.Expr(value=ast.Call() | ast.Await()):
            yield _shown(node, ast.Pass())
        case ast.Break():
            yield _shown(node, ast.Continue())
        case ast.Continue():
            yield _shown(node, ast.Break())


def _other_names(node: ast.AST) -> Iterator[Plan]:
    match node:
        case ast.Name(id=name, ctx=ast.Load()) if name in _TWINS:
            yield _shown(node, ast.Name(_TWINS[name], ast.Load()))
        case ast.Attribute(attr=name, ctx=ast.Load()) if name in _TWINS:
            yield _shown(node, ast.Attribute(node.value, _TWINS[name], ast.Load()))
        case ast.Constant():
            yield from _other_constants(node)


def _other_constants(node: ast.Constant) -> Iterator[Plan]:
    value = node.value
    if isinstance(value, bool):
        yield _shown(node, ast.Constant(not value))
    elif isinstance(value, int):
        yield _shown(node, ast.Constant(value + 1))
    elif isinstance(value, bytes) and value:
        yield _shown(node, ast.Constant(b"XX" + value))
    elif isinstance(value, str) and _SQL.match(value):
        for says, text in _broken_sql(value):
            yield says, ast.Constant(text)
    elif isinstance(value, str) and value and " " not in value:
        yield _shown(node, ast.Constant("XX" + value))


def _broken_sql(text: str) -> Iterator[tuple[str, str]]:
    for pattern, other in _SQL_FAULTS:
        for found in re.finditer(pattern, text):
            around = text[max(0, found.start() - 24) : found.end() + 16].replace("\n", " ")
            yield f"SQL {around!r}: {found[0]} → {other}", text[: found.start()] + other + text[found.end() :]


def _shown(node: ast.AST, other: ast.AST) -> Plan:
    return f"{_brief(node)} → {_brief(other)}", other


def _brief(node: ast.AST) -> str:
    text = ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).replace("\n", " ")
    return text if len(text) <= 90 else text[:87] + "…"
