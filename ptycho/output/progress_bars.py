"""Progress as it is made: a bar for each thing that takes its time, and logs for TensorBoard."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from ptycho.progress import Progress


@contextmanager
def progress_bar(tensorboard: str | os.PathLike | None = None) -> Iterator[Progress]:
    """A `Progress` that draws one bar for each thing that is reported on, with the time left and the numbers it tells.

    In a terminal the bars are rich's, in a notebook tqdm's. With a folder ``tensorboard`` the numbers are written there
    too (`tensorboard_log`): ``with progress_bar() as report: train(model, scan, report=report)``.
    """
    from rich.console import Console

    with ExitStack() as stack:
        log = stack.enter_context(tensorboard_log(tensorboard)) if tensorboard is not None else None
        bars = stack.enter_context(_notebook_bars() if Console().is_jupyter else _terminal_bars())

        def report(what: str, done: float, total: float, numbers: Mapping[str, float], image: Any = None) -> None:
            bars(what, done, total, numbers)
            if log:
                log(what, done, total, numbers)

        yield report


@contextmanager
def _terminal_bars() -> Iterator[Progress]:
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

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
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: float, total: float, numbers: Mapping[str, float], image: Any = None) -> None:
            note = told(numbers)
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, note=note)
            bars.update(tasks[what], completed=done, total=total, note=note)

        yield report


@contextmanager
def _notebook_bars() -> Iterator[Progress]:
    from tqdm.auto import tqdm

    shape = "{desc}: {percentage:3.0f} %|{bar}| {elapsed}, left {remaining}{postfix}"
    with ExitStack() as stack:
        bars: dict[str, tqdm] = {}

        def report(what: str, done: float, total: float, numbers: Mapping[str, float], image: Any = None) -> None:
            if what not in bars:
                bars[what] = stack.enter_context(tqdm(desc=what, total=total, bar_format=shape))
            bar = bars[what]
            bar.total = total
            bar.set_postfix_str(told(numbers), refresh=False)
            bar.update(done - bar.n)

        yield report


def told(numbers: Mapping[str, float]) -> str:
    """Numbers by their names, for people."""
    return ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())


@contextmanager
def tensorboard_log(folder: str | os.PathLike) -> Iterator[Progress]:
    """A `Progress` that writes the numbers of whole steps as TensorBoard's scalars, by names like ``training/loss``.

    What begins again, as the trials of a refinement do, goes on under another name: ``refining_2/error``.
    Raises ValueError where tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ValueError("the writer of TensorBoard's logs is missing: pip install 'ptycho[tensorboard]'") from error
    last: dict[str, tuple[float, int]] = {}
    with SummaryWriter(os.fspath(folder)) as writer:

        def report(what: str, done: float, total: float, numbers: Mapping[str, float], image: Any = None) -> None:
            before, turn = last.get(what, (0.0, 1))
            turn += done < before
            last[what] = (done, turn)
            if done == int(done):
                name = what if turn == 1 else f"{what}_{turn}"
                for key, value in numbers.items():
                    writer.add_scalar(f"{name}/{key}".replace(" ", "_"), value, int(done))

        yield report
