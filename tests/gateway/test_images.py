"""Image calls through the whole gateway: upstream bodies, answers and costs."""

import asyncio
import io
import re
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.core.money import parse_yuan
from proxy.demo.ark import (
    CANARIES,
    Answer,
    Close,
    Hang,
    Perform,
    Reset,
    Send,
    StandIn,
    Step,
    Wait,
    answer_head,
    answer_json,
    error,
    known_error,
    lost,
)
from tests.support.books import assert_books_balance
from tests.support.gateway import CANARY_KEY, Bench, Reply, bench
from tests.support.images import PRICE, PROMPT, ROUTE, left_behind, paint, receipt_of

MODEL = "doubao-seedream-5-0-260128"
MODERATED = "OutputImageSensitiveContentDetected"


def bodies(gateway: Bench) -> list[dict[str, Any]]:
    """Return the bodies that were sent upstream, in order."""
    return [call.json for call in gateway.ark.calls_to(ROUTE)]


# Requests and answers.


async def test_two_images_have_the_published_shape_and_openais_and_cost_036(gateway: Bench) -> None:
    answer = await paint(gateway, n=2)

    body = answer.json
    assert answer.status == 200
    assert list(body) == ["request_id", "model", "image_urls", "total_cost", "created", "data"]
    assert re.fullmatch(r"img-[0-9]{13}-[A-Za-z0-9]{6}", body["request_id"])
    assert answer.headers["x-request-id"] == body["request_id"]
    assert body["model"] == MODEL
    assert len(set(body["image_urls"])) == 2
    assert body["data"] == [{"url": url} for url in body["image_urls"]]
    assert body["total_cost"] == 0.36
    assert isinstance(body["created"], int)
    assert b'"total_cost":0.36,' in answer.body
    await gateway.assert_charged(2 * PRICE)


async def test_each_image_is_a_call_of_its_own_and_all_are_sent_before_one_is_answered(gateway: Bench) -> None:
    all_there = asyncio.Event()
    gateway.ark.enqueue([Wait(all_there), Answer()], ROUTE, times=4)

    asking = asyncio.gather(paint(gateway, n=4, seed=2**31 - 2))
    await gateway.ark.wait_for_calls(4, ROUTE)
    all_there.set()
    (answer,) = await asking

    assert len(answer.json["image_urls"]) == 4
    # each image has its own seed, else all were the same; after the largest seed comes 0
    assert sorted(body["seed"] for body in bodies(gateway)) == [0, 1, 2**31 - 2, 2**31 - 1]
    await gateway.assert_charged(4 * PRICE)


async def test_what_goes_up_is_arks_own_language(gateway: Bench) -> None:
    await paint(
        gateway,
        task_type="image_to_image",
        image_url="https://example.com/photo.jpg",
        size="1024x1024",
        style="watercolor",
        negative_prompt="模糊",
        output_format="jpg",
        n=1,
        seed=-1,
    )

    assert bodies(gateway) == [
        {
            "model": MODEL,
            "prompt": f"{PROMPT}\n水彩画风格\n画面中不要出现：模糊",
            "size": "2048x2048",
            "output_format": "jpeg",
            "sequential_image_generation": "disabled",
            "response_format": "url",
            "stream": False,
            "watermark": False,
            "image": "https://example.com/photo.jpg",
        }
    ]
    await gateway.assert_charged(PRICE)


async def test_a_picture_of_megabytes_goes_up_whole(gateway: Bench) -> None:
    picture = "data:image/png;base64," + "A" * 2_000_000

    wanted = io.BytesIO(orjson.dumps({"prompt": PROMPT, "task_type": "image_to_image", "image_url": picture}))
    async with gateway.session.post(gateway.base_url + ROUTE, data=wanted, headers={"x-api-key": gateway.key}) as answer:
        assert answer.status == 200

    assert bodies(gateway)[0]["image"] == picture
    await gateway.assert_charged(PRICE)


