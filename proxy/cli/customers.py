"""Commands for customers: accounts, usage, and the receipt of one request."""

import re
from typing import Annotated, Any, Literal

import typer

from proxy import ids
from proxy.cli import account_tables, tables, usage_tables
from proxy.cli.completion import account_names
from proxy.cli.examples import examples
from proxy.cli.limits import takes_limits
from proxy.cli.shared import WRONG_USAGE, ConfigOption, JsonOption, fail, perform, show
from proxy.clock import SystemClock

NameArgument = Annotated[str, typer.Argument(metavar="NAME", autocompletion=account_names)]
ReferenceOption = Annotated[
    str, typer.Option("--reference", metavar="REF", help="Name of the payment, booked once however often it is told. Default: made up.")
]

_AMOUNT = re.compile(r"[+-]?[0-9.,]+")
"""What stands for an amount where a name could stand too."""

app = typer.Typer()
account_app = typer.Typer(help="Customers' accounts. Amounts are in yuan.", no_args_is_help=True)


@account_app.command("create", epilog=examples("account create"))
def account_create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    credit: Annotated[str, typer.Option("--credit", metavar="YUAN", help="Money to begin with.")] = "0",
    reference: ReferenceOption = "",
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Open an account."""
    answer = perform(context, config, "account.create", account=name, credit=credit, reference=reference or _made_up())
    show(answer, account_tables.print_booking, json)


@account_app.command("list", epilog=examples("account list"))
def account_list(context: typer.Context, config: ConfigOption = None, json: JsonOption = False) -> None:
    """List all accounts with what they have."""
    show(perform(context, config, "account.list"), account_tables.print_accounts, json)


@account_app.command("show", epilog=examples("account show"))
def account_show(context: typer.Context, name: NameArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show an account and its keys."""
    show(perform(context, config, "account.show", account=name), account_tables.print_account, json)


@account_app.command(
    "credit",
    epilog=examples("account credit"),
    context_settings={"ignore_unknown_options": True},  # so that -5.00 is an amount
)
def account_credit(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="[NAME]", autocompletion=account_names)] = "",
    amount: Annotated[str, typer.Argument(metavar="[YUAN]")] = "",
    request: Annotated[
        str, typer.Option("--request", metavar="ID", help="Give back what this request cost, all of it or YUAN; NAME may be left out.")
    ] = "",
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="Kept with the booking.")] = "",
    reference: ReferenceOption = "",
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Book money in; a negative amount takes money back; --request gives a charge back. Under one reference it is booked once."""
    reference = reference or _made_up()
    if request:
        if name and not amount and _AMOUNT.fullmatch(name):
            name, amount = "", name
        told = {"request": request, "account": name or None, "amount": amount or None}
        answer = perform(context, config, "request.refund", None, **told, note=note, reference=reference)
    elif name and amount:
        answer = perform(context, config, "account.credit", account=name, amount=amount, note=note, reference=reference)
    else:
        fail("name an account and an amount, or --request ID", WRONG_USAGE)
    show(answer, account_tables.print_booking, json)


@account_app.command("close", epilog=examples("account close"))
def account_close(context: typer.Context, name: NameArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Close an account for good: its keys end, the prompts of its videos are erased, the books stay. Nothing is paid out."""
    show(perform(context, config, "account.close", account=name), account_tables.print_account, json)


@account_app.command("set", epilog=examples("account set"))
@takes_limits
def account_set(
    context: typer.Context,
    name: NameArgument,
    limits: dict[str, Any],
    discount: Annotated[
        str | None, typer.Option("--discount", metavar="FACTOR", help="What it pays of each price: 0.85; none: the whole price.")
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Limit an account, or change what it pays. Of its limits and those of a key the stricter counts."""
    answer = perform(context, config, "account.set", account=name, **limits, discount=discount)
    show(answer, account_tables.print_account, json)


@account_app.command("suspend", epilog=examples("account suspend"))
def account_suspend(context: typer.Context, name: NameArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Refuse all calls of an account from now on; what streams already goes on."""
    show(perform(context, config, "account.suspend", account=name), account_tables.print_account, json)


@account_app.command("resume", epilog=examples("account resume"))
def account_resume(context: typer.Context, name: NameArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Let a suspended account call again."""
    show(perform(context, config, "account.resume", account=name), account_tables.print_account, json)


@app.command(epilog=examples("usage"))
def usage(
    context: typer.Context,
    account: Annotated[str | None, typer.Option("--account", metavar="NAME", autocompletion=account_names)] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="WHEN", help="2026-11-23, an ISO time, or 7d, 24h ago.")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="WHEN", help="Up to, not including.")] = None,
    by: Annotated[Literal["model", "key", "day"], typer.Option("--by")] = "model",
    csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """What was used and charged, by the time of the requests."""
    if csv and json:
        fail("--csv and --json exclude each other", WRONG_USAGE)
    answer = perform(context, config, "usage", account=account, since=since, until=until, by=by)
    show(answer, usage_tables.print_usage_csv if csv else usage_tables.print_usage, json)


@app.command(epilog=examples("receipt"))
def receipt(
    context: typer.Context,
    request_id: Annotated[str, typer.Argument(metavar="REQUEST_ID")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """One request or task: tokens, price, formula, hold, charge, times, upstream id."""
    show(perform(context, config, "receipt", id=request_id), tables.print_receipt, json)


def _made_up() -> str:
    """Return a reference for a payment that was given none: the command repeats itself with it after a lost answer."""
    return ids.payment_reference(SystemClock().now_ms())
