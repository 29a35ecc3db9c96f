"""No parser holds up the loop: its steps grow with the text, and the longest text that it may be given takes 50 ms at most.

Steps are counted, not seconds: they are the same on every machine. `support/parsers.py` lists the parsers and the worst input found for
each; what is no parser of anybody else's text is exempt here, each with its reason.
"""

import ast
import re
import shutil
from pathlib import Path

import pytest

from tests.support.parsers import PARSERS
from tests.support.steps import SECONDS_MAX, Case, Growth, cases, counted, units_of
from tests.test_tidy import MODULES

LOOP_STEPS_MAX = 400_000_000
"""50 ms: parsers run at 7 to 13 instructions a nanosecond on the machine that the figures of the benchmark are from."""
STEPS_PER_BYTE_MAX = 45
"""Of bodies and answers of megabytes, which take longer than that. Most is for writing one with escapes and hashing it."""
GROWTH_MAX = 4.7
"""For four times the text. It leaves room for sorting, and for nothing that grows faster."""
NOISE_STEPS = 1_000_000
"""What the allocator may take more or less."""

ROOMS = (
    *("core", "edge", "upstream", "handlers", "billing", "exchange", "videos", "live", "telemetry"),
    *("config", "operations", "doctor", "top"),
)
"""Rooms that the gateway's loop runs, or that read what others send. Not the store, whose rows are ours, nor the stand-in for Ark."""
EXEMPT = {
    "proxy.core.pricing": "reads back the prices that this gateway froze with a request",
    "proxy.exchange.call": "hands on to its protocol, whose parsers are listed",
    "proxy.billing.receipts": "reads back the prices that this gateway froze with a request",
    "proxy.config.tables": "at a start or a reload, in a thread: the operator's own file, of which msgspec reads each value once",
    "proxy.config.reading": "at a start or a reload, in a thread: the operator's own file",
    "proxy.config.models": "at a start or a reload, in a thread: the operator's own file",
    "proxy.config.upstreams": "at a start or a reload, in a thread: the operator's own file",
    "proxy.config.workers": "at a start: the operator's own command line and file",
    "proxy.config.environment": "at a start or a reload, in a thread: the operator's own environment",
    "proxy.doctor.examination": "a process of its own, and our own words",
    "proxy.doctor.front": "a process of its own; of an answer it reads the code of an error",
    "proxy.doctor.files": "a process of its own, and the kernel's words",
    "proxy.doctor.process": "a process of its own, and the kernel's words",
    "proxy.doctor.upstream": "a process of its own, and the operator's own address",
    "proxy.handlers.admin": "a body of 64 KiB at most over the operator's socket",
    "proxy.operations.limits": "a body of 64 KiB at most over the operator's socket",
    "proxy.telemetry.process": "the kernel's words",
    "proxy.telemetry.collectors": "a closure that is called read, over our own figures",
    "proxy.live.reload": "our own words, and the operator's file in a thread",
    "proxy.upstream.http1.pool": "the operator's own address, once",
}
"""Modules that look like parsers, and why no one else's text can hold up the loop in them."""
PARSES = re.compile(
    r"\bre\.(?:compile|match|search|fullmatch|sub|split|findall|finditer)\(|\bloads\(|\.r?split\(|\.splitlines\(|\bDecoder\("
    r"|\burlsplit\(|\bparse_qs\(|\bfromisoformat\(|^ *(?:async )?def _?(?:parse|read)(?:_|\b)",
    re.MULTILINE,
)


def parsing() -> set[str]:
    """Return the modules that have an expression, or a function that parses or reads."""
    found = set()
    for module, path in MODULES.items():
        if module.count(".") and module.split(".")[1] in ROOMS and PARSES.search(_code_of(path)):
            found.add(module)
    return found


def _code_of(path: Path) -> str:
    """Return a module's code without its docstrings and comments."""
    return ast.unparse(_without_texts(ast.parse(path.read_text(encoding="utf-8"))))


def _without_texts(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            lines = getattr(node, name, None)
            if isinstance(lines, list):
                kept = [line for line in lines if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))]
                setattr(node, name, kept or [ast.Pass()] if lines else lines)
    return tree


@pytest.fixture(scope="module")
def growths(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Growth]:
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed: steps cannot be counted")
    return counted(tmp_path_factory.mktemp("steps"))


@pytest.mark.timeout(SECONDS_MAX)
@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case[0]} {case[1]}")
def test_four_times_the_text_takes_four_times_the_steps_and_the_longest_50_ms(case: Case, growths: dict[Case, Growth]) -> None:
    parser, growth = PARSERS[case[0]], growths[case]
    worst = parser.worst[case[1]]
    most = worst.most(parser.bytes_max)

    steps = growth.at(most, units_of(parser, worst)[1])

    assert growth.long <= GROWTH_MAX * growth.short + NOISE_STEPS
    if not parser.is_apart:
        in_proportion = STEPS_PER_BYTE_MAX * len(worst.text(most)) if parser.in_proportion else 0
        assert steps <= max(parser.steps_max or LOOP_STEPS_MAX, in_proportion)


def test_every_module_that_parses_is_listed_or_exempt() -> None:
    listed = {module for parser in PARSERS.values() for module in parser.modules}

    assert parsing() - listed - set(EXEMPT) == set()


def test_no_module_is_exempt_or_listed_for_nothing() -> None:
    listed = {module for parser in PARSERS.values() for module in parser.modules}

    assert set(EXEMPT) & listed == set()
    assert set(EXEMPT) <= parsing()
    assert listed <= set(MODULES)
