"""Progress bars in a terminal or a notebook, and logs for TensorBoard."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from ptycho.progress import Progress


@contextmanager
def progress_bar(tensorboard: str | os.PathLike | None = None) -> Iterator[Progress]:
    """A `Progress` that draws one bar for each stage, with the remaining time and the stage's numbers.

    The bars are rich's in a terminal and tqdm's in a notebook. With a folder ``tensorboard`` the numbers are also
    written there (`tensorboard_log`): ``with progress_bar() as progress: train(model, scan, progress=progress)``.
    """
    from rich.console import Console

    with ExitStack() as stack:
        log = stack.enter_context(tensorboard_log(tensorboard)) if tensorboard is not None else None
        bars = stack.enter_context(_notebook_bars() if Console().is_jupyter else _terminal_bars())

        def progress(stage: str, done: float, total: float, numbers: Mapping[str, float], image: object = None) -> None:
            bars(stage, done, total, numbers)
            if log:
                log(stage, done, total, numbers)

        yield progress


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

        def progress(stage: str, done: float, total: float, numbers: Mapping[str, float], image: object = None) -> None:
            note = number_text(numbers)
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, note=note)
            bars.update(tasks[stage], completed=done, total=total, note=note)

        yield progress


@contextmanager
def _notebook_bars() -> Iterator[Progress]:
    from tqdm.auto import tqdm

    shape = "{desc}: {percentage:3.0f} %|{bar}| {elapsed}, left {remaining}{postfix}"
    with ExitStack() as stack:
        bars: dict[str, tqdm] = {}

        def progress(stage: str, done: float, total: float, numbers: Mapping[str, float], image: object = None) -> None:
            if stage not in bars:
                bars[stage] = stack.enter_context(tqdm(desc=stage, total=total, bar_format=shape))
            bar = bars[stage]
            bar.total = total
            bar.set_postfix_str(number_text(numbers), refresh=False)
            bar.update(done - bar.n)

        yield progress


def number_text(numbers: Mapping[str, float]) -> str:
    """Numbers by their names, as text."""
    return ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())


@contextmanager
def tensorboard_log(folder: str | os.PathLike) -> Iterator[Progress]:
    """A `Progress` that writes the numbers of complete steps as TensorBoard's scalars, named like ``training/loss``.

    A stage that starts again, as the trials of a refinement do, continues under another name: ``refining_2/error``.
    Raises ValueError where tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ValueError(
            "tensorboardX, which writes TensorBoard's logs, is not installed: pip install 'ptycho[tensorboard]'"
        ) from error
    last: dict[str, tuple[float, int]] = {}
    with SummaryWriter(os.fspath(folder)) as writer:

        def progress(stage: str, done: float, total: float, numbers: Mapping[str, float], image: object = None) -> None:
            before, trial = last.get(stage, (0.0, 1))
            trial += done < before
            last[stage] = (done, trial)
            if done == int(done):
                name = stage if trial == 1 else f"{stage}_{trial}"
                for key, value in numbers.items():
                    writer.add_scalar(f"{name}/{key}".replace(" ", "_"), value, int(done))

        yield progress
