"""The reference: a proxy of aiohttp's server and client that neither authenticates nor bills. ``python bare_proxy.py UPSTREAM``."""

import asyncio
import sys

import aiohttp
import uvloop
from aiohttp import web


async def run(upstream: str) -> None:
    timeout = aiohttp.ClientTimeout(total=None)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector, auto_decompress=False) as session:

        async def forward(request: web.Request) -> web.StreamResponse:
            headers = {"Authorization": "Bearer bench", "Content-Type": "application/json", "Accept-Encoding": "identity"}
            async with session.post(upstream + "/chat/completions", data=await request.read(), headers=headers) as answer:
                response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.headers["Content-Type"]})
                if "Content-Length" in answer.headers:
                    response.content_length = int(answer.headers["Content-Length"])
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                await response.write_eof()
                return response

        app = web.Application()
        app.router.add_post("/api/v1/chat/completions", forward)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
        await site.start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(run(sys.argv[1]))
