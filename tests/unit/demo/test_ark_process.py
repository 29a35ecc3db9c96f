"""The stand-in as a separate process."""

import asyncio
import signal
import sys
import time

import aiohttp
import pytest

COMMAND = (sys.executable, "-m", "proxy.demo.ark", "--chunks", "5", "--chunk-chars", "3", "--chunk-ms", "20", "--key", "k")


@pytest.mark.parametrize("loop", [(), ("--asyncio",)])
async def test_it_streams_at_its_pace_and_ends_on_sigterm(loop: tuple[str, ...]) -> None:
    process = await asyncio.create_subprocess_exec(*COMMAND, *loop, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        base_url = (await process.stdout.readline()).decode().strip()
        asked = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        async with aiohttp.ClientSession(headers={"authorization": "Bearer k"}) as session:
            began = time.monotonic()
            async with session.post(base_url + "/chat/completions", json=asked) as answer:
                text = await answer.text()
            took_seconds = time.monotonic() - began
        process.send_signal(signal.SIGTERM)

        assert text.count('"content":"xxx"') == 5
        assert took_seconds >= 0.11  # five pieces, an end and [DONE]: six gaps of 20 ms, the timers' rounding aside
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
