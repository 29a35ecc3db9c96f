"""The command line: each command is one operation, printed. Exit 0 done, 1 refused or failed, 2 wrong usage."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from proxy import __version__, cli_retention, cli_tables, operation_views
from proxy.cli_client import ask_gateway, perform
from proxy.cli_completion import DEFAULT_CONFIGS, account_names, existing_config, key_ids, read_account_names
from proxy.cli_examples import examples
from proxy.cli_hints import hint
from proxy.cli_progress import bar
from proxy.clock import SystemClock, iso
from proxy.config import Config, ConfigError, Source, load
from proxy.config_env import stands_for_keys
from proxy.core.keeping import REQUEST_DAYS_MIN
from proxy.operations import ParameterError
from proxy.rotation import Rotation, RotationError, compact
from proxy.store.contract import StoreError
from proxy.store.progress import Report
from proxy.store.sqlite.restore import restore as put_in_place

REFUSED = 1
WRONG_USAGE = 2
BAD_CONFIGURATION = 78
"""EX_CONFIG of sysexits.h: `serve` will not start by being started again. systemd is told not to (RestartPreventExitStatus=)."""

ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Default: $LLM_PROXY_CONFIG, ./config.toml, /etc/llm-proxy/config.toml.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", autocompletion=account_names)]

app = typer.Typer(
    help="An OpenAI-compatible gateway in front of Volcengine Ark that bills every token exactly once.",
    epilog=examples(""),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
account_app = typer.Typer(help="Customers' accounts. Amounts are in yuan.", no_args_is_help=True)
key_app = typer.Typer(help="API keys.", no_args_is_help=True)
ledger_app = typer.Typer(help="The books.", no_args_is_help=True)
app.add_typer(account_app, name="account")
app.add_typer(key_app, name="key")
app.add_typer(ledger_app, name="ledger")


def main() -> None:
    """Run the command line of this process."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that knows no ¥ shows a ?, instead of a traceback
    app(prog_name="llm-proxy")


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


@app.command(epilog=examples("serve"))
def serve(context: typer.Context, config: ConfigOption = None) -> None:
    """Run the gateway until SIGTERM or Ctrl-C. SIGHUP reloads the configuration. Exits 78 where that is faulty."""
    from proxy.process import serve as run_gateway  # noqa: PLC0415  the gateway's imports cost other commands half a second

    source = Source(_config_path(context, config, code=BAD_CONFIGURATION), dict(os.environ))
    try:
        loaded = source.read()
    except ConfigError as error:
        _fail(str(error), BAD_CONFIGURATION)
    raise typer.Exit(run_gateway(loaded, source))


@app.command(epilog=examples("demo"))
def demo(
    once: Annotated[bool, typer.Option("--once", help="Run the whole tour and exit.")] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0: any free port.")] = 0,
    real: Annotated[bool, typer.Option("--real", help="Ask Ark itself, with ARK_API_KEY. This costs money.")] = False,
) -> None:
    """Try everything on a throwaway gateway with a built-in stand-in for Ark."""
    if real and not os.environ.get("ARK_API_KEY"):
        _fail("--real needs ARK_API_KEY to be set", WRONG_USAGE)
    from proxy.demo.tour import run as show  # noqa: PLC0415  nothing else needs the demonstration

    raise typer.Exit(show(once=once, port=port, real=real))


