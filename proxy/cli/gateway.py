"""Commands for the gateway: run it, try it, check and reload its configuration, diagnose it."""

import asyncio
import os
from typing import Annotated

import typer

from proxy.cli import tables
from proxy.cli.config_view import describe
from proxy.cli.examples import examples
from proxy.cli.shared import REFUSED, WRONG_USAGE, ConfigOption, JsonOption, ask_gateway, config_path, fail, load_config, say, show
from proxy.clock import SystemClock
from proxy.config import Config, ConfigError, Source
from proxy.config.environment import PROXY_ADVICE, ignored_proxy_variable
from proxy.config.tables import WORKERS_MAX
from proxy.config.workers import fault_of

BAD_CONFIGURATION = 78
"""EX_CONFIG of sysexits.h: `proxy.gateway.process`, whose imports cost other commands half a second, has the same."""

app = typer.Typer()


@app.command(epilog=examples("serve"))
def serve(
    context: typer.Context,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", min=1, max=WORKERS_MAX, help="Processes on one PostgreSQL; else server.workers."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Run the gateway until SIGTERM or Ctrl-C. SIGHUP reloads the configuration. Exits 78 where that is faulty."""
    from proxy.gateway.process import serve as run_gateway  # noqa: PLC0415  the gateway's imports cost other commands half a second
    from proxy.gateway.supervisor import supervise  # noqa: PLC0415

    source = Source(config_path(context, config, code=BAD_CONFIGURATION), dict(os.environ), workers)
    try:
        loaded = source.read()
    except ConfigError as error:
        fail(str(error), BAD_CONFIGURATION)
    if workers is not None and (fault := fault_of(workers, loaded.store, loaded.admin)) is not None:
        fail(f"--workers: {fault}", WRONG_USAGE)
    raise typer.Exit((run_gateway if loaded.server.workers == 1 else supervise)(loaded, source))


@app.command(epilog=examples("demo"))
def demo(
    once: Annotated[bool, typer.Option("--once", help="Run the whole tour and exit.")] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0: any free port.")] = 0,
    real: Annotated[bool, typer.Option("--real", help="Ask Ark itself, with ARK_API_KEY. This costs money.")] = False,
    nodes: Annotated[
        int, typer.Option("--nodes", min=1, max=9, help="So many gateways on one throwaway PostgreSQL; the tour kills one.")
    ] = 1,
) -> None:
    """Try everything on throwaway gateways with a built-in stand-in for Ark."""
    if real and not os.environ.get("ARK_API_KEY"):
        fail("--real needs ARK_API_KEY to be set", WRONG_USAGE)
    from proxy.demo.run import run as show  # noqa: PLC0415  nothing else needs the demonstration

    raise typer.Exit(show(once=once, port=port, real=real, nodes=nodes))


@app.command("check-config", epilog=examples("check-config"))
def check_config(
    context: typer.Context,
    diff: Annotated[bool, typer.Option("--diff", help="Show what a reload would change in the gateway that runs.")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Check the configuration and print what would run, or what a reload would change. Never prints a secret."""
    if not diff:
        loaded = load_config(context, config)
        show(describe(loaded), tables.print_config, json)
        _mention_ignored_proxy(loaded)
        return
    path = config_path(context, config)
    file = {} if path is None else {"file": str(path.absolute())}
    answer = ask_gateway(context, config, "reload", preview=True, **file)
    show(answer, lambda it: tables.print_reload(it, "a reload would change"), json)


def _mention_ignored_proxy(config: Config) -> None:
    """Tell on stderr of a variable that names a proxy to other programs, where an upstream is dialled directly."""
    variable = ignored_proxy_variable(os.environ)
    if variable is not None and any(upstream.proxy is None for upstream in config.upstreams.values()):
        say(f"${variable} is set, and is not obeyed: {PROXY_ADVICE}", err=True)


@app.command(epilog=examples("reload"))
def reload(context: typer.Context, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Put the changed configuration in force in the gateway that runs, as SIGHUP does. A faulty one changes nothing."""
    answer = ask_gateway(context, config, "reload")
    show(answer, lambda it: tables.print_reload(it, "in force now"), json)


@app.command(epilog=examples("doctor"))
def doctor(
    context: typer.Context,
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="The public base URL: look through what stands in front.")
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Look for what commonly breaks an installation and say what to do. Spends nothing, changes nothing."""
    from proxy.doctor.examination import examine  # noqa: PLC0415  aiohttp costs other commands a quarter of a second

    if url is not None and not url.startswith(("http://", "https://")):
        fail("--url must begin with https:// or http://", WRONG_USAGE)
    if url is not None and "@" in url:
        fail("--url must carry no user and no password: they would be printed, and a call's key takes their header", WRONG_USAGE)
    if url is not None:
        say(f"looking through {url} takes a minute: one answer is slow on purpose", err=True)
    findings = asyncio.run(examine(config_path(context, config), os.environ, SystemClock(), url))
    holds = all(finding.state != "failed" for finding in findings)
    show({"holds": holds, "checks": [finding.view() for finding in findings]}, tables.print_findings, json)
    if not holds:
        raise typer.Exit(REFUSED)
