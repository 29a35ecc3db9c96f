"""A progress bar for long commands, on standard error; nothing if that is not a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from proxy.store.progress import Progress, Report


@contextmanager
def bar(*, wanted: bool = True) -> Iterator[Report | None]:
    """Show a bar while the block runs and remove it at the end. Yield the function to report progress to, or None without a bar.

    Args:
        wanted: False for ``--json``, which programs ask for.
    """
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich import progress as shown  # noqa: PLC0415  the import takes 40 ms, which other commands do not need
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