@app.command("check-config", epilog=examples("check-config"))
def check_config(
    context: typer.Context,
    diff: Annotated[bool, typer.Option("--diff", help="Show what a reload would change in the gateway that runs.")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Check the configuration and print what would run, or what a reload would change. Never prints a secret."""
    if not diff:
        _print(cli_tables.describe(_load(context, config)), cli_tables.print_config, json)
        return
    path = _config_path(context, config)
    file = {} if path is None else {"file": str(path.absolute())}
    answer = _ask_gateway(context, config, "reload", preview=True, **file)
    _print(answer, lambda it: cli_tables.print_reload(it, "a reload would change"), json)


@app.command(epilog=examples("reload"))
def reload(context: typer.Context, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Put the changed configuration in force in the gateway that runs, as SIGHUP does. A faulty one changes nothing."""
    answer = _ask_gateway(context, config, "reload")
    _print(answer, lambda it: cli_tables.print_reload(it, "in force now"), json)


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
        _fail("--url must begin with https:// or http://", WRONG_USAGE)
    findings = asyncio.run(examine(_config_path(context, config), os.environ, SystemClock(), url))
    holds = all(finding.state != "failed" for finding in findings)
    _print({"holds": holds, "checks": [finding.view() for finding in findings]}, cli_tables.print_findings, json)
    if not holds:
        raise typer.Exit(REFUSED)


@account_app.command("create", epilog=examples("account create"))
def account_create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    credit: Annotated[str, typer.Option("--credit", metavar="YUAN", help="Money to begin with.")] = "0",
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Open an account."""
    answer = _perform(context, config, "account.create", account=name, credit=credit)
    _print(answer, cli_tables.print_account, json)


@account_app.command("list", epilog=examples("account list"))
def account_list(context: typer.Context, config: ConfigOption = None, json: JsonOption = False) -> None:
    """List all accounts with what they have."""
    _print(_perform(context, config, "account.list"), cli_tables.print_accounts, json)


@account_app.command("show", epilog=examples("account show"))
def account_show(context: typer.Context, name: NameArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show an account and its keys."""
    _print(_perform(context, config, "account.show", account=name), cli_tables.print_account, json)


@account_app.command(
    "credit",
    epilog=examples("account credit"),
    context_settings={"ignore_unknown_options": True},  # so that -5.00 is an amount
)
def account_credit(
    context: typer.Context,
    name: NameArgument,
    amount: Annotated[str, typer.Argument(metavar="YUAN")],
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="Kept with the booking.")] = "",
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Book money in; a negative amount takes money back."""
    answer = _perform(context, config, "account.credit", account=name, amount=amount, note=note)
    _print(answer, cli_tables.print_account, json)


@key_app.command("create", epilog=examples("key create"))
def key_create(
    context: typer.Context,
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", autocompletion=account_names)],
    name: Annotated[str, typer.Option("--name", metavar="TEXT", help="To tell it from others.")] = "",
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Make a key and print its secret, this once."""
    _print(_perform(context, config, "key.create", account=account, label=name), cli_tables.print_new_key, json)


@key_app.command("list", epilog=examples("key list"))
def key_list(
    context: typer.Context,
    account: Annotated[str | None, typer.Argument(metavar="[ACCOUNT]", autocompletion=account_names)] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """List all keys, or those of an account."""
    _print(_perform(context, config, "key.list", account=account), cli_tables.print_keys, json)


@key_app.command("revoke", epilog=examples("key revoke"))
def key_revoke(
    context: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="ID", autocompletion=key_ids)],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Revoke a key for good; it stops at once."""
    answer = _perform(context, config, "key.revoke", id=key_id)
    _print(answer, lambda key: cli_tables.print_keys({"keys": [key]}), json)


@app.command(epilog=examples("usage"))
def usage(
    context: typer.Context,
    account: Annotated[str | None, typer.Option("--account", metavar="NAME", autocompletion=account_names)] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="WHEN", help="2026-11-23, an ISO time, or 7d, 24h ago. UTC.")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="WHEN", help="Up to, not including.")] = None,
    by: Annotated[Literal["model", "key", "day"], typer.Option("--by")] = "model",
    csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """What was used and charged, by the time of the requests."""
    if csv and json:
        _fail("--csv and --json exclude each other", WRONG_USAGE)
    answer = _perform(context, config, "usage", account=account, since=since, until=until, by=by)
    _print(answer, cli_tables.print_usage_csv if csv else cli_tables.print_usage, json)


@app.command(epilog=examples("receipt"))
def receipt(
    context: typer.Context,
    request_id: Annotated[str, typer.Argument(metavar="REQUEST_ID")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """One request or task: tokens, price, formula, hold, charge, times, upstream id."""
    _print(_perform(context, config, "receipt", id=request_id), cli_tables.print_receipt, json)


@ledger_app.command("verify", epilog=examples("ledger verify"))
def ledger_verify(context: typer.Context, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Check every invariant of the books; exit 1 where one does not hold."""
    with bar(wanted=not json) as report:
        answer = _perform(context, config, "ledger.verify", report=report)
    _print_checks(answer, json)


@app.command(epilog=examples("backup"))
def backup(
    context: typer.Context,
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="A new file; with --keep a directory.")],
    keep: Annotated[
        int | None, typer.Option("--keep", min=1, metavar="N", help="Name the copy by its time, in the directory DEST, and keep N.")
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Write a consistent copy of the store, also while the gateway runs, and verify it."""
    destination = destination.absolute()
    with bar(wanted=not json) as report:

        def write(copy: Path) -> dict[str, Any]:
            return _perform(context, config, "backup", report=report, destination=str(copy))

        answer = write(destination) if keep is None else _rotate(destination, keep, write)
    if not json:
        typer.echo(f"wrote {answer['destination']}")
        for name in answer.get("removed", ()):
            typer.echo(f"removed {name}")
    _print_checks(answer, json)


def _rotate(directory: Path, keep: int, write: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Back up into a directory and remove what is there too much, unless the books of the new copy do not hold."""
    try:
        with Rotation(directory) as rotation:
            copy = rotation.path(SystemClock().now_ms())
            answer = write(copy)
            return answer | {"removed": rotation.prune(keep, copy) if answer["holds"] else []}
    except RotationError as error:
        _fail(str(error))


@app.command(epilog=examples("restore"))
def restore(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="What `backup` wrote.")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Put a backup in the store's place, once it is verified; the old store is kept beside it. Stop the gateway first."""
    loaded = _load(context, config, require_secrets=False)
    path = loaded.store.path
    with _refusals(loaded.path), bar(wanted=not json) as report:
        restored = put_in_place(path, source, compact(SystemClock().now_ms()), report)
    kept, newest_at = restored.kept, restored.newest_at_ms
    answer = {
        "store": str(path),
        "source": str(source.absolute()),
        "newest_booking_at": None if newest_at is None else iso(newest_at),
        "kept": None if kept is None else str(kept),
    }
    _print(answer | operation_views.checks(restored.checks), cli_tables.print_restored, json)


@app.command(epilog=examples("retention"))
def retention(
    context: typer.Context,
    days: Annotated[
        int | None,
        typer.Option(
            "--days",
            metavar="N",
            help=f"Keep so many days, at least {REQUEST_DAYS_MIN}. Default: retention.request_days.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many requests there are.")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Fold requests older than so many days into daily sums and delete them, also while the gateway runs. Ctrl-C stops it safely."""
    loaded = _load(context, config, require_secrets=False)
    kept = loaded.retention.request_days if days is None else days
    if days is not None and days < REQUEST_DAYS_MIN:
        _fail(f"--days must be at least {REQUEST_DAYS_MIN}: a video may still be asked for after a week", WRONG_USAGE)
    if not kept:
        _fail(cli_retention.NOTHING_SET, WRONG_USAGE)
    with _refusals(loaded.path), bar(wanted=not json) as report:
        answer = cli_retention.retention(loaded, SystemClock(), kept, report, is_rehearsal=dry_run)
    _print(answer, cli_tables.print_retention, json)


@app.command(epilog=examples("top"))
def top(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and exit.")] = False,
    every: Annotated[float, typer.Option("--every", metavar="SECONDS", min=0.1, max=3600, help="Between two looks.")] = 2.0,
    config: ConfigOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON each time; with --once, one document.")] = False,
) -> None:
    """Watch the gateway live: streams, requests, tokens, money, upstreams, store. q quits."""
    listen = _load(context, config, require_secrets=False).admin.listen
    if listen is None:
        _fail('admin.listen is "off": give the gateway an admin socket, as it is asked there')
    from proxy.top.run import Asked, NoAnswerError, run  # noqa: PLC0415  aiohttp and rich cost other commands half a second

    try:
        asyncio.run(run(Asked(listen, every, once, json), SystemClock()))
    except NoAnswerError as error:
        _fail(str(error))
    except BrokenPipeError:
        _print({}, lambda _: None, json=False)


def _load(context: typer.Context, config: Path | None, *, require_secrets: bool = True) -> Config:
    path = _config_path(context, config)
    try:
        return load(path, os.environ, require_secrets=require_secrets)
    except ConfigError as error:
        _fail(str(error))


def _config_path(context: typer.Context, config: Path | None, *, code: int = REFUSED) -> Path | None:
    """Return the configuration's file; None where there is none and the environment is the configuration."""
    return config or context.find_root().obj or _default_config(code)


def _default_config(code: int) -> Path | None:
    found = existing_config(os.environ)
    if found is None and not stands_for_keys(os.environ):
        places = " or ".join(map(str, DEFAULT_CONFIGS))
        _fail(
            f"no configuration: $LLM_PROXY_CONFIG is not set and there is no {places}; use --config FILE or LLM_PROXY_… keys, "
            "or copy config.example.toml to config.toml and edit it",
            code,
        )
    return found


def _perform(
    context: typer.Context, config: Path | None, operation: str, report: Report | None = None, **parameters: Any
) -> dict[str, Any]:
    """Return the answer of an operation, or exit with the reason on one line of stderr."""
    loaded = _load(context, config, require_secrets=False)
    with _refusals(loaded.path):
        return asyncio.run(perform(loaded, SystemClock(), operation, parameters, report))


@contextlib.contextmanager
def _refusals(config: Path | None) -> Iterator[None]:
    """Exit with the reason on one line of stderr where an operation is refused, and what to do about it on the next."""
    try:
        yield
    except (ParameterError, StoreError, OSError) as error:
        advice = hint(str(error), lambda: read_account_names(config))
        _fail(f"{error}\n→ {advice}" if advice else str(error), WRONG_USAGE if isinstance(error, ParameterError) else REFUSED)


def _ask_gateway(context: typer.Context, config: Path | None, operation: str, **parameters: Any) -> dict[str, Any]:
    """Return the answer of the gateway that runs, or exit with the reason. Where to find it is in the same file that it is to read."""
    try:
        loaded = load(_config_path(context, config), os.environ, require_secrets=False)
        return asyncio.run(ask_gateway(loaded, operation, parameters))
    except (ConfigError, StoreError, ParameterError, OSError) as error:
        _fail(str(error))


def _print(answer: dict[str, Any], print_answer: Callable[[dict[str, Any]], None], json: bool) -> None:
    try:
        (cli_tables.print_json if json else print_answer)(answer)
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError):  # what is still buffered would fail once more when the process ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # `| head` has seen enough
            raise typer.Exit(REFUSED) from None
        _fail(f"done, but the answer could not be written: {error.strerror}")


def _print_checks(answer: dict[str, Any], json: bool) -> None:
    _print(answer, cli_tables.print_checks, json)
    if not answer["holds"]:
        _fail("the books do not hold")


def _fail(reason: str, code: int = REFUSED) -> NoReturn:
    typer.echo(reason, err=True)
    raise typer.Exit(code)
