"""Parts shared by the commands: common options, loading the configuration, running an operation, printing and failing."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from proxy.cli import client, tables
from proxy.cli.completion import DEFAULT_CONFIGS, existing_config, read_account_names
from proxy.cli.hints import hint
from proxy.clock import SystemClock
from proxy.config import Config, ConfigError, load
from proxy.config.environment import stands_for_keys
from proxy.core.shown_text import shown, shown_lines
from proxy.operations.parameters import ParameterError
from proxy.operations.table import prepare
from proxy.store.errors import StoreError
from proxy.store.progress import Report

REFUSED = 1
WRONG_USAGE = 2

ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Default: $LLM_PROXY_CONFIG, ./config.toml, /etc/llm-proxy/config.toml.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]


def load_config(context: typer.Context, config: Path | None, *, require_secrets: bool = True) -> Config:
    path = config_path(context, config)
    try:
        return load(path, os.environ, require_secrets=require_secrets)
    except ConfigError as error:
        fail(str(error))


def config_path(context: typer.Context, config: Path | None, *, code: int = REFUSED) -> Path | None:
    """Return the configuration file; None if the environment alone is the configuration."""
    return config or context.find_root().obj or _default_config(code)


def _default_config(code: int) -> Path | None:
    found = existing_config(os.environ)
    if found is None and not stands_for_keys(os.environ):
        places = " or ".join(map(str, DEFAULT_CONFIGS))
        fail(
            f"no configuration: $LLM_PROXY_CONFIG is not set and there is no {places}; use --config FILE or LLM_PROXY_… keys, "
            "or copy config.example.toml to config.toml and edit it",
            code,
        )
    return found


def perform(
    context: typer.Context, config: Path | None, operation: str, report: Report | None = None, **parameters: Any
) -> dict[str, Any]:
    """Return the answer of an operation, or exit with the reason on one line of stderr."""
    loaded = load_config(context, config, require_secrets=False)
    with refusals(loaded.path):
        try:
            return asyncio.run(client.perform(loaded, SystemClock(), operation, parameters, report))
        except KeyboardInterrupt:
            prepared = prepare(operation, parameters)
            if not prepared.changes:
                raise
            fail(f"interrupted: {prepared.doubt}")


@contextlib.contextmanager
def refusals(config: Path | None) -> Iterator[None]:
    """Exit if an operation is refused, with the reason on one line of stderr and a hint on the next. It may quote anything."""
    try:
        yield
    except (ParameterError, StoreError, OSError) as error:
        advice = hint(str(error), lambda: read_account_names(config))
        reason = shown(str(error))
        fail(f"{reason}\n→ {shown(advice)}" if advice else reason, WRONG_USAGE if isinstance(error, ParameterError) else REFUSED)


def ask_gateway(context: typer.Context, config: Path | None, operation: str, **parameters: Any) -> dict[str, Any]:
    """Return the running gateway's answer, or exit with the reason. Its socket is named in the file that it is asked to read."""
    try:
        loaded = load(config_path(context, config), os.environ, require_secrets=False)
        return asyncio.run(client.ask_gateway(loaded, operation, parameters))
    except (ConfigError, StoreError, ParameterError, OSError) as error:
        fail(str(error))


def show(answer: dict[str, Any], print_answer: Callable[[dict[str, Any]], None], json: bool) -> None:
    try:
        (tables.print_json if json else print_answer)(answer)
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError):  # the buffered rest would fail again when the process ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # a reader such as `| head` has closed the pipe
            raise typer.Exit(REFUSED) from None
        fail(f"done, but the answer could not be written: {error.strerror}")


def show_checks(answer: dict[str, Any], json: bool) -> None:
    show(answer, tables.print_checks, json)
    if not answer["holds"]:
        fail("the books do not hold")


def fail(reason: str, code: int = REFUSED) -> NoReturn:
    """Exit with a reason on stderr, of one line or more."""
    typer.echo(shown_lines(reason), err=True)
    raise typer.Exit(code)


def say(line: str, *, err: bool = False) -> None:
    """Print a line beside an answer."""
    typer.echo(shown(line), err=err)
