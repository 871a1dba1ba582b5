"""A recorded scan played to a stream at a detector's pace: does the network keep up, and how late is the image?"""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Event, Semaphore
from typing import Literal, NamedTuple, get_args

import numpy as np

from ptycho.progress import Progress
from ptycho.reconstruction import Stream
from ptycho.reconstruction.tiles import Piece

Order = Literal["scan", "random"]


@dataclass(frozen=True, kw_only=True)
class ReplayReport:
    """How a stream coped with the frames played to it. Times are wall clock and leave the compilation out."""

    sent: int
    """Frames played."""
    used: int
    """Frames that the object is made of."""
    dropped: int
    """Frames that were not used: their values, or their patches, are not numbers. None is dropped to save time."""
    rate_asked: float | None
    """Frames per second; None: as fast as they are taken."""
    rate: float
    """Frames sent, over ``seconds``."""
    seconds: float
    """From the start until the last piece is in the object."""
    latency_median_ms: float
    """Of the used frames, from arrival at the queue until the last piece that contains the frame is in the object. The
    wait for other frames is part of it; what the producer is late is not."""
    latency_p95_ms: float
    latency_max_ms: float
    late_ms: float
    """How far the producer was behind its schedule at the most; 0 without a rate."""
    blocked_s: float
    """How long the producer waited, in all, because the queue was full."""
    most_waiting: int
    """Frames in the queue at the most, up to the queue's size."""
    most_held: int
    """Frames in the stream's memory at the most."""
    warm_up_s: float
    """The first call of the network, which compiles it, before the start."""

    def rows(self) -> list[tuple[str, str]]:
        """The numbers worth reading, in words."""
        requested = "as fast as they are taken" if self.rate_asked is None else f"{self.rate_asked:.4g}"
        latency = (self.latency_median_ms, self.latency_p95_ms, self.latency_max_ms)
        return [
            ("frames sent", str(self.sent)),
            ("frames used", str(self.used)),
            ("frames dropped", str(self.dropped)),
            ("frames/s asked", requested),
            ("frames/s achieved", f"{self.rate:.4g}"),
            ("latency median / 95 % / max (ms)", " / ".join(f"{value:.4g}" for value in latency)),
            ("producer late at most (ms)", f"{self.late_ms:.4g}"),
            ("most frames held", str(self.most_held)),
            ("warm-up (s)", f"{self.warm_up_s:.3g}"),
        ]


def replay(
    stream: Stream,
    frames: Iterable[tuple[int, np.ndarray]],
    *,
    rate: float | None = None,
    order: Order = "scan",
    seed: int = 0,
    progress: Progress | None = None,
    snapshot: Callable[[Stream], None] | None = None,
    in_flight: int = 1024,
    progress_interval_s: float = 0.1,
) -> ReplayReport:
    """Play frames to a stream, finish it, and tell how it went.

    A thread of its own sends them, into a queue of at most ``in_flight`` frames; the caller's thread reconstructs. A
    queue that is full makes the sender late and drops nothing. An exception of ``frames`` is raised here, after the
    frames before it have been added; whatever is raised, the thread has ended (after the item of ``frames`` it was
    waiting for).

    Args:
        stream: none of the frames has been added to it yet.
        frames: (index, ``(N, N)`` counts) each.
        rate: frames per second; None: as fast as they are taken.
        order: ``scan``: as they are in ``frames``; ``random``: shuffled, which reads all of them first.
        seed: of the random order.
        progress: called with the progress.
        snapshot: called with the stream whenever its object has grown. What it takes counts as latency.
        in_flight: frames that may wait between sender and stream: a second of a fast detector. There the sender has to
            wait. Without a rate it is one frame: a full queue would be all that the latency tells of.
        progress_interval_s: between calls of ``progress``: drawing a bar for every frame would cost more than the
            frame.

    Raises:
        ValueError: rate or order is none, `Stream.add` refuses a frame, or no frame could be used.
    """
    if rate is not None and not 0 < rate < np.inf:
        raise ValueError(f"rate is {rate}; expected more than 0 frames per second, or None")
    if order not in get_args(Order):
        raise ValueError(f"order is {order!r}; expected one of {get_args(Order)}")
    if order == "random":
        listed = list(frames)
        frames = (listed[k] for k in np.random.default_rng(seed).permutation(len(listed)))
    dropped, began = len(stream.dropped), time.perf_counter()
    stream.warm_up()
    start = time.perf_counter()
    warm_up = start - began
    # A sender may be waiting for its time to come, or for room in the queue: both are cut short at the end.
    sender = _Sender(frames, rate, start, in_flight)
    diary = _Diary(len(stream.positions))
    last_report = start
    with ThreadPoolExecutor(1, "replay") as pool:
        sending = pool.submit(sender.send)
        try:
            for item in sender.items(lambda: stream.patience):
                if item is None:
                    pieces = stream.flush()
                else:
                    pieces = stream.add(item.number, item.counts)
                    diary.arrived[item.number] = item.at
                now = diary.write(pieces)
                if progress and now - last_report > progress_interval_s:
                    last_report = now
                    progress("streaming", int(stream.arrived.sum()), len(stream.positions), dict(held=stream.held))
                if pieces and snapshot:
                    snapshot(stream)
        finally:
            sender.stop()
        sending.result()
    pieces = stream.finish()
    seconds = diary.write(pieces) - start
    if pieces and snapshot:
        snapshot(stream)
    if progress:
        progress("streaming", int(stream.arrived.sum()), len(stream.positions), {})
    dropped = len(stream.dropped) - dropped
    return _report(sender, diary, rate, seconds, dropped, stream.most_held, warm_up)


