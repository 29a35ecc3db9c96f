"""Metrics are true: they agree with customers' answers and with the books, also while calls are under way."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from proxy.core.money import NANOS_PER_YUAN
from proxy.demo.ark import Close, answer_json, answer_sse, error
from proxy.store.contract import Store
from proxy.store.errors import StoreUnavailableError
from proxy.store.values import Census, UsageQuery
from proxy.tasks import TaskGroup
from tests.support.gateway import CANARY_KEY, MODEL, Bench, bench
from tests.support.images import paint
from tests.support.process import free_port
from tests.support.raw import connect, request
from tests.support.scraping import SCRAPED, Scrape, fallen, scrape, scrape_socket
from tests.support.stand import stand
from tests.support.videos import submitted

LOCAL = ("Host", "localhost:9464")
EVENT = b'data: {"choices":[{"delta":{"content":"Hel"},"index":0}],"id":"0217","usage":null}\n\n'
IMAGE_MODEL = "doubao-seedream-5-0-260128"
EVERY_SECONDS = 0.05
CUSTOMERS, CALLS = 10, 30


def counted_of(seen: Scrape, model: str) -> dict[str, float]:
    return {
        "requests": seen.value("llm_proxy_outcomes_total", model=model),
        "estimated": seen.value("llm_proxy_outcomes_total", model=model, usage="estimated"),
        "input": seen.value("llm_proxy_tokens_total", model=model, direction="input"),
        "cached": seen.value("llm_proxy_tokens_total", model=model, direction="cached"),
        "output": seen.value("llm_proxy_tokens_total", model=model, direction="output"),
        "units": seen.value("llm_proxy_units_total", model=model),
        "nanos": round(seen.value("llm_proxy_charged_yuan_total", model=model) * NANOS_PER_YUAN),
        "short": round(seen.value("llm_proxy_shortfall_yuan_total", model=model) * NANOS_PER_YUAN),
    }


async def assert_books_say_the_same(seen: Scrape, store: Store) -> None:
    """Compare requests, tokens, units, estimates and money with the sums over the ledger's rows, model by model."""
    rows = await store.usage(UsageQuery(by="model"))
    assert rows
    for model in {row.group for row in rows}:
        of_model = [row for row in rows if row.group == model]
        assert counted_of(seen, model) == {
            "requests": sum(row.requests for row in of_model),
            "estimated": sum(row.estimated for row in of_model),
            "input": sum(row.prompt_tokens - row.cached_tokens for row in of_model),
            "cached": sum(row.cached_tokens for row in of_model),
            "output": sum(row.completion_tokens for row in of_model),
            "units": sum(row.units for row in of_model),
            "nanos": sum(row.charge_nanos for row in of_model),
            "short": sum(row.shortfall_nanos for row in of_model),
        }, model
    held = sum(account.held_nanos for account in await store.accounts())
    assert round(seen.value("llm_proxy_held_yuan") * NANOS_PER_YUAN) == held


async def test_each_way_to_end_is_counted_to_the_nano_yuan(gateway: Bench) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 600}}
    gateway.ark.enqueue(answer_json(200, {"choices": [{"message": {}}], "usage": usage}))
    await gateway.chat(messages=[{"role": "user", "content": "p" * 2000}])
    gateway.ark.enqueue(answer_json(200, {"choices": [{"message": {}}], "usage": {"prompt_tokens": 20, "completion_tokens": 1000}}))
    await gateway.chat(max_tokens=10)
    gateway.ark.enqueue([*answer_sse(EVENT, end=False), Close()])
    await gateway.chat(stream=True)
    gateway.ark.enqueue(error(401, "AuthenticationError", "The API key is wrong"))
    await gateway.chat()
    await paint(gateway, n=2)
    await submitted(gateway)

    seen = await scrape_socket(gateway.admin_socket)

    outcomes = {
        tuple(dict(labels)[name] for name in ("route", "outcome", "usage")): value
        for (name, labels), value in seen.values.items()
        if name == "llm_proxy_outcomes_total"
    }
    assert outcomes == {
        ("/chat/completions", "complete", "reported"): 2,
        ("/chat/completions", "upstream_cut", "estimated"): 1,
        ("/chat/completions", "upstream_error", "none"): 1,
        ("/images/generations", "complete", "reported"): 1,
    }
    tokens = {name: seen.value("llm_proxy_tokens_total", model=MODEL, direction=name) for name in ("input", "cached", "output")}
    assert tokens == {"input": 400 + 20, "cached": 600, "output": 10 + 1000 + 1}  # the 1 is the event of the cut stream
    # 400 × 800 + 600 × 160 + 10 × 2,000; held and charged: 293 × 800 + 10 × 2,000; the event: 2,000 nano-yuan
    assert round(seen.value("llm_proxy_charged_yuan_total", model=MODEL), 9) == 0.0006924
    assert round(seen.value("llm_proxy_charged_yuan_total", model=IMAGE_MODEL), 9) == 0.36
    assert seen.value("llm_proxy_units_total", model=IMAGE_MODEL) == 2
    # used: 20 × 800 + 1,000 × 2,000 nano-yuan
    assert round(seen.value("llm_proxy_shortfall_yuan_total"), 9) == round(0.002016 - 0.0002544, 9)
    assert seen.value("llm_proxy_shortfalls_total", model=MODEL) == 1
    assert seen.value("llm_proxy_upstream_errors_total", cause="operator") == 1
    assert seen.value("llm_proxy_upstream_errors_total", cause="upstream_cut") == 1
    assert (seen.value("llm_proxy_held_yuan"), seen.value("llm_proxy_open_holds")) == (0.864, 1)  # the video's
    assert seen.value("llm_proxy_video_tasks", state="pending") == 1
    await assert_books_say_the_same(seen, gateway.store)


