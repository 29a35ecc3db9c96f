"""The public routes: both prefixes, every method on every route, preflights, and disguised paths."""

from typing import Any

import pytest

from proxy.gateway.routes import PREFIXES
from tests.support.gateway import Bench
from tests.support.raw import RawAnswer, connect, request

pytestmark = pytest.mark.asyncio(loop_scope="module")

GET = "GET, HEAD, OPTIONS"
POST = "POST, OPTIONS"
ROUTES = [
    # (path, methods, whether a key is needed)
    ("/chat/completions", POST, True),
    ("/models", GET, True),
    ("/models/public", GET, False),
    ("/models/doubao-pro-32k", GET, True),
    ("/models/tiered/chat", GET, True),
    ("/account", GET, True),
    ("/usage/req_00000000000000000000000000", GET, True),
    ("/healthz", GET, False),
    ("/readyz", GET, False),
]
EVERYWHERE = [(prefix + path, methods, needs_key) for prefix in PREFIXES for path, methods, needs_key in ROUTES]
EVERYWHERE += [("/healthz", GET, False), ("/readyz", GET, False)]


async def ask(gateway: Bench, method: str, target: str, *headers: tuple[str, str], key: bool = False) -> RawAnswer:
    credential = [("Authorization", f"Bearer {gateway.key}")] if key else []
    async with connect(gateway.origin) as client:
        answer = await client.ask(request(method, target, *credential, *headers), head=method == "HEAD")
        again = await client.ask(request("GET", "/healthz"))
    assert again.status == 200, "the connection is no more use"
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["server"] == "llm-proxy"
    return answer


@pytest.mark.parametrize(("path", "methods", "needs_key"), EVERYWHERE)
async def test_a_route_asks_for_a_key_where_it_should(refusing: Bench, path: str, methods: str, needs_key: bool) -> None:
    answer = await ask(refusing, methods.partition(",")[0], path)

    assert answer.status == (401 if needs_key else 200)


@pytest.mark.parametrize("path", [path for path, methods, _ in EVERYWHERE if methods == GET])
async def test_head_is_get_without_the_body(refusing: Bench, path: str) -> None:
    get = await ask(refusing, "GET", path, key=True)
    head = await ask(refusing, "HEAD", path, key=True)

    assert (head.status, head.body) == (get.status, b"")
    assert {name: head.headers[name] for name in ("content-type", "content-length")} == {
        "content-type": "application/json",
        "content-length": str(len(get.body)),
    }


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "QUERY")
WRONG_METHODS = [
    (method, path, methods)
    for path, methods, _ in EVERYWHERE
    for method in METHODS
    if method != "HEAD" and method not in methods.split(", ")
]
POST_ONLY = [(path, methods) for path, methods, _ in EVERYWHERE if "GET" not in methods]


@pytest.mark.parametrize(("method", "path", "methods"), WRONG_METHODS)
async def test_another_method_is_refused_with_those_that_work(refusing: Bench, method: str, path: str, methods: str) -> None:
    answer = await ask(refusing, method, path)

    assert (answer.status, answer.headers["allow"]) == (405, methods)
    assert (answer.error["code"], answer.error["type"]) == ("METHOD_NOT_ALLOWED", "invalid_request_error")


@pytest.mark.parametrize(("path", "methods"), POST_ONLY)
async def test_head_works_where_there_is_nothing_to_get(refusing: Bench, path: str, methods: str) -> None:
    answer = await ask(refusing, "HEAD", path)

    assert (answer.status, answer.headers["allow"]) == (204, methods)


