"""The stand-in as a process: prints its base URL as one line, serves until SIGTERM or SIGINT."""

import argparse
import asyncio
import signal

from proxy.demo.ark import Account, Settings, StandIn, Timeline, paced_reply


def main() -> None:
    options = _options()
    if options.asyncio:
        asyncio.run(_serve(options))
        return
    import uvloop  # noqa: PLC0415 -- not there on every platform

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(options))


async def _serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    account = Account(keys=frozenset(options.key) if options.key else None)
    timeline = Timeline(options.queued_seconds, options.running_seconds)
    settings = Settings(account=account, timeline=timeline, enforces_rates=options.enforce_rates, links="local")
    async with StandIn(settings, host=options.host, port=options.port, calls_max=options.calls) as standin:
        standin.chat.event_seconds = options.chunk_ms / 1000
        standin.chat.first_byte_seconds = options.first_byte_ms / 1000
        standin.images.latency_seconds = options.image_ms / 1000
        if options.chunks is not None:
            standin.chat.reply = paced_reply(options.chunks, options.chunk_chars)
        print(standin.base_url, flush=True)
        await stop.wait()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m proxy.demo.ark", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--key", action="append", help="an API key that is accepted; may be repeated; none: any")
    parser.add_argument("--chunks", type=int, help="content events of each chat answer; left out: the canned reply")
    parser.add_argument("--chunk-chars", type=int, default=4, help="characters of content in each of them (an event is 220 bytes more)")
    parser.add_argument("--chunk-ms", type=float, default=0.0, help="between two events of a stream")
    parser.add_argument("--first-byte-ms", type=float, default=0.0, help="before the head of a chat answer")
    parser.add_argument("--image-ms", type=float, default=0.0, help="before an image answer")
    parser.add_argument("--queued-seconds", type=float, default=1.0)
    parser.add_argument("--running-seconds", type=float, default=5.0)
    parser.add_argument("--enforce-rates", action="store_true", help="429 above Ark's calls a second for tasks")
    parser.add_argument("--calls", type=int, default=0, help="calls to keep on record")
    parser.add_argument("--asyncio", action="store_true", help="asyncio's own loop instead of uvloop")
    return parser.parse_args()


if __name__ == "__main__":
    main()
