"""Money limits through a whole gateway: what the customer is told, at once after the operator's command."""

from typing import Any

import aiohttp
import orjson

from tests.support.gateway import Bench


async def operate(gateway: Bench, operation: str, **parameters: Any) -> dict[str, Any]:
    connector = aiohttp.UnixConnector(str(gateway.admin_socket))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post(f"http://admin/operations/{operation}", data=orjson.dumps(parameters)) as response,
    ):
        answer: dict[str, Any] = orjson.loads(await response.read())
        assert response.status == 200, answer
        return answer


async def test_a_call_above_a_money_limit_is_told_what_is_left_and_not_to_ask_again(gateway: Bench) -> None:
    (key,) = (await operate(gateway, "key.list"))["keys"]
    await operate(gateway, "key.set", id=key["id"], spend="0.000000001/day")

    refused = await gateway.chat()

    assert (refused.status, refused.error["type"], refused.error["code"]) == (402, "insufficient_balance_error", "KEY_LIMIT_REACHED")
    assert refused.error["message"].startswith("This key may spend ¥0.000000001 a day, which begins anew at 20")
    assert "¥0.000000001 of it is left, and this request needs ¥0." in refused.error["message"]
    assert refused.headers["x-should-retry"] == "false"
    await operate(gateway, "key.set", id=key["id"], spend="none/day")
    assert (await gateway.chat()).status == 200
    await gateway.assert_charged(40_000)


async def test_a_rolled_key_spends_with_the_one_before(gateway: Bench) -> None:
    (key,) = (await operate(gateway, "key.list"))["keys"]
    await operate(gateway, "key.set", id=key["id"], spend="1/total")
    rolled = await operate(gateway, "key.roll", id=key["id"], overlap="1h")

    assert [(await gateway.chat()).status, (await gateway.ask("/account", key=rolled["key"])).status] == [200, 200]

    keys = (await operate(gateway, "key.list"))["keys"]
    assert [one["spend"][0]["spent"] for one in keys] == ["0.00004", "0.00004"]
    await gateway.assert_charged(40_000)
