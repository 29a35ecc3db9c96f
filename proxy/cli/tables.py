"""Answers of operations as text: tables for rows, lines for a single thing. Nothing is cut off in a pipe.

Every cell and line passes through `core/shown_text.py`: names, findings and figures may hold what a customer or an upstream wrote.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from proxy.core.shown_text import csv_cell, shown, shown_json

Answer = Mapping[str, Any]

_PIPE_COLUMNS = 10_000
"""Width without a terminal, since a reader of a pipe wants whole lines."""
_USAGE_COLUMNS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "units", "charge", "shortfall", "estimated")
_ACCOUNT_COLUMNS = ("name", "balance", "held", "available", "discount", "created_at", "closed_at")
_KEY_COLUMNS = ("id", "name", "prefix", "account", "state", "limits", "last_used_at", "created_at", "revoked_at")
_LIMITS = ("rpm", "tpm", "concurrent")


def print_json(answer: object) -> None:
    sys.stdout.write(shown_json(orjson.dumps(_writable(answer), option=orjson.OPT_INDENT_2)).decode() + "\n")


def _writable(value: object) -> object:
    """Return an answer without the halves of surrogate pairs that a path's bytes become where they are no UTF-8: JSON has none."""
    if isinstance(value, Mapping):
        return {name: _writable(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(part) for part in value]
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def print_accounts(answer: Answer) -> None:
    _print_table(_ACCOUNT_COLUMNS, answer["accounts"], right=("balance", "held", "available", "discount"))


def print_account(answer: Answer, *more: str) -> None:
    closed = ("closed_at",) if answer["closed_at"] else ()
    names = ("name", "balance", "held", "available", "currency", "discount", "created_at", *closed, *more)
    shown = {name: answer[name] for name in names}
    limits = _limits(answer)
    _print_lines(shown | ({"limits": limits} if limits else {}))
    if answer.get("keys"):
        print_keys(answer)


def print_booking(answer: Answer) -> None:
    """Print the account and the payment's reference. Where it had been booked before, stderr says so."""
    print_account(answer, *(name for name in ("request", "reference") if name in answer))
    if not answer["booked"]:
        _note(f"Nothing was booked now: this reference was booked on {_cell('_at', answer['booked_at'])}.")


def print_keys(answer: Answer) -> None:
    _print_table(_KEY_COLUMNS, [dict(key) | {"limits": _limits(key)} for key in answer["keys"]])


def print_new_key(answer: Answer) -> None:
    _print_lines({"key": answer["key"], "id": answer["id"], "account": answer["account"], "name": answer["name"]})
    _note("The key is shown this once and stored nowhere: keep it now.")


def print_rolled_key(answer: Answer) -> None:
    print_new_key(answer)
    _note(f"{answer['old_id']}, the old secret, ends on {_cell('_at', answer['old_ends_at'])}.")


def _limits(answer: Answer) -> str:
    """Return limits in words: ``5.00/day (1.20 used), 60 rpm, only doubao-*, until …``; nothing where there is none."""
    said = [f"{one['limit']}/{one['per']} ({one['spent']} spent, {one['held']} held)" for one in answer.get("spend", ())]
    said += [f"{answer[name]} {name}" for name in _LIMITS if answer.get(name) is not None]
    said += [f"only {pattern}" for pattern in answer.get("models", ())]
    said += [f"from {network}" for network in answer.get("networks", ())]
    ends = [answer[name] for name in ("expires_at", "ends_at") if answer.get(name)]
    if answer.get("paused_at"):
        said.append(f"paused since {_cell('_at', answer['paused_at'])}")
    return ", ".join(said + [f"until {_cell('_at', at)}" for at in ends])


def print_usage(answer: Answer) -> None:
    columns = ("account", answer["by"], *_USAGE_COLUMNS)
    total = {"account": "total", answer["by"]: ""} | answer["total"]
    _print_table(columns, [*answer["rows"], total], right=_USAGE_COLUMNS)
    _note_days_not_cut(answer)


def print_usage_csv(answer: Answer) -> None:
    """Write a header line and the rows, without their total. A name that a spreadsheet would compute has an apostrophe in front."""
    names, numbers = ("account", answer["by"]), _USAGE_COLUMNS
    sys.stdout.write(",".join((*names, *numbers)) + "\n")
    for row in answer["rows"]:
        cells = (*(csv_cell(_text(row[name])) for name in names), *(_text(row[name]) for name in numbers))
        sys.stdout.write(",".join(cells) + "\n")
    _note_days_not_cut(answer)


def _note_days_not_cut(answer: Answer) -> None:
    for day in answer.get("days_not_cut", ()):
        begin = f"its 00:00 (UTC{answer['time_zone']})"
        _note(f"Of {day} there are daily sums: they count whole if the period includes {begin}, else not at all.")


def print_receipt(answer: Answer) -> None:
    flat: dict[str, Any] = {}
    for name, value in answer.items():
        if name == "usage":
            flat |= value
        elif name != "price":  # the formula says it in words
            flat[name] = value
    _print_lines(flat)


def print_checks(answer: Answer) -> None:
    for check in answer["checks"]:
        _line("ok   " if check["holds"] else "FAILS", check["name"], f"({check['figures']})")
        for offender in check["offenders"]:
            _line("       ", offender)


def print_findings(answer: Answer) -> None:
    for finding in answer["checks"]:
        advice = f"→ {finding['advice']}" if finding["advice"] else ""
        _line(f"{finding['state']:<7} ", f"{finding['check']}:", finding["says"], advice)


def print_retention(answer: Answer) -> None:
    _print_lines({name: answer[name] for name in ("kept_from_at", "accounts", "requests", "folded") if name in answer})


def print_restored(answer: Answer) -> None:
    print_checks(answer)
    _print_lines({name: answer[name] for name in ("store", "source", "newest_booking_at", "kept") if answer[name] is not None})
    _note("What was booked after the newest booking above is not in the store any more, and keys revoked since then work again.")
    _note("Next: look at `llm-proxy key list` and `llm-proxy account list`, then start the gateway.")


def print_reload(answer: Answer, heading: str) -> None:
    """Print what a reload changed or would change, and what needs a restart."""
    if not answer["changed"] and not answer["needs_restart"]:
        _line("nothing is different from what runs")
    for title, changes in ((heading, answer["changed"]), ("needs a restart", answer["needs_restart"])):
        if changes:
            _line(f"{title}:")
            width = max(len(change["key"]) for change in changes)
            for change in changes:
                _line(" ", f"{change['key']:<{width}}", "", _changed(change["before"], change["after"]))


def _changed(before: object, after: object) -> str:
    if before is None:
        return f"added: {_text(after)}"
    if after is None:
        return f"removed: {_text(before)}"
    return "changed" if after == "changed" else f"{_text(before) or '(empty)'} → {_text(after) or '(empty)'}"


def print_config(described: Answer) -> None:
    """Print a configuration as `config_view.describe` returned it."""
    tables = ("upstreams", "models")
    apart = ("file", "environment", "warnings", *tables)
    lines = {"file": described["file"] or "none: the environment is all of it"}
    if described["environment"]:
        lines["environment"] = described["environment"]
    sections = {name: values for name, values in described.items() if name not in apart}
    for section, values in sections.items():
        lines |= {f"{section}.{name}": value for name, value in values.items()}
    _print_lines(lines)
    for name in tables:
        sys.stdout.write(f"\n{name}\n")
        _print_table(tuple(described[name][0]), described[name])
    if described["warnings"]:
        sys.stdout.write("\nwarnings\n")
        for warning in described["warnings"]:
            _line(warning)


def _print_table(columns: Sequence[str], rows: Iterable[Answer], right: Sequence[str] = ()) -> None:
    from rich.console import Console  # noqa: PLC0415  the import takes 40 ms and megabytes, which `serve` does not need
    from rich.table import Table  # noqa: PLC0415

    to_terminal = sys.stdout.isatty()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=not to_terminal, overflow="fold")
    for row in rows:
        table.add_row(*(shown(_cell(column, row[column])) for column in columns))
    if to_terminal:
        Console(markup=False, highlight=False, emoji=False).print(table)
        return
    console = Console(file=sys.stdout, width=_PIPE_COLUMNS, markup=False, highlight=False, emoji=False)
    for line in console.render_lines(table, pad=False):
        _line("".join(segment.text for segment in line))


def _print_lines(values: Answer) -> None:
    width = max(len(name) for name in values)
    for name, value in values.items():
        _line(f"{name:<{width}} ", _cell(name, value))


def _line(*words: str) -> None:
    sys.stdout.write(shown(" ".join(words).rstrip()) + "\n")


def _note(text: str) -> None:
    sys.stderr.write(shown(text) + "\n")


def _cell(name: str, value: object) -> str:
    if name.endswith("_at") and isinstance(value, str):  # as in 2026-11-23T08:00:00.000Z, or +08:00 where days begin
        return f"{value[:10]} {value[11:23]} UTC{value[23:].removesuffix('Z')}"
    return _text(value)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_text(part) for part in value)
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value)
