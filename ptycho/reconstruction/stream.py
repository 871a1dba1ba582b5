"""Frames in, in any order; pieces of the object out, as soon as their frames are there."""

import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from ptycho.backend import free_trace_with, jit_compile, require_own_threads
from ptycho.deprecation import renamed_keywords
from ptycho.network.build import PtychoNetwork
from ptycho.network.symmetries import Symmetry
from ptycho.physics.detection import mode_sum
from ptycho.physics.patches import split_positions
from ptycho.reconstruction.tiles import Mosaic, Piece, Tile, cut, reach, window


class Layout(NamedTuple):
    """How the frames of a scan go to a network: what is the same for all of them, and for all parts of the scan."""

    tiles: list[Tile]
    """None where each frame is on its own."""
    size: int
    """Frames in a batch, which is filled up with empty ones."""
    canvas: int
    """Side of the canvas of a tile in pixels; 0 without tiles."""
    subpixel: bool
    """Whether any position is between pixels."""

    @classmethod
    def of(
        cls, model: PtychoNetwork, positions: np.ndarray, probe: np.ndarray, tile_frames: int | None = None
    ) -> "Layout":
        """For frames at ``positions (P, 2)`` with a probe ``(M, N, N)``; ``tile_frames`` as in `Stream`."""
        N = probe.shape[-1]
        integer, rest_px = split_positions(positions)
        subpixel = bool(rest_px.any())
        if not model.architecture.needs_neighbours:
            return cls([], min(tile_frames or usual_batch(N), len(positions)), 0, subpixel)
        # A tile needs all frames that illuminate it, out to where its window has fallen to 0.
        margin = reach(probe) + ramp(N)
        tiles = cut(positions, margin, tile_frames or usual_tile(N))
        # One canvas for all tiles, so that one compiled step serves them.
        span = max(np.ptp(integer[tile.frames], axis=0).max() for tile in tiles)
        multiple = model.architecture.multiple
        canvas = multiple * math.ceil((span + N) / multiple)
        return cls(tiles, _rounded(max(len(tile.frames) for tile in tiles)), canvas, subpixel)


