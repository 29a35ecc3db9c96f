"""Mutants: each has exactly the expected fault, and code that no test can check is left alone."""

import ast

import pytest

from tests.mutation.mutants import mutants


def planted(source: str) -> set[str]:
    return {ast.unparse(mutant.tree) for mutant in mutants(source)}


@pytest.mark.parametrize(
    ("source", "faults"),
    [
        ("x = a < b", {"x = a <= b"}),
        ("x = a + 1", {"x = a - 1", "x = a + 2"}),
        ("x = a and b", {"x = a or b"}),
        ("x = min(a, b)", {"x = max(a, b)"}),
        ("x += y", {"x -= y"}),
        ("x = 'usage'", {"x = 'XXusage'"}),
        ("x = True", {"x = False"}),
        ("if not a:\n    b()", {"if a:\n    b()", "if not not a:\n    b()", "if not a:\n    pass"}),
        ("def f():\n    return g", {"def f():\n    return None"}),
        (
            "x = 'UPDATE a SET b = b + ? WHERE c >= ?'",
            {
                "x = 'UPDATE a SET b <> b + ? WHERE c >= ?'",
                "x = 'UPDATE a SET b = b - ? WHERE c >= ?'",
                "x = 'UPDATE a SET b = b + ? WHERE c > ?'",
            },
        ),
    ],
)  # fmt: skip
def test_each_fault_is_planted_alone(source: str, faults: set[str]) -> None:
    assert planted(source) == faults


@pytest.mark.parametrize(
    "source",
    [
        '"""What 1 + 1 is."""',
        "x: dict[str, 'Money']",
        "from a import b",
        "@dataclass(frozen=True)\nclass A:\n    pass",
        "assert a == 1",
        "logger.info('a %d', 1 + 1)",
        "x = 'a sentence for people'",
        "__slots__ = ('a',)",
        "Nanos = NewType('Nanos', int)",
    ],
)
def test_what_no_test_could_notice_is_left_alone(source: str) -> None:
    assert not planted(source)
