"""Commands for gateways that share a store: who lives, and who shall leave."""

from typing import Annotated

import typer

from proxy.cli import tables
from proxy.cli.examples import examples
from proxy.cli.shared import ConfigOption, JsonOption, perform, say, show

nodes_app = typer.Typer(help="Gateways that share a store in PostgreSQL.")


@nodes_app.callback(invoke_without_command=True, epilog=examples("nodes"))
def nodes(context: typer.Context, config: ConfigOption = None, json: JsonOption = False) -> None:
    """List the gateways that share the store: state, version, address, whether each beats, its keys and its configuration."""
    context.obj = config or context.find_root().obj
    if context.invoked_subcommand is None:
        show(perform(context, config, "nodes.list"), tables.print_nodes, json)


@nodes_app.command("drain", epilog=examples("nodes drain"))
def nodes_drain(
    context: typer.Context,
    node: Annotated[int, typer.Argument(metavar="ID", min=1)],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """End a gateway as SIGTERM does, wherever it runs, and return once it has left."""
    say(f"asking gateway {node} to leave: it ends once what is under way has ended", err=True)
    show(perform(context, config, "nodes.drain", id=node), tables.print_left, json)