def _report(
    sender: "_Sender",
    diary: "_Diary",
    rate: float | None,
    seconds: float,
    dropped: int,
    most_held: int,
    warm_up: float,
) -> ReplayReport:
    """What sender and diary have counted; ValueError where no frame was used."""
    latency = 1e3 * diary.latency()
    if not len(latency):
        raise ValueError(f"none of the {sender.sent} frames could be used; give finite frames, one at least")
    return ReplayReport(
        sent=sender.sent,
        used=len(latency),
        dropped=dropped,
        rate_asked=rate,
        rate=sender.sent / seconds,
        seconds=seconds,
        latency_median_ms=float(np.median(latency)),
        latency_p95_ms=float(np.percentile(latency, 95)),
        latency_max_ms=float(latency.max()),
        late_ms=1e3 * sender.late,
        blocked_s=sender.blocked,
        most_waiting=sender.most_waiting,
        most_held=most_held,
        warm_up_s=warm_up,
    )


class _Frame(NamedTuple):
    number: int
    counts: np.ndarray
    at: float
    """When it came, seconds."""


class _Sender:
    """Frames in time, through a bounded queue: `send` in one thread, `items` in another."""

    def __init__(self, frames: Iterable[tuple[int, np.ndarray]], rate: float | None, start: float, in_flight: int):
        self.frames, self.interval, self.start = frames, None if rate is None else 1 / rate, start
        self.sent, self.late, self.blocked, self.most_waiting = 0, 0.0, 0.0, 0
        self._queue: SimpleQueue[_Frame | None] = SimpleQueue()
        self._room, self._stopped = Semaphore(1 if rate is None else in_flight), Event()

    def send(self) -> None:
        """Send all frames; returns early after `stop`. Whatever happens, `items` comes to an end."""
        try:
            for number, counts in self.frames:
                if self.interval is not None:
                    self._await(self.start + self.sent * self.interval)
                at = time.perf_counter()
                self._room.acquire()
                if self._stopped.is_set():
                    return
                self._queue.put(_Frame(number, counts, at))
                self.blocked += time.perf_counter() - at
                self.sent += 1
                self.most_waiting = max(self.most_waiting, self._queue.qsize())
        finally:
            self._queue.put(None)

    def _await(self, due: float) -> None:
        while (early := due - time.perf_counter()) > 0 and not self._stopped.wait(early):
            pass
        self.late = max(self.late, time.perf_counter() - due)

    def items(self, patience: Callable[[], float | None]) -> Iterator[_Frame | None]:
        """The frames; and None whenever ``patience`` seconds (None: any) have passed without one."""
        while True:
            try:
                frame = self._queue.get(timeout=patience())
            except Empty:
                yield None
                continue
            if frame is None:
                return
            self._room.release()
            yield frame

    def stop(self) -> None:
        """Let `send` return: wake it wherever it waits."""
        self._stopped.set()
        self._room.release()


class _Diary:
    """When each frame came, and when the object had it."""

    def __init__(self, frames: int):
        self.arrived, self.finished = np.full(frames, np.nan), np.full(frames, np.nan)

    def write(self, pieces: list[Piece]) -> float:
        """Note that the pieces are in the object now; a frame of several counts with its last. Returns the time."""
        now = time.perf_counter()
        for piece in pieces:
            self.finished[piece.frames] = now
        return now

    def latency(self) -> np.ndarray:
        """Seconds from arrival to object, of the frames that got there."""
        return (self.finished - self.arrived)[np.isfinite(self.finished)]