async def test_the_receipt_tells_the_images_made(gateway: Bench) -> None:
    answer = await paint(gateway, n=3)

    receipt = await receipt_of(gateway, answer)
    assert receipt | {"created_at": 0, "settled_at": 0, "first_byte_ms": 0, "total_ms": 0} == {
        "object": "usage",
        "id": answer.json["request_id"],
        "kind": "image",
        "model": MODEL,
        "stream": False,
        "status": "settled",
        "created_at": 0,
        "settled_at": 0,
        "hold": "0.54",
        "currency": "CNY",
        "outcome": "complete",
        "usage_source": "reported",
        "usage": {"prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 0, "reasoning_tokens": 0},
        "units": 3,
        "cost": "0.54",
        "formula": "3 × ¥0.18 = ¥0.54",
        "shortfall": "0.00",
        "discount": "1",
        "refunded": "0.00",
        "http_status": 200,
        "first_byte_ms": 0,
        "total_ms": 0,
    }
    (line,) = gateway.log.of(ROUTE)
    assert (line["request_id"], line["outcome"], line["units"], line["cost"]) == (answer.json["request_id"], "complete", 3, "0.54")
    await gateway.assert_charged(3 * PRICE)


# Bad input.


@pytest.mark.parametrize(
    ("wanted", "status", "code", "param"),
    [
        ({"prompt": None}, 400, "MISSING_PROMPT", "prompt"),
        ({"prompt": "  "}, 400, "MISSING_PROMPT", "prompt"),
        ({"prompt": 5}, 400, "INVALID_PARAMETER", "prompt"),
        ({"task_type": "image_to_image"}, 400, "INVALID_PARAMETER", "image_url"),
        ({"task_type": "image_to_image", "image_url": "file:///etc/passwd"}, 400, "INVALID_PARAMETER", "image_url"),
        ({"task_type": "image_to_image", "image_url": "//host/a.png"}, 400, "INVALID_PARAMETER", "image_url"),
        ({"n": "2"}, 400, "INVALID_PARAMETER", "n"),
        ({"n": True}, 400, "INVALID_PARAMETER", "n"),
        ({"n": 0}, 400, "INVALID_PARAMETER", "n"),
        ({"n": 5}, 400, "INVALID_PARAMETER", "n"),
        ({"N": 4}, 400, "INVALID_PARAMETER", "N"),
        ({"seed": 1.5}, 400, "INVALID_PARAMETER", "seed"),
        ({"size": "8192x8192"}, 400, "INVALID_PARAMETER", "size"),
        ({"size": "big"}, 400, "INVALID_PARAMETER", "size"),
        ({"output_format": "webp"}, 400, "INVALID_PARAMETER", "output_format"),
        ({"response_format": "b64_json"}, 400, "INVALID_PARAMETER", "response_format"),
        ({"model": 7}, 400, "INVALID_PARAMETER", "model"),
        ({"model": "doubao-pro-32k"}, 400, "WRONG_ENDPOINT", "model"),
        ({"model": "doubao-seedance-2-0"}, 400, "WRONG_ENDPOINT", "model"),
        ({"model": "dall-e-3"}, 404, "MODEL_NOT_FOUND", "model"),
    ],
)
async def test_bad_input_is_refused_before_any_hold_or_call(
    gateway: Bench, wanted: dict[str, Any], status: int, code: str, param: str
) -> None:
    answer = await paint(gateway, **wanted)

    assert (answer.status, answer.error["code"], answer.error["param"]) == (status, code, param)
    assert gateway.ark.calls == []
    assert await gateway.store.receipt(answer.headers["x-request-id"]) is None
    await gateway.assert_charged(0)


@pytest.mark.parametrize(("body", "code"), [(b"[]", "INVALID_JSON"), (b"{", "INVALID_JSON"), (b'"prompt"', "INVALID_JSON")])
async def test_a_body_that_is_no_object_is_refused(gateway: Bench, body: bytes, code: str) -> None:
    answer = await gateway.ask(ROUTE, body)

    assert (answer.status, answer.error["code"]) == (400, code)
    assert answer.headers["x-request-id"].startswith("img-")
    await gateway.assert_charged(0)


async def test_a_balance_below_the_worst_case_is_402_before_any_call(tmp_path: Path) -> None:
    async with bench(tmp_path, balance=parse_yuan("0.71")) as gateway:
        answer = await paint(gateway, n=4)  # 4 × ¥0.18 = ¥0.72

        assert (answer.status, answer.error["code"]) == (402, "INSUFFICIENT_BALANCE")
        assert gateway.ark.calls == []
        assert await gateway.balance() == (710_000_000, 0)
        await assert_books_balance(gateway.store)


# Outcomes.


async def test_some_that_failed_are_left_out_and_cost_nothing(gateway: Bench) -> None:
    gateway.ark.images.enqueue(None, MODERATED, None, MODERATED)

    answer = await paint(gateway, n=4)

    receipt = await receipt_of(gateway, answer)
    assert answer.status == 200
    assert len(answer.json["image_urls"]) == len(answer.json["data"]) == 2
    assert answer.json["total_cost"] == 0.36
    assert (receipt["outcome"], receipt["units"], receipt["hold"], receipt["cost"]) == ("complete", 2, "0.72", "0.36")
    await gateway.assert_charged(2 * PRICE)


async def test_an_error_inside_a_200_is_an_image_that_failed(gateway: Bench) -> None:
    refused = {"data": [{"error": {"code": MODERATED, "message": "It may be sensitive. Request id: 0217659525"}}], "usage": {}}
    gateway.ark.enqueue(answer_json(200, refused), ROUTE)

    answer = await paint(gateway)

    assert (answer.status, answer.error["code"], answer.error["message"]) == (400, "CONTENT_REJECTED", "It may be sensitive.")
    assert (await receipt_of(gateway, answer))["outcome"] == "refused"
    await gateway.assert_charged(0)


REFUSALS = [
    ("OutputImageSensitiveContentDetected", 400, "CONTENT_REJECTED"),
    ("InputTextSensitiveContentDetected", 400, "CONTENT_REJECTED"),
    ("InvalidParameter", 400, "INVALID_PARAMETER"),
    ("AuthenticationError", 503, "MODEL_UNAVAILABLE"),
    ("AccountOverdueError", 503, "MODEL_UNAVAILABLE"),
    ("ModelNotOpen", 503, "MODEL_UNAVAILABLE"),
    ("InvalidEndpointOrModel.NotFound", 503, "MODEL_UNAVAILABLE"),
    ("ResourceNotFound", 503, "MODEL_UNAVAILABLE"),
    ("QuotaExceeded", 503, "MODEL_UNAVAILABLE"),
    ("SetLimitExceeded", 503, "MODEL_UNAVAILABLE"),
    ("ModelAccountIpmRateLimitExceeded", 503, "MODEL_UNAVAILABLE"),
    ("ServerOverloaded", 503, "MODEL_UNAVAILABLE"),
    ("InternalServiceError", 503, "MODEL_UNAVAILABLE"),
]


WAITING_HELPS = ("ModelAccountIpmRateLimitExceeded", "ServerOverloaded", "InternalServiceError")


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize(("fault", "status", "code"), REFUSALS)
async def test_when_all_fail_the_first_reason_is_told_cleaned_and_free(
    gateway: Bench, fault: str, status: int, code: str, wrapped: bool
) -> None:
    gateway.ark.enqueue(known_error(fault, wrapped), ROUTE, times=2)

    answer = await paint(gateway, n=2)

    assert (answer.status, answer.error["code"]) == (status, code)
    assert ("Retry-After" in answer.headers) == (fault in WAITING_HELPS)  # Ark itself said that nothing was made
    no_retry_mends = code != "INVALID_PARAMETER" and fault not in WAITING_HELPS
    assert answer.headers.get("x-should-retry") == ("false" if no_retry_mends else None)
    whole = answer.body.decode() + str(dict(answer.headers)) + str(gateway.log.written)
    assert not [canary for canary in (*CANARIES, CANARY_KEY) if canary in whole]
    assert (await receipt_of(gateway, answer))["cost"] == "0.00"
    await gateway.assert_charged(0)


async def test_a_refusal_of_the_picture_names_the_customers_field(gateway: Bench) -> None:
    gateway.ark.enqueue(
        error(400, "InvalidParameter", "The parameter `image` is not valid: resource download failed.", param="image"), ROUTE
    )

    answer = await paint(gateway, task_type="image_to_image", image_url="https://example.com/gone.jpg")

    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "INVALID_PARAMETER", "image_url")
    await gateway.assert_charged(0)


