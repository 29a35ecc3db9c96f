"""How far a long command has come, as a bar on a terminal's standard error; nothing where that is no terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from proxy.store.progress import Progress, Report


@contextmanager
def bar(*, wanted: bool = True) -> Iterator[Report | None]:
    """Show a bar while the block runs and take it away at its end; yield whom to tell of progress, None where nobody looks.

    Args:
        wanted: False for ``--json``: whoever asks for it is a program.
    """
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich import progress as shown  # noqa: PLC0415  40 ms that no other command need spend
    from rich.console import Console  # noqa: PLC0415

    columns = (
        shown.TextColumn("{task.description}"),
        shown.BarColumn(),
        shown.TaskProgressColumn(),
        shown.TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
        shown.TimeElapsedColumn(),
    )
    with shown.Progress(*columns, console=Console(stderr=True), transient=True) as drawn:
        stages: dict[str, shown.TaskID] = {}

        def tell(progress: Progress) -> None:
            if progress.stage not in stages:
                stages[progress.stage] = drawn.add_task(progress.stage, total=progress.total)
            drawn.update(stages[progress.stage], completed=progress.done, total=progress.total)

        yield tell
