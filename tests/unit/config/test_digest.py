"""The digest of what gateways that share a ledger should have alike."""

import re
from pathlib import Path

import pytest

from proxy.config import Config, load
from proxy.config.digest import DIGITS, digest

ROOT = Path(__file__).parents[3]
EXAMPLE = (ROOT / "config.example.toml").read_text(encoding="utf-8")


def read(directory: Path, text: str = EXAMPLE, key: str = "one") -> Config:
    path = directory / "config.toml"
    path.write_text(text, encoding="utf-8")
    return load(path, {"ARK_API_KEY": key})


def test_it_is_the_same_on_every_machine(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    text = EXAMPLE.replace('"127.0.0.1:8080"', '"10.0.0.7:80"').replace("sqlite:llm-proxy.db", "sqlite:other.db")
    assert text.count("10.0.0.7") == text.count("other.db") == 1

    here, there = digest(read(tmp_path)), digest(read(tmp_path / "other", text))

    assert here == there
    assert re.fullmatch(f"[0-9a-f]{{{DIGITS}}}", here)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('price = { input = "0.8"', 'price = { input = "0.9"'),
        ("heartbeat_seconds = 15", "heartbeat_seconds = 16"),
        ('unknown_usage = "estimate"', 'unknown_usage = "free"'),
        ("request_days = 0", "request_days = 90"),
        ('base_url = "https://ark.cn-beijing', 'base_url = "https://ark.cn-shanghai'),
    ],
)
def test_what_customers_are_served_and_charged_by_is_in_it(tmp_path: Path, before: str, after: str) -> None:
    changed = EXAMPLE.replace(f"\n{before}", f"\n{after}", 1)
    assert changed != EXAMPLE

    assert digest(read(tmp_path, changed)) != digest(read(tmp_path))


def test_no_secret_is_in_it(tmp_path: Path) -> None:
    assert digest(read(tmp_path, key="one")) == digest(read(tmp_path, key="another"))