NOBODY_KNOWS: list[list[Step]] = [
    lost(),
    lost(Close()),
    [Perform(), Hang()],
    [Send(answer_head(200, "application/json", body_bytes=100) + b'{"data":['), Reset()],
    answer_json(200, {"model": MODEL, "data": []}),
    answer_json(200, b"<html>"),
    answer_json(504, b"upstream request timeout"),
    *([Perform(), *answer_json(status, {"error": {"code": "Timeout", "message": "upstream"}})] for status in (408, 504, 524)),
]


@pytest.mark.parametrize(
    "steps", NOBODY_KNOWS, ids=["reset", "closed", "silent", "cut", "empty", "no JSON", "504", "408 JSON", "504 JSON", "524 JSON"]
)
async def test_a_call_that_may_have_made_its_image_is_free_and_not_to_be_retried(tmp_path: Path, steps: list[Step]) -> None:
    async with bench(tmp_path, first_byte_seconds=0.3) as gateway:
        gateway.ark.enqueue(steps, ROUTE)

        answer = await paint(gateway)

        assert (answer.status, answer.error["code"]) == (503, "MODEL_UNAVAILABLE")
        assert answer.headers["x-should-retry"] == "false"
        assert "Retry-After" not in answer.headers
        assert len(gateway.ark.calls) == 1
        assert (await receipt_of(gateway, answer))["outcome"] == "upstream_error"
        await gateway.assert_charged(0)