async def test_what_an_alert_waits_for_is_there_before_it_happens(gateway: Bench) -> None:
    seen = await scrape_socket(gateway.admin_socket)

    for name in ("llm_proxy_shortfalls_total", "llm_proxy_upstream_errors_total", "llm_proxy_commit_failures_total"):
        assert [value for (found, _), value in seen.values.items() if found == name and value == 0]
    assert seen.value("llm_proxy_store_up") == seen.value("llm_proxy_build_info") == 1
    assert seen.value("llm_proxy_client_connections", door="admin") == 1
    assert 0 < seen.value("process_open_fds") < seen.value("process_max_fds")
    assert seen.value("llm_proxy_disk_free_bytes") > seen.value("llm_proxy_wal_bytes") > 0


@pytest.mark.timeout(300)
async def test_scrapes_beside_a_mixed_load_parse_never_fall_hurt_nobody_and_end_at_what_the_books_say(tmp_path: Path) -> None:
    port = free_port()
    seen: list[Scrape] = []
    scraper = TaskGroup("scraper")
    async with stand(tmp_path, event_seconds=0.005, admin=SCRAPED.format(port=port)) as everything:
        assert await everything.start()
        async with aiohttp.ClientSession() as session:

            async def scrape_on() -> None:
                while True:
                    seen.append(await scrape(session, f"http://127.0.0.1:{port}"))
                    await asyncio.sleep(EVERY_SECONDS)

            scraping = scraper.spawn(scrape_on(), "scrape")
            await everything.customers(CUSTOMERS, calls=CALLS)
            await everything.all_ended()
            assert not scraping.done(), "a scrape failed"
            await scraper.cancel()
            last = await scrape(session, f"http://127.0.0.1:{port}")

        assert len(seen) >= 5
        assert fallen([*seen, last]) == []
        assert max(one.value("llm_proxy_open_streams") for one in seen) > 0
        assert max(one.value("llm_proxy_held_yuan") for one in seen) > 0
        assert last.value("llm_proxy_open_streams") == last.value("llm_proxy_held_yuan") == last.value("llm_proxy_open_holds") == 0
        async with everything.gateway.looked_into() as store:
            await assert_books_say_the_same(last, store)
        assert await everything.losses(all_ended=True) == []


async def test_the_address_of_the_metrics_shows_them_and_nothing_else(tmp_path: Path) -> None:
    async with bench(tmp_path, admin=SCRAPED.format(port=0)) as gateway:
        await gateway.chat()
        (address,) = gateway.scraped_at

        async with connect(address) as client:
            whole = await client.ask(request("GET", "/metrics", LOCAL, host=False))
            head = await client.ask(request("HEAD", "/metrics", LOCAL, host=False), head=True)
            others = [await client.ask(request("GET", path)) for path in ("/", "/healthz", "/readyz", "/v1/models", "/metrics/x")]
            others.append(await client.ask(request("POST", "/operations/account.list", body=b"{}")))
            posted = await client.ask(request("POST", "/metrics", body=b"{}"))

        assert (whole.status, head.status, posted.status) == (200, 200, 405)
        assert b"llm_proxy_charged_yuan_total" in whole.body
        assert {answer.status for answer in others} == {404}
        assert gateway.key.encode() not in whole.body
        assert CANARY_KEY.encode() not in whole.body


@pytest.mark.parametrize("header", [("Origin", "https://elsewhere.example"), ("Host", "elsewhere.example:9464")])
async def test_a_web_page_may_not_read_what_is_earned(tmp_path: Path, header: tuple[str, str]) -> None:
    # the second page's own name resolves to this machine (DNS rebinding): with a GET to its own origin it sends no Origin
    local = [] if header[0] == "Host" else [LOCAL]
    async with bench(tmp_path, admin=SCRAPED.format(port=0)) as gateway, connect(gateway.scraped_at[0]) as client:
        answer = await client.ask(request("GET", "/metrics", *local, header, host=False))

    assert (answer.status, answer.error["param"]) == (400, header[0])


async def test_a_store_that_hangs_or_fails_is_told_by_a_scrape_that_goes_without_it(
    gateway: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = asyncio.Event()

    async def hang() -> Census:
        await never.wait()
        raise AssertionError

    async def fail() -> Census:
        raise StoreUnavailableError("disk I/O error")

    monkeypatch.setattr("proxy.telemetry.collectors.LOOK_SECONDS_MAX", 0.05)
    for answer in (hang, fail):
        with monkeypatch.context() as patch:
            patch.setattr(gateway.store, "census", answer)
            seen = await scrape_socket(gateway.admin_socket)

        assert seen.value("llm_proxy_store_up") == 0
        assert "llm_proxy_held_yuan" not in seen.names
        assert "llm_proxy_open_streams" in seen.names
    assert (await scrape_socket(gateway.admin_socket)).value("llm_proxy_store_up") == 1


async def test_the_end_of_the_process_is_seen_by_who_scrapes_it(gateway: Bench) -> None:
    before = await scrape_socket(gateway.admin_socket)

    gateway.stop.request()

    after = await scrape_socket(gateway.admin_socket)
    assert (before.value("llm_proxy_draining"), after.value("llm_proxy_draining")) == (0, 1)
