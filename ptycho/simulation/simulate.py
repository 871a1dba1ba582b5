"""Scans with known truth, from the one forward model `ptycho.physics.forward`."""

from collections.abc import Iterator

import numpy as np

from ptycho.config import SimulationConfig
from ptycho.data.scan import Scan
from ptycho.physics import forward
from ptycho.physics.grid import ObjectGrid
from ptycho.physics.propagation import free_space
from ptycho.simulation.objects import make_object
from ptycho.simulation.probes import make_probe
from ptycho.simulation.trajectories import jittered, raster, raster_shape, spiral

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
    object : complex transmission ``(H, W)``, or ``(S, H, W)`` of the slices of a thick sample; frames see nothing
        outside it, so it has to hold every frame.
    probe : ``(M, N, N)`` or ``(N, N)`` in sqrt(photons). It is used as it is: the photons, diameter,
        defocus and modes of ``config`` then have no effect.
    positions : ``(P, 2)`` (y, x) in pixels of the object, sub-pixel welcome.

    The scan carries the exact object, probe and positions. Counts are uint16, or uint32 where they have to
    be; float32 expected counts with ``noise=False``. The same ``config`` gives the same scan. Object,
    positions and noise draw from generators of their own, so that another dose sees the same object at the
    same positions.

    Of a thick sample the scan's object is the product of the slices, all that a thin one could show.

    Raises ValueError where a frame lies outside the object, where the probe does not fit ``config.N``, where the slices
    are not as many as ``config.multislice`` says, and where counts exceed uint32. Warns where the near field is
    undersampled (`transfer_function`).
    """
    object_rng, position_rng, noise_rng = (
        np.random.default_rng(s) for s in np.random.SeedSequence(config.seed).spawn(3)
    )
    probe = _made_probe(config) if probe is None else _checked_probe(probe, config.N)
    if positions is None:
        positions = _made_positions(config, None if object is None else object.shape[-2:], position_rng)
    positions = np.asarray(positions, np.float64)
    sample = config.object_kind if object is None else "given object"
    if object is None:
        object = _made_slices(config, canvas_shape(positions, config.N), object_rng)
    slices = np.asarray(object, np.complex64)
    slices = slices[None] if slices.ndim == 2 else slices
    expected_slices = 1 if config.multislice is None else config.multislice.slices
    if len(slices) != expected_slices:
        raise ValueError(
            f"the object has {len(slices)} slices, config.multislice says {expected_slices}: set one to fit"
        )
    check_inside(positions, config.N, slices.shape[1:])
    transfer, spacing = free_space(config.near_field, config.N), free_space(config.multislice, config.N)
    frames = expected_batches(slices, probe, positions, transfer=transfer, spacing=spacing)
    if config.noise:
        frames = (poisson_counts(frame, noise_rng) for frame in frames)
    return Scan(
        counts=stacked(frames, len(positions)),
        positions=positions,
        probe=probe,
        object=slices.prod(axis=0),
        near_field=config.near_field,
        source=f"simulated ({sample}, seed {config.seed})",
    )


def expected_batches(
    object: np.ndarray,
    probe: np.ndarray,
    positions: np.ndarray,
    batch: int | None = None,
    transfer: np.ndarray | None = None,
    spacing: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """Expected counts float32 ``(<= batch, N, N)`` of an object ``(H, W)`` or ``(S, H, W)`` and a probe ``(M, N, N)``,
    batch by batch in the order of ``positions``; see `ptycho.physics.forward.expected_batches`."""
    slices = np.asarray(object, np.complex64).reshape(-1, *np.shape(object)[-2:])
    estimate = dict(object=slices, probe=np.asarray(probe, np.complex64))
    grid = ObjectGrid((0, 0), (slices.shape[1], slices.shape[2]), probe.shape[-1])
    return forward.expected_batches(estimate, grid, positions, batch_frames=batch, transfer=transfer, spacing=spacing)


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
    grid = ObjectGrid.around(positions, N, MARGIN_PX)
    return grid.origin[0] + grid.shape[0], grid.origin[1] + grid.shape[1]


def check_inside(positions: np.ndarray, N: int, shape: tuple[int, ...]) -> None:
    """Raise ValueError if a frame of side N reaches beyond an object of ``shape`` (H, W)."""
    grid = ObjectGrid.around(positions, N)
    low, high = np.array(grid.origin), np.add(grid.origin, grid.shape)
    if (low < 0).any() or (high > shape).any():
        raise ValueError(
            f"frames of {N} px span {low.tolist()} to {high.tolist()} (y, x), beyond the object of "
            f"{tuple(shape)} px: move the positions, make the step smaller or give a larger object"
        )


def _made_slices(config: SimulationConfig, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A thin object, or the slices of a thick one, which share its contrast: each has the S-th root of an object."""
    if config.multislice is None:
        return make_object(config.object_kind, shape, rng)
    count = config.multislice.slices
    slices = np.stack([make_object(config.object_kind, shape, rng) for _ in range(count)])
    # |O|^(1/S) exp(i arg(O) / S), so that the stack has the contrast of one object
    return np.abs(slices) ** (1 / count) * np.exp(1j * np.angle(slices) / count)


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
