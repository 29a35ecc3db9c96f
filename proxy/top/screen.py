"""A frame of `top`: lines of figures, then tables that are cut to the height of the terminal. Nothing wraps.

Names come from what answers at the socket: whatever is not ours is a `_text`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from proxy.core.shown_text import shown
from proxy.top.figures import Figures, ModelRow, Number, Spread, UpstreamRow

UNKNOWN = "–"
LABEL_COLUMNS = 10
UPSTREAMS_MAX = 4
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Heading:
    """The first line of a frame."""

    where: str
    when: str
    silence: str = ""
    """Reason why the gateway does not answer; empty: it answers."""
    keys: str = ""


def frame(heading: Heading, shown: Figures | None, columns: int, lines: int) -> RenderableType:
    """Return the frame for a terminal of this size. ``shown`` None: the gateway has not answered yet."""
    top = [_heading(heading, columns)]
    if heading.silence:
        top.append(_text(heading.silence, "bold red"))
    if shown is None:
        return Group(*top)
    facts = [_fact(name, words) for name, words in _facts(shown)]
    left = max(0, lines - len(top) - len(facts) - 1)
    return Group(*top, *facts, *_tables(shown, left, columns))


def _heading(heading: Heading, columns: int) -> Text:
    line = _text(f"llm-proxy top  {heading.where}", "bold")
    right = f"{heading.when}  {heading.keys}".rstrip()
    line.truncate(max(0, columns - len(right) - 2), overflow="ellipsis")
    line.append(" " * max(2, columns - line.cell_len - len(right)))
    line.append(right, "not bold dim")
    return line


def _fact(name: str, words: Sequence[str]) -> Text:
    line = _text("")
    line.append(f"{name:<{LABEL_COLUMNS}}", "dim")
    line.append(shown("   ".join(word for word in words if word)))
    return line


def _text(words: str, style: str = "") -> Text:
    return Text(shown(words), style, overflow="ellipsis", no_wrap=True)


def _facts(shown: Figures) -> list[tuple[str, Sequence[str]]]:
    classes = [f"{name} {rate(number)}" for name, number in shown.by_class.items()]
    facts: list[tuple[str, Sequence[str]]] = [
        ("requests", [f"{rate(shown.requests)}/s", *classes, _if_known("{} in flight", shown.in_flight)]),
        ("times", [f"first byte {spread(shown.first_byte)}", f"whole {spread(shown.answer)}"]),
        (
            "streams",
            [
                f"{whole(shown.streams)} open",
                f"{whole(shown.draining_streams)} draining",
                _if_known("{} connections", shown.connections),
            ],
        ),
        (
            "tokens",
            [
                f"{rate(shown.input_tokens)}/s in",
                "" if shown.cached_tokens is None else f"{rate(shown.cached_tokens)}/s cached",
                f"{rate(shown.output_tokens)}/s out",
            ],
        ),
        (
            "money",
            [
                f"¥{money(shown.yuan_a_minute)}/min",
                f"¥{money(shown.yuan)} since start",
                f"¥{money(shown.held_yuan)} held",
                f"¥{money(shown.shortfall_yuan)} short" if shown.shortfall_yuan else "",
            ],
        ),
        (
            "store",
            [
                f"{rate(shown.commits)} commits/s",
                f"{rate(shown.operations_a_commit)} writes each",
                spread(shown.commit),
                _if_known("{} waiting", shown.waiting_operations),
                "" if shown.log_bytes is None else f"log {shown.log_bytes / _MIB:.0f} MiB",
                "" if shown.store_bytes is None else f"file {shown.store_bytes / _MIB:,.0f} MiB",
            ],
        ),
    ]
    if shown.loop_lag.p99_ms is not None:
        facts.append(("loop", [f"late by {spread(shown.loop_lag)}"]))
    if any(shown.videos.values()):
        facts.append(("videos", [f"{whole(count)} {state}" for state, count in shown.videos.items() if count]))
    if shown.is_draining:
        facts.append(("", ["the gateway is stopping: it finishes what is under way"]))
    return facts


def _tables(shown: Figures, lines: int, columns: int) -> list[RenderableType]:
    """Return both tables, each after an empty line and with a heading, cut to the lines that are left."""
    upstreams = shown.upstreams[: max(0, min(UPSTREAMS_MAX, lines - 2))]
    left = lines - (len(upstreams) + 2 if upstreams else 0)
    models = shown.models[: max(0, left - 2)]
    found: list[RenderableType] = []
    if upstreams:
        found += [Text(), _upstreams(upstreams, columns)]
    if models:
        found += [Text(), _models(models)]
    return found


def _upstreams(rows: Sequence[UpstreamRow], columns: int) -> Table:
    table = _table("upstream", "busy", "idle", "rest", "errors/s")
    table.add_column("of these", no_wrap=True, overflow="ellipsis", max_width=max(10, columns - 56))
    for row in rows:
        causes = ", ".join(f"{cause} {rate(count)}" for cause, count in sorted(row.causes.items(), key=lambda one: -one[1]))
        style = "red" if row.errors or row.resting else ""
        figures = whole(row.busy), whole(row.idle), whole(row.resting), rate(row.errors)
        table.add_row(_text(row.upstream), *figures, _text(causes), style=style)
    return table


def _models(rows: Sequence[ModelRow]) -> Table:
    table = _table("model", "req/s", "5xx/s", "in/s", "out/s", "¥/min", "¥")
    for row in rows:
        table.add_row(
            _text(row.model),
            rate(row.requests),
            Text(rate(row.failed), "red" if row.failed else ""),
            rate(row.input_tokens),
            rate(row.output_tokens),
            money(row.yuan_a_minute),
            money(row.yuan),
        )
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(first, no_wrap=True, overflow="ellipsis", min_width=12)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def rate(number: Number) -> str:
    """Return a rate in about six characters at most: ``0.3``, ``12.5``, ``1,204``, ``3.4M``."""
    if number is None:
        return UNKNOWN
    if number >= 999_500:
        return f"{number / 1e6:.1f}M"
    return f"{number:,.0f}" if number >= 99.95 or number == 0 else f"{number:.1f}" if number >= 0.05 else f"{number:.2f}"


def whole(number: Number) -> str:
    return UNKNOWN if number is None else f"{number:,.0f}"


def money(number: Number) -> str:
    """Return yuan with two decimals, or four below ¥1: ``1,204.50``, ``0.0004``."""
    if number is None:
        return UNKNOWN
    return f"{number:,.2f}" if number >= 1 or number == 0 else f"{number:.4f}"


def spread(times: Spread) -> str:
    """Return ``p50 ≤ 25 ms, p99 ≤ 1 s``, the bounds of histogram buckets."""
    return f"p50 {_bound(times.p50_ms)}, p99 {_bound(times.p99_ms)}"


def _bound(ms: Number) -> str:
    if ms is None:
        return UNKNOWN
    return f"≤ {ms:g} ms" if ms < 1000 else f"≤ {ms / 1000:g} s"


def _if_known(words: str, number: Number) -> str:
    return "" if number is None else words.format(whole(number))
