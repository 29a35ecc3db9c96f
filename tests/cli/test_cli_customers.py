"""Discounts, refunds and the end of an account on the command line, without a running gateway."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from proxy.core.catalog import Kind
from proxy.core.money import Nanos
from proxy.store.sqlite import open_store
from tests.cli.test_cli_commands import Command, answer_of, config, run
from tests.support.store import NOW_MS, new_key, new_request, settlement

__all__ = ["config", "run"]  # fixtures

COST = "0.0000003"


@pytest.fixture(autouse=True)
def books(tmp_path: Path, config: Path, run: Command) -> Iterator[None]:
    """acme (3) has ¥1 and a picture for 300 nano-yuan, `req_1`; `req_open` of globex (4) is open. The books hold after each test."""

    async def fill() -> None:
        store = await open_store(tmp_path / "llm-proxy.db")
        for name in ("acme", "globex"):
            await store.create_account(name, Nanos(10**9), NOW_MS)
            await store.create_key(name, new_key(f"key_{name}"))
        for request_id, account_id in (("req_1", 3), ("req_open", 4)):
            await store.place_hold(new_request(request_id, account_id=account_id, hold_nanos=500, kind=Kind.IMAGE))
        await store.settle("req_1", settlement(300, units=1), NOW_MS)
        await store.close()

    asyncio.run(fill())
    yield
    verified = run("ledger", "verify")
    assert verified.exit_code == 0, verified.stdout


@pytest.mark.parametrize(("told", "shown"), [("0.85", "0.85"), ("0.0001", "0.0001"), ("1", "1"), ("1.0000", "1"), ("none", "1")])
def test_a_discount_is_set_and_shown(run: Command, told: str, shown: str) -> None:
    answer = answer_of(run("account", "set", "acme", "--discount", told, "--json"))

    assert answer["discount"] == shown
    assert f"discount    {shown}\n" in run("account", "show", "acme").stdout
    assert [account["discount"] for account in answer_of(run("account", "list", "--json"))["accounts"]] == [shown, "1"]


@pytest.mark.parametrize("told", ["0", "-0.5", "1.1", "85%", "85", "0.00001", "", "1e-1", "half", "NaN", "0.8571428"])
def test_what_is_no_factor_is_refused_with_what_is_one(run: Command, told: str) -> None:
    result = run("account", "set", "acme", "--discount", told)

    assert result.exit_code == 2
    assert result.stderr.startswith(
        "discount: must be a factor above 0 and up to 1, with at most 4 decimals, such as 0.85, or none, not "
    )
    assert answer_of(run("account", "show", "acme", "--json"))["discount"] == "1"


@pytest.mark.parametrize(
    "words",
    [("--request", "req_1"), ("--request", "req_1", COST), ("acme", COST, "--request", "req_1"), ("acme", "--request", "req_1")],
)
def test_a_request_is_given_back_with_or_without_name_and_amount(run: Command, words: tuple[str, ...]) -> None:
    answer = answer_of(run("account", "credit", *words, "--reference", "r-1", "--json"))
    again = run("account", "credit", *words, "--reference", "r-1")

    assert (answer["name"], answer["balance"], answer["request"], answer["booked"]) == ("acme", "1.00", "req_1", True)
    assert again.exit_code == 0
    assert "Nothing was booked now" in again.stderr
    assert "refunded" in run("receipt", "req_1").stdout
    assert answer_of(run("receipt", "req_1", "--json"))["refunded"] == COST


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (
            ("--request", "req_1", "0.000000301"),
            1,
            "request req_1 cost ¥0.0000003, of which ¥0.00 were given back: ¥0.0000003 are left",
        ),
        (("--request", "req_1", "-0.0000001"), 2, "amount: only an amount above 0 can be given back"),
        (("--request", "req_1", "0"), 2, "amount: only an amount above 0 can be given back"),
        (("--request", "req_1", "1,5"), 2, "amount: no decimal number of yuan: '1,5'"),
        (("--request", "req_2"), 1, "there is no request req_2"),
        (("--request", "req_open"), 1, "request req_open is not settled yet"),
        (("globex", "--request", "req_1"), 1, "request req_1 is of account acme, not of globex: nothing was booked"),
        (("globex", COST, "--request", "req_1"), 1, "request req_1 is of account acme, not of globex: nothing was booked"),
        (("acme",), 2, "name an account and an amount, or --request ID"),
        ((), 2, "name an account and an amount, or --request ID"),
    ],
)
def test_a_refund_that_cannot_be_says_why(run: Command, words: tuple[str, ...], code: int, says: str) -> None:
    result = run("account", "credit", *words)

    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith(says)
    assert answer_of(run("account", "show", "acme", "--json"))["balance"] == "0.9999997"


def test_an_account_is_closed_and_says_when(run: Command) -> None:
    closed = run("account", "close", "acme")

    assert closed.exit_code == 0
    assert "closed_at" in closed.stdout
    (key,) = answer_of(run("key", "list", "acme", "--json"))["keys"]
    assert key["revoked_at"]
    for words in (("account", "credit", "acme", "1"), ("account", "set", "acme", "--discount", "0.5"), ("key", "create", "acme")):
        assert run(*words).stderr.startswith("account acme was closed on ")
    assert answer_of(run("account", "close", "acme", "--json"))["balance"] == "0.9999997"


def test_an_account_with_a_request_under_way_stays_open(run: Command) -> None:
    result = run("account", "close", "globex")

    assert result.exit_code == 1
    assert result.stderr == (
        "account globex has requests under way (1), which hold ¥0.0000005: close it once they are settled\n"
        "→ `llm-proxy key list globex` shows its keys: without them it begins no other\n"
    )


def test_a_refund_beyond_the_charge_is_found_by_the_audit(run: Command, tmp_path: Path) -> None:
    run("account", "credit", "--request", "req_1")
    with closing(sqlite3.connect(tmp_path / "llm-proxy.db")) as connection:
        connection.executescript("DROP TRIGGER transfers_no_update; UPDATE transfers SET amount_nanos = 301 WHERE kind = 'reversal'")

    verified = run("ledger", "verify")

    assert verified.exit_code == 1
    assert "request req_1: 301 given back to account 3, charged 300 to account 3" in verified.stdout
    with closing(sqlite3.connect(tmp_path / "llm-proxy.db")) as connection:
        connection.executescript("UPDATE transfers SET amount_nanos = 300 WHERE kind = 'reversal'")
