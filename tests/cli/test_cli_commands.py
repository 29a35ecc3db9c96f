"""The commands without a running gateway: their output, its stream, and their exit status."""

import asyncio
import csv
import io
import re
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
from typer.testing import CliRunner

from proxy import cli
from proxy.core.catalog import Kind
from proxy.core.settlement import TokenUsage
from proxy.store.sqlite import open_store
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, new_request, settlement


class Result(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str


Command = Callable[..., Result]
InThread = Callable[..., Awaitable[Result]]

CONFIG = """
[upstreams.ark]
base_url = "https://ark.example/api/v3"
api_key = "env:ARK_API_KEY"
[[models]]
id = "doubao-pro-32k"
kind = "chat"
price = { tiers = [ { up_to = 32768, input = "0.8", output = "2.0", cached_input = "0.16" }, { input = "1.2", output = "16" } ] }
[[models]]
id = "pictures"
kind = "image"
price = { image = "0.18" }
enabled = false
[[models]]
id = "films"
kind = "video"
price = { silent = 8, audio = 16, flex = "0.5", by_resolution = { "1080p" = { silent = 9, audio = 18 } } }
"""


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a configuration into the working directory, where commands look for it, and return its path."""
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LLM_PROXY_CONFIG", raising=False)
    monkeypatch.delenv("ARK_API_KEY", raising=False)
    return path


@pytest.fixture
def run() -> Command:
    def run(*argv: str, **env: str) -> Result:
        result = CliRunner().invoke(cli.app, argv, env=env, prog_name="llm-proxy", catch_exceptions=False)
        return Result(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def in_thread(run: Command) -> InThread:
    """Return a runner for commands, which have an event loop of their own, in a test that has one."""
    return lambda *argv, **env: asyncio.to_thread(run, *argv, **env)


def answer_of(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return orjson.loads(result.stdout)


LIMITS = ("expires_at", "paused_at", "models", "networks", "rpm", "tpm", "concurrent", "spend")


def account_in(booking: dict[str, Any]) -> dict[str, Any]:
    """Return the account of a booking's answer."""
    return {name: value for name, value in booking.items() if name not in ("reference", "booked", "booked_at")}


def rows_of(result: Result) -> list[list[str]]:
    """Return a table's lines as words."""
    assert result.exit_code == 0, result.stderr
    return [line.split() for line in result.stdout.splitlines()]


def test_an_account_is_opened_credited_and_shown(run: Command) -> None:
    created = answer_of(run("account", "create", "acme", "--credit", "100.00", "--json"))
    credited = answer_of(run("account", "credit", "acme", "0.5", "--note", "goodwill", "--json"))
    taken = answer_of(run("account", "credit", "acme", "-50.25", "--json"))

    assert (created["balance"], credited["balance"], taken["balance"]) == ("100.00", "100.50", "50.25")
    (listed,) = answer_of(run("account", "list", "--json"))["accounts"]
    assert listed.items() >= account_in(taken).items()
    assert listed.keys() - account_in(taken).keys() == {"state", *LIMITS}
    assert rows_of(run("account", "list"))[1][:4] == ["acme", "50.25", "0.00", "50.25"]
    assert ["available", "50.25"] in rows_of(run("account", "show", "acme"))
    assert run("ledger", "verify").exit_code == 0


@pytest.mark.parametrize(("amount", "balance"), [("5.00", "105.00"), ("-5.00", "95.00")])
def test_one_payment_told_twice_is_booked_once_and_the_command_says_so(run: Command, amount: str, balance: str) -> None:
    run("account", "create", "acme", "--credit", "100.00")

    first = answer_of(run("account", "credit", "acme", amount, "--reference", "order-8812", "--json"))
    again = answer_of(run("account", "credit", "acme", amount, "--reference", "order-8812", "--json"))
    in_words = run("account", "credit", "acme", amount, "--reference", "order-8812")
    other = run("account", "credit", "acme", "6.00", "--reference", "order-8812")

    assert [(one["balance"], one["reference"], one["booked"]) for one in (first, again)] == [
        (balance, "order-8812", True),
        (balance, "order-8812", False),
    ]
    assert again["booked_at"] == first["booked_at"]
    assert ["reference", "order-8812"] in rows_of(in_words)
    assert in_words.stderr.startswith("Nothing was booked now: this reference was booked on 20")
    assert other.exit_code == 1
    assert other.stderr.startswith(f"reference order-8812 stands for another payment already, ¥{amount} for account acme on 20")
    assert "→ each payment has a reference of its own" in other.stderr
    assert answer_of(run("account", "show", "acme", "--json"))["balance"] == balance
    assert run("ledger", "verify").exit_code == 0


def test_a_payment_without_a_reference_is_given_one_which_is_printed(run: Command) -> None:
    created = answer_of(run("account", "create", "acme", "--credit", "1.00", "--json"))
    credited = [answer_of(run("account", "credit", "acme", "1.00", "--json")) for _ in range(2)]

    made_up = [one["reference"] for one in (created, *credited)]
    assert all(re.fullmatch(r"cli-[0-7][0-9A-HJKMNP-TV-Z]{25}", reference) for reference in made_up)
    assert len(set(made_up)) == 3
    assert credited[-1]["balance"] == "3.00"


def test_opening_an_account_again_is_refused_but_for_a_repeat_under_its_reference(run: Command) -> None:
    opening = ("account", "create", "acme", "--credit", "2.00")
    run(*opening, "--reference", "opening-1")

    again = answer_of(run(*opening, "--reference", "opening-1", "--json"))
    another = run(*opening)

    assert (again["booked"], again["balance"]) == (False, "2.00")
    assert (another.exit_code, another.stderr.splitlines()[0]) == (1, "there is an account acme already")
    assert run("ledger", "verify").exit_code == 0


@pytest.mark.parametrize("reference", ["a\nb", " order", "x" * 201])
def test_a_reference_that_could_not_be_typed_again_is_refused(run: Command, reference: str) -> None:
    run("account", "create", "acme")

    refused = run("account", "credit", "acme", "1", "--reference", reference)

    assert refused.exit_code == 2
    assert "reference" in refused.stderr


def test_a_key_is_printed_once_and_listed_by_its_prefix(run: Command) -> None:
    run("account", "create", "acme")

    created = answer_of(run("key", "create", "acme", "--name", "web", "--json"))

    assert list(created) == ["id", "key", "account", "name"]
    assert re.fullmatch(r"sk_[A-Za-z0-9_-]{43}", created["key"])
    listed = run("key", "list", "acme").stdout
    assert created["id"] in listed
    assert created["key"] not in listed
    revoked = answer_of(run("key", "revoke", created["id"], "--json"))
    assert revoked["revoked_at"] is not None
    assert rows_of(run("key", "list"))[1][-1] == "UTC"


def test_a_key_is_limited_listed_paused_rolled_and_found_in_words(run: Command) -> None:
    run("account", "create", "acme")
    run("account", "set", "acme", "--spend", "500", "--per", "month")
    limits = ("--spend", "5/day,50/month", "--rpm", "60", "--models", "doubao-*", "--networks", "10.0.0.0/8", "--expires", "2099-01-31")
    created = answer_of(run("key", "create", "acme", *limits, "--json"))

    listed = run("key", "list", "acme").stdout
    run("key", "pause", created["id"])
    paused = answer_of(run("key", "list", "--json"))["keys"][0]
    rolled = run("key", "roll", created["id"], "--overlap", "24h")
    found = run("key", "find", created["key"][:10])
    shown = run("account", "show", "acme").stdout

    assert "5.00/day (0.00 spent, 0.00 held), 50.00/month (0.00 spent, 0.00 held), 60 rpm, only doubao-*" in listed
    assert "doubao-*, from 10.0.0.0/8, until 2099-02-01 00:00" in listed
    assert (paused["state"], paused["expires_at"]) == ("paused", "2099-02-01T00:00:00.000+08:00")
    assert re.search(r"^key +sk_\S{43}$", rolled.stdout, re.MULTILINE)
    assert f"{created['id']}, the old secret, ends on 20" in rolled.stderr
    assert re.search(rf"^{created['id']} +sk_\S+ +acme +paused ", found.stdout, re.MULTILINE)
    assert re.search(r"^limits +500\.00/month \(0\.00 spent, 0\.00 held\)$", shown, re.MULTILINE)
    assert run("key", "set", created["id"], "--spend", "none", "--rpm", "none", "--models", "none", "--networks", "none").exit_code == 0
    assert answer_of(run("key", "resume", created["id"], "--json"))["spend"] == []
    assert run("ledger", "verify").exit_code == 0


def test_a_wrong_limit_is_wrong_usage_and_says_what_is_right(run: Command) -> None:
    run("account", "create", "acme")

    refused = run("key", "create", "acme", "--spend", "five/day")

    assert refused.exit_code == 2
    assert (
        refused.stderr
        == "spend: no decimal number of yuan: 'five'\n→ write yuan with a point and no unit, such as 5/day or 5.50/day,50/month\n"
    )
    assert answer_of(run("key", "list", "--json")) == {"keys": []}


def test_a_key_made_for_people_says_that_it_is_shown_once_where_pipes_do_not_see_it(run: Command) -> None:
    run("account", "create", "acme")

    result = run("key", "create", "acme")

    assert re.search(r"^key +sk_\S{43}$", result.stdout, re.MULTILINE)
    assert "shown this once" in result.stderr
    assert "shown this once" not in result.stdout


async def with_requests(directory: Path) -> None:
    """Fill the store: a chat call of ¥0.00004 and two images of ¥0.18."""
    store = await open_store(directory / "llm-proxy.db")
    account = await store.create_account("acme", 1_000_000_000, NOW_MS)  # type: ignore[arg-type]
    chat = new_request("req_chat", account_id=account.id, hold_nanos=100_000)
    await store.place_hold(chat)
    await store.settle("req_chat", settlement(40_000, usage=TokenUsage(20, 12)), NOW_MS + 1500)
    images = new_request(
        "img-1", account_id=account.id, hold_nanos=360_000_000, kind=Kind.IMAGE, model="pictures", created_at_ms=NOW_MS
    )
    await store.place_hold(images)
    await store.settle("img-1", settlement(360_000_000, units=2), NOW_MS + 1500)
    await assert_books_balance(store)
    await store.close()


async def test_usage_comes_as_a_table_as_csv_and_as_json(tmp_path: Path, in_thread: InThread) -> None:
    await with_requests(tmp_path)

    table = rows_of(await in_thread("usage"))
    rows = list(csv.DictReader(io.StringIO((await in_thread("usage", "--csv")).stdout)))
    answer = answer_of(await in_thread("usage", "--by", "day", "--json"))

    assert table[1] == ["acme", "doubao-pro-32k", "1", "20", "0", "12", "0", "0.00004", "0.00", "0", "0.00"]
    assert table[3] == ["total", "2", "20", "0", "12", "2", "0.36004", "0.00", "0", "0.00"]
    assert [(row["model"], row["units"], row["charge"]) for row in rows] == [
        ("doubao-pro-32k", "0", "0.00004"),
        ("pictures", "2", "0.36"),
    ]
    assert [(row["day"], row["charge"]) for row in answer["rows"]] == [("2025-11-25", "0.36004")]
    assert (await in_thread("usage", "--since", "2025-11-26", "--csv")).stdout.count("\n") == 1
    assert len(answer_of(await in_thread("usage", "--until", "2025-11-26", "--json"))["rows"]) == 2


async def test_usage_tells_what_was_given_back_as_receipts_and_the_audit_do(tmp_path: Path, in_thread: InThread) -> None:
    """¥0.10 and ¥0.05 of a picture call: the second once the call is folded, when its model is not known any more."""
    await with_requests(tmp_path)
    await in_thread("account", "credit", "--request", "img-1", "0.10")
    receipt = answer_of(await in_thread("receipt", "img-1", "--json"))
    before = list(csv.DictReader(io.StringIO((await in_thread("usage", "--csv")).stdout)))
    assert (await in_thread("retention", "--days", "8")).exit_code == 0
    await in_thread("account", "credit", "--request", "img-1", "0.05")

    rows = list(csv.DictReader(io.StringIO((await in_thread("usage", "--csv")).stdout)))
    answer = answer_of(await in_thread("usage", "--by", "day", "--json"))
    verified = await in_thread("ledger", "verify")

    assert receipt["refunded"] == "0.10"
    assert [(row["model"], row["charge"], row["refunded"]) for row in before] == [
        ("doubao-pro-32k", "0.00004", "0.00"),
        ("pictures", "0.36", "0.10"),
    ]
    assert [(row["model"], row["charge"], row["refunded"]) for row in rows] == [("", "0.00", "0.05"), *map(_as_it_was, before)]
    assert [(row["day"], row["refunded"]) for row in answer["rows"]] == [("2025-11-25", "0.15")]
    assert answer["total"]["refunded"] == "0.15"
    assert rows_of(await in_thread("usage"))[-1] == ["total", "2", "20", "0", "12", "2", "0.36004", "0.00", "0", "0.15"]
    assert verified.exit_code == 0
    assert "no refund of a request is above its charge (2 refunds of requests, ¥0.15)" in verified.stdout
    assert (
        "refunds of folded requests are in the daily sums (¥0.15 given back of folded requests, ¥0.05 of it since they were folded)"
        in verified.stdout
    )


def _as_it_was(row: dict[str, str]) -> tuple[str, str, str]:
    return row["model"], row["charge"], row["refunded"]


async def test_a_receipt_reads_like_one(tmp_path: Path, in_thread: InThread) -> None:
    await with_requests(tmp_path)

    receipt = (await in_thread("receipt", "img-1")).stdout

    assert re.search(r"^formula +2 × ¥0\.18 = ¥0\.36$", receipt, re.MULTILINE)
    assert re.search(r"^settled_at +2025-11-24 16:00:01\.500 UTC$", receipt, re.MULTILINE)
    assert re.search(r"^stream +no$", receipt, re.MULTILINE)


async def test_books_that_do_not_hold_are_told_row_by_row_and_fail_the_command(tmp_path: Path, in_thread: InThread) -> None:
    await with_requests(tmp_path)
    with sqlite3.connect(tmp_path / "llm-proxy.db") as connection:
        connection.execute("UPDATE accounts SET balance_nanos = balance_nanos + 1 WHERE name = 'acme'")
    connection.close()

    result = await in_thread("ledger", "verify")
    answer = await in_thread("ledger", "verify", "--json")

    assert (result.exit_code, answer.exit_code) == (1, 1)
    assert re.search(r"^FAILS +balance = .*\n +.*acme", result.stdout, re.MULTILINE)
    assert result.stderr == "the books do not hold\n"
    assert not orjson.loads(answer.stdout)["holds"]


def test_backups_with_keep_are_named_by_their_time_and_rotate(run: Command, tmp_path: Path) -> None:
    run("account", "create", "acme", "--credit", "12")
    old = tmp_path / "copies" / "llm-proxy-20200101T000000Z.db"
    older = tmp_path / "copies" / "llm-proxy-20190101T000000Z.db"
    old.parent.mkdir()
    for path in (old, older):
        path.write_bytes(b"books of another year")

    written = run("backup", "--keep", "2", "copies")

    (new,) = set((tmp_path / "copies").iterdir()) - {old}
    assert written.exit_code == 0
    assert written.stdout.startswith(f"wrote {new}\nremoved {older}\n")
    assert re.fullmatch(r"llm-proxy-\d{8}T\d{6}Z\.db", new.name)
    assert old.exists()


def test_a_copy_whose_books_do_not_hold_drives_no_other_out(run: Command, tmp_path: Path) -> None:
    run("account", "create", "acme", "--credit", "12")
    with sqlite3.connect(tmp_path / "llm-proxy.db") as books:
        books.execute("UPDATE accounts SET balance_nanos = balance_nanos + 1 WHERE kind = 'customer'")
    books.close()
    good = tmp_path / "copies" / "llm-proxy-20200101T000000Z.db"
    good.parent.mkdir()
    good.write_bytes(b"good books")

    written = run("backup", "--keep", "1", "copies")

    assert written.exit_code == 1
    assert "the books do not hold" in written.stderr
    assert len(list(good.parent.iterdir())) == 2
    assert good.exists()


def test_a_backup_lands_where_it_was_asked_for_and_never_on_a_file(run: Command, tmp_path: Path) -> None:
    run("account", "create", "acme")

    written = run("backup", "copies.db")
    again = run("backup", "copies.db")

    assert written.stdout.startswith(f"wrote {tmp_path / 'copies.db'}\nok ")
    assert (tmp_path / "copies.db").exists()
    assert (again.exit_code, again.stdout) == (1, "")
    assert "never written over a file" in again.stderr


def test_a_restore_says_what_it_did_and_what_to_do_next(run: Command, tmp_path: Path) -> None:
    run("account", "create", "acme", "--credit", "5")
    run("backup", "copies.db")
    run("account", "credit", "acme", "1")

    told = run("restore", "copies.db")
    answer = answer_of(run("restore", "copies.db", "--json"))

    assert told.exit_code == 0, told.stderr
    assert told.stdout.startswith("ok    the file is sound (")
    assert re.search(rf"^kept +{tmp_path}/llm-proxy\.db\.before-restore-\d{{8}}T\d{{6}}Z$", told.stdout, re.MULTILINE)
    assert re.search(r"^newest_booking_at +\d{4}-.* UTC$", told.stdout, re.MULTILINE)
    assert "keys revoked since then work again" in told.stderr
    assert "start the gateway" in told.stderr
    assert list(answer) == ["store", "source", "newest_booking_at", "kept", "holds", "checks"]
    assert (answer["source"], answer["holds"]) == (str(tmp_path / "copies.db"), True)
    assert answer_of(run("account", "show", "acme", "--json"))["balance"] == "5.00"
    assert run("ledger", "verify").exit_code == 0


def test_two_restores_in_one_second_keep_two_old_stores(run: Command, tmp_path: Path) -> None:
    run("account", "create", "acme")
    run("backup", "copies.db")

    kept = {answer_of(run("restore", "copies.db", "--json"))["kept"] for _ in range(3)}

    assert len(kept) == 3
    assert all(Path(name).exists() for name in kept)


async def test_a_restore_while_the_store_is_in_use_is_refused(tmp_path: Path, in_thread: InThread) -> None:
    store = await open_store(tmp_path / "llm-proxy.db")
    await in_thread("backup", "copies.db")

    refused = await in_thread("restore", "copies.db")

    assert (refused.exit_code, refused.stdout) == (1, "")
    assert re.search(r"in use by another process \(pid \d+, .*: stop it first, nothing was changed\n$", refused.stderr)
    await store.close()


def test_a_store_in_a_file_has_one_gateway_which_is_said_in_words(run: Command) -> None:
    run("account", "create", "acme")

    listed, drained = run("nodes"), run("nodes", "drain", "1")

    assert listed == (0, "This store is a file: one gateway alone writes to it. Whether it runs: llm-proxy doctor\n", "")
    assert orjson.loads(run("nodes", "--json").stdout) == {"shared": False, "nodes": []}
    assert drained.exit_code == 1
    assert "one gateway alone writes to a store in a file: stop it by SIGTERM" in drained.stderr


def test_check_config_shows_what_would_run_and_no_secret(run: Command, tmp_path: Path) -> None:
    result = run("check-config", ARK_API_KEY="canary-1234")
    as_json = run("check-config", "--json", ARK_API_KEY="canary-1234")

    lines = result.stdout.splitlines()
    assert f"admin.listen                    unix:{tmp_path / 'admin.sock'}" in lines
    assert "admin.metrics_listen            off" in lines
    assert ["ark", "https://ark.example/api/v3", "ark", "default:", "set", "yes", "5", "5,", "60", "none"] in [
        line.split() for line in lines
    ]
    prices = {model["id"]: (model["price"], model["enabled"]) for model in answer_of(as_json)["models"]}
    assert prices == {
        "doubao-pro-32k": ("≤ 32768: 0.8 in, 2 out, 0.16 cached /M; 1.2 in, 16 out, 1.2 cached /M", True),
        "pictures": ("0.18 an image", False),
        "films": ("8 silent, 16 audio /M; 1080p: 9 silent, 18 audio /M; flex × 0.5", True),
    }
    assert "canary" not in f"{result} {as_json}"
    assert lines[lines.index("warnings") + 1 :] == answer_of(as_json)["warnings"]
    assert [warning.partition(": ")[0] for warning in answer_of(as_json)["warnings"]] == [
        'models "doubao-pro-32k".context_tokens',
        'models "doubao-pro-32k".reasoning_tokens_max',
    ]


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_check_config_mentions_a_proxy_of_the_environment_that_is_not_obeyed(
    run: Command, config: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    env = {"ARK_API_KEY": "canary-1234", variable: "http://user:canary-5678@proxy:3128"}

    told = run("check-config", **env)
    config.write_text(CONFIG.replace("[[models]]", 'proxy = "http://proxy:3128"\n[[models]]', 1))
    named = run("check-config", **env)
    without = run("check-config", ARK_API_KEY="canary-1234")

    assert (told.exit_code, told.stderr.splitlines()[0].partition(":")[0]) == (0, f"${variable} is set, and is not obeyed")
    assert "canary" not in told.stdout + told.stderr
    assert (named.stderr, without.stderr) == ("", "")
    assert "http://proxy:3128" in named.stdout


def test_check_config_names_every_fault_on_a_line_of_stderr(run: Command, config: Path) -> None:
    config.write_text(CONFIG.replace("0.18", "0.1234"))

    result = run("check-config")

    assert (result.exit_code, result.stdout) == (1, "")
    advice = 'export it, or name a "file:PATH" or "credential:NAME"'
    assert result.stderr.splitlines() == [
        f"config.toml: upstreams.ark.api_key: the environment variable ARK_API_KEY is not set: {advice}",
        "config.toml: models[1] \"pictures\".price.image: more than 3 decimals: '0.1234'",
    ]


@pytest.mark.parametrize(
    "argv",
    [
        ("--config", "other/config.toml", "account", "list"),
        ("account", "list", "--config", "other/config.toml"),
    ],
)
def test_the_configuration_is_named_before_or_after_the_command(run: Command, tmp_path: Path, argv: tuple[str, ...]) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "config.toml").rename(tmp_path / "other/config.toml")
    assert run("account", "create", "acme", "--config", "other/config.toml").exit_code == 0

    assert "acme" in run(*argv).stdout
    assert (tmp_path / "other/llm-proxy.db").exists()
    assert "acme" in run("account", "list", LLM_PROXY_CONFIG="other/config.toml").stdout


def test_without_a_configuration_it_says_where_it_looked(run: Command, config: Path) -> None:
    config.unlink()

    result = run("account", "list")

    assert result.exit_code == 1
    assert result.stderr.startswith("no configuration: $LLM_PROXY_CONFIG is not set and there is no config.toml or /etc/llm-proxy/")


@pytest.mark.parametrize(
    ("argv", "code", "reason"),
    [
        (("account", "list"), 1, "there is no store at "),
        (("ledger", "verify"), 1, "there is no store at "),
        (("restore", "missing.db"), 1, "there is no file "),
        (("account", "credit", "nobody", "1"), 1, "there is no account nobody"),
        (("key", "create", "nobody"), 1, "there is no account nobody"),
        (("key", "revoke", "key_none"), 1, "there is no key key_none"),
        (("account", "create", "acme", "--credit", "ten"), 2, "credit: no decimal number of yuan: 'ten'"),
        (("account", "create", "acme", "--credit", "1e3"), 2, "credit: no decimal number of yuan: '1e3'"),
        (("account", "create", "acme", "--credit", "-1"), 2, "credit: a new account cannot begin in debt"),
        (("account", "credit", "acme", "0"), 2, "amount: there is nothing to book in 0"),
        (("usage", "--since", "soon"), 2, "since: 'soon' is no date"),
        (("usage", "--csv", "--json"), 2, "--csv and --json exclude each other"),
        (("demo", "--real"), 2, "--real needs ARK_API_KEY to be set"),
    ],
)
def test_a_refusal_is_a_line_on_stderr_with_advice_on_the_next_and_an_exit_code(
    run: Command, argv: tuple[str, ...], code: int, reason: str
) -> None:
    result = run(*argv)

    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith(reason)
    assert [line[:2] for line in result.stderr.splitlines()[1:]] in ([], ["→ "])


@pytest.mark.parametrize(
    "argv",
    [
        ("account", "create"),
        ("account", "credit", "acme", "5", "--nte", "x"),
        ("usage", "--by", "hour"),
        ("frobnicate",),
        ("demo", "--port", "70000"),
        ("backup",),
        ("restore",),
        (),
    ],
)
def test_wrong_usage_exits_with_2(run: Command, argv: tuple[str, ...]) -> None:
    assert run(*argv).exit_code == 2


def test_a_wrong_amount_creates_no_store(run: Command, tmp_path: Path) -> None:
    run("account", "create", "acme", "--credit", "ten")

    assert not (tmp_path / "llm-proxy.db").exists()


def test_the_version_needs_no_command(run: Command) -> None:
    assert re.fullmatch(r"llm-proxy \d+\.\d+\.\d+\n", run("--version").stdout)
