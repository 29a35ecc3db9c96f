"""A day begins at 00:00 of billing.time_zone, to the millisecond: in usage, in periods, in what retention folds, and in limits."""

import asyncio
import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.core.days import Zone, date_of
from proxy.core.limits import Limits, SpendLimits
from proxy.core.money import Nanos
from proxy.store.errors import SpendLimitError
from proxy.store.sqlite import open_store
from tests.cli.test_cli_commands import CONFIG, Command, answer_of, config, run
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, new_key, new_request, settlement

__all__ = ["config", "run"]  # fixtures

ZONES = [Zone.parse(text) for text in ("+08:00", "+00:00", "-03:30", "+14:00")]


@pytest.fixture(params=ZONES, ids=str)
def zone(request: pytest.FixtureRequest, config: Path) -> Zone:
    """Have the configuration name a time zone."""
    found: Zone = request.param
    config.write_text(f'[billing]\ntime_zone = "{found}"\n{CONFIG}')
    return found


def midnight_ms(zone: Zone) -> int:
    """Return the first moment of the day that NOW lies in."""
    return zone.begins_ms(zone.day(NOW_MS))


@pytest.fixture
def day(tmp_path: Path, zone: Zone) -> int:
    """Settle requests a millisecond before a day, at its first and last moment, and at the first of the next; return the day."""
    begin = midnight_ms(zone)
    following = zone.begins_ms(zone.day(begin) + 1)

    async def fill() -> None:
        store = await open_store(tmp_path / "llm-proxy.db", zone=zone)
        await store.create_account("acme", Nanos(10**9), begin - 99)
        for charge, at_ms in ((1, begin - 1), (10, begin), (100, following - 1), (1000, following)):
            await store.place_hold(new_request(f"req_{charge}", account_id=3, hold_nanos=5000, created_at_ms=at_ms))
            await store.settle(f"req_{charge}", settlement(charge), at_ms)
        await assert_books_balance(store)
        await store.close()

    asyncio.run(fill())
    return zone.day(begin)


def charges(run: Command, *words: str) -> dict[str, str]:
    """Return what usage says was charged, by its second column."""
    result = run("usage", *words, "--csv")
    assert result.exit_code == 0, result.stderr
    return {row[1]: row[7] for row in list(csv.reader(io.StringIO(result.stdout)))[1:]}


def days(day: int) -> dict[str, str]:
    return {str(date_of(day - 1)): "0.000000001", str(date_of(day)): "0.00000011", str(date_of(day + 1)): "0.000001"}


def test_usage_by_day_and_periods_of_dates_are_by_it(run: Command, day: int) -> None:
    assert charges(run, "--by", "day") == days(day)

    period = ("--since", str(date_of(day)), "--until", str(date_of(day + 1)))
    assert charges(run, *period, "--by", "day") == {str(date_of(day)): "0.00000011"}


def test_folded_days_are_those_that_usage_showed(run: Command, day: int, zone: Zone, tmp_path: Path) -> None:
    folded = answer_of(run("retention", "--days", "8", "--json"))

    assert folded["folded"] == 4
    assert folded["kept_from_at"].endswith(f"T00:00:00.000{zone}")
    assert charges(run, "--by", "day") == days(day)
    period = ("--since", str(date_of(day)), "--until", str(date_of(day + 1)))
    assert charges(run, *period, "--by", "day") == {str(date_of(day)): "0.00000011"}
    cut = run("usage", "--since", f"{date_of(day)}T00:00:00.001")
    assert cut.stderr == (
        f"Of {date_of(day)} there are daily sums: they count whole if the period includes its 00:00 (UTC{zone}), else not at all.\n"
    )
    assert run("usage", "--since", f"{date_of(day)}T00:00:00.000").stderr == ""
    for request_id, its in (("req_1", day - 1), ("req_10", day), ("req_100", day), ("req_1000", day + 1)):
        told = run("receipt", request_id).stderr
        assert f"the daily sums of {date_of(its)}," in told
        assert f"--since {date_of(its)} --until {date_of(its + 1)}`" in told
    verified = run("ledger", "verify")
    assert verified.exit_code == 0, verified.stdout


def test_a_zone_is_kept_once_days_are_folded_by_it(run: Command, day: int, zone: Zone, config: Path) -> None:
    other = "+08:00" if str(zone) != "+08:00" else "+09:00"
    config.write_text(f'[billing]\ntime_zone = "{other}"\n{CONFIG}')
    assert charges(run, "--by", "day")  # nothing is folded yet
    config.write_text(f'[billing]\ntime_zone = "{zone}"\n{CONFIG}')
    run("retention", "--days", "8")
    config.write_text(f'[billing]\ntime_zone = "{other}"\n{CONFIG}')

    refused = run("account", "create", "globex")

    assert refused.exit_code == 1
    assert str(zone) in refused.stderr
    assert "time_zone" in refused.stderr


async def test_a_daily_limit_begins_anew_at_its_first_millisecond(tmp_path: Path, zone: Zone) -> None:
    begin = midnight_ms(zone)
    store = await open_store(tmp_path / "limits.db", zone=zone)
    account = await store.create_account("acme", Nanos(10**9), begin - 99)
    await store.create_key("acme", replace(new_key(), limits=Limits(spend=SpendLimits(day=Nanos(100)))))

    await store.place_hold(new_request("last", account_id=account.id, key_id="key_1", created_at_ms=begin - 1))
    with pytest.raises(SpendLimitError) as refused:
        await store.place_hold(new_request("too much", account_id=account.id, key_id="key_1", hold_nanos=1, created_at_ms=begin - 1))
    await store.place_hold(new_request("first", account_id=account.id, key_id="key_1", created_at_ms=begin))

    assert refused.value.resets_at_ms == begin
    await assert_books_balance(store)
    await store.close()
