"""Accounts, keys and usage on a real terminal: legible at 80 columns, with nothing lost; in a pipe each on one whole line."""

import asyncio
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.cells import cell_len

from proxy.core.limits import LimitsChange
from proxy.core.money import parse_yuan
from proxy.core.settlement import TokenUsage
from proxy.store.sqlite import open_store
from tests.cli.test_cli_commands import Command, config, run
from tests.support.store import NOW_MS, new_key, new_request, pay, reference, settlement
from tests.support.terminal import said_on_a_terminal

__all__ = ["config", "run"]  # fixtures

ROOT = Path(__file__).parents[2]
DAY_MS = 86_400_000
FAR_MS = 4_102_444_800_000
"""2100-01-01T00:00Z, so that all that ends then is live, whenever this runs."""
CHINESE = "深圳市前海智能科技有限公司"
LONG = "a-customer-with-a-very-long-name-indeed-of-more-than-forty-letters"
MODELS = ("doubao-seed-*", "doubao-pro-32k", "doubao-1-5-vision-pro-250328", "deepseek-*")
NETWORKS = ("10.0.0.0/8", "2001:db8:85a3::/48", "192.168.178.0/24")
FIGURES = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "units", "charge", "shortfall", "estimated", "refunded")
ALL = LimitsChange(
    expires_at_ms=FAR_MS,
    models=MODELS,
    networks=NETWORKS,
    requests_per_minute=600,
    tokens_per_minute=1_000_000,
    concurrent=16,
    day_nanos=parse_yuan("5"),
    month_nanos=parse_yuan("50"),
    total_nanos=parse_yuan("1000"),
)


@pytest.fixture(autouse=True)
def books(tmp_path: Path, config: Path) -> None:
    """Accounts and keys with no limit, some and all; rolled, paused, revoked, expired, suspended and closed ones."""

    async def fill() -> None:
        store = await open_store(tmp_path / "llm-proxy.db")
        ids = {}
        for name in ("acme", "suspended", "closed", "expired", LONG, CHINESE):
            ids[name] = (await store.create_account(name, parse_yuan("1234.5"), NOW_MS)).id
        for name in ("plain", "all", "rolled", "paused", "expired", "revoked"):
            await store.create_key("acme", new_key(f"key_{name}", name=f"{name} 钥匙"))
        await store.create_key(CHINESE, new_key("key_chinese", name="生产环境"))
        await store.create_key(LONG, new_key("key_long", name="another long name, this time of the key itself"))
        for key in ("key_all", "key_rolled"):
            await store.set_key_limits(key, ALL, NOW_MS)
        await store.roll_key("key_rolled", new_key("key_rolled2"), FAR_MS - NOW_MS - DAY_MS, NOW_MS)
        await store.set_key_limits("key_paused", LimitsChange(paused_at_ms=NOW_MS, requests_per_minute=7), NOW_MS)
        await store.set_key_limits("key_expired", LimitsChange(expires_at_ms=NOW_MS + DAY_MS), NOW_MS)
        await store.revoke_key("key_revoked", NOW_MS)
        await store.set_account_limits("acme", ALL, NOW_MS)
        await store.set_account_limits("suspended", LimitsChange(paused_at_ms=NOW_MS), NOW_MS)
        await store.set_account_limits("expired", LimitsChange(expires_at_ms=NOW_MS + DAY_MS), NOW_MS)
        await store.set_discount(CHINESE, 8500)
        await store.close_account("closed", NOW_MS)
        paid = new_request("req_1", account_id=ids["acme"], key_id="key_all", hold_nanos=1_300_000_000)
        await pay(store, paid, settlement(1_200_000_001, usage=TokenUsage(20, 12)))
        await store.refund_request("req_1", parse_yuan("0.2"), "", NOW_MS, reference())
        await store.note_use({"key_all": NOW_MS})
        await store.close()

    asyncio.run(fill())


@dataclass(frozen=True)
class Said:
    text: str

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    def block(self, begins: str) -> list[str]:
        """Return the row that begins so, and the lines beneath it, without their margin."""
        at = next(number for number, line in enumerate(self.lines) if line.startswith(begins))
        beneath = []
        for line in self.lines[at + 1 :]:
            if not line.startswith("    "):
                break
            beneath.append(line.strip())
        return [self.lines[at], *beneath]

    @property
    def letters(self) -> str:
        return "".join(self.text.split())


@pytest.fixture
def shown(tmp_path: Path) -> Callable[..., Said]:
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "LLM_PROXY_CONFIG")}
    env |= {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}

    def shown(columns: int, *words: str) -> Said:
        line = [sys.executable, "-m", "proxy", *words, "--config", str(tmp_path / "config.toml")]
        return Said(said_on_a_terminal(line, env, columns).replace("\r\n", "\n"))

    return shown


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_no_line_is_wider_than_the_terminal_and_nothing_is_lost(shown: Callable[..., Said], columns: int) -> None:
    keys, accounts, account = (shown(columns, *words) for words in (("key", "list"), ("account", "list"), ("account", "show", "acme")))

    for said in (keys, accounts, account):
        assert max(map(cell_len, said.lines)) <= columns
    for part in (*MODELS, *NETWORKS, "600 rpm, 1000000 tpm, 16 concurrent", "5.00/day: 0.00 spent, 0.00 held, 5.00 left"):
        for said in (keys, accounts, account):
            assert part in said.text
    for name in (CHINESE, LONG, "anotherlongname,thistimeofthekeyitself", "生产环境"):
        assert set(name) <= set(keys.letters)
    assert {CHINESE, LONG} <= {line.split("  ")[0] for line in shown(140, "account", "list").lines}


