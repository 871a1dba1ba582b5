"""A live progress bar for the terminal: what is being done, how far it is, how long it will take."""

from collections.abc import Iterator
from contextlib import contextmanager

from ptycho.training import Report


@contextmanager
def progress_bar() -> Iterator[Report]:
    """A `Report` that draws one bar for each thing that is reported on, with the time left."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns) as bars:
        tasks: dict[str, object] = {}

        def report(what: str, done: float, total: float, note: str = "") -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, note=note)
            bars.update(tasks[what], completed=done, total=total, note=note)  # type: ignore[arg-type]

        yield report
