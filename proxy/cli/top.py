"""`llm-proxy top`: find the gateway's admin socket and watch it. The screen itself is in `proxy/top/`."""

import asyncio
from typing import Annotated

import typer

from proxy.cli.examples import examples
from proxy.cli.shared import ConfigOption, fail, load_config, show
from proxy.clock import SystemClock
from proxy.config.tables import WORKERS_MAX
from proxy.config.workers import worker_socket, worker_sockets

app = typer.Typer()


@app.command(epilog=examples("top"))
def top(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and exit.")] = False,
    every: Annotated[float, typer.Option("--every", metavar="SECONDS", min=0.1, max=3600, help="Between two looks.")] = 2.0,
    worker: Annotated[
        int | None, typer.Option("--worker", metavar="N", min=1, max=WORKERS_MAX, help="Of several: this one; else the first.")
    ] = None,
    config: ConfigOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON each time; with --once, one document.")] = False,
) -> None:
    """Watch the gateway live: streams, requests, tokens, money, upstreams, store. q quits."""
    listen = load_config(context, config, require_secrets=False).admin.listen
    if listen is None:
        fail('admin.listen is "off": give the gateway an admin socket, as it is asked there')
    if worker is not None:
        listen = worker_socket(listen, worker)
    elif not listen.path.exists():  # several processes answer: each has a socket of its own
        listen = next(iter(worker_sockets(listen).values()), listen)
    from proxy.top.run import Asked, NoAnswerError, run  # noqa: PLC0415  aiohttp and rich cost other commands half a second

    try:
        asyncio.run(run(Asked(listen, every, once, json), SystemClock()))
    except NoAnswerError as error:
        fail(str(error))
    except BrokenPipeError:
        show({}, lambda _: None, json=False)
