"""Scans with known truth, from the one forward model `ptycho.physics.diffraction.expected_counts`."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from ptycho.backend import compiled
from ptycho.config import SimulationConfig
from ptycho.data.scan import Scan
from ptycho.physics.diffraction import expected_counts
from ptycho.physics.patches import extract, split_positions
from ptycho.physics.propagation import moved_back, transfer_function
from ptycho.physics.translation import fourier_shift
from ptycho.simulation.objects import make_object
from ptycho.simulation.probes import make_probe
from ptycho.simulation.trajectories import jittered, raster, raster_shape, spiral

BATCH_PIXELS = 2**21
"""Probe-mode pixels computed in one go: 16 MB for each complex array on the way."""

MARGIN_PX = 4
"""Pixels of the object beyond the outermost frames."""


def simulate(
    config: SimulationConfig,
    object: np.ndarray | None = None,
    probe: np.ndarray | None = None,
    positions: np.ndarray | None = None,
) -> Scan:
    """Simulate a scan; what is not given is made after ``config``.

    Parameters
    ----------
    object : complex transmission ``(H, W)``; frames see nothing outside it, so it has to hold every frame.
    probe : ``(M, N, N)`` or ``(N, N)`` in sqrt(photons). It is used as it is: the photons, diameter,
        defocus and modes of ``config`` then have no effect.
    positions : ``(P, 2)`` (y, x) in pixels of the object, sub-pixel welcome.

    The scan carries the exact object, probe and positions. Counts are uint16, or uint32 where they have to
    be; float32 expected counts with ``noise=False``. The same ``config`` gives the same scan. Object,
    positions and noise draw from generators of their own, so that another dose sees the same object at the
    same positions.

    Raises ValueError where a frame lies outside the object, where the probe does not fit ``config.N``, and
    where counts exceed uint32. Warns where the near field is undersampled (`transfer_function`).
    """
    object_rng, position_rng, noise_rng = (
        np.random.default_rng(s) for s in np.random.SeedSequence(config.seed).spawn(3)
    )
    probe = _made_probe(config) if probe is None else _checked_probe(probe, config.N)
    if positions is None:
        positions = _made_positions(config, None if object is None else object.shape, position_rng)
    positions = np.asarray(positions, np.float64)
    sample = config.object_kind if object is None else "given object"
    if object is None:
        object = make_object(config.object_kind, canvas_shape(positions, config.N), object_rng)
    check_inside(positions, config.N, object.shape)
    near, transfer = config.near_field, None
    if near is not None:
        transfer = transfer_function((config.N, config.N), near.distance_px, near.wavelength_px, near.kind)
    frames = expected_batches(object, probe, positions, transfer=transfer)
    if config.noise:
        frames = (poisson_counts(frame, noise_rng) for frame in frames)
    return Scan(
        counts=stacked(frames, len(positions)),
        positions=positions,
        probe=probe,
        object=np.asarray(object, np.complex64),
        near_field=near,
        source=f"simulated ({sample}, seed {config.seed})",
    )


def expected_batches(
    object: np.ndarray,
    probe: np.ndarray,
    positions: np.ndarray,
    batch: int | None = None,
    transfer: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """Expected counts float32 ``(<= batch, N, N)``, batch by batch in the order of ``positions``.

    Each patch ``(N, N)`` is read at the whole part of its position, and the probe ``(M, N, N)`` is moved by
    the sub-pixel rest (`fourier_shift`), a near field back by it. Outside the object the transmission is 0.
    ``batch`` frames are computed at a time, by default as many as take some tens of MB. ``transfer (N, N)``
    leads to the near field, None to the far one.
    """
    whole, rest = split_positions(positions)
    count = batch or max(1, min(len(positions), BATCH_PIXELS // probe.size))
    frames = compiled(partial(_moved_probe_frames if rest.any() else _whole_pixel_frames, transfer=transfer))
    object, probe = np.asarray(object, np.complex64), np.asarray(probe, np.complex64)
    for start in range(0, len(positions), count):
        here = np.arange(start, start + count).clip(max=len(positions) - 1)  # one shape, so it compiles once
        result = frames(object, probe, whole[here], rest[here])
        yield np.asarray(result)[: len(positions) - start]


def poisson_counts(expected: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Counts drawn around the expected ones: uint16, or uint32 if one does not fit."""
    counts = rng.poisson(expected.astype(np.float64))
    largest = counts.max(initial=0)
    if largest > np.iinfo(np.uint32).max:
        raise ValueError(f"a pixel counts {largest:.3g} photons, more than uint32 holds: lower the photons")
    return counts.astype(np.uint16 if largest <= np.iinfo(np.uint16).max else np.uint32)


