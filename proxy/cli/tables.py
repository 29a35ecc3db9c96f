"""Answers of operations as text: tables for rows, lines for a single thing."""

import sys
from collections.abc import Mapping
from typing import Any

import orjson

from proxy.cli.printing import Answer, plain, print_line, print_lines, print_note, print_table
from proxy.core.shown_text import shown_json

_NODE_COLUMNS = ("id", "name", "state", "version", "address", "since_at", "beat", "keys", "configuration")


def print_json(answer: object) -> None:
    sys.stdout.write(shown_json(orjson.dumps(_writable(answer), option=orjson.OPT_INDENT_2)).decode() + "\n")


def _writable(value: object) -> object:
    """Return an answer without the halves of surrogate pairs that a path's bytes become where they are no UTF-8: JSON has none."""
    if isinstance(value, Mapping):
        return {name: _writable(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(part) for part in value]
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def print_nodes(answer: Answer) -> None:
    """Print the gateways; a node that is none is there only while its command runs."""
    if not answer["shared"]:
        print_line("This store is a file: one gateway alone writes to it. Whether it runs: llm-proxy doctor")
        return
    print_table(_NODE_COLUMNS, [dict(node) | {"beat": _beat(node), "keys": _newest(node)} for node in answer["nodes"]], right=("id",))
    settings = {node["configuration"] for node in answer["nodes"] if node["configuration"]}
    if len(settings) > 1:
        print_note("Their configurations differ: `llm-proxy check-config` shows each machine's, with its digest.")
    if not any(node["state"] != "command" for node in answer["nodes"]):
        print_note("No gateway lives.")


def print_left(answer: Answer) -> None:
    print_line(f"gateway {answer['id']} has left")


def _beat(node: Answer) -> str:
    return "moves" if node["beats"] else f"STILL for {node['silent_seconds']:.0f} s"


def _newest(node: Answer) -> str:
    if node["state"] == "command":
        return ""
    return "newest" if not node["keys_behind"] else f"{node['keys_behind']} behind"


def print_receipt(answer: Answer) -> None:
    flat: dict[str, Any] = {}
    for name, value in answer.items():
        if name == "usage":
            flat |= value
        elif name != "price":  # the formula says it in words
            flat[name] = value
    print_lines(flat)


def print_checks(answer: Answer) -> None:
    for check in answer["checks"]:
        print_line("ok   " if check["holds"] else "FAILS", check["name"], f"({check['figures']})")
        for offender in check["offenders"]:
            print_line("       ", offender)


def print_findings(answer: Answer) -> None:
    for finding in answer["checks"]:
        advice = f"→ {finding['advice']}" if finding["advice"] else ""
        print_line(f"{finding['state']:<7} ", f"{finding['check']}:", finding["says"], advice)


def print_retention(answer: Answer) -> None:
    print_lines({name: answer[name] for name in ("kept_from_at", "accounts", "requests", "folded") if name in answer})


def print_restored(answer: Answer) -> None:
    print_checks(answer)
    print_lines({name: answer[name] for name in ("store", "source", "newest_booking_at", "kept") if answer[name] is not None})
    print_note("What was booked after the newest booking above is not in the store any more, and keys revoked since then work again.")
    print_note("Next: look at `llm-proxy key list` and `llm-proxy account list`, then start the gateway.")


def print_moved(answer: Answer) -> None:
    if answer["state"] == "abandoned":
        print_note(f"The move is given up: {answer['from']} may be started again, and {answer['to']} is empty.")
        return
    print_checks(answer)
    for table in answer["tables"]:
        print_line(f"{table['rows']:>14,}", f"{table['table']:<14}", table["digest"])
    if answer["replaced_zero_characters"]:
        print_note(
            f"{answer['replaced_zero_characters']} texts had a zero character, which PostgreSQL cannot keep: it is U+FFFD there."
        )
    print_note(f'Moved. {answer["from"]} starts no more. Next: set store.url = "{answer["to"]}", then start the gateway.')


def print_reload(answer: Answer, heading: str) -> None:
    """Print what a reload changed or would change, and what needs a restart."""
    if not answer["changed"] and not answer["needs_restart"]:
        print_line("nothing is different from what runs")
    if len(workers := answer.get("workers", [])) > 1:
        print_line("in workers", ", ".join(map(str, workers)))
    for title, changes in ((heading, answer["changed"]), ("needs a restart", answer["needs_restart"])):
        if changes:
            print_line(f"{title}:")
            width = max(len(change["key"]) for change in changes)
            for change in changes:
                print_line(" ", f"{change['key']:<{width}}", "", _changed(change["before"], change["after"]))


def _changed(before: object, after: object) -> str:
    if before is None:
        return f"added: {plain(after)}"
    if after is None:
        return f"removed: {plain(before)}"
    return "changed" if after == "changed" else f"{plain(before) or '(empty)'} → {plain(after) or '(empty)'}"


def print_config(described: Answer) -> None:
    """Print a configuration as `config_view.describe` returned it."""
    tables = ("upstreams", "models")
    apart = ("file", "environment", "digest", "warnings", *tables)
    lines = {"file": described["file"] or "none: the environment is all of it"}
    if described["environment"]:
        lines["environment"] = described["environment"]
    lines["digest"] = described["digest"]
    sections = {name: values for name, values in described.items() if name not in apart}
    for section, values in sections.items():
        lines |= {f"{section}.{name}": value for name, value in values.items()}
    print_lines(lines)
    for name in tables:
        sys.stdout.write(f"\n{name}\n")
        print_table(tuple(described[name][0]), described[name])
    if described["warnings"]:
        sys.stdout.write("\nwarnings\n")
        for warning in described["warnings"]:
            print_line(warning)