async def test_one_lost_answer_among_refusals_is_enough_to_advise_against_a_retry(gateway: Bench) -> None:
    gateway.ark.enqueue(known_error("ServerOverloaded"), ROUTE)
    gateway.ark.enqueue(lost(), ROUTE)

    answer = await paint(gateway, n=2)

    assert (answer.status, answer.headers["x-should-retry"]) == (503, "false")
    assert "Retry-After" not in answer.headers
    await gateway.assert_charged(0)


async def test_an_upstream_that_cannot_be_reached_may_be_tried_again(gateway: Bench) -> None:
    gateway.ark.stop_listening()

    answer = await paint(gateway, n=2)

    assert (answer.status, answer.error["code"]) == (503, "MODEL_UNAVAILABLE")
    assert "x-should-retry" not in answer.headers
    assert int(answer.headers["Retry-After"]) <= 60
    await gateway.assert_charged(0)


# Parameters that the model does not support.


async def test_output_format_is_left_out_where_the_model_does_not_know_it(gateway: Bench) -> None:
    gateway.ark.images.refuses.add("output_format")

    answer = await paint(gateway, n=2)

    assert answer.status == 200
    assert ["output_format" in body for body in bodies(gateway)].count(True) == 2
    assert len(bodies(gateway)) == 4
    await gateway.assert_charged(2 * PRICE)


async def test_seed_and_format_are_left_out_one_after_the_other_and_no_further(gateway: Bench) -> None:
    gateway.ark.images.refuses |= {"output_format", "seed", "watermark"}

    answer = await paint(gateway, seed=7)

    # the third refusal is of a field that the gateway must send: a fault for the operator
    assert (answer.status, answer.error["code"]) == (503, "MODEL_UNAVAILABLE")
    assert [{"output_format", "seed"} & body.keys() for body in bodies(gateway)] == [{"output_format", "seed"}, {"seed"}, set()]
    await gateway.assert_charged(0)


# Clients that leave, processes that end.