@pytest.mark.parametrize(("path", "methods"), [(path, methods) for path, methods, _ in EVERYWHERE])
async def test_a_preflight_needs_no_key(refusing: Bench, path: str, methods: str) -> None:
    answer = await ask(
        refusing,
        "OPTIONS",
        path,
        ("Origin", "https://app.example"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization, content-type, x-stainless-lang"),
    )

    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-methods"] == methods
    assert answer.headers["access-control-allow-headers"] == "authorization, content-type, x-stainless-lang"
    assert answer.headers["vary"] == "Access-Control-Request-Headers"
    assert int(answer.headers["access-control-max-age"]) > 0
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(("path", "methods"), [(path, methods) for path, methods, _ in EVERYWHERE])
async def test_plain_options_tells_the_methods(refusing: Bench, path: str, methods: str) -> None:
    answer = await ask(refusing, "OPTIONS", path)

    assert (answer.status, answer.headers["allow"]) == (204, methods)
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("wanted", ["a;b", "a\tb", "\u017f", "x" * 5_000, '"a"'])
async def test_a_preflight_echoes_names_of_headers_and_nothing_else(refusing: Bench, wanted: str) -> None:
    answer = await ask(
        refusing,
        "OPTIONS",
        "/v1/models",
        ("Origin", "x"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", wanted),
    )

    assert (answer.status, answer.headers["access-control-allow-headers"]) == (204, "*")


async def test_options_for_the_server_as_a_whole(refusing: Bench) -> None:
    answer = await ask(refusing, "OPTIONS", "*")

    assert (answer.status, answer.headers["allow"]) == (204, "OPTIONS")


REFUSALS: list[tuple[str, str, int]] = [
    ("GET", "/api/v1/models", 401),
    ("POST", "/api/v1/models", 405),
    ("GET", "/api/v1/nothing", 404),
    ("OPTIONS", "/api/v1/nothing", 404),
]


@pytest.mark.parametrize(("method", "path", "status"), REFUSALS)
async def test_a_page_may_read_refusals_too(refusing: Bench, method: str, path: str, status: int) -> None:
    answer = await ask(refusing, method, path, ("Origin", "https://app.example"))

    assert answer.status == status
    assert answer.headers["access-control-allow-origin"] == "*"
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {"x-request-id", "retry-after", "retry-after-ms"} <= set(exposed)


UNKNOWN = [
    "/", "/api", "/api/v1", "/api/v1/", "/v1", "/v1/", "/api/v2/models", "/api/v1x/models", "/API/V1/models", "/api/v1/Models",
    "/./api/v1/models", "/api/v1//./models", "/v1/v1/%6dodels", "//%61pi/v1/models", "/api/v1/..//models", "/models/..",
    "/api/v1/./models", "/api/v1/x/../models", "/api/v1/%6dodels", "/api/v1/mod%65ls", "/api%2fv1%2fmodels", "/%61pi/v1/models",
    "/api/v1/models;x=1", "/api/v1/models%00", "/api/v1/models%3f", "/api/v1\\models", "/api/v1/usage/", "/api/v1/usage",
    "/metrics", "/api/v1/metrics", "/operations/verify", "/api/v1/operations/verify", "/admin", "/%61dmin", "/..%2f..%2fadmin",
    "/api/v1/../../admin", "/api/v1/..%2f..%2foperations%2fverify", "/v1/../metrics", "/favicon.ico", "/robots.txt", "/.env",
    "/api/v1/models#public", "/healthz/..", "//metrics", "/v1//operations/verify",
]  # fmt: skip


@pytest.mark.parametrize("path", UNKNOWN)
async def test_what_is_no_route_is_not_found_with_or_without_a_key(refusing: Bench, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        answers = [await ask(refusing, method, path, key=key) for key in (False, True)]

        for answer in answers:
            if answer.status == 404 and answer.error["code"] == "MODEL_NOT_FOUND":
                raise AssertionError("an id swallowed the path")
            assert (answer.status, answer.error["code"], answer.error["type"]) == (404, "NOT_FOUND", "invalid_request_error")
    assert refusing.log.written[0]["route"] == "-"


SLIPS: list[tuple[str, str]] = [
    # (what was typed, the route that is served)
    ("/api/v1/models/", "/models"), ("/api/v1//models", "/models"), ("//api/v1/models", "/models"), ("/api//v1/models//", "/models"),
    ("/v1/v1/models", "/models"), ("/api/v1/v1/models", "/models"), ("/api/v1/api/v1/models", "/models"),
    ("/v1/api/v1/models", "/models"),
    ("/api/models", "/models"), ("/models", "/models"), ("/models/", "/models"), ("/models?limit=5", "/models"),
    ("/models/tiered/chat", "/models/{id}"), ("/v1/v1/models/doubao-pro-32k", "/models/{id}"),
    ("/v1/models/doubao-pro-32k/", "/models/{id}"), ("/account", "/account"), ("/v1/v1/account/", "/account"),
]  # fmt: skip


@pytest.mark.parametrize(("typed", "route"), SLIPS)
async def test_a_slip_of_slashes_or_prefix_is_the_same_route_with_the_same_key(refusing: Bench, typed: str, route: str) -> None:
    without, served = [await ask(refusing, "GET", typed, key=key) for key in (False, True)]
    head, options = await ask(refusing, "HEAD", typed, key=True), await ask(refusing, "OPTIONS", typed)

    assert (without.status, without.error["code"]) == (401, "MISSING_API_KEY")
    assert (served.status, head.status, options.status) == (200, 200, 204)
    assert {line["route"] for line in refusing.log.written[-8:] if line["route"] not in ("*", "/healthz")} == {route}


@pytest.mark.parametrize("typed", ["/chat/completions", "/v1/v1/chat/completions", "/api/v1//chat/completions/", "//chat//completions"])
async def test_a_chat_is_answered_at_an_address_with_a_slip(refusing: Bench, typed: str) -> None:
    got, posted = await ask(refusing, "GET", typed, key=True), await ask(refusing, "POST", typed, key=True)

    assert (got.status, got.headers["allow"]) == (405, POST)
    assert (posted.status, posted.error["code"]) == (400, "INVALID_JSON")


@pytest.mark.parametrize("typed", ["/healthz/", "//healthz", "/v1/v1/readyz"])
async def test_a_probe_with_a_slip_needs_no_key_either(refusing: Bench, typed: str) -> None:
    assert (await ask(refusing, "GET", typed)).status == 200


HINTS: list[tuple[str, str, str]] = [
    # (method, what was typed, what the answer names)
    ("POST", "/api/v3/chat/completions", "did you mean POST /api/v1/chat/completions?"),
    ("POST", "/openai/deployments/x/chat/completions", "did you mean POST /api/v1/chat/completions?"),
    ("POST", "/API/V1/Chat/Completions", "did you mean POST /api/v1/chat/completions?"),
    ("POST", "/v1/chat/completion", "did you mean POST /api/v1/chat/completions?"),
    ("GET", "/v1/chat/completion", "did you mean POST /api/v1/chat/completions?"),
    ("POST", "/v1/image/generations", "did you mean POST /api/v1/images/generations?"),
    ("GET", "/v1/usage", "did you mean GET /api/v1/usage/{id}?"),
    ("GET", "/v2/videos/tasks/vreq_1", "did you mean GET /api/v1/videos/tasks/{id}?"),
    ("GET", "/", "it is where the routes begin, such as POST /api/v1/chat/completions"),
    ("GET", "/v1/", "it is where the routes begin, such as POST /api/v1/chat/completions"),
    ("POST", "/v1/completions", "no /completions: text is answered by POST /api/v1/chat/completions"),
    ("POST", "/v1/responses", "no /responses: text is answered by POST /api/v1/chat/completions"),
    ("POST", "/v1/messages", "no /messages: text is answered by POST /api/v1/chat/completions"),
    ("POST", "/v1/embeddings", "no /embeddings: what there is, GET /api/v1/models/public lists"),
    ("POST", "/v1/moderations", "no /moderations: what there is, GET /api/v1/models/public lists"),
    ("POST", "/v1/audio/speech", "no /audio: what there is, GET /api/v1/models/public lists"),
    ("POST", "/v1/audio/transcriptions", "no /audio: what there is, GET /api/v1/models/public lists"),
    ("GET", "/v1/files", "no /files: pictures and files go within the request itself"),
    ("POST", "/v1/batches", "no /batches: each request is sent by itself"),
    ("POST", "/v1/images/edits", "no /images/edits: pictures are made by POST /api/v1/images/generations"),
    (
        "GET",
        "/v1/videos/video_1",
        "no /videos: videos are made by POST /api/v1/videos/generations and read by GET /api/v1/videos/",
    ),
]


@pytest.mark.parametrize(("method", "typed", "named"), HINTS)
async def test_an_address_that_is_none_is_told_which_there_is(refusing: Bench, method: str, typed: str, named: str) -> None:
    answer = await ask(refusing, method, typed)

    assert (answer.status, answer.error["code"]) == (404, "NOT_FOUND")
    assert answer.error["message"].removesuffix(".").find(named) >= 0, answer.error["message"]


@pytest.mark.parametrize("typed", ["/v1/{key}", "/{key}/models", "/v1/x/{key}/chat/completions", "/v1/usage2/{key}", "/v1/files/{key}"])
async def test_what_is_told_of_an_address_quotes_no_key_of_it(refusing: Bench, typed: str) -> None:
    answer = await ask(refusing, "GET", typed.replace("{key}", refusing.key))

    assert answer.status == 404
    assert refusing.key not in answer.body.decode()
    assert refusing.key.lower() not in answer.body.decode().lower()


@pytest.mark.parametrize(
    ("method", "path", "named"),
    [
        ("GET", "/v1/videos/generations", "a video is read by GET /api/v1/videos/tasks/{id}"),
        ("POST", "/v1/videos/tasks", "videos are made by POST /api/v1/videos/generations"),
        ("GET", "/v1/chat/completions", "use POST, OPTIONS"),
    ],
)
async def test_a_wrong_method_is_told_the_right_one(refusing: Bench, method: str, path: str, named: str) -> None:
    answer = await ask(refusing, method, path)

    assert (answer.status, answer.error["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert named in answer.error["message"]


IDS: list[tuple[str, dict[str, Any]]] = [
    # (the id after /models/, what is shown of it)
    ("doubao-pro-32k", {"status": 200}),
    ("doubao%2Dpro%2d32k", {"status": 200}),
    ("doubao-pro-32k?x=/../..", {"status": 200}),
    ("tiered/chat", {"status": 200}),
    ("tiered%2Fchat", {"status": 200}),
    ("tiered%252Fchat", {"status": 404}),
    ("switched-off", {"status": 503}),
    ("../models/public", {"status": 404}),
    ("..%2f..%2fadmin", {"status": 404}),
    ("%2e%2e%2f", {"status": 404}),
    ("%00", {"status": 404}),
    ("%0d%0aSet-Cookie:%20a=b", {"status": 404}),
    ("%ff%fe", {"status": 404}),
    ("%ed%a0%80", {"status": 404}),
    ("%", {"status": 404}),
    ("%zz", {"status": 404}),
    ("%E8%B1%86%E5%8C%85", {"status": 404}),
    ("%E2%80%AE", {"status": 404}),
    ("<script>alert(1)</script>", {"status": 404}),
    ("x" * 15_000, {"status": 404}),
    ("/" * 5_000, {"status": 404}),
    ("doubao-seed-2-0-lite-260428", {"status": 404}),  # the upstream's own name
]


@pytest.mark.parametrize(("tail", "expected"), IDS, ids=[tail[:30] for tail, _ in IDS])
async def test_a_model_is_found_by_its_whole_id(refusing: Bench, tail: str, expected: dict[str, Any]) -> None:
    answer = await ask(refusing, "GET", f"/v1/models/{tail}", key=True)

    assert answer.status == expected["status"]
    assert len(answer.body) < 2_000
    assert set(answer.headers) <= {
        "content-type", "content-length", "date", "server", "x-request-id", "retry-after", "retry-after-ms", "x-should-retry",
    }  # fmt: skip
    if answer.status == 404:
        assert (answer.error["code"], answer.error["param"]) == ("MODEL_NOT_FOUND", "model")


@pytest.mark.parametrize("tail", [tail for tail, _ in IDS], ids=[tail[:30] for tail, _ in IDS])
async def test_a_receipt_of_an_id_that_is_none_is_not_found(refusing: Bench, tail: str) -> None:
    answer = await ask(refusing, "GET", f"/v1/usage/{tail}", key=True)

    assert (answer.status, answer.error["code"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize("scheme", ["http", "https", "HTTP"])
async def test_an_absolute_target_is_its_path(refusing: Bench, scheme: str) -> None:
    found = await ask(refusing, "GET", f"{scheme}://gateway:80/v1/models/public?x=1")
    bare = await ask(refusing, "GET", f"{scheme}://gateway")
    elsewhere = await ask(refusing, "GET", f"{scheme}://gateway/admin")

    assert [answer.status for answer in (found, bare, elsewhere)] == [200, 404, 404]


async def test_a_model_is_listed_as_published(refusing: Bench) -> None:
    listed = await ask(refusing, "GET", "/api/v1/models", key=True)
    public = await ask(refusing, "GET", "/v1/models/public")
    one = await ask(refusing, "GET", "/v1/models/doubao-pro-32k", key=True)

    assert listed.json == public.json
    assert listed.json["data"][0] == one.json
    assert one.json == {
        "id": "doubao-pro-32k",
        "object": "model",
        "created": 1_710_000_000,
        "owned_by": "volcengine",
        "description": "豆包 Pro 32K 上下文模型",
        "kind": "chat",
        "architecture": {"modality": "text+image->text", "input_modalities": ["text", "image"], "output_modalities": ["text"]},
        "context_length": 32_768,
        "max_output_tokens": 4_096,
        "top_provider": {"context_length": 32_768, "max_completion_tokens": 4_096},
        "pricing": {"currency": "CNY", "prompt": "0.0000008", "completion": "0.000002", "input_cache_read": "0.00000016"},
    }
    assert [*one.json][:5] == ["id", "object", "created", "owned_by", "description"]  # as published, and first
    assert "switched-off" not in {model["id"] for model in listed.json["data"]}
