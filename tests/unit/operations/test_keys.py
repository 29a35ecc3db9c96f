"""Operations on keys that exist: what the operator reads, and that the gateway knows it first."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy.core.money import Nanos
from proxy.operations.operation import Answer, Operator
from proxy.operations.parameters import ParameterError
from proxy.operations.table import run
from proxy.store import open_store
from proxy.store.contract import Store
from proxy.store.errors import StoreRefusedError
from tests.support.books import assert_books_balance
from tests.support.store import NOW_MS, new_request, pay, settlement
from tests.support.video_jobs import Clock

YUAN = 10**9


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await open_store(f"sqlite:{tmp_path / 'books.db'}")
    yield store
    await store.close()


class Desk:
    """An operator beside a gateway that acts on changes, with one key."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.changes = 0
        self.clock = Clock(NOW_MS)
        self.operator = Operator(store, self.clock, store.zone, self._changed)
        self.key = ""
        self.account_id = 0

    async def _changed(self) -> None:
        self.changes += 1

    async def run(self, name: str, **parameters: Any) -> Answer:
        return await run(self.operator, name, parameters)

    async def listed(self) -> dict[str, dict[str, Any]]:
        return {key["id"]: key for key in (await self.run("key.list"))["keys"]}


@pytest.fixture
async def desk(store: Store) -> Desk:
    desk = Desk(store)
    desk.account_id = (await store.create_account("acme", Nanos(100 * YUAN), NOW_MS)).id
    made = await desk.run("key.create", account="acme", label="web", spend="5/day,50/month", rpm="60", models="doubao-*", expires="90d")
    desk.key = made["id"]
    desk.changes = 0
    return desk


