"""The command that moves the ledger from one engine to another."""

import asyncio
import os
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from proxy.cli import tables
from proxy.cli.examples import examples
from proxy.cli.progress import bar
from proxy.cli.shared import WRONG_USAGE, JsonOption, fail, refusals, show
from proxy.clock import SystemClock
from proxy.config.store_url import parse_store_url
from proxy.config.values import read_secret
from proxy.operations import views
from proxy.store import move_ledger
from proxy.store.moves import How, Moved

store_app = typer.Typer(help="Where the ledger is kept.", no_args_is_help=True)

_URL = "sqlite:PATH or postgresql://USER@HOST/DATABASE, without a password."


@store_app.command("move", epilog=examples("store move"))
def move(
    source: Annotated[str, typer.Option("--from", metavar="URL", help=f"The store that there is: {_URL}")],
    target: Annotated[str, typer.Option("--to", metavar="URL", help="An empty one of the other kind.")],
    password: Annotated[
        str | None,
        typer.Option(
            "--password",
            metavar="REF",
            help="Of the database server: env:NAME, file:PATH or credential:NAME. Default: PGPASSWORD or PGPASSFILE.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a move that did not come to its end.")] = False,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="Give up a move that did not come to its end, unless all has arrived.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Move the whole ledger from a file to PostgreSQL, or back, and verify it. Stop the gateway first."""
    if resume and abandon:
        fail("--resume and --abandon exclude one another", WRONG_USAGE)
    how = How.RESUME if resume else How.ABANDON if abandon else How.BEGIN
    from_url, to_url, secret = _url("--from", source), _url("--to", target), _password(password)
    with refusals(None), bar(wanted=not json) as report:
        try:
            moved = asyncio.run(move_ledger(from_url, to_url, password=secret, how=how, now_ms=SystemClock().now_ms, report=report))
        except KeyboardInterrupt:
            fail("interrupted: the store that is moved says what became of it, and so does the same command again")
    show(_view(moved, how), tables.print_moved, json)


def _url(option: str, text: str) -> str:
    try:
        if urlsplit(text).password:
            fail(
                f"{option} must not carry a password, which the list of processes shows to everybody: --password env:NAME or file:PATH",
                WRONG_USAGE,
            )
        return parse_store_url(text, Path.cwd())
    except ValueError as error:
        fail(f"{option} {error}", WRONG_USAGE)


def _password(reference: str | None) -> str:
    if reference is None:
        return ""
    try:
        return read_secret(reference, Path.cwd(), os.environ).reveal()
    except ValueError as error:
        fail(f"--password: {error}", WRONG_USAGE)


def _view(moved: Moved, how: How) -> dict[str, Any]:
    return {
        "from": moved.move.source,
        "to": moved.move.target,
        "state": "abandoned" if how is How.ABANDON else "moved",
        "tables": [{"table": table.name, "rows": table.rows, "digest": table.digest} for table in moved.tables],
        "replaced_zero_characters": moved.replaced,
    } | views.checks(moved.checks)
