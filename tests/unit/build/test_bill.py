"""The bill of materials: what it says of each part, and how it is told from the pinned versions."""

import hashlib
from importlib import metadata
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.build import __main__ as build
from proxy.build import bill
from proxy.build.native import BuildError
from proxy.build.parts import Part, packed_distributions

CONSTRAINTS = """# a comment
aiohttp==3.14.5 \\
    --hash=sha256:00 \\
    --hash=sha256:01
Uv_Loop==0.23.0 ; sys_platform != 'win32' \\
    --hash=sha256:02
"""
PARTS = {
    "bin/python": Part(b"interpreter"),
    "lib/libz.so.1": Part(b"zlib"),
    "llm-proxy": Part(b"loader"),
    "lib/python3.11/a.pyc": Part(b"a"),
}


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The single file is made of these alone: what else is needed differs between machines."""
    names = ["aiohttp", "llm-proxy", "orjson"]
    monkeypatch.setattr(bill, "packed_distributions", lambda: names)
    return names


def written(path: Path) -> dict[str, Any]:
    bill.write_bill(PARTS, path)
    value: dict[str, Any] = orjson.loads(path.read_bytes())
    return value


def test_pins_are_read_by_normalised_name() -> None:
    assert bill.pins_of(CONSTRAINTS) == {"aiohttp": "3.14.5", "uv-loop": "0.23.0"}


def test_the_constraints_of_ci_pin_what_is_packed() -> None:
    pins = bill.pins_of((Path(__file__).parents[3] / ".ci/constraints.txt").read_text(encoding="utf-8"))

    assert {bill.normalised(name) for name in packed_distributions()} - set(pins) == {"llm-proxy"}


def test_the_bill_names_each_distribution_with_version_purl_licence_and_hash(packed: list[str], tmp_path: Path) -> None:
    whole = written(tmp_path / "bill.json")

    assert (whole["bomFormat"], whole["specVersion"]) == ("CycloneDX", "1.6")
    assert whole["metadata"]["component"]["purl"] == f"pkg:pypi/llm-proxy@{metadata.version('llm-proxy')}"
    aiohttp = next(part for part in whole["components"] if part["name"] == "aiohttp")
    assert aiohttp["version"] == metadata.version("aiohttp")
    assert aiohttp["purl"] == f"pkg:pypi/aiohttp@{aiohttp['version']}"
    assert aiohttp["licenses"] == [{"expression": "Apache-2.0 AND MIT"}]
    assert [len(each["content"]) for each in aiohttp["hashes"]] == [64]


def test_the_bill_names_the_interpreter_and_the_systems_libraries(packed: list[str], tmp_path: Path) -> None:
    components = written(tmp_path / "bill.json")["components"]

    hashes = {part["name"]: part["hashes"][0]["content"] for part in components if part["name"] not in packed or part["type"] == "file"}

    assert hashes == {
        "python": hashlib.sha256(b"interpreter").hexdigest(),
        "lib/libz.so.1": hashlib.sha256(b"zlib").hexdigest(),
        "llm-proxy": hashlib.sha256(b"loader").hexdigest(),
    }


def test_the_same_parts_make_the_same_bill(packed: list[str], tmp_path: Path) -> None:
    written(tmp_path / "one.json")
    written(tmp_path / "two.json")

    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_a_version_that_is_not_pinned_is_told(packed: list[str]) -> None:
    orjson_version = metadata.version("orjson")

    told = bill.unpinned({"aiohttp": "3.0.0"})

    assert told == [
        f"aiohttp {metadata.version('aiohttp')} is installed, 3.0.0 is pinned",
        f"orjson {orjson_version} is installed, it has no pin",
    ]


def test_the_pinned_versions_are_not_worth_a_word(packed: list[str]) -> None:
    assert bill.unpinned({name: metadata.version(name) for name in packed}) == []


def test_other_versions_are_noted_and_refused_where_only_pinned_ones_will_do(
    packed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("aiohttp==3.0.0\n")

    build.compare(constraints, pinned=False)

    assert capsys.readouterr().err.startswith("note: aiohttp ")
    with pytest.raises(BuildError, match=r"3\.0\.0 is pinned"):
        build.compare(constraints, pinned=True)
    with pytest.raises(BuildError, match="is not here"):
        build.compare(tmp_path / "none.txt", pinned=True)
