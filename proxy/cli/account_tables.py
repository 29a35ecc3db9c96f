"""Accounts, keys and their limits as text: on a terminal slim rows with lines beneath, in a pipe one line each, whole."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from proxy.cli.layout import Block, Detail
from proxy.cli.printing import (
    Answer,
    cell,
    print_blocks,
    print_described,
    print_line,
    print_lines,
    print_note,
    print_table,
    terminal_columns,
)

_ACCOUNT_COLUMNS = ("name", "balance", "held", "available", "discount", "created_at", "closed_at", "state")
_FIGURES = ("balance", "held", "available", "discount")
_KEY_COLUMNS = ("id", "name", "prefix", "account", "state", "limits", "last_used_at", "created_at", "revoked_at")
_RATES = ("rpm", "tpm", "concurrent")


def print_accounts(answer: Answer) -> None:
    width = terminal_columns()
    if width is None:
        print_table(_ACCOUNT_COLUMNS, answer["accounts"], right=_FIGURES)
        return
    columns = ("name", "balance", "held", "available", "state")
    blocks = [Block([cell(name, one[name]) for name in columns], list(_account_details(one))) for one in answer["accounts"]]
    print_blocks(columns, blocks, width, right=_FIGURES, folding=("name",))


def print_account(answer: Answer, *more: str) -> None:
    """Print an account, with its state, limits and keys where the answer has them."""
    state = ("state",) if "state" in answer else ()
    closed = ("closed_at",) if answer["closed_at"] else ()
    names = ("name", "balance", "held", "available", "currency", "discount", "created_at", *closed, *state, *more)
    width, limits = terminal_columns(), _limits(answer)
    if width is None:
        print_lines({name: answer[name] for name in names} | ({"limits": limits} if limits else {}))
    else:
        print_described([*((name, [cell(name, answer[name])]) for name in names), *_limit_details(answer)], width)
    if answer.get("keys"):
        if width is not None:
            print_line()
        print_keys(answer, of_one_account=True)


def print_booking(answer: Answer) -> None:
    """Print the account and the payment's reference. Where it had been booked before, stderr says so."""
    print_account(answer, *(name for name in ("request", "reference") if name in answer))
    if not answer["booked"]:
        print_note(f"Nothing was booked now: this reference was booked on {cell('_at', answer['booked_at'])}.")


def print_key(key: Answer) -> None:
    print_keys({"keys": [key]})


def print_keys(answer: Answer, *, of_one_account: bool = False) -> None:
    """Print keys; on a terminal without their account if all are of one that is shown above."""
    width = terminal_columns()
    if width is None:
        print_table(_KEY_COLUMNS, [dict(key) | {"limits": _limits(key)} for key in answer["keys"]])
        return
    names = ("name",) if of_one_account else ("account", "name")
    blocks = [
        Block([key["id"], key["state"], _minute(key["last_used_at"]), *(key[name] for name in names)], list(_key_details(key)))
        for key in answer["keys"]
    ]
    print_blocks(("id", "state", "last used (UTC)", *names), blocks, width, folding=names)


def print_new_key(answer: Answer) -> None:
    print_lines({"key": answer["key"], "id": answer["id"], "account": answer["account"], "name": answer["name"]})
    print_note("The key is shown this once and stored nowhere: keep it now.")


def print_rolled_key(answer: Answer) -> None:
    print_new_key(answer)
    print_note(f"{answer['old_id']}, the old secret, ends on {cell('_at', answer['old_ends_at'])}.")


def _limits(answer: Answer) -> str:
    """Return limits on one line: ``5.00/day (1.20 spent, 0.00 held), 60 rpm, only doubao-*, until …``; empty where there is none."""
    said = [f"{one['limit']}/{one['per']} ({one['spent']} spent, {one['held']} held)" for one in answer.get("spend", ())]
    said += _rates(answer)
    said += [f"only {pattern}" for pattern in answer.get("models", ())]
    said += [f"from {network}" for network in answer.get("networks", ())]
    if answer.get("paused_at"):
        said.append(f"{_paused(answer)} since {cell('_at', answer['paused_at'])}")
    end = _end(answer)
    return ", ".join([*said, f"until {cell('_at', end)}"] if end else said)


def _account_details(account: Answer) -> Iterator[Detail]:
    yield "created", [cell("_at", account["created_at"])]
    if account["closed_at"]:
        yield "closed", [cell("_at", account["closed_at"])]
    if account["discount"] != "1":
        yield "discount", [f"pays {account['discount']} of each price"]
    yield from _limit_details(account)


def _key_details(key: Answer) -> Iterator[Detail]:
    yield "prefix", [key["prefix"], f"created {cell('_at', key['created_at'])}"]
    if key["rolled_from"]:
        yield "rolled", [f"from {key['rolled_from']}"]
    if key["revoked_at"]:
        yield "revoked", [cell("_at", key["revoked_at"])]
    yield from _limit_details(key)


def _limit_details(answer: Answer) -> Iterator[Detail]:
    """Yield the limits of an account or a key, a line for each kind."""
    for one in answer.get("spend", ()):
        yield "spend", [f"{one['limit']}/{one['per']}: {one['spent']} spent", f"{one['held']} held", f"{one['left']} left"]
    lists = (("rates", _rates(answer)), ("models", answer.get("models")), ("networks", answer.get("networks")))
    yield from ((label, parts) for label, parts in lists if parts)
    if answer.get("paused_at"):
        yield _paused(answer), [f"since {cell('_at', answer['paused_at'])}"]
    if end := _end(answer):
        yield "until", [cell("_at", end)]


def _rates(answer: Answer) -> Sequence[str]:
    return [f"{answer[name]} {name}" for name in _RATES if answer.get(name) is not None]


def _paused(answer: Answer) -> str:
    """Return the word for what is refused until it is resumed: of the two, a key alone has a prefix."""
    return "paused" if "prefix" in answer else "suspended"


def _end(answer: Answer) -> str | None:
    """Return when it ends: of a rolled key's old secret the earlier of the overlap's end and the key's."""
    ends: list[str] = [answer[name] for name in ("expires_at", "ends_at") if answer.get(name)]
    return min(ends, key=datetime.fromisoformat, default=None)


def _minute(at: str | None) -> str:
    """Return when a key was last used, which is known to the minute."""
    return "never" if at is None else f"{at[:10]} {at[11:16]}"