def test_a_key_is_a_row_with_its_limits_beneath(shown: Callable[..., Said]) -> None:
    said = shown(80, "key", "list", "acme")

    assert said.lines[0].split("  ")[0] == "id"
    assert said.block("key_plain ") == ["key_plain    live     never             acme     plain 钥匙", said.block("key_plain ")[1]]
    assert said.block("key_all ") == [
        "key_all      live     2025-11-24 16:00  acme     all 钥匙",
        "prefix    sk_abcdefg, created 2025-11-24 16:00:00.000 UTC",
        "spend     5.00/day: 0.00 spent, 0.00 held, 5.00 left",
        "50.00/month: 0.00 spent, 0.00 held, 50.00 left",
        "1000.00/total: 1.200000001 spent, 0.00 held, 998.799999999 left",
        "rates     600 rpm, 1000000 tpm, 16 concurrent",
        "models    doubao-seed-*, doubao-pro-32k, doubao-1-5-vision-pro-250328,",
        "deepseek-*",
        "networks  10.0.0.0/8, 2001:db8:85a3::/48, 192.168.178.0/24",
        "until     2100-01-01 08:00:00.000 UTC+08:00",
    ]
    assert said.block("key_paused ")[2:] == ["rates     7 rpm", "paused    since 2025-11-24 16:00:00.000 UTC"]
    assert said.block("key_revoked ")[2:] == ["revoked   2025-11-24 16:00:00.000 UTC"]
    assert said.block("key_expired ")[0].split()[1] == "expired"


def test_a_rolled_secret_ends_once_at_the_earlier_of_both_times(shown: Callable[..., Said], run: Command) -> None:
    said, piped = shown(80, "key", "list", "acme"), run("key", "list", "acme").stdout.splitlines()

    assert [line for line in said.block("key_rolled ") if "until" in line] == ["until     2099-12-31 00:00:00.000 UTC"]
    assert [line for line in said.block("key_rolled2 ") if "until" in line] == ["until     2100-01-01 08:00:00.000 UTC+08:00"]
    assert "rolled    from key_rolled" in said.block("key_rolled2 ")
    (old,) = [line for line in piped if line.startswith("key_rolled ")]
    assert (old.count("until"), "until 2099-12-31 00:00:00.000 UTC " in old) == (1, True)


def test_accounts_tell_their_state_and_are_suspended_not_paused(shown: Callable[..., Said], run: Command) -> None:
    said, piped = shown(80, "account", "list"), run("account", "list").stdout.splitlines()
    states = {name: said.block(f"{name} ")[0].split()[-1] for name in ("acme", "suspended", "closed", "expired", CHINESE)}

    assert states == {"acme": "open", "suspended": "suspended", "closed": "closed", "expired": "expired", CHINESE: "open"}
    assert {line.split()[0]: line.split()[-1] for line in piped[1:]} == states | {LONG: "open"}
    assert said.block("suspended ")[1:] == ["created    2025-11-24 16:00:00.000 UTC", "suspended  since 2025-11-24 16:00:00.000 UTC"]
    assert "closed     2025-11-24 16:00:00.000 UTC" in said.block("closed ")
    assert "discount   pays 0.85 of each price" in said.block(CHINESE)
    for text in (shown(80, "account", "show", "suspended").text, run("account", "show", "suspended").stdout):
        assert "paused" not in text
        assert "suspended" in text
        assert "since 2025-11-24 16:00:00.000 UTC" in text


def test_usage_is_a_table_where_it_fits_and_else_slim_rows_with_the_rest_beneath(shown: Callable[..., Said]) -> None:
    wide, narrow = (shown(columns, "usage") for columns in (140, 80))

    assert [line.split() for line in wide.lines] == [
        ["account", "model", *FIGURES],
        ["acme", "doubao-pro-32k", "1", "20", "0", "12", "0", "1.200000001", "0.00", "0", "0.20"],
        ["total", "1", "20", "0", "12", "0", "1.200000001", "0.00", "0", "0.20"],
    ]
    assert narrow.lines == [
        "account  model           requests       charge  refunded",
        "acme     doubao-pro-32k         1  1.200000001      0.20",
        "    tokens  20 prompt, 12 completion",
        "total                           1  1.200000001      0.20",
        "    tokens  20 prompt, 12 completion",
    ]


def test_in_a_pipe_a_key_is_one_line_however_long(run: Command) -> None:
    header, *lines = run("key", "list", "acme").stdout.splitlines()

    assert header.split() == ["id", "name", "prefix", "account", "state", "limits", "last_used_at", "created_at", "revoked_at"]
    assert len(lines) == 7
    (whole,) = [line for line in lines if line.startswith("key_all ")]
    assert (
        "5.00/day (0.00 spent, 0.00 held), 50.00/month (0.00 spent, 0.00 held), 1000.00/total (1.200000001 spent, "
        "0.00 held), 600 rpm, 1000000 tpm, 16 concurrent, only doubao-seed-*, only doubao-pro-32k, only doubao-1-5-vision-pro-250328, "
        "only deepseek-*, from 10.0.0.0/8, from 2001:db8:85a3::/48, from 192.168.178.0/24, until 2100-01-01 08:00:00.000 UTC+08:00"
    ) in whole
    assert run("ledger", "verify").exit_code == 0
