"""Folding of old requests while the gateway serves: what the operator and the customer see, and that no call is disturbed."""

import asyncio
from typing import Any

import aiohttp
import orjson

from proxy.core.retention import DAY_MS, REQUEST_DAYS_MIN
from proxy.store.contract import FOLD_REQUESTS_MAX
from proxy.store.values import UsageQuery
from tests.support.gateway import Bench
from tests.support.store import new_request, new_video, pay, settlement

OLD_MS = 1_764_000_000_000
OLD = 3 * FOLD_REQUESTS_MAX + 7
DAYS = REQUEST_DAYS_MIN


async def grown_old(gateway: Bench, count: int = OLD) -> None:
    """Place and settle requests of the account in the past, each at 7 nano-yuan, and one video at 9."""
    requests = [new_request(f"req_{n}", account_id=gateway.account_id, created_at_ms=OLD_MS + n) for n in range(count)]
    await asyncio.gather(*(pay(gateway.store, request, settlement(7), OLD_MS) for request in requests))
    await pay(gateway.store, new_video(account_id=gateway.account_id, created_at_ms=OLD_MS), settlement(9), OLD_MS)


async def operate(gateway: Bench, operation: str, **parameters: Any) -> dict[str, Any]:
    connector = aiohttp.UnixConnector(str(gateway.admin_socket))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post(f"http://admin/operations/{operation}", data=orjson.dumps(parameters)) as response,
    ):
        answer: dict[str, Any] = orjson.loads(await response.read())
        return answer


async def test_requests_are_folded_under_load_and_every_call_succeeds(gateway: Bench) -> None:
    await grown_old(gateway)
    before = await gateway.store.usage(UsageQuery(by="day", until_ms=OLD_MS + DAY_MS))
    looked = await operate(gateway, "retention.look", days=DAYS)

    async def fold() -> int:
        folded, is_done = 0, False
        while not is_done:
            answer = await operate(gateway, "retention.fold", days=DAYS)
            folded, is_done = folded + answer["folded"], answer["done"]
        return folded

    folded, answers = await asyncio.gather(fold(), asyncio.gather(*(gateway.chat(stream=n % 2 == 0) for n in range(60))))

    assert (looked["accounts"], looked["requests"], folded) == (1, OLD + 1, OLD + 1)
    assert [answer.status for answer in answers] == [200] * 60
    assert await gateway.store.usage(UsageQuery(by="day", until_ms=OLD_MS + DAY_MS)) == before
    await gateway.assert_charged(OLD * 7 + 9 + 60 * 40_000)


async def test_fewer_days_than_a_video_is_remembered_are_refused(gateway: Bench) -> None:
    for operation in ("retention.look", "retention.fold"):
        refused = await operate(gateway, operation, days=DAYS - 1)
        assert refused["error"]["code"] == "INVALID_PARAMETER"
        assert "days" in refused["error"]["message"]


async def test_the_customer_is_told_where_a_receipt_and_a_task_went(gateway: Bench) -> None:
    await grown_old(gateway, 1)
    other = await operate(gateway, "account.create", account="other")
    others = (await operate(gateway, "key.create", account=other["name"]))["key"]
    await operate(gateway, "retention.fold", days=DAYS)

    receipt = await gateway.ask("/usage/req_0")
    task = await gateway.ask("/videos/tasks/vreq_1")

    assert (receipt.status, receipt.error["code"]) == (404, "NOT_FOUND")
    assert receipt.error["message"] == "The receipt of this request of 2025-11-25 is no longer kept. It cost 0.000000007 CNY"
    assert (task.status, task.error["code"]) == (404, "TASK_NOT_FOUND")
    assert task.error["message"] == "This task of 2025-11-25 is no longer kept"
    assert (await gateway.ask("/videos/tasks")).json["data"] == []
    for path, unknown in (("/usage/req_0", "/usage/req_1"), ("/videos/tasks/vreq_1", "/videos/tasks/vreq_2")):
        answers = [await gateway.ask(asked, key=others) for asked in (path, unknown)]
        assert answers[0].body == answers[1].body  # to every other customer it has never existed
