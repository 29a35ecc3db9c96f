"""A customer with another's ids, or nearly another's key: the answers are those for an unknown id, and no money moves."""

import random
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from proxy import ids
from tests.support.books import assert_books_balance
from tests.support.gateway import Bench, Reply
from tests.support.videos import ask_operator

ORDER = {"Idempotency-Key": "order-1"}
LIGHTHOUSE = {"prompt": "alice's lighthouse"}


@dataclass
class Neighbours:
    """Two accounts on one gateway; alice's has one request of each kind."""

    gateway: Bench
    bob: str
    """Bob's key. Alice's is the gateway's `key`."""
    ids: dict[str, str]
    """Ids of alice's requests, by kind."""

    async def as_bob(self, path: str, body: Any = None, **more: Any) -> Reply:
        return await self.gateway.ask(path, body, key=self.bob, **more)


async def new_key(gateway: Bench, account: str) -> dict[str, str]:
    """Create a key through the admin socket."""
    made: dict[str, str] = orjson.loads(await ask_operator(gateway, "/operations/key.create", {"account": account}))
    return made


@pytest.fixture
async def neighbours(gateway: Bench) -> AsyncIterator[Neighbours]:
    await ask_operator(gateway, "/operations/account.create", {"account": "bob", "credit": "100"})
    bob = (await new_key(gateway, "bob"))["key"]
    chat = await gateway.chat()
    image = await gateway.ask("/images/generations", LIGHTHOUSE, headers=ORDER)
    video = await gateway.ask("/videos/generations", {"prompt": "alice's waves"})
    assert [reply.status for reply in (chat, image, video)] == [200] * 3
    yield Neighbours(
        gateway,
        bob,
        {"chat": chat.headers["x-request-id"], "image": image.headers["x-request-id"], "video": video.json["id"]},
    )
    await assert_books_balance(gateway.store)


def told(reply: Reply, asked: str) -> tuple[int, dict[str, Any]]:
    """Return an answer's status and error, with the requested id replaced."""
    return reply.status, {**reply.error, "message": reply.error["message"].replace(asked, "ID")}


@pytest.mark.parametrize("kind", ["chat", "image", "video"])
async def test_another_accounts_receipt_is_no_receipt(neighbours: Neighbours, kind: str) -> None:
    theirs, nobodys = neighbours.ids[kind], neighbours.ids[kind][:-4] + "zzzz"

    seen = await neighbours.as_bob(f"/usage/{theirs}")
    unknown = await neighbours.as_bob(f"/usage/{nobodys}")
    own = await neighbours.gateway.ask(f"/usage/{theirs}")

    assert own.status == 200
    assert told(seen, theirs) == told(unknown, nobodys)
    assert seen.status == 404


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("kind", ["chat", "image", "video"])
async def test_another_accounts_task_is_no_task_and_cannot_be_cancelled(neighbours: Neighbours, kind: str, method: str) -> None:
    theirs, nobodys = neighbours.ids[kind], "vreq_" + "z" * 20

    seen = await neighbours.as_bob(f"/videos/tasks/{theirs}", method=method)
    unknown = await neighbours.as_bob(f"/videos/tasks/{nobodys}", method=method)

    assert told(seen, theirs) == told(unknown, nobodys)
    assert (seen.status, seen.error["code"]) == (404, "TASK_NOT_FOUND")
    task = await neighbours.gateway.store.task(neighbours.ids["video"])
    assert task is not None
    assert task.ended_at_ms is None


async def test_lists_and_sums_hold_ones_own_only(neighbours: Neighbours) -> None:
    listed = await neighbours.as_bob("/videos/tasks?limit=100")
    account = await neighbours.as_bob("/account")

    assert neighbours.ids["video"] not in listed.body.decode()
    assert "alice" not in listed.body.decode()
    assert {name: account.json[name] for name in ("name", "balance", "held")} == {"name": "bob", "balance": "100.00", "held": "0.00"}


async def test_an_idempotency_key_is_its_accounts_alone(neighbours: Neighbours) -> None:
    asked = len(neighbours.gateway.ark.calls)

    same = await neighbours.as_bob("/images/generations", LIGHTHOUSE, headers=ORDER)
    other = await neighbours.as_bob("/images/generations", {"prompt": "bob's own"}, headers={"Idempotency-Key": "order-2"})
    again = await neighbours.gateway.ask("/images/generations", LIGHTHOUSE, headers=ORDER)

    assert [reply.status for reply in (same, other, again)] == [200] * 3
    assert same.headers["x-request-id"] != neighbours.ids["image"]
    assert neighbours.ids["image"] not in same.body.decode()
    assert again.json["request_id"] == neighbours.ids["image"], "her own retry is still answered"
    assert len(neighbours.gateway.ark.calls) == asked + 2


def nearly(key: str) -> list[str]:
    """Return keys that a careless comparison would accept as this one."""
    swapped = "".join(char.lower() if char.isupper() else char.upper() for char in key[3:])
    changed = [key[:at] + ("A" if key[at] != "A" else "B") + key[at + 1 :] for at in range(3, len(key))]
    shortened = [key[:length] for length in range(4, len(key))]
    lengthened = [key + char for char in ("A", "=", ".", "/", "%00", "\\0")]
    return [*changed, *shortened, *lengthened, "sk_" + swapped, key[3:], "SK_" + key[3:], "sk_sk_" + key[3:], key * 2]


async def test_a_key_that_shares_all_but_one_character_is_no_key(gateway: Bench) -> None:
    statuses = {key: (await gateway.ask("/account", key=key)).status for key in nearly(gateway.key)}

    assert set(statuses.values()) == {401}, statuses
    assert (await gateway.ask("/account")).status == 200


async def test_what_a_store_shows_of_a_key_opens_nothing(gateway: Bench) -> None:
    """The id, the prefix and every form of the hash are refused: a backup gives its reader no key."""
    (key,) = await gateway.store.keys("acme")
    digest = ids.digest(gateway.key)

    for text in (key.id, key.prefix, digest.hex(), digest.hex().upper(), "sk_" + digest.hex(), f"sha256:{digest.hex()}"):
        assert (await gateway.ask("/account", key=text)).status == 401


ROUNDS = 300


async def test_an_unknown_key_and_a_revoked_one_are_told_alike_and_in_like_time(gateway: Bench) -> None:
    """A revoked key, an unknown key and one with a right beginning must be indistinguishable."""
    revoked = await new_key(gateway, "acme")
    await ask_operator(gateway, "/operations/key.revoke", {"id": revoked["id"]})
    keys = {"revoked": revoked["key"], "unknown": ids.new_secret().text, "nearly": gateway.key[:-1] + "_"}
    seconds: dict[str, list[float]] = {name: [] for name in keys}
    bodies: set[bytes] = set()
    order = [name for name in keys for _ in range(ROUNDS)]
    random.Random(7).shuffle(order)  # other load on this machine then affects all of them alike

    for name in order:
        began = time.perf_counter()
        reply = await gateway.ask("/account", key=keys[name])
        seconds[name].append(time.perf_counter() - began)
        assert reply.status == 401
        bodies.add(reply.body)

    assert len(bodies) == 1
    middle = {name: statistics.median(taken) for name, taken in seconds.items()}
    assert max(middle.values()) < 2 * min(middle.values()), middle