async def test_a_client_that_leaves_pays_for_what_is_made_all_the_same(gateway: Bench) -> None:
    gone = asyncio.Event()
    gateway.ark.enqueue([Wait(gone), Answer()], ROUTE, times=2)

    async with left_behind(gateway, calls=2, n=2):
        gone.set()
        (line,) = await gateway.log.until(ROUTE)

    receipt = await receipt_of(gateway, line)
    assert (receipt["outcome"], receipt["units"], receipt["cost"], receipt["http_status"]) == ("client_gone", 2, "0.36", 0)
    assert (line["status"], line["outcome"]) == (499, "client_gone")
    await gateway.assert_charged(2 * PRICE)


async def test_images_are_finished_and_charged_also_where_abandoned_streams_are_stopped(tmp_path: Path) -> None:
    async with bench(tmp_path, disconnect="cancel") as gateway:
        gone = asyncio.Event()
        gateway.ark.enqueue([Wait(gone), Answer()], ROUTE, times=2)

        async with left_behind(gateway, calls=2, n=2):
            gone.set()
            (line,) = await gateway.log.until(ROUTE)

        receipt = await receipt_of(gateway, line)
        assert (receipt["outcome"], receipt["units"], receipt["cost"]) == ("client_gone", 2, "0.36")
        await gateway.assert_charged(2 * PRICE)


async def test_images_that_are_not_made_in_time_for_a_client_that_left_cost_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path, drain_after_seconds=0.2) as gateway:
        gateway.ark.enqueue(lambda call: [Hang()] if call.number > 1 else [Answer()], ROUTE, times=3)

        async with left_behind(gateway, calls=3, n=3):
            (line,) = await gateway.log.until(ROUTE)

        receipt = await receipt_of(gateway, line)
        assert (receipt["outcome"], receipt["units"], receipt["cost"]) == ("client_gone", 1, "0.18")
        await gateway.assert_charged(PRICE)


async def test_a_stop_waits_for_the_images_under_way(gateway: Bench) -> None:
    go_on = asyncio.Event()
    gateway.ark.enqueue([Wait(go_on), Answer()], ROUTE)
    asking = asyncio.gather(paint(gateway))
    await gateway.ark.wait_for_calls(1, ROUTE)

    gateway.stop.request()
    gateway.stop.refusing.set()  # as a drain does, once it has heard waiting connections
    refused = await paint(gateway)
    go_on.set()
    (answer,) = await asking

    assert (refused.status, refused.error["code"]) == (503, "MODEL_UNAVAILABLE")
    assert answer.status == 200
    await gateway.assert_charged(PRICE)


@pytest.mark.parametrize(("made", "status", "cost"), [(1, 200, "0.18"), (0, 503, "0.00")])
async def test_a_cut_answers_with_the_images_that_came_and_says_interrupted(tmp_path: Path, made: int, status: int, cost: str) -> None:
    async with StandIn() as ark, aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        ark.enqueue(lambda call: [Answer()] if call.number <= made else [Hang()], ROUTE, times=2)
        async with bench(tmp_path, ark=ark) as gateway:
            asking = group.create_task(asked(session, gateway, {"prompt": PROMPT, "n": 2}))
            await ark.wait_for_calls(2, ROUTE)
            await ark.wait_until(lambda: [call.state for call in ark.calls].count("played") == made)
            gateway.stop.request()
            gateway.stop.request()
        answer = await asking

        async with bench(tmp_path, ark=ark) as restarted:
            receipt = await receipt_of(restarted, answer)
            assert (answer.status, len(answer.json.get("image_urls", ()))) == (status, made)
            assert answer.headers.get("x-should-retry") == (None if made else "false")
            assert (receipt["outcome"], receipt["units"], receipt["cost"]) == ("interrupted", made, cost)
            await restarted.assert_charged(made * PRICE)


async def asked(session: aiohttp.ClientSession, gateway: Bench, wanted: dict[str, Any]) -> Reply:
    """Make an image call over a session that outlives the gateway."""
    headers = {"Authorization": f"Bearer {gateway.key}"}
    async with session.post(gateway.base_url + ROUTE, json=wanted, headers=headers) as response:
        return Reply(response.status, response.headers, await response.read())
