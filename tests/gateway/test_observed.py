"""The metrics of a call, scraped at the admin socket."""

import logging

import aiohttp
import pytest

from proxy.store.errors import StoreUnavailableError
from proxy.store.values import Account
from tests.support.gateway import Bench


async def scrape(gateway: Bench) -> dict[str, float]:
    connector = aiohttp.UnixConnector(str(gateway.admin_socket))
    async with aiohttp.ClientSession(connector=connector) as session, session.get("http://admin/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain")
        lines = (await response.text()).splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


async def test_calls_tokens_money_and_commits_are_counted(gateway: Bench) -> None:
    await gateway.chat()
    await gateway.chat(stream=True)
    await gateway.chat(messages=[])

    seen = await scrape(gateway)

    route, model = 'route="/chat/completions"', 'model="doubao-pro-32k"'
    assert seen[f'llm_proxy_requests_total{{{model},{route},status="200"}}'] == 2
    assert seen[f'llm_proxy_requests_total{{{model},{route},status="400"}}'] == 1
    assert seen[f'llm_proxy_outcomes_total{{{model},outcome="complete",{route},usage="reported"}}'] == 2
    assert seen[f'llm_proxy_tokens_total{{direction="input",{model}}}'] == 40
    assert seen[f'llm_proxy_tokens_total{{direction="output",{model}}}'] == 24
    assert round(seen[f"llm_proxy_charged_yuan_total{{{model}}}"], 9) == 0.00008  # 2 × ¥0.00004
    assert seen[f"llm_proxy_first_byte_seconds_count{{{route}}}"] == seen[f"llm_proxy_request_seconds_count{{{route}}}"] == 3
    assert seen["llm_proxy_open_streams"] == 0
    assert seen["llm_proxy_commit_operations_sum"] >= 4  # two holds, two settlements
    assert seen["llm_proxy_commit_seconds_count"] == seen["llm_proxy_commit_operations_count"]
    await gateway.assert_charged(80_000)


async def test_a_line_says_how_much_was_sent_and_how_long_the_upstream_took(gateway: Bench) -> None:
    whole = await gateway.chat()
    stream = await gateway.chat(stream=True)
    picture = await gateway.ask("/images/generations", {"prompt": "a lighthouse"})
    refused = await gateway.chat(model="made-up-model")
    looked_at = await gateway.ask("/models", method="HEAD")

    lines = gateway.log.written
    sent = [len(answer.body) for answer in (whole, stream, picture, refused, looked_at)]
    assert [line["bytes"] for line in lines] == sent
    assert sent[4] == 0
    assert ["upstream_ms" in line for line in lines] == [True, True, True, False, False]
    for line in lines[:3]:
        first_byte, upstream, total = (line[name] for name in ("first_byte_ms", "upstream_ms", "total_ms"))
        assert isinstance(upstream, float)
        assert isinstance(total, float)
        assert 0 < upstream <= total
        assert isinstance(first_byte, float)
        assert 0 < first_byte <= total
    assert lines[0]["upstream_id"] == whole.json["id"]
    await gateway.assert_charged(180_080_000)  # 2 × ¥0.00004 and a picture at ¥0.18


async def test_a_customer_cannot_make_up_a_label(gateway: Bench) -> None:
    await gateway.chat(model="made-up-model")
    await gateway.ask("/made-up-path")

    assert not [name for name in await scrape(gateway) if "made-up" in name]


async def test_a_store_that_does_not_answer_is_an_outage_and_no_bug(
    gateway: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_account_id: int) -> Account:
        raise StoreUnavailableError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(gateway.store, "account_by_id", fail)
        answer = await gateway.ask("/account")

    assert (answer.status, answer.error["code"], answer.headers["Retry-After"]) == (503, "MODEL_UNAVAILABLE", "5")
    assert "disk" not in answer.error["message"]
    (said,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert said.exc_info is None
    assert "disk I/O error" in said.getMessage()