def usual_tile(N: int, pixels: int = 2**24) -> int:
    """Frames in a tile with so many detector pixels: 4 096 of 64 x 64. Memory is about 60 bytes a pixel, 1 GB."""
    return max(1, pixels // N**2)


def usual_batch(N: int, pixels: int = 2**20, most: int = 256) -> int:
    """Frames in a batch where each is reconstructed without its neighbours: so many detector pixels."""
    return max(1, min(most, pixels // N**2))


def ramp(N: int) -> float:
    """Half of the pixels over which a tile fades into the next."""
    return max(1.0, N / 16)


def probe_of(model: PtychoNetwork, probe: np.ndarray) -> np.ndarray:
    """The probe ``(M, N, N)`` that a network uses for a scan: its own where it has one, else that of the scan.

    ValueError where its own is for frames of another size.
    """
    if model.probe is None:
        return probe
    if probe.shape[-1] != model.settings.N:
        raise ValueError(
            f"the scan's frames have N {probe.shape[-1]}, the model N {model.settings.N}: `without_probe()` makes it "
            "take the probe of any scan"
        )
    return ops.convert_to_numpy(model.probe.value())


class Contribution(NamedTuple):
    """What a part of a scan adds to its object; shares add up in any order."""

    mosaic: Mosaic
    variance: Mosaic | None
    """Of the symmetries, where there are several."""
    dropped: list[int]
    """Which frames of the part were not used."""


class Stream:
    """A trained network that takes the frames of a scan one by one and grows its object.

    A tile of the scan is reconstructed when the last of its frames has come, each frame on its own in batches with
    the preset ``fast``: the order of arrival does not matter. Frames are forgotten once they have been used.

    Args:
        model: a trained network.
        positions: ``(P, 2)`` (y, x) in pixels, of all the frames that may come.
        probe: ``(M, N, N)`` in sqrt(photons); None: the network's own.
        transfer: ``(N, N)`` complex transfer function of the near field; None: far field.
        mask: ``(N, N)`` bool, True where a pixel is used; None uses all.
        tile_frames: frames in a tile (or batch) at most; fewer give a smaller delay and a little more work. None: as
            many as memory should hold (`usual_tile`, `usual_batch`).
        max_wait: seconds that a frame may wait for its batch to fill (see `patience`); None: as long as it takes. Only
            for frames on their own.
        symmetries: in how many of the 16 symmetries to show the network each tile, and average (see `Symmetry`); with
            several, `spread` tells how far they disagree.
        layout: that of the scan, where the frames are a part of it; None: these are all there are.

    Raises:
        ValueError: positions or mask do not fit, or an option is out of its range.
    """

    @renamed_keywords
    def __init__(
        self,
        model: PtychoNetwork,
        positions: np.ndarray,
        *,
        probe: np.ndarray | None = None,
        transfer: np.ndarray | None = None,
        mask: np.ndarray | None = None,
        tile_frames: int | None = None,
        symmetries: int = 1,
        max_wait: float | None = None,
        layout: Layout | None = None,
    ):
        require_own_threads()
        if probe is None:
            if model.probe is None:
                raise ValueError("the network has no probe of its own; give the probe of the scan")
            probe = ops.convert_to_numpy(model.probe.value())
        side = probe.shape[-1]
        self._grouped = model.architecture.needs_neighbours
        _check_options(positions, mask, side, symmetries, tile_frames, max_wait, self._grouped)
        self.max_wait = max_wait
        self.model, self.positions = model, np.asarray(positions, float)
        self.probe, self.N, self.transfer = np.asarray(probe, "complex64"), side, transfer
        self.mask = np.ones((side, side), "float32") if mask is None else np.asarray(mask, "float32")
        self._used = self.mask > 0
        self.integer, self.subpixel = split_positions(self.positions)
        self.mosaic, self.symmetries = Mosaic(self.positions, side), symmetries
        self._variance = Mosaic(self.positions, side) if symmetries > 1 else None
        self.dropped: list[int] = []
        """Frames that were not used: their values are no counts, or their patches no numbers."""
        self.arrived = np.zeros(len(positions), bool)
        self.most_held = 0
        """Frames in memory at the most so far."""
        self._held: dict[int, np.ndarray] = {}
        self._oldest = 0.0
        self._limit = tile_frames or usual_tile(side)
        self.layout = layout or Layout.of(model, self.positions, self.probe, tile_frames)
        self._tiles, self._size, self._canvas, self._subpixel = self.layout
        if not self._grouped:
            weight = mode_sum(self.probe)
            self._weight = ops.convert_to_numpy(weight / ops.max(weight))
        self._outstanding = [len(tile.frames) for tile in self._tiles]
        self._complete: list[int] = []
        """Tiles whose frames are all there, and which have not been reconstructed."""
        self._needed = np.zeros(len(positions), int)
        self._tiles_of: list[list[int]] = [[] for _ in positions]
        for number, tile in enumerate(self._tiles):
            # A frame is kept until the last of its tiles has been reconstructed.
            self._needed[tile.frames] += 1
            for frame in tile.frames:
                self._tiles_of[frame].append(number)
        self._step = _compiled_step(
            model, (self._size, self._canvas, self._subpixel, symmetries > 1, transfer is None, *self.probe.shape)
        )

    def order(self) -> Iterator[np.ndarray]:
        """All frames, tile after tile: the order in which the fewest have to be held."""
        groups = [tile.frames for tile in self._tiles] or np.array_split(
            np.arange(len(self.positions)), math.ceil(len(self.positions) / self._size)
        )
        visited = np.zeros(len(self.positions), bool)
        for frames in groups:
            new = frames[~visited[frames]]
            visited[new] = True
            if len(new):
                yield new

    def pieces(self) -> Iterator[tuple[np.ndarray, Layout]]:
        """The scan in parts that others can reconstruct: the frames of each, and the layout of a stream for them.

        A frame near the side of a tile is in several. What comes of a part, its `contribution`, goes to `take`.
        """
        for tile in self._tiles:
            local = tile._replace(frames=np.arange(len(tile.frames)))
            yield tile.frames, self.layout._replace(tiles=[local])
        if not self._tiles:
            every = np.arange(len(self.positions))
            for frames in np.array_split(every, math.ceil(len(every) / self._limit)):
                yield frames, self.layout

    @property
    def contribution(self) -> Contribution:
        """What the frames so far add to the object."""
        return Contribution(self.mosaic, self._variance, self.dropped)

    def take(self, frames: np.ndarray, contribution: Contribution) -> None:
        """Take in the contribution of a part with these frames."""
        self.mosaic.merge(contribution.mosaic)
        if self._variance is not None and contribution.variance is not None:
            self._variance.merge(contribution.variance)
        self.arrived[frames] = True
        # A frame near a border is in several parts: it is counted once.
        self.dropped += sorted(set(frames[contribution.dropped].tolist()) - set(self.dropped))

    @property
    def held(self) -> int:
        """Number of frames in memory."""
        return len(self._held)

    @property
    def waiting(self) -> list[int]:
        """Frames in memory: those that have come and wait for their neighbours."""
        return list(self._held)

    @property
    def spread(self) -> np.ndarray:
        """Root mean square disagreement of the symmetries ``(H, W)`` float32, of the complex object; 0 with one."""
        if self._variance is None:
            return np.zeros(self.mosaic.shape, "float32")
        # The mosaic averages variances as it does objects: as complex numbers.
        return np.sqrt(self._variance.object.real)

    def add(self, index: int, counts: np.ndarray) -> list[Piece]:
        """Take a copy of frame ``index``, ``(N, N)`` counts; returns the pieces of the object that it completes.

        Where the network fails, the frame is kept: `flush` or `finish` try again.

        Raises:
            ValueError: there is no such frame, or it has come already, or has another size.
        """
        if not 0 <= index < len(self.positions):
            raise ValueError(f"frame {index} is not one of the {len(self.positions)} whose positions were given")
        if self.arrived[index]:
            raise ValueError(f"frame {index} has come already")
        if np.shape(counts) != self.mask.shape:
            raise ValueError(f"frame {index} has shape {np.shape(counts)}; the model takes {self.mask.shape}")
        self.arrived[index] = True
        # A copy: the caller's may be a buffer of a ring, soon filled anew. Under the mask anything may stand.
        frame = np.where(self._used, counts, 0)
        if np.isfinite(frame).all() and not (frame < 0).any():
            if not self._held:
                self._oldest = time.monotonic()
            self._held[index] = frame
            self.most_held = max(self.most_held, len(self._held))
        else:
            self.dropped.append(index)
        if not self._grouped:
            return self.flush() if len(self._held) >= self._size or self.patience == 0 else []
        for number in self._tiles_of[index]:
            self._outstanding[number] -= 1
            if self._outstanding[number] == 0:
                self._complete.append(number)
        return self.flush()

    def warm_up(self) -> None:
        """Compile: run the network once on no frames, so that the first ones do not wait for it."""
        if self._grouped:
            self._predict_tile(np.array([], int), np.zeros(2, int))
        else:
            self._predict_batch(np.array([], int))

    @property
    def patience(self) -> float | None:
        """Seconds until a frame has waited ``max_wait`` (0: it has) and `flush` is due; None: nothing waits."""
        if self.max_wait is None or not self._held:
            return None
        return max(0.0, self._oldest + self.max_wait - time.monotonic())

    def flush(self) -> list[Piece]:
        """Reconstruct what is held and waits for no neighbours, now: all frames on their own, of tiles the complete."""
        pieces = []
        while self._complete:
            pieces += self._flush_tile(self._tiles[self._complete[0]])
            del self._complete[0]
        while self._held and not self._grouped:
            pieces += self._flush_batch()
        return pieces

    def finish(self) -> list[Piece]:
        """Reconstruct what has come of the tiles that are not complete; no frame is left."""
        pieces = self.flush()
        for number, tile in enumerate(self._tiles):
            if self._outstanding[number] > 0 and any(frame in self._held for frame in tile.frames):
                pieces += self._flush_tile(tile)
            self._outstanding[number] = 0
        self._held.clear()
        return pieces

    def _flush_tile(self, tile: Tile) -> list[Piece]:
        frames = np.array([f for f in tile.frames if f in self._held], int)
        if not len(frames):
            return []
        origin = self.integer[frames].min(axis=0) - self.N // 2
        canvases, illumination = self._predict_tile(frames, origin)
        aligned = _in_phase(canvases, illumination)
        # Mean and variance over the symmetries, pixel by pixel
        mean = np.mean(aligned, axis=0)
        weight = illumination * window(tile, origin, illumination.shape, ramp(self.N))
        piece = Piece(mean, weight, tuple(origin), frames)
        self.mosaic.add(piece)
        if self._variance is not None:
            variance = np.mean(np.abs(aligned - mean) ** 2, axis=0)
            self._variance.add(Piece(variance, weight, tuple(origin), frames))
        for frame in frames:
            self._needed[frame] -= 1
            if not self._needed[frame]:
                del self._held[frame]
        return [piece]

    def _flush_batch(self) -> list[Piece]:
        frames = np.array(sorted(self._held)[: self._size], int)
        patches = self._predict_batch(frames)
        for frame in frames:
            del self._held[frame]
        pieces = []
        for k, frame in enumerate(frames):
            origin = tuple(self.integer[frame] - self.N // 2)
            alternatives = [in_symmetry[k] for in_symmetry in patches]
            mean = alternatives[0] if len(alternatives) == 1 else np.mean(alternatives, axis=0)
            if not np.isfinite(mean).all():
                self.dropped.append(int(frame))
                continue
            pieces.append(Piece(mean, self._weight, origin, frames[k : k + 1]))
            self.mosaic.add(pieces[-1])
            if self._variance is not None:
                variance = np.mean(np.abs(alternatives - mean) ** 2, axis=0)
                self._variance.add(Piece(variance, self._weight, origin, frames[k : k + 1]))
        return pieces

    def _predict_tile(self, frames: np.ndarray, origin: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Canvases ``(H, W)`` of held frames, one a symmetry, and their illumination, from pixel ``origin`` on."""
        inputs = self._inputs(frames)
        # Rows without a frame lie off the canvas, where they neither see nor change anything.
        positions = np.full((self._size, 2), -(2**20), "int32")  # off the canvas
        positions[: len(frames)] = self.integer[frames] - origin
        inputs |= dict(positions=positions[None], canvas=np.zeros((1, self._canvas, self._canvas), "float32"))
        outputs = [self._step.predict_on_batch(inputs | arrays) for arrays in self._symmetry_arrays(self._canvas)]
        return [canvas[0] for canvas, _ in outputs], outputs[0][1][0]

    def _predict_batch(self, frames: np.ndarray) -> list[np.ndarray]:
        """Patches ``(P, N, N)`` of P held frames, for each symmetry."""
        inputs, symmetries = self._inputs(frames), self._symmetry_arrays(self.N)
        return [self._step.predict_on_batch(inputs | arrays)[0, : len(frames)] for arrays in symmetries]

    def _symmetry_arrays(self, side: int) -> list[dict[str, np.ndarray]]:
        """The symmetries as inputs of the network, for canvases of ``side`` pixels; none for a single one."""
        return [Symmetry.arrays(number, side) for number in range(self.symmetries)] if self.symmetries > 1 else [{}]

    def _inputs(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        """The frames as the network takes them, filled up with empty ones to one size: one trace serves all."""
        counts = np.zeros((self._size, self.N, self.N), "float32")
        for row, frame in enumerate(frames):
            counts[row] = self._held[frame]
        inputs = dict(counts=counts[None], mask=self.mask[None], probe=self.probe[None])
        if self.transfer is not None:
            inputs["transfer"] = self.transfer[None]
        if self._subpixel:
            subpixel = np.zeros((self._size, 2), "float32")
            subpixel[: len(frames)] = self.subpixel[frames]
            inputs["subpixel"] = subpixel[None]
        return inputs


def _check_options(
    positions: np.ndarray,
    mask: np.ndarray | None,
    side: int,
    symmetries: int,
    tile_frames: int | None,
    max_wait: float | None,
    grouped: bool,
) -> None:
    """Raise ValueError where options of a `Stream` of frames of ``side`` pixels are out of their ranges."""
    if np.ndim(positions) != 2 or np.shape(positions)[1] != 2 or not len(positions):
        raise ValueError(f"positions have shape {np.shape(positions)}; expected (P, 2), one (y, x) a frame")
    if mask is not None and np.shape(mask) != (side, side):
        raise ValueError(f"mask has shape {np.shape(mask)}; the model takes frames of {side} x {side}")
    if not 1 <= symmetries <= Symmetry.COUNT:
        raise ValueError(f"symmetries is {symmetries}; expected 1 to {Symmetry.COUNT}")
    if tile_frames is not None and tile_frames < 1:
        raise ValueError(f"tile_frames is {tile_frames}; expected 1 or more, or None")
    if max_wait is not None and (grouped or not max_wait >= 0):
        raise ValueError(
            f"max_wait is {max_wait}; expected 0 or more seconds, and a network that takes frames on their own: "
            "a tile has to wait for its frames"
        )


def _rounded(count: int) -> int:
    """Frames in a batch, in steps of an eighth: scans of nearly the same size share a trace."""
    step = max(1, 2 ** (count.bit_length() - 4))
    return step * math.ceil(count / step)


def _in_phase(canvases: list[np.ndarray], illumination: np.ndarray) -> np.ndarray:
    """Canvases ``(V, H, W)``, each turned by the global phase that makes it agree best with the first."""
    # Capped: pixels that many frames see shall not decide alone.
    weight = np.minimum(illumination, 1.0)
    # arg sum w conj(c) c_0: the phase that brings canvas c nearest to c_0
    turns = [np.vdot(canvas * weight, canvases[0]) for canvas in canvases]
    return np.stack([canvas * (turn / max(abs(turn), 1e-30)) for canvas, turn in zip(canvases, turns, strict=True)])


class _Predicting(keras.Model):
    """A network as a function of a batch, compiled by Keras on the backend in use."""

    def __init__(self, network: PtychoNetwork):
        super().__init__(name="predict")
        self.network = network
        self.built = True
        self.compile(jit_compile=jit_compile(False))


def _compiled_step(network: PtychoNetwork, shapes: tuple[int | bool, ...], kept: int = 4) -> _Predicting:
    """The network's own compiled step for inputs of these shapes: a second scan like the first is not traced again.

    One step for each: TensorFlow would trace one that meets a second shape for shapes it does not know. The last
    ``kept`` are kept. They are not layers of the network: set past Keras, which would save them along.
    """
    steps = network.__dict__.get("_steps")
    if steps is None:
        steps = {}
        object.__setattr__(network, "_steps", steps)
    if shapes not in steps:
        while len(steps) >= kept:
            del steps[next(iter(steps))]
        steps[shapes] = _Tile(network) if network.architecture.needs_neighbours else _SingleFrames(network)
    return steps[shapes]


class _Tile(_Predicting):
    def call(self, inputs):
        free_trace_with(self)
        out = self.network(inputs)
        return out["canvas"], out["coverage"]


class _SingleFrames(_Predicting):
    def call(self, inputs):
        free_trace_with(self)
        return self.network.single_frame_patches(inputs, self.network.illumination(inputs))
