"""A reload while the gateway runs: each setting takes effect, open calls keep their old one, and a fault changes nothing."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.demo.ark import LAST_CHUNK, TASKS, Hang, Send, Settings, StandIn, Timeline, Wait, answer_json, answer_sse, chunk
from tests.support.books import assert_books_balance
from tests.support.connect_proxy import connect_proxy, saying
from tests.support.gateway import BALANCE, CANARY_KEY, MODEL, Bench, bench
from tests.support.raw import connect, request
from tests.support.raw_chat import raw_chat
from tests.support.videos import QUICK, SILENT, ended, look, quick_bench, submit, submitted

CHARGE = 40_000
"""20 and 12 tokens at ¥0.8 and ¥2.0 a million."""
DEARER = 20 * 1_600 + 12 * 4_000
"""The same at ¥1.6 and ¥4.0."""
OLD_PRICE = 'price = { input = "0.8", output = "2.0", cached_input = "0.16" }'
NEW_PRICE = 'price = { input = "1.6", output = "4.0", cached_input = "0.16" }'
EVENT = b'data: {"choices":[{"delta":{"content":"Hel"},"index":0}],"id":"0217","usage":null}\n\n'
END = b'data: {"choices":[],"id":"0217","usage":{"completion_tokens":12,"prompt_tokens":20,"total_tokens":32}}\n\ndata: [DONE]\n\n'


def raw_request(gateway: Bench, **fields: Any) -> bytes:
    body = orjson.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], **fields})
    return request("POST", "/api/v1/chat/completions", ("Authorization", f"Bearer {gateway.key}"), body=body)


async def operate(gateway: Bench, name: str = "reload", **parameters: Any) -> tuple[int, Any]:
    """Carry out an operation through the admin socket; return its status and answer."""
    connector = aiohttp.UnixConnector(path=str(gateway.admin_socket))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post(f"http://gateway/operations/{name}", json=parameters) as response,
    ):
        return response.status, orjson.loads(await response.read())


def edit(gateway: Bench, *changes: tuple[str, str]) -> None:
    """Replace texts in the configuration file."""
    path = gateway.directory / "config.toml"
    text = path.read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text)


async def reload(gateway: Bench, *changes: tuple[str, str]) -> list[str]:
    """Change the file and reload it; return the keys that changed."""
    edit(gateway, *changes)
    status, answer = await operate(gateway)
    assert (status, answer["needs_restart"]) == (200, []), answer
    return [change["key"] for change in answer["changed"]]


# Prices and models.


async def test_calls_under_way_keep_their_prices_and_the_next_ones_have_the_new(gateway: Bench) -> None:
    finish = asyncio.Event()
    gateway.ark.enqueue([*answer_sse(EVENT, end=False), Wait(finish), Send(chunk(END) + LAST_CHUNK)])
    async with raw_chat(gateway.origin, gateway.key, stream=True) as held:
        await held.head()
        await held.first_bytes(len(EVENT))

        changed = await reload(gateway, (OLD_PRICE, NEW_PRICE))
        after = await gateway.chat()
        finish.set()
        await held.chunks()

    assert changed == ['models."doubao-pro-32k".price']
    assert after.status == 200
    lines = await gateway.log.until_chats(2)
    assert sorted(str(line["cost"]) for line in lines) == ["0.00004", "0.00008"]
    receipts = [(await gateway.ask(f"/usage/{line['request_id']}")).json for line in lines]
    assert {receipt["stream"]: receipt["formula"] for receipt in receipts} == {
        True: "20 × ¥0.8/M + 12 × ¥2/M = ¥0.00004",
        False: "20 × ¥1.6/M + 12 × ¥4/M = ¥0.00008",
    }
    await gateway.assert_charged(CHARGE + DEARER)


async def test_models_are_switched_off_taken_out_and_added(gateway: Bench) -> None:
    changed = await reload(
        gateway, ('id = "doubao-pro-32k"\n', 'id = "doubao-pro-32k"\nenabled = false\n'), ("tiered/chat", "new/chat")
    )

    assert changed == ['models."doubao-pro-32k".enabled', 'models."tiered/chat"', 'models."new/chat"']
    replies = {model: (await gateway.chat(model=model)) for model in (MODEL, "tiered/chat", "new/chat")}
    assert {model: reply.status for model, reply in replies.items()} == {MODEL: 503, "tiered/chat": 404, "new/chat": 200}
    assert replies[MODEL].error["code"] == "MODEL_UNAVAILABLE"
    listed = [model["id"] for model in (await gateway.ask("/models")).json["data"]]
    assert (MODEL in listed, "tiered/chat" in listed, "new/chat" in listed) == (False, False, True)
    await assert_books_balance(gateway.store)


@pytest.mark.parametrize("change", [('"doubao-pro-32k"\n', '"new"\n'), ('"doubao-pro-32k"\n', '"doubao-pro-32k"\nenabled = false\n')])
async def test_what_was_answered_under_a_key_is_answered_again_whatever_became_of_the_model(
    gateway: Bench, change: tuple[str, str]
) -> None:
    body, key = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}, {"Idempotency-Key": "key-1"}
    first = await gateway.ask("/chat/completions", body, headers=key)
    await reload(gateway, change)

    again = await gateway.ask("/chat/completions", body, headers=key)

    assert (again.status, again.body) == (first.status, first.body)
    await gateway.assert_charged(CHARGE)


async def test_a_video_of_a_model_and_an_upstream_that_are_gone_is_polled_and_billed(tmp_path: Path) -> None:
    async with StandIn(Settings(timeline=Timeline(3600, 3600))) as ark, StandIn() as other, quick_bench(tmp_path, ark) as gateway:
        task_id = await submitted(gateway)

        gone = f'[upstreams.ark]\nbase_url = "{ark.base_url}"'
        changed = await reload(
            gateway,
            (gone, f'[upstreams.b]\nbase_url = "{other.base_url}"'),
            ('upstream = "ark"', 'upstream = "b"'),
            ('id = "doubao-seedance-1-5-pro-251215"', 'id = "other-video"'),
        )
        ark.videos.advance(next(iter(ark.videos.tasks)), "succeeded")
        task = await ended(gateway, task_id)

        assert {"upstreams.ark", "upstreams.b", 'models."doubao-seedance-1-5-pro-251215"'} <= set(changed)
        assert (task["status"], task["total_cost"]) == ("succeeded", "0.8640")
        assert (await submit(gateway)).status == 404
        await gateway.assert_charged(SILENT)


# Upstreams.


async def test_an_upstream_moves_and_its_streams_end_where_they_began(gateway: Bench) -> None:
    finish = asyncio.Event()
    gateway.ark.enqueue([*answer_sse(EVENT, end=False), Wait(finish), Send(chunk(END) + LAST_CHUNK)])
    async with StandIn() as other, raw_chat(gateway.origin, gateway.key, stream=True) as held:
        await held.head()
        await held.first_bytes(len(EVENT))
        assert (await gateway.chat()).status == 200  # over a connection that is kept alive from here on

        changed = await reload(gateway, (gateway.ark.base_url, other.base_url))
        after = await gateway.chat()
        finish.set()
        chunks, is_whole = await held.chunks()

        assert changed == ["upstreams.ark.base_url"]
        assert (after.status, len(other.calls), len(gateway.ark.calls)) == (200, 1, 2)
        assert (chunks[-1][-14:], is_whole) == (b"data: [DONE]\n\n", True)
        await gateway.ark.wait_until(lambda: gateway.ark.open_connections == 0)
    await gateway.assert_charged(3 * CHARGE)


async def test_a_new_upstream_has_its_videos_polled(tmp_path: Path) -> None:
    async with StandIn(Settings(timeline=Timeline(0.01, 0.01))) as other, quick_bench(tmp_path) as gateway:
        table = f'[upstreams.b]\nbase_url = "{other.base_url}"\napi_key = "env:ARK_API_KEY"\nrequests_per_second = 1000\n'
        video = 'id = "doubao-seedance-1-5-pro-251215"\nkind = "video"\nupstream = '

        await reload(gateway, ("[billing]", f"{table}[billing]"), (f'{video}"ark"', f'{video}"b"'))
        task = await ended(gateway, await submitted(gateway))

        assert (task["status"], len(other.calls_to(TASKS, "POST")), gateway.ark.calls) == ("succeeded", 1, [])
        await gateway.assert_charged(SILENT)


async def test_a_key_in_a_file_is_read_again_for_all_that_is_asked(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("key-1")
    async with bench(tmp_path) as gateway:
        await reload(gateway, ('"env:ARK_API_KEY"', '"file:key"'))
        (tmp_path / "key").write_text("key-2")

        status, answer = await operate(gateway)
        replies = [await gateway.chat(), await gateway.ask("/images/generations", {"prompt": "a lighthouse"})]

        assert (status, answer["changed"]) == (200, [{"key": "upstreams.ark.api_key", "before": "set", "after": "changed"}])
        assert [reply.status for reply in replies] == [200, 200]
        assert {call.headers["authorization"] for call in gateway.ark.calls} == {"Bearer key-2"}
        assert "key-" not in orjson.dumps(answer).decode().replace("api_key", "")


async def test_a_proxy_is_taken_from_the_next_call_on_and_let_go_again(tmp_path: Path) -> None:
    async with connect_proxy() as proxy, bench(tmp_path) as gateway:
        base_url = f'base_url = "{gateway.ark.base_url}"'
        named = f'{base_url}\nproxy = "{proxy.url}"'

        async def asked() -> list[int]:
            before = len(proxy.heads)
            replies = [await gateway.chat(), await gateway.ask("/images/generations", {"prompt": "a lighthouse"})]
            return [*(reply.status for reply in replies), len(proxy.heads) - before]

        direct = await asked()
        assert await reload(gateway, (base_url, named)) == ["upstreams.ark.proxy"]
        through = await asked()
        await reload(gateway, (named, base_url))

        assert (direct, through, await asked()) == ([200, 200, 0], [200, 200, 2], [200, 200, 0])
        await assert_books_balance(gateway.store)


async def test_a_proxy_that_refuses_costs_the_customer_nothing(tmp_path: Path) -> None:
    async with (
        connect_proxy(saying(b"HTTP/1.1 407 No\r\n\r\n")) as proxy,
        bench(tmp_path, upstream=f'proxy = "{proxy.url}"') as gateway,
    ):
        replies = [await gateway.chat(), await gateway.ask("/images/generations", {"prompt": "a lighthouse"})]

        assert all(reply.status in (502, 503) for reply in replies)
        assert "proxy" not in "".join(reply.error["message"] or "" for reply in replies)
        await gateway.assert_charged(0)


async def test_a_picture_under_way_is_finished_and_its_connections_close_then(gateway: Bench) -> None:
    finish = asyncio.Event()
    gateway.ark.enqueue([Wait(finish), *answer_json(200, {"data": [{"url": "https://x.example/1.png"}]})], "/images/generations")
    picture = asyncio.create_task(gateway.ask("/images/generations", {"prompt": "a lighthouse"}))  # noqa: TID251
    await gateway.ark.wait_for_calls(1)

    await reload(gateway, ("connect_seconds = 2", "connect_seconds = 3"))
    finish.set()
    reply = await picture

    assert (reply.status, reply.json["image_urls"]) == (200, ["https://x.example/1.png"])
    await gateway.ark.wait_until(lambda: gateway.ark.open_connections == 0)
    await gateway.assert_charged(180_000_000)


async def test_many_reloads_leave_no_connections_and_no_descriptors_behind(gateway: Bench) -> None:
    descriptors: list[int] = []
    for number in range(40):
        await reload(gateway, (f"connect_seconds = {number + 2}\n", f"connect_seconds = {number + 3}\n"))
        assert (await gateway.chat()).status == 200
        if number in (4, 39):
            descriptors.append(len(os.listdir("/proc/self/fd")))  # noqa: PTH208

    assert descriptors[1] <= descriptors[0] + 2
    await gateway.ark.wait_until(lambda: gateway.ark.open_connections <= 1)
    await gateway.assert_charged(40 * CHARGE)


# Limits.


async def test_a_body_may_be_as_long_and_take_as_long_as_the_new_limits_say(gateway: Bench) -> None:
    changed = await reload(gateway, ("body_seconds = 5\n", "body_seconds = 0.1\nbody_bytes_max = 1024\n"))

    large = await gateway.chat(user="x" * 2000)
    async with connect(gateway.origin) as client:
        await client.send(raw_request(gateway)[:-5])
        late = await client.answer()

    assert changed == ["server.body_bytes_max", "server.body_seconds"]
    assert (large.status, late.status) == (413, 408)
    await gateway.assert_charged(0)


async def test_connections_that_stand_are_closed_by_the_new_limit_when_idle(gateway: Bench) -> None:
    async with connect(gateway.origin) as before:
        await before.ask(raw_request(gateway))
        await reload(gateway, ("body_seconds = 5\n", "body_seconds = 5\nkeepalive_seconds = 0.1\n"))
        async with connect(gateway.origin) as after:
            await after.ask(raw_request(gateway))

            assert [await before.closed(), await after.closed()] == [b"", b""]
    await gateway.assert_charged(2 * CHARGE)


async def test_a_client_that_stands_still_is_dropped_by_the_new_limit(gateway: Bench) -> None:
    event = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"x" * 32_768)
    async with connect(gateway.origin) as client:
        assert (await client.ask(raw_request(gateway))).status == 200
        await reload(gateway, ("body_seconds = 5\n", "body_seconds = 5\nstall_seconds = 0.2\n"))
        gateway.ark.enqueue(answer_sse(event * 500 + END, cut=65_536))
        client.pause_reading()
        await client.send(raw_request(gateway, stream=True))
        lines = await gateway.log.until_chats(2)

    assert lines[-1]["outcome"] == "client_gone"
    await assert_books_balance(gateway.store)


async def test_an_upstream_has_the_new_time_to_answer(gateway: Bench) -> None:
    gateway.ark.enqueue([Hang()])

    changed = await reload(gateway, ("first_byte_seconds = 5\n", "first_byte_seconds = 0.1\n"))
    reply = await gateway.chat()

    assert changed == ["upstreams.ark.first_byte_seconds"]
    assert (reply.status, reply.error["code"]) == (503, "MODEL_UNAVAILABLE")
    await gateway.assert_charged(0)


@pytest.mark.parametrize(
    ("changes", "keys", "charge"),
    [
        # one content event at ¥2/M; 5 bytes of prompt are 0 tokens at least
        ([('disconnect = "drain"', 'disconnect = "cancel"')], ["billing.disconnect"], 2_000),
        ([("drain_after_seconds = 5\n", "drain_after_seconds = 0\n")], ["billing.drain_after_seconds"], 2_000),
        ([("drain_after_seconds = 5\n", "drain_after_seconds = 5\ndrains_max = 0\n")], ["billing.drains_max"], 2_000),
        (
            [('disconnect = "drain"', 'disconnect = "cancel"'), ('unknown_usage = "estimate"', 'unknown_usage = "free"')],
            ["billing.disconnect", "billing.unknown_usage"],
            0,
        ),
    ],
)
async def test_a_client_that_leaves_is_charged_by_the_new_rules(
    gateway: Bench, changes: list[tuple[str, str]], keys: list[str], charge: int
) -> None:
    gateway.ark.enqueue([*answer_sse(EVENT, end=False), Hang()])

    changed = await reload(gateway, *changes)
    async with raw_chat(gateway.origin, gateway.key, stream=True) as client:
        await client.head()
        await client.first_bytes(len(EVENT))
    await gateway.log.until_chats()

    assert changed == keys
    await gateway.assert_charged(charge)


async def test_videos_are_polled_and_charged_by_the_new_rules(tmp_path: Path) -> None:
    async with StandIn(Settings(timeline=Timeline(0.01, 0.01))) as ark, bench(tmp_path, ark=ark, poll_seconds="600, 600") as gateway:
        requests = str(QUICK["upstream"])
        changed = await reload(
            gateway,
            ("poll_seconds = [600, 600]", "poll_seconds = [0.02, 0.05]"),
            ("drain_after_seconds = 5\n", 'drain_after_seconds = 5\nvideo_tokens = "usage"\n'),
            ("connect_seconds = 2\n", f"connect_seconds = 2\n{requests}\n"),
        )
        task = await ended(gateway, await submitted(gateway))

        assert task["total_cost"] == "0.8712"  # one frame more than the formula
        assert len(changed) == 5
        await gateway.assert_charged(871_200_000)


async def test_the_level_of_the_log_is_the_new_one(gateway: Bench, restored_level: None) -> None:
    await reload(gateway, ("[videos]", '[log]\nlevel = "error"\n[videos]'))
    quiet = logging.getLogger("proxy").isEnabledFor(logging.WARNING)

    await reload(gateway, ('level = "error"', 'level = "debug"'))

    assert not quiet
    assert logging.getLogger("proxy").isEnabledFor(logging.DEBUG)


@pytest.fixture
def restored_level() -> Any:
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)


# Refused reloads, and changes that need a restart.


FAULTS: list[tuple[str, Callable[[str], str]]] = [
    ("is no valid TOML", lambda text: text + "["),
    ('models[0] "doubao-pro-32k".price.input: more than 3 decimals', lambda text: text.replace('"0.8"', '"0.8001"', 1)),
    ("server.drain_second: unknown key", lambda text: text.replace("drain_seconds", "drain_second")),
    ("models: at least one", lambda text: text.partition("[[models]]")[0]),
    ("the environment variable NONE is not set", lambda text: text.replace("env:ARK_API_KEY", "env:NONE")),
]


@pytest.mark.parametrize(("reason", "spoil"), FAULTS, ids=[reason for reason, _ in FAULTS])
async def test_a_file_with_a_fault_changes_nothing_and_says_why(
    gateway: Bench, caplog: pytest.LogCaptureFixture, reason: str, spoil: Callable[[str], str]
) -> None:
    path = gateway.directory / "config.toml"
    good = path.read_text()
    path.write_text(spoil(good.replace(OLD_PRICE, NEW_PRICE) if OLD_PRICE in spoil(good) else good))

    status, answer = await operate(gateway)

    assert (status, answer["error"]["code"]) == (409, "REFUSED")
    assert answer["error"]["message"].startswith(f"not reloaded, nothing has changed:\n{path}: ")
    assert reason in answer["error"]["message"]
    assert "not reloaded, nothing has changed" in caplog.text
    assert CANARY_KEY not in caplog.text
    assert (await gateway.chat()).status == 200
    await gateway.assert_charged(CHARGE)
    path.write_text(good)
    assert (await operate(gateway))[1]["changed"] == []


async def test_what_needs_a_restart_is_named_and_the_rest_of_the_file_counts(gateway: Bench, tmp_path: Path) -> None:
    edit(gateway, ("127.0.0.1:0", "127.0.0.1:9"), ("sqlite:gateway.db", "sqlite:other.db"), (OLD_PRICE, NEW_PRICE))

    answers = [(await operate(gateway))[1] for _ in range(2)]

    assert [[change["key"] for change in answer["needs_restart"]] for answer in answers] == [["server.listen", "store.url"]] * 2
    assert answers[0]["needs_restart"][0] == {"key": "server.listen", "before": ["127.0.0.1:0"], "after": ["127.0.0.1:9"]}
    assert [[change["key"] for change in answer["changed"]] for answer in answers] == [['models."doubao-pro-32k".price'], []]
    assert (await gateway.chat()).status == 200
    await gateway.assert_charged(DEARER)


async def test_a_preview_changes_nothing(gateway: Bench) -> None:
    edit(gateway, (OLD_PRICE, NEW_PRICE), ("body_seconds = 5", "body_seconds = 6"))

    previews = [(await operate(gateway, preview=True))[1] for _ in range(2)]
    reply = await gateway.chat()

    assert previews[0] == previews[1]
    assert [change["key"] for change in previews[0]["changed"]] == ["server.body_seconds", 'models."doubao-pro-32k".price']
    assert reply.status == 200
    await gateway.assert_charged(CHARGE)


async def test_another_file_is_previewed_as_if_it_stood_there_and_never_reloaded(gateway: Bench, tmp_path: Path) -> None:
    other = tmp_path / "sub"
    other.mkdir()
    (other / "new.toml").write_text((tmp_path / "config.toml").read_text().replace("body_seconds = 5", "body_seconds = 6"))

    status, answer = await operate(gateway, preview=True, file=str(other / "new.toml"))
    refused = [await operate(gateway, file=str(other / "new.toml")), await operate(gateway, preview=True, file="new.toml")]
    missing = await operate(gateway, preview=True, file=str(other / "none.toml"))

    assert (status, [change["key"] for change in answer["changed"]]) == (200, ["server.body_seconds"])
    assert answer["needs_restart"] == []
    assert [one[0] for one in refused] == [400, 400]
    assert (missing[0], "none.toml: cannot be read" in missing[1]["error"]["message"]) == (409, True)


async def test_a_gateway_that_is_stopping_reloads_no_more(gateway: Bench) -> None:
    finish = asyncio.Event()
    gateway.ark.enqueue([Wait(finish), *answer_json(200, {"choices": [], "usage": None})])
    edit(gateway, (OLD_PRICE, NEW_PRICE))
    async with raw_chat(gateway.origin, gateway.key):
        await gateway.ark.wait_for_calls(1)
        gateway.stop.request()

        status, answer = await operate(gateway)
        finish.set()

    assert (status, answer["error"]["message"]) == (409, "not reloaded, nothing has changed:\nthe gateway is stopping")


async def test_a_stop_while_the_file_is_read_leaves_it_at_what_ran(gateway: Bench) -> None:
    path = gateway.directory / "config.toml"
    changed = path.read_bytes().replace(OLD_PRICE.encode(), NEW_PRICE.encode())
    path.unlink()
    os.mkfifo(path)
    reloading = asyncio.create_task(operate(gateway))  # noqa: TID251
    written = await asyncio.to_thread(os.open, path, os.O_WRONLY)  # returns once the gateway has begun to read

    gateway.stop.request()
    os.write(written, changed)
    os.close(written)
    status, answer = await reloading

    assert (status, answer["error"]["message"]) == (409, "not reloaded, nothing has changed:\nthe gateway is stopping")


async def test_reloads_at_once_wait_for_one_another_and_the_last_file_counts(gateway: Bench) -> None:
    async def reloads() -> AsyncIterator[tuple[int, Any]]:
        for number in range(10):
            edit(gateway, (f"drain_after_seconds = {number + 5}\n", f"drain_after_seconds = {number + 6}\n"))
            for answer in await asyncio.gather(*(operate(gateway) for _ in range(4)), gateway.chat()):
                if isinstance(answer, tuple):
                    yield answer

    answers = [answer async for answer in reloads()]

    assert {status for status, _ in answers} == {200}
    changed = [change for _, answer in answers for change in answer["changed"]]
    assert [(change["before"], change["after"]) for change in changed] == [(number, number + 1) for number in range(5, 15)]
    await gateway.assert_charged(10 * CHARGE)


async def test_tasks_that_wait_for_a_video_wait_on_over_a_reload(tmp_path: Path) -> None:
    async with StandIn(Settings(timeline=Timeline(3600, 3600))) as ark, quick_bench(tmp_path, ark) as gateway:
        task_id = await submitted(gateway)
        waiting = asyncio.create_task(look(gateway, task_id, wait=30))  # noqa: TID251
        await reload(gateway, ("connect_seconds = 2", "connect_seconds = 3"))

        ark.videos.advance(next(iter(ark.videos.tasks)), "running")
        seen = await waiting

        assert seen["status"] == "processing"
        assert await gateway.balance() == (BALANCE - 0, SILENT)
