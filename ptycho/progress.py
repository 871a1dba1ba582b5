"""The progress of what takes its time: one callback for every stage."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from ptycho.deprecation import moved_names

__getattr__ = moved_names(__name__)


@runtime_checkable
class Progress(Protocol):
    """Called while something takes its time."""

    def __call__(
        self,
        stage: str,
        done: float,
        total: float,
        numbers: Mapping[str, float],
        image: Callable[[], Any] | None = None,
        /,
    ) -> None:
        """``numbers`` are losses and the like by their names, and may be none.

        ``image`` makes the `Reconstruction` as it is now. It takes its time, so it is for who has somebody looking; and
        it is to be called before this returns.
        """


def with_image(progress: Progress, image: Callable[[], Any]) -> Progress:
    """A callback that passes ``image`` on too."""
    return lambda stage, done, total, numbers, _=None, /: progress(stage, done, total, numbers, image)
