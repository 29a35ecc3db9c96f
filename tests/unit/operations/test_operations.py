"""The operator's operations on a real store."""

import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from proxy.core import pricing
from proxy.core.catalog import ChatPrice, ChatTier, ImagePrice, Kind, Price, VideoPrice, VideoRate
from proxy.core.days import UTC
from proxy.core.money import Nanos
from proxy.core.settlement import TokenUsage, UsageSource
from proxy.operations.operation import NotLiveError, Operator
from proxy.operations.parameters import ParameterError, UnknownOperationError
from proxy.operations.table import OPERATIONS, prepare, run
from proxy.store.contract import Store
from proxy.store.errors import (
    AccountExistsError,
    AccountNotFoundError,
    InsufficientFundsError,
    KeyNotFoundError,
    StoreRefusedError,
    StoreUnavailableError,
)
from proxy.store.sqlite import open_store
from proxy.store.values import NewRequest
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, new_request, pay, settlement

CHAT_PRICE = ChatPrice((ChatTier(None, input=Nanos(800), output=Nanos(2000), cached_input=Nanos(160)),))


class StandingClock:
    def now_ms(self) -> int:
        return NOW_MS

    def monotonic(self) -> float:
        return 0.0


class Changes:
    """Records the notifications of the running gateway, with the keys that were then in the store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.live_keys: list[set[str]] = []
        self.failure: Exception | None = None

    async def __call__(self) -> None:
        if self.failure is not None:
            raise self.failure
        self.live_keys.append({grant.key_id for grant in await self.store.grants()})


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(tmp_path / "books.db")
    yield opened
    await assert_books_balance(opened)
    await opened.close()


@pytest.fixture
def changes(store: Store) -> Changes:
    return Changes(store)


@pytest.fixture
def operator(store: Store, changes: Changes) -> Operator:
    return Operator(store, StandingClock(), UTC, changes)


NO_LIMITS: dict[str, Any] = {
    "state": "open",
    "expires_at": None,
    "paused_at": None,
    "models": [],
    "networks": [],
    "rpm": None,
    "tpm": None,
    "concurrent": None,
    "spend": [],
}


async def settled(store: Store, request: NewRequest, **outcome: Any) -> None:
    await pay(store, request, settlement(**outcome), NOW_MS + 1500)


def priced(price: Price, **fields: Any) -> NewRequest:
    return structs.replace(new_request(**fields), price=pricing.freeze(price))


async def test_an_account_begins_with_its_credit_in_yuan(operator: Operator) -> None:
    created = await run(operator, "account.create", {"account": "acme", "credit": "100.00"})

    expected = {"name": "acme", "balance": "100.00", "held": "0.00", "available": "100.00", "currency": "CNY", "discount": "1"}
    assert {name: created[name] for name in expected} == expected
    assert created["created_at"] == "2025-11-24T16:00:00.000Z"
    (listed,) = (await run(operator, "account.list", {}))["accounts"]
    account = {name: created[name] for name in ("id", *expected, "created_at", "closed_at")}
    assert {name: listed[name] for name in account} == account
    assert {name: value for name, value in listed.items() if name not in account} == NO_LIMITS


async def test_an_account_is_opened_once(operator: Operator) -> None:
    await run(operator, "account.create", {"account": "acme", "credit": "1"})

    with pytest.raises(AccountExistsError):
        await run(operator, "account.create", {"account": "acme", "credit": "1"})

    assert (await run(operator, "account.show", {"account": "acme"}))["balance"] == "1.00"


async def test_money_goes_in_and_out_again_but_never_below_nothing(operator: Operator) -> None:
    await run(operator, "account.create", {"account": "acme"})

    credited = await run(operator, "account.credit", {"account": "acme", "amount": "0.000000001", "note": "the least there is"})
    taken = await run(operator, "account.credit", {"account": "acme", "amount": "-0.000000001"})

    assert (credited["balance"], taken["balance"]) == ("0.000000001", "0.00")
    with pytest.raises(InsufficientFundsError):
        await run(operator, "account.credit", {"account": "acme", "amount": "-0.01"})


async def test_held_money_cannot_be_taken_back(operator: Operator, store: Store) -> None:
    account = await run(operator, "account.create", {"account": "acme", "credit": "1"})
    await store.place_hold(new_request(account_id=account["id"], hold_nanos=400_000_000))

    with pytest.raises(InsufficientFundsError):
        await run(operator, "account.credit", {"account": "acme", "amount": "-0.61"})  # 1.00 - 0.40 held = 0.60

    shown = await run(operator, "account.show", {"account": "acme"})
    assert (shown["balance"], shown["held"], shown["available"]) == ("1.00", "0.40", "0.60")


async def test_a_new_key_is_told_once_and_stored_as_its_digest(operator: Operator, store: Store) -> None:
    await run(operator, "account.create", {"account": "acme"})

    created = await run(operator, "key.create", {"account": "acme", "label": "web"})

    assert created.keys() == {"id", "key", "account", "name"}
    assert re.fullmatch(r"sk_[A-Za-z0-9_-]{43}", created["key"])
    (grant,) = await store.grants()
    assert (grant.sha256, grant.account_name) == (hashlib.sha256(created["key"].encode()).digest(), "acme")
    (listed,) = (await run(operator, "key.list", {}))["keys"]
    assert listed == {
        "id": created["id"],
        "name": "web",
        "prefix": created["key"][:10],
        "account": "acme",
        "state": "live",
        "created_at": "2025-11-24T16:00:00.000Z",
        "last_used_at": None,
        "rolled_from": None,
        "ends_at": None,
        "expires_at": None,
        "paused_at": None,
        "models": [],
        "networks": [],
        "rpm": None,
        "tpm": None,
        "concurrent": None,
        "spend": [],
        "revoked_at": None,
    }


async def test_the_gateway_knows_of_a_key_made_and_a_key_revoked_before_the_operator_does(operator: Operator, changes: Changes) -> None:
    await run(operator, "account.create", {"account": "acme"})
    created = await run(operator, "key.create", {"account": "acme"})
    revoked = await run(operator, "key.revoke", {"id": created["id"]})

    assert changes.live_keys == [set(), {created["id"]}, set()]
    assert revoked["revoked_at"] == "2025-11-24T16:00:00.000Z"


async def test_reading_and_booking_tell_the_gateway_nothing(operator: Operator, changes: Changes) -> None:
    await run(operator, "account.create", {"account": "acme", "credit": "1"})
    changes.live_keys.clear()

    for name, parameters in {
        "account.credit": {"account": "acme", "amount": "1"},
        "account.list": {},
        "key.list": {"account": "acme"},
        "usage": {},
        "ledger.verify": {},
    }.items():
        await run(operator, name, parameters)

    assert changes.live_keys == []


async def test_a_change_that_the_gateway_could_not_take_over_says_so(operator: Operator, changes: Changes, store: Store) -> None:
    await run(operator, "account.create", {"account": "acme"})
    changes.failure = StoreUnavailableError("disk I/O error")

    with pytest.raises(NotLiveError, match=r"^stored, but the running gateway could not take it over, restart it: disk I/O error$"):
        await run(operator, "key.create", {"account": "acme"})

    assert len(await store.keys("acme")) == 1


@pytest.mark.parametrize(
    ("name", "parameters", "error"),
    [
        ("account.show", {"account": "nobody"}, AccountNotFoundError),
        ("account.credit", {"account": "nobody", "amount": "1"}, AccountNotFoundError),
        ("key.create", {"account": "nobody"}, AccountNotFoundError),
        ("key.list", {"account": "nobody"}, AccountNotFoundError),
        ("key.revoke", {"id": "key_none"}, KeyNotFoundError),
        ("usage", {"account": "nobody"}, AccountNotFoundError),
        ("receipt", {"id": "req_none"}, StoreRefusedError),
        ("account.credit", {"account": "revenue", "amount": "1"}, StoreRefusedError),
    ],
)
async def test_what_is_not_there_is_refused(operator: Operator, name: str, parameters: dict[str, str], error: type[Exception]) -> None:
    with pytest.raises(error):
        await run(operator, name, parameters)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("account.create", {}, "Object missing required field `account`"),
        ("account.create", {"account": "a", "typo": 1}, "Object contains unknown field `typo`"),
        ("account.create", {"account": "a", "credit": 1.5}, "Expected `str`, got `float` - at `credit`"),
        ("account.create", {"account": "a", "credit": "-1"}, "credit: a new account cannot begin in debt"),
        ("account.create", {"account": "a\nb"}, "account: must have no control characters or invisible ones: character 2 is U+000A"),
        (
            "account.create",
            {"account": "moc\u202egpj"},
            "account: must have no control characters or invisible ones: character 4 is U+202E",
        ),
        ("account.create", {"account": "a\u3164"}, "account: must have no control characters or invisible ones: character 2 is U+3164"),
        (
            "key.create",
            {"account": "a", "label": "\x1b[31m"},
            "label: must have no control characters or invisible ones: character 1 is U+001B",
        ),
        ("account.credit", {"account": "a", "amount": "1", "note": "\x9b"}, "note: must have no control characters or invisible ones"),
        ("account.show", {"account": "\udcff"}, "account: is no UTF-8 text"),
        ("account.credit", {"account": "a", "amount": "1,5"}, "amount: no decimal number of yuan: '1,5'"),
        ("account.credit", {"account": "a", "amount": "0"}, "amount: there is nothing to book in 0"),
        ("account.credit", {"account": "a", "amount": "0.0000000001"}, "amount: more than 9 decimals: '0.0000000001'"),
        ("usage", {"since": "x"}, "since: 'x' is no date"),
        ("usage", {"by": "hour"}, "Invalid enum value 'hour' - at `by`"),
        ("backup", {"destination": "relative.db"}, "destination: must be an absolute path"),
        ("key.revoke", [], "Expected `object`, got `array`"),
    ],
)
def test_wrong_parameters_are_told_before_anything_is_touched(name: str, parameters: object, message: str) -> None:
    with pytest.raises(ParameterError, match=f"^{re.escape(message)}"):
        prepare(name, parameters)


def test_an_unknown_operation_is_answered_with_those_there_are() -> None:
    with pytest.raises(UnknownOperationError, match=r"account\.create, .*backup"):
        prepare("account.delete", {})


def test_exactly_the_operations_that_write_are_for_the_process_that_holds_the_store() -> None:
    assert {name for name, operation in OPERATIONS.items() if operation.changes} == {
        "account.create",
        "account.close",
        "account.credit",
        "account.set",
        "account.suspend",
        "account.resume",
        "key.create",
        "key.set",
        "key.pause",
        "key.resume",
        "key.roll",
        "key.revoke",
        "request.refund",
        "nodes.drain",
        "retention.fold",
    }


async def test_usage_sums_what_was_settled_in_the_time_asked_for(operator: Operator, store: Store) -> None:
    account = await run(operator, "account.create", {"account": "acme", "credit": "1"})
    usage = TokenUsage(prompt_tokens=20, completion_tokens=12, cached_tokens=5)
    for number, age_ms in enumerate((0, 1000, 9 * 86_400_000)):
        request = new_request(f"req_{number}", account_id=account["id"], hold_nanos=50_000, created_at_ms=NOW_MS - age_ms)
        await settled(store, request, charge_nanos=40_000, usage=usage, usage_source=UsageSource.ESTIMATED)

    answer = await run(operator, "usage", {"since": "7d", "until": "2025-11-24T16:00:00Z", "account": "acme"})

    # only one of the three counts, a second old: another is of this instant, which `until` excludes, and one is nine days old
    sums = {
        "requests": 1,
        "prompt_tokens": 20,
        "cached_tokens": 5,
        "completion_tokens": 12,
        "units": 0,
        "estimated": 1,
        "charge": "0.00004",
        "shortfall": "0.00",
        "refunded": "0.00",
    }
    assert answer["rows"] == [{"account": "acme", "model": "doubao-pro-32k"} | sums]
    assert answer["total"] == sums
    assert (answer["since"], answer["until"]) == ("2025-11-17T16:00:00.000+00:00", "2025-11-24T16:00:00.000+00:00")


async def test_a_time_that_ends_before_it_begins_is_refused(operator: Operator) -> None:
    with pytest.raises(ParameterError, match="since: is after until"):
        await run(operator, "usage", {"since": "1d", "until": "7d"})


async def test_the_receipt_of_a_chat_shows_its_formula(operator: Operator, store: Store) -> None:
    account = await run(operator, "account.create", {"account": "acme", "credit": "1"})
    usage = TokenUsage(prompt_tokens=20, completion_tokens=12, cached_tokens=0, reasoning_tokens=3)
    request = priced(CHAT_PRICE, account_id=account["id"], hold_nanos=100_000, stream=True)
    # 20 × 800 + 12 × 2000 = 40,000 nano-yuan
    await settled(store, request, charge_nanos=40_000, usage=usage)

    receipt = await run(operator, "receipt", {"id": "req_1"})

    assert receipt["formula"] == "20 × ¥0.8/M + 12 × ¥2/M = ¥0.00004"
    assert (receipt["hold"], receipt["charge"], receipt["shortfall"]) == ("0.0001", "0.00004", "0.00")
    assert (receipt["status"], receipt["outcome"], receipt["usage_source"]) == ("settled", "complete", "reported")
    assert receipt["usage"] == {"prompt_tokens": 20, "completion_tokens": 12, "cached_tokens": 0, "reasoning_tokens": 3}
    assert (receipt["created_at"], receipt["settled_at"]) == ("2025-11-24T16:00:00.000Z", "2025-11-24T16:00:01.500Z")
    assert receipt["price"] == {"tiers": [{"up_to": None, "input": 800, "output": 2000, "cached_input": 160}]}


@pytest.mark.parametrize(
    ("kind", "price", "units", "charge_nanos", "formula"),
    [
        (Kind.IMAGE, ImagePrice(Nanos(180_000_000)), 2, 360_000_000, "2 × ¥0.18 = ¥0.36"),
        # 1280 · 720 · 24 · 5 / 1024 = 108,000 tokens at ¥8 a million, halved for flex
        (Kind.VIDEO, VideoPrice(VideoRate(Nanos(8000), Nanos(16000)), {}, 500), 108_000, 432_000_000, "108000 × ¥4/M = ¥0.432"),
    ],
)
async def test_the_receipt_of_an_image_or_a_video_shows_the_rate_that_was_used(
    operator: Operator, store: Store, kind: Kind, price: Price, units: int, charge_nanos: int, formula: str
) -> None:
    account = await run(operator, "account.create", {"account": "acme", "credit": "1"})
    request = priced(price, account_id=account["id"], hold_nanos=900_000_000, kind=kind)
    await settled(store, request, charge_nanos=charge_nanos, units=units)

    assert (await run(operator, "receipt", {"id": "req_1"}))["formula"] == formula


async def test_a_receipt_whose_usage_exceeded_the_hold_shows_both(operator: Operator, store: Store) -> None:
    account = await run(operator, "account.create", {"account": "acme", "credit": "1"})
    request = priced(CHAT_PRICE, account_id=account["id"], hold_nanos=30_000)
    await settled(store, request, charge_nanos=30_000, shortfall_nanos=10_000, usage=TokenUsage(20, 12))

    receipt = await run(operator, "receipt", {"id": "req_1"})

    assert receipt["formula"] == "20 × ¥0.8/M + 12 × ¥2/M = ¥0.00004, charged ¥0.00003: never more than the hold"
    assert receipt["shortfall"] == "0.00001"


async def test_the_receipt_of_a_request_in_flight_knows_its_hold_only(operator: Operator, store: Store) -> None:
    account = await run(operator, "account.create", {"account": "acme", "credit": "1"})
    await store.place_hold(priced(CHAT_PRICE, account_id=account["id"], hold_nanos=100_000))

    receipt = await run(operator, "receipt", {"id": "req_1"})

    assert (receipt["status"], receipt["hold"], receipt["settled_at"]) == ("open", "0.0001", None)
    assert "charge" not in receipt


async def test_a_backup_is_a_store_of_its_own_with_the_same_books(operator: Operator, tmp_path: Path) -> None:
    await run(operator, "account.create", {"account": "acme", "credit": "12.34"})

    answer = await run(operator, "backup", {"destination": str(tmp_path / "copy.db")})

    assert answer["holds"]
    copy = await open_store(tmp_path / "copy.db", read_only=True)
    assert [account.balance_nanos for account in await copy.accounts()] == [12_340_000_000]
    await copy.close()


async def test_verify_names_each_check_with_its_figures(operator: Operator) -> None:
    await run(operator, "account.create", {"account": "acme", "credit": "1"})

    answer = await run(operator, "ledger.verify", {})

    assert answer["holds"]
    assert len(answer["checks"]) >= 8
    assert all(check["holds"] and check["figures"] and not check["offenders"] for check in answer["checks"])