async def test_a_key_is_listed_with_its_limits_and_what_is_used_of_them(desk: Desk) -> None:
    paid = new_request("paid", account_id=desk.account_id, key_id=desk.key, hold_nanos=2 * YUAN)
    await pay(desk.store, paid, settlement(YUAN // 2))
    await desk.store.place_hold(new_request("open", account_id=desk.account_id, key_id=desk.key, hold_nanos=YUAN))
    await desk.store.note_use({desk.key: NOW_MS})

    key = (await desk.listed())[desk.key]

    assert (key["state"], key["last_used_at"], key["expires_at"]) == (
        "live",
        "2025-11-24T16:00:00.000Z",
        "2026-02-23T00:00:00.000+08:00",
    )
    assert (key["models"], key["networks"], key["rpm"], key["tpm"], key["concurrent"]) == (["doubao-*"], [], 60, None, None)
    assert key["spend"] == [
        {"per": "day", "limit": "5.00", "spent": "0.50", "held": "1.00", "left": "3.50"},
        {"per": "month", "limit": "50.00", "spent": "0.50", "held": "1.00", "left": "48.50"},
    ]
    assert (await desk.run("key.find", prefix=key["prefix"]))["keys"] == [key]
    await assert_books_balance(desk.store)


async def test_a_key_is_set_paused_and_resumed_and_the_gateway_is_told_each_time(desk: Desk) -> None:
    changed = await desk.run("key.set", id=desk.key, spend="none/month", models="none")
    paused = await desk.run("key.pause", id=desk.key)
    again = await desk.run("key.pause", id=desk.key)
    resumed = await desk.run("key.resume", id=desk.key)

    assert ([one["per"] for one in changed["spend"]], changed["models"], changed["rpm"]) == (["day"], [], 60)
    assert (paused["state"], paused["paused_at"]) == (again["state"], again["paused_at"]) == ("paused", "2025-11-24T16:00:00.000Z")
    assert (resumed["state"], resumed["paused_at"]) == ("live", None)
    assert desk.changes == 4


async def test_a_key_is_rolled_and_the_old_secret_is_seen_to_end(desk: Desk) -> None:
    rolled = await desk.run("key.roll", id=desk.key, overlap="24h")

    assert rolled.keys() == {"id", "key", "account", "name", "old_id", "old_ends_at"}
    assert (rolled["name"], rolled["old_id"], rolled["old_ends_at"]) == ("web", desk.key, "2025-11-25T16:00:00.000Z")
    keys = await desk.listed()
    assert [(key["state"], key["rolled_from"], key["rpm"]) for key in keys.values()] == [("live", None, 60), ("live", desk.key, 60)]
    desk.clock.at_ms += 24 * 3_600_000
    assert [key["state"] for key in (await desk.listed()).values()] == ["rolled", "live"]
    (found,) = (await desk.run("key.find", prefix=rolled["key"]))["keys"]
    assert (found["id"], found["account"], found["state"]) == (rolled["id"], "acme", "live")
    revoked = await desk.run("key.revoke", id=desk.key)
    assert revoked["state"] == "revoked"
    assert [key["state"] for key in (await desk.listed()).values()] == ["revoked", "revoked"]
    assert desk.changes == 2


async def test_an_account_is_set_suspended_and_resumed(desk: Desk) -> None:
    limited = await desk.run("account.set", account="acme", spend="500/month", concurrent="4")
    suspended = await desk.run("account.suspend", account="acme")
    shown = await desk.run("account.show", account="acme")
    resumed = await desk.run("account.resume", account="acme")

    assert limited["spend"] == [{"per": "month", "limit": "500.00", "spent": "0.00", "held": "0.00", "left": "500.00"}]
    assert suspended["paused_at"] == shown["paused_at"] == "2025-11-24T16:00:00.000Z"
    assert (shown["concurrent"], [key["id"] for key in shown["keys"]]) == (4, [desk.key])
    assert resumed["paused_at"] is None
    assert [one["state"] for one in (limited, suspended, shown, resumed)] == ["open", "suspended", "suspended", "open"]
    assert desk.changes == 3


async def test_accounts_are_listed_each_with_its_own_state_limits_and_use(desk: Desk) -> None:
    """Worked out by hand: 0.50 of acme's request count for acme; its key's daily limit does not."""
    for name in ("closed", "ended", "plain"):
        await desk.run("account.create", account=name)
    await desk.run("account.set", account="acme", spend="500/month", rpm="60", expires="1d")
    await desk.run("account.set", account="ended", spend="7/day", expires="1h")
    await desk.run("account.suspend", account="acme")
    closed = await desk.run("account.close", account="closed")
    await pay(desk.store, new_request("paid", account_id=desk.account_id, key_id=desk.key, hold_nanos=YUAN), settlement(YUAN // 2))
    desk.clock.at_ms += 3_600_000

    accounts = {account["name"]: account for account in (await desk.run("account.list"))["accounts"]}

    assert {name: account["state"] for name, account in accounts.items()} == {
        "acme": "suspended",
        "closed": "closed",
        "ended": "expired",
        "plain": "open",
    }
    assert accounts["acme"]["spend"] == [{"per": "month", "limit": "500.00", "spent": "0.50", "held": "0.00", "left": "499.50"}]
    assert [one["left"] for one in accounts["ended"]["spend"]] == ["7.00"]
    assert (accounts["plain"]["spend"], accounts["plain"]["rpm"], accounts["acme"]["rpm"]) == ([], None, 60)
    assert accounts["closed"] == closed
    await assert_books_balance(desk.store)


async def test_what_cannot_be_is_refused_and_changes_nothing(desk: Desk) -> None:
    before = await desk.listed()
    for name, parameters, said in (
        ("key.set", {"id": desk.key, "expires": "2025-11-24"}, "expires: '2025-11-24' is over already"),
        ("key.roll", {"id": desk.key, "overlap": "soon"}, "overlap: 'soon' is no span of time"),
        ("key.roll", {"id": desk.key, "secret": "sk_" + "a" * 43}, "new_id: goes with a secret"),
        ("key.find", {"prefix": "sk_"}, "prefix: 5 characters at least"),
        ("key.set", {"id": "key_none", "rpm": "1"}, "there is no key key_none"),
        ("account.suspend", {"account": "nobody"}, "there is no account nobody"),
    ):
        with pytest.raises((ParameterError, StoreRefusedError), match=f"^{said}"):
            await desk.run(name, **parameters)

    assert await desk.listed() == before
    assert desk.changes == 0
