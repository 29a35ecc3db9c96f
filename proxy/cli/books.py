"""Commands for the books: verify, back up, restore, and fold old requests."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from proxy.cli import tables
from proxy.cli.examples import examples
from proxy.cli.progress import bar
from proxy.cli.retention import NOTHING_SET, fold
from proxy.cli.rotation import Rotation, RotationError, compact
from proxy.cli.shared import WRONG_USAGE, ConfigOption, JsonOption, fail, load_config, perform, refusals, say, show, show_checks
from proxy.clock import SystemClock, iso
from proxy.core.retention import REQUEST_DAYS_MIN
from proxy.operations import views
from proxy.store import restore as put_in_place

app = typer.Typer()
ledger_app = typer.Typer(help="The books.", no_args_is_help=True)


@ledger_app.command("verify", epilog=examples("ledger verify"))
def ledger_verify(context: typer.Context, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Check every invariant of the books; exit 1 where one does not hold."""
    with bar(wanted=not json) as report:
        answer = perform(context, config, "ledger.verify", report=report)
    show_checks(answer, json)


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
            return perform(context, config, "backup", report=report, destination=str(copy))

        answer = write(destination) if keep is None else _rotate(destination, keep, write)
    if not json:
        say(f"wrote {answer['destination']}")
        for name in answer.get("removed", ()):
            say(f"removed {name}")
    show_checks(answer, json)


def _rotate(directory: Path, keep: int, write: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Back up into a directory and remove surplus copies, unless the books of the new copy do not hold."""
    try:
        with Rotation(directory) as rotation:
            copy = rotation.path(SystemClock().now_ms())
            answer = write(copy)
            return answer | {"removed": rotation.prune(keep, copy) if answer["holds"] else []}
    except RotationError as error:
        fail(str(error))


@app.command(epilog=examples("restore"))
def restore(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="What `backup` wrote.")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Put a backup in the store's place, once it is verified; the old store is kept beside it. Stop the gateway first."""
    loaded = load_config(context, config, require_secrets=False)
    with refusals(loaded.path), bar(wanted=not json) as report:
        restored = put_in_place(loaded.store.url, source, compact(SystemClock().now_ms()), report)
    kept, newest_at = restored.kept, restored.newest_at_ms
    answer = {
        "store": str(loaded.store.path or loaded.store.url),
        "source": str(source.absolute()),
        "newest_booking_at": None if newest_at is None else iso(newest_at),
        "kept": None if kept is None else str(kept),
    }
    show(answer | views.checks(restored.checks), tables.print_restored, json)


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
    loaded = load_config(context, config, require_secrets=False)
    kept = loaded.retention.request_days if days is None else days
    if days is not None and days < REQUEST_DAYS_MIN:
        fail(f"--days must be at least {REQUEST_DAYS_MIN}: a video may still be asked for after a week", WRONG_USAGE)
    if not kept:
        fail(NOTHING_SET, WRONG_USAGE)
    with refusals(loaded.path), bar(wanted=not json) as report:
        answer = fold(loaded, SystemClock(), kept, report, is_rehearsal=dry_run)
    show(answer, tables.print_retention, json)
