"""The command line: each command is one operation, printed. Exit 0 done, 1 refused or failed, 2 wrong usage."""

import sys
import traceback
from typing import Annotated

import typer

from proxy import __version__
from proxy.cli import books, customers, gateway, keys, nodes, store, top
from proxy.cli.examples import examples
from proxy.cli.shared import ConfigOption
from proxy.core.shown_text import shown_lines

app = typer.Typer(
    help="An OpenAI-compatible gateway in front of Volcengine Ark that bills every token exactly once.",
    epilog=examples(""),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for commands in (gateway.app, customers.app, books.app, top.app):  # in the order of the help
    app.add_typer(commands)
app.add_typer(customers.account_app, name="account")
app.add_typer(keys.key_app, name="key")
app.add_typer(books.ledger_app, name="ledger")
app.add_typer(store.store_app, name="store")
app.add_typer(nodes.nodes_app, name="nodes")


def main() -> None:
    """Run the command line of this process."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without ¥ shows a ? instead of a traceback
    try:
        app(prog_name="llm-proxy")
    except Exception:  # noqa: BLE001 - a bug: its traceback may quote anything, and is printed as Python does
        sys.stderr.write(shown_lines(traceback.format_exc()))
        sys.exit(1)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"llm-proxy {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    config: ConfigOption = None,
    version: Annotated[  # noqa: ARG001  its callback has done it
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    context.obj = config
