"""Commands for API keys: made, limited, paused, rolled, found, revoked."""

from typing import Annotated, Any

import typer

from proxy import ids
from proxy.cli import account_tables
from proxy.cli.completion import account_names, key_ids
from proxy.cli.examples import examples
from proxy.cli.limits import takes_limits
from proxy.cli.shared import ConfigOption, JsonOption, perform, show

IdArgument = Annotated[str, typer.Argument(metavar="ID", autocompletion=key_ids)]

key_app = typer.Typer(help="API keys.", no_args_is_help=True)


@key_app.command("create", epilog=examples("key create"))
@takes_limits
def key_create(
    context: typer.Context,
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", autocompletion=account_names)],
    name: Annotated[str, typer.Option("--name", metavar="TEXT", help="To tell it from others.")] = "",
    *,
    limits: dict[str, Any],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Make a key and print its secret, this once."""
    key_id, secret = ids.key_id(), ids.new_secret().text  # drawn here, so that this key can be asked for again after a lost answer
    drawn: dict[str, Any] = {"label": name, "id": key_id, "secret": secret}
    answer = perform(context, config, "key.create", account=account, **drawn, **limits)
    show(answer, account_tables.print_new_key, json)


@key_app.command("list", epilog=examples("key list"))
def key_list(
    context: typer.Context,
    account: Annotated[str | None, typer.Argument(metavar="[ACCOUNT]", autocompletion=account_names)] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """List all keys, or those of an account, with limits, use, and when each was last used."""
    show(perform(context, config, "key.list", account=account), account_tables.print_keys, json)


@key_app.command("find", epilog=examples("key find"))
def key_find(
    context: typer.Context,
    prefix: Annotated[str, typer.Argument(metavar="PREFIX")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Whose key begins so, and whether it lives: for one that has leaked."""
    show(perform(context, config, "key.find", prefix=prefix), account_tables.print_keys, json)


@key_app.command("set", epilog=examples("key set"))
@takes_limits
def key_set(
    context: typer.Context,
    key_id: IdArgument,
    limits: dict[str, Any],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Change the limits of a key; what is not named stays. It counts at once."""
    show(perform(context, config, "key.set", id=key_id, **limits), account_tables.print_key, json)


@key_app.command("pause", epilog=examples("key pause"))
def key_pause(context: typer.Context, key_id: IdArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Refuse a key until it is resumed; what streams already goes on."""
    show(perform(context, config, "key.pause", id=key_id), account_tables.print_key, json)


@key_app.command("resume", epilog=examples("key resume"))
def key_resume(context: typer.Context, key_id: IdArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Let a paused key be used again."""
    show(perform(context, config, "key.resume", id=key_id), account_tables.print_key, json)


@key_app.command("roll", epilog=examples("key roll"))
def key_roll(
    context: typer.Context,
    key_id: IdArgument,
    overlap: Annotated[str, typer.Option("--overlap", metavar="SPAN", help="How long the old secret still lives: 24h, 7d.")] = "0",
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Give a key a new secret, with its name and limits, and print it, this once."""
    drawn: dict[str, Any] = {"new_id": ids.key_id(), "secret": ids.new_secret().text}
    show(perform(context, config, "key.roll", id=key_id, overlap=overlap, **drawn), account_tables.print_rolled_key, json)


@key_app.command("revoke", epilog=examples("key revoke"))
def key_revoke(
    context: typer.Context,
    key_id: IdArgument,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Revoke a key for good, with all its secrets; it stops at once."""
    answer = perform(context, config, "key.revoke", id=key_id)
    show(answer, account_tables.print_key, json)