def stacked(batches: Iterator[np.ndarray], length: int) -> np.ndarray:
    """Batches ``(b, ...)`` one after the other in one array ``(length, ...)`` of the largest dtype among
    them.

    Unlike `numpy.concatenate` it needs one batch at a time, so that memory holds the result once.
    """
    first = next(batches)
    stack = np.empty((length, *first.shape[1:]), first.dtype)
    stack[: len(first)] = first
    done = len(first)
    for batch in batches:
        stack = stack.astype(np.promote_types(stack.dtype, batch.dtype), copy=False)
        stack[done : done + len(batch)] = batch
        done += len(batch)
    assert done == length
    return stack


def canvas_shape(positions: np.ndarray, N: int) -> tuple[int, int]:
    """Shape (H, W) of an object that holds every frame, with `MARGIN_PX` beyond the last ones."""
    high = split_positions(positions)[0].max(axis=0) + (N - N // 2) + MARGIN_PX
    return int(high[0]), int(high[1])


def check_inside(positions: np.ndarray, N: int, shape: tuple[int, ...]) -> None:
    """Raise ValueError if a frame of side N reaches beyond an object of ``shape`` (H, W)."""
    whole = split_positions(positions)[0]
    low, high = whole.min(axis=0) - N // 2, whole.max(axis=0) + (N - N // 2)
    if (low < 0).any() or (high > shape).any():
        raise ValueError(
            f"frames of {N} px span {low.tolist()} to {high.tolist()} (y, x), beyond the object of "
            f"{tuple(shape)} px: move the positions, make the step smaller or give a larger object"
        )


def _whole_pixel_frames(object, probe, whole, rest, transfer):
    patches = extract(object[None], whole[None], tuple(probe.shape[-2:]))[0]
    return expected_counts(patches, probe[None], transfer)


def _moved_probe_frames(object, probe, whole, rest, transfer):
    patches = extract(object[None], whole[None], tuple(probe.shape[-2:]))[0]
    if transfer is not None:
        transfer = moved_back(transfer, rest[:, None])
    return expected_counts(patches, fourier_shift(probe[None], rest[:, None]), transfer)


def _made_probe(config: SimulationConfig) -> np.ndarray:
    return make_probe(config.N, config.photons, config.probe_diameter, config.defocus, config.probe_modes)


def _checked_probe(probe: np.ndarray, N: int) -> np.ndarray:
    probe = np.asarray(probe, np.complex64)
    probe = probe[None] if probe.ndim == 2 else probe
    if probe.ndim != 3 or probe.shape[1:] != (N, N):
        raise ValueError(f"the probe has shape {probe.shape}; with N = {N} it is (M, {N}, {N}): set N to fit it")
    return probe


def _made_positions(config: SimulationConfig, shape: tuple[int, ...] | None, rng: np.random.Generator) -> np.ndarray:
    """The trajectory of ``config``: in the middle of an object of ``shape``, or without one from 0 on."""
    if config.trajectory == "spiral":
        points = spiral(config.positions, config.step_px)
    else:
        points = raster(*raster_shape(config.positions), config.step_px)
    points = jittered(points, config.jitter_px, rng)
    if shape is None:
        points = points - points.min(axis=0) + config.N // 2 + MARGIN_PX
    else:
        points = points - (points.min(axis=0) + points.max(axis=0)) / 2 + np.array(shape) / 2
    return np.floor(points + 0.5) if config.integer_positions else points
