"""The options that set limits, the same for every command that takes them."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer


def _option(name: str, metavar: str, says: str) -> inspect.Parameter:
    its = Annotated[str | None, typer.Option(f"--{name}", metavar=metavar, help=says)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=its)


_OPTIONS = (
    _option("expires", "WHEN", "90d, 2027-01-31 (its end, by billing.time_zone), a time, or never."),
    _option("models", "PATTERNS", "Only these: 'doubao-seed-*,doubao-pro-32k'. none: all."),
    _option("networks", "CIDRS", "Only from these: 10.0.0.0/8,2001:db8::/32. none: from all."),
    _option("rpm", "N", "Requests a minute. none: no limit."),
    _option("tpm", "N", "Tokens a minute. none: no limit."),
    _option("concurrent", "N", "Requests at a time. none: no limit."),
    _option("spend", "YUAN", "5/day, 5/day,50/month, 100/total. none, none/day: no limit."),
    _option("per", "PERIOD", "day, month or total: the period of --spend 50.00."),
)


def takes_limits(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command every option that sets a limit, in the place of its parameter ``limits``.

    It gets them as a dict by their names, which are those of `LimitedOperation`; None where one is not said.
    """
    signature = inspect.signature(command)
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        its = _OPTIONS if parameter.name == "limits" else (parameter,)
        parameters += [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in its]

    @functools.wraps(command)
    def with_options(**said: Any) -> None:
        limits = {option.name: said.pop(option.name) for option in _OPTIONS}
        command(**said, limits=limits)

    # typer reads both: the order and defaults here, the types there
    vars(with_options)["__signature__"] = signature.replace(parameters=parameters)
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_options
