"""Image calls as customers make them: OpenAI's SDK, and the published examples with only base URL and key changed."""

import asyncio
import sys

import openai
import orjson
import pytest

from proxy.demo.ark import known_error, lost
from tests.support.gateway import Bench
from tests.support.images import PRICE, ROUTE

SECONDS_MAX = 30.0

ANIME = """curl -X POST https://llm-proxy.tejarvis.info/api/v1/images/generations \\
-H "Authorization: Bearer sk_your_api_key" \\
-H "Content-Type: application/json" \\
-d '{
"model": "doubao-seedream-5-0-260128",
"task_type": "text_to_image",
"prompt": "一个穿着汉服的少女站在樱花树下,柔和的春日光线,精致的面部特写",
"negative_prompt": "模糊, 低质量, 变形, 水印",
"size": "1024x1024",
"style": "anime",
"n": 2
}'"""

WATERCOLOR = """curl -X POST https://llm-proxy.tejarvis.info/api/v1/images/generations \\
-H "Authorization: Bearer sk_your_api_key" \\
-H "Content-Type: application/json" \\
-d '{
"model": "doubao-seedream-5-0-260128",
"task_type": "image_to_image",
"prompt": "将图片风格转换为水彩画,保留主体构图",
"image_url": "https://example.com/photo.jpg",
"size": "1024x1024",
"style": "watercolor"
}'"""

CITY = """import requests
API_KEY = "sk_your_api_key"
BASE_URL = "https://llm-proxy.tejarvis.info/api"
resp = requests.post(
f"{BASE_URL}/v1/images/generations",
headers={"Authorization": f"Bearer {API_KEY}"},
json={
"model": "doubao-seedream-5-0-260128",
"task_type": "text_to_image",
"prompt": "赛博朋克风格的城市夜景,霓虹灯倒影在雨后的街道上",
"size": "1280x720",
"n": 1,
},
timeout=120,
)
data = resp.json()
for url in data["image_urls"]:
    print(f"图片链接: {url}")"""


def here(gateway: Bench, example: str) -> str:
    """Return a published example with only the base URL and the key changed."""
    return example.replace("https://llm-proxy.tejarvis.info", gateway.origin).replace("sk_your_api_key", gateway.key)


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(SECONDS_MAX):
        said, complained = await process.communicate()
    assert process.returncode == 0, complained.decode()
    return said.decode()


@pytest.mark.parametrize(
    ("example", "size", "urls", "style", "cost"),
    [(ANIME, "2048x2048", 2, "动漫风格", 0.36), (WATERCOLOR, "2048x2048", 1, "水彩画风格", 0.18)],
    ids=["anime", "watercolor"],
)
async def test_the_published_shell_examples(gateway: Bench, example: str, size: str, urls: int, style: str, cost: float) -> None:
    printed = orjson.loads(await run("sh", "-c", here(gateway, example)))

    assert printed["request_id"].startswith("img-")
    assert printed["model"] == "doubao-seedream-5-0-260128"
    assert len(printed["image_urls"]) == urls
    assert printed["total_cost"] == cost
    sent = [call.json for call in gateway.ark.calls_to(ROUTE)]
    assert [(body["size"], style in body["prompt"]) for body in sent] == [(size, True)] * urls
    await gateway.assert_charged(urls * PRICE)


async def test_the_published_python_example(gateway: Bench) -> None:
    printed = await run(sys.executable, "-c", here(gateway, CITY))

    (line,) = printed.splitlines()
    assert line.startswith("图片链接: https://")
    assert gateway.ark.calls_to(ROUTE)[0].json["size"] == "2560x1440"
    await gateway.assert_charged(PRICE)


async def test_openais_sdk_reads_the_images(gateway: Bench) -> None:
    async with openai.AsyncOpenAI(api_key=gateway.key, base_url=gateway.base_url, max_retries=0) as client:
        made = await client.images.generate(model="doubao-seedream-5-0-260128", prompt="a cat", n=2, size="1024x1024")

    assert made.data is not None
    assert [str(image.url).startswith("https://") for image in made.data] == [True, True]
    assert made.created > 0
    await gateway.assert_charged(2 * PRICE)


async def test_openais_sdk_retries_a_limit_under_one_key_and_pays_once(gateway: Bench) -> None:
    gateway.ark.enqueue(known_error("ServerOverloaded"), ROUTE)

    async with openai.AsyncOpenAI(api_key=gateway.key, base_url=gateway.base_url, max_retries=1) as client:
        made = await client.images.generate(prompt="a cat", extra_headers={"Idempotency-Key": "order-1"})

    assert made.data is not None
    assert len(made.data) == 1
    assert len(gateway.ark.calls) == 2
    await gateway.assert_charged(PRICE)


async def test_openais_sdk_does_not_retry_what_may_have_been_made(gateway: Bench) -> None:
    gateway.ark.enqueue(lost(), ROUTE)

    async with openai.AsyncOpenAI(api_key=gateway.key, base_url=gateway.base_url, max_retries=3) as client:
        with pytest.raises(openai.InternalServerError) as raised:
            await client.images.generate(prompt="a cat")

    assert raised.value.status_code == 503
    assert len(gateway.ark.calls) == 1
    await gateway.assert_charged(0)
