"""What a live page shows, and the budget of the snapshots it needs: between two epochs, while somebody has it open."""

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.output.panels import ObjectImages, object_images
from ptycho.output.progress_bars import number_text
from ptycho.progress import Progress


@dataclass(frozen=True)
class Budget:
    """The time that a live page may take from a run."""

    time_fraction: float = 0.02
    """Fraction of the run's time for opening pages, taking snapshots and serving them."""
    head_start_s: float = 0.5
    """Seconds on top of it, about what opening a page takes: without them a short run would show one snapshot."""
    period_s: float = 1.0
    """Seconds between two updates of a page."""
    pages: int = 5
    """Pages that may be open at once; one that no browser follows counts until it is forgotten, some seconds later."""
    opening_fraction: float = 0.1
    """Fraction of the time beyond which nothing more is opened: whoever opens pages all the time has to wait."""
    opening_head_start_s: float = 3.0
    """Seconds on top of it, for the first pages."""
    side_px: int = 384
    """Pixels along the longest side of the object: 1.2 MB a snapshot."""


class Snapshot(NamedTuple):
    """The reconstruction at some point of a run, as the page draws it."""

    stage: str
    object: ObjectImages
    probe: np.ndarray


class LiveState:
    """What a live page shows: written by the thread that computes, read by the one that serves.

    Attributes are replaced, never changed in place.
    """

    def __init__(self, scan: Scan, budget: Budget):
        self.scan, self.budget = scan, budget
        self.status, self.ended = "starting", False
        self.losses: dict[str, dict[str, list[float]]] = {}
        """Of each stage, the epochs and the numbers by name."""
        self.snapshot: Snapshot | None = None
        self.last_viewed = -np.inf
        """When the page was last open in a browser, by `time.monotonic`."""
        self.serving_s = 0.0
        """Processor time of the serving thread, seconds."""

    @property
    def viewed(self) -> bool:
        """Whether a browser has the page open."""
        return time.monotonic() - self.last_viewed < 3 * self.budget.period_s


class SnapshotProgress:
    """A `Progress` that passes everything on, and takes snapshots for a live page within its budget."""

    def __init__(self, state: LiveState, progress: Progress):
        self.state, self.progress = state, progress
        self.start = self.last = time.monotonic()
        self.spent_s = 0.0
        """Seconds that snapshots have taken."""
        self.cost_s: dict[str, float] = {}
        """Seconds of the last snapshot of each stage."""
        self.count = 0
        """Number of snapshots."""
        self.pending: tuple[str, Callable[[], Reconstruction]] | None = None
        """Stage and image of the last call, if there is no snapshot of it."""

    def __call__(
        self,
        stage: str,
        done: float,
        total: float,
        numbers: Mapping[str, float],
        image: Callable[[], Reconstruction] | None = None,
        /,
    ) -> None:
        self.progress(stage, done, total, numbers, image)
        percent = f"{stage} {100 * done / max(total, 1e-9):.0f} %"
        self.state.status = f"{percent}: {number_text(numbers)}" if numbers else percent
        if done == int(done) and numbers:
            before = self.state.losses.get(stage, dict(epoch=[]))
            count = bisect_left(before["epoch"], done)  # a trial starts again
            after = {
                name: [*before.get(name, [np.nan] * count)[:count], value]
                for name, value in dict(epoch=int(done), **numbers).items()
            }
            self.state.losses = self.state.losses | {stage: after}
        if image is not None:
            self.pending = stage, image
            if self.due(stage):
                self.take(stage, image)

    def due(self, stage: str) -> bool:
        """Whether a browser has the page open, and the next snapshot is within the budget."""
        now, budget = time.monotonic(), self.state.budget
        if not self.state.viewed or now - self.last < budget.period_s:
            return False
        spent = self.spent_s + self.cost_s.get(stage, 0.0) + self.state.serving_s
        return spent <= budget.time_fraction * (now - self.start) + budget.head_start_s

    def finish(self) -> None:
        """Take a snapshot of the final image if the page is open, unless that takes more than a period."""
        if self.pending is None or not self.state.viewed:
            return
        if self.cost_s.get(self.pending[0], 0.0) < self.state.budget.period_s:
            self.take(*self.pending)

    def take(self, stage: str, image: Callable[[], Reconstruction]) -> None:
        """Put a snapshot into the state."""
        start = time.monotonic()
        result = image()
        images = object_images(self.state.scan, result, self.state.budget.side_px)
        self.state.snapshot = Snapshot(stage, images, result.probe)
        self.last = time.monotonic()
        # The first snapshot of a stage compiles what the run needs at its end anyway.
        self.spent_s += self.last - start if stage in self.cost_s else 0.0
        self.cost_s[stage] = self.last - start
        self.count += 1
        self.pending = None
