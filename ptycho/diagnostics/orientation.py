"""How the frames lie against the positions, scored by a few fast iterations each: flips, transpositions, any map.

A wrong one fits the counts worse, as neighbouring frames then contradict each other. Frames turned by 180 degrees fit
the conjugate of object and probe, so that only the phase of the probe tells the two apart. Codes are those of PtyPy: 1
flips left-right, 2 up-down, 4 transposes first.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from ptycho.arrays import Array, Complex, Float, Int, Shaped
from ptycho.data.scan import Scan, illumination
from ptycho.diagnostics.statistics import rescale_probe

_FLIPS = ("as they are", "flipped left-right", "flipped up-down", "turned by 180 degrees")
NAMES = (*_FLIPS, "transposed", *(f"transposed, then {flip}" for flip in _FLIPS[1:]))


def turned(frames: Shaped[Array, "*batch N N"], code: int) -> Shaped[Array, "*batch N N"]:
    """Frames by a code, the zero frequency staying at ``N // 2``."""
    frames = np.swapaxes(frames, -1, -2) if code & 4 else frames
    for bit, axis in ((1, -1), (2, -2)):
        if code & bit:
            # A flip takes pixel N // 2 to N - 1 - N // 2, one before N // 2 where N is even: rolled back by that.
            frames = np.roll(np.flip(frames, axis), 1 - frames.shape[-1] % 2, axis)
    return frames


class Trial(NamedTuple):
    """A way in which the frames of a scan may lie against its positions."""

    map: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 0.0), (0.0, 1.0))
    """``(2, 2)``: takes the positions (y, x), about their mean, to where they are in the frames' axes."""
    code: int = 0
    """How frames are turned, the probe not: it is of another source."""
    defocus_rad: float = 0.0
    """By which the probe is off: phase at the root mean square of its frequencies."""


def middle_of(scan: Scan, frames: int, side: int) -> Scan:
    """Of the frames nearest the middle of a scan, so many pixels around the zero frequency; a guess rescaled."""
    from ptycho.physics.grid import nearest_the_middle

    scan, _ = rescale_probe(replace(scan, object=None))
    return scan.subset(nearest_the_middle(scan.positions, frames)).cropped(min(side, scan.N))


def fit_errors(
    scan: Scan,
    trials: Sequence[Trial],
    epochs: int,
    *,
    fits_probe: bool = True,
    held_out_every: int | None = None,
    seed: int = 0,
    at_once: int = 8,
) -> Float[Array, " K"]:
    """Errors in the last epoch of fits from vacuum to the frames by each trial, some of them at a time.

    ePIE (Maiden & Rodenburg, Ultramicroscopy 109, 1256 (2009)) on batches of frames, see `_fit_errors`. With
    ``held_out_every`` every k-th frame is kept from the fit, and the error is that of these frames at its end.
    """
    groups = [list(trials[first : first + at_once]) for first in range(0, len(trials), at_once)]
    rng = lambda: np.random.default_rng(seed)  # the same batches for all
    errors = []
    for group in groups:
        # Steps are traced for each number of trials: half of the most, or all, the last one again in the empty places.
        places = at_once // 2 if 2 * len(group) <= at_once else at_once
        filled = group + group[-1:] * (places - len(group))
        errors.append(_fit_errors(scan, filled, epochs, rng(), fits_probe, held_out_every)[: len(group)])
    return np.concatenate(errors)


def _fit_errors(
    scan: Scan,
    trials: Sequence[Trial],
    epochs: int,
    rng: np.random.Generator,
    fits_probe: bool,
    held_out_every: int | None,
) -> Float[Array, " K"]:
    """Errors in the last epoch, each batch's before its step (`_epie_step`).

    A guessed probe follows from the third epoch on.
    """
    from keras import ops

    from ptycho.physics.forward import Diffraction, frame_probes
    from ptycho.physics.grid import ObjectGrid
    from ptycho.physics.patches import extract_at, patch_index

    K, N = len(trials), scan.N
    middle = scan.positions.mean(axis=0)
    # Positions are rows: p A^T.
    mapped_positions = np.stack([middle + (scan.positions - middle) @ np.array(trial.map).T for trial in trials])
    grid = ObjectGrid.around(mapped_positions.reshape(-1, 2), N)
    # Few shapes, for each of which steps are traced
    shape = (-(-grid.shape[0] // 32) * 32, -(-grid.shape[1] // 32) * 32)
    counts, mask = np.asarray(scan.counts, np.float32), scan.mask.astype(np.float32)
    used = ops.convert_to_tensor(np.stack([turned(mask, trial.code) for trial in trials])[:, None])
    roots = np.sqrt(np.maximum(counts, 0)) * mask
    measured = ops.convert_to_tensor(np.stack([turned(roots, trial.code) for trial in trials]))
    positions = np.rint(grid.on_grid(mapped_positions)).astype(np.int32)
    index = patch_index(positions, (N, N), shape)
    sample = ops.ones((K, *shape), "complex64")
    probe = ops.convert_to_tensor(np.stack([defocused(scan.probe, trial.defocus_rad) for trial in trials])[:, None])
    brightest = ops.convert_to_tensor(np.float32(illumination(scan.probe).max()))
    errors = ops.zeros(K)
    size = int(np.clip(len(scan) // 15, 1, 8))  # small, as later batches profit from earlier ones
    frames = np.arange(len(scan))
    judges = frames[:0] if held_out_every is None else frames[held_out_every // 2 :: held_out_every]
    for epoch in range(epochs):
        errors = ops.zeros(K)
        step = _compiled_step(shape, fits_probe and not scan.probe_known and epoch >= 2)
        order = rng.permutation(np.setdiff1d(frames, judges))
        for batch in (order[first : first + size] for first in range(0, len(order), size)):
            of_batch = (ops.take(values, batch, axis=1) for values in (measured, index))
            sample, probe, error = step(sample, probe, *of_batch, used, brightest)
            errors = errors + error
    if len(judges):
        expected = Diffraction([extract_at(sample, ops.take(index, judges, axis=1))], frame_probes(probe)[0]).expected
        misfit = (ops.sqrt(ops.maximum(expected, 1e-12)) - ops.take(measured, judges, axis=1)) * used
        errors, counts = ops.sum(ops.square(misfit), axis=(1, 2, 3)), counts[judges]
    return ops.convert_to_numpy(errors) / max(float((counts * mask).sum()), 1e-30)


def _epie_step(
    sample: Complex[Array, "K H W"],
    probe: Complex[Array, "K 1 M N N"],
    measured: Float[Array, "K B N N"],
    index: Int[Array, "K B N N"],
    used: Float[Array, "K 1 N N"],
    brightest: Float[Array, ""],
    *,
    shape: tuple[int, int],
    fits_probe: bool,
    power: float = 0.5,
) -> tuple[Complex[Array, "K H W"], Complex[Array, "K 1 M N N"], Float[Array, " K"]]:
    """Object and probe after a batch of frames, and the errors before, of K trials.

    The misfit of amplitudes, ``sum (sqrt(e) - sqrt(n))^2``, has the derivative ``u = 1 - sqrt(n / e)`` by the expected
    counts e, so that ``-J^T u / 2`` is the change of the exit waves that brings them to the measured amplitudes. The
    object takes it times ``conj(P)`` over the illumination of the batch, ``power`` of it the maximum of one frame's:
    where little light falls, steps are short.
    """
    from keras import ops

    from ptycho.physics.forward import Diffraction, centring, frame_probes
    from ptycho.physics.patches import accumulate_at, extract_at

    scaled = lambda change, scale: change / ops.cast(scale, "complex64")
    patches = extract_at(sample, index)
    model = Diffraction([patches], frame_probes(probe)[0])
    amplitudes = ops.sqrt(ops.maximum(model.expected, 1e-12))
    # u = d sum (sqrt(e) - sqrt(n))^2 / de = 1 - sqrt(n / e)
    misfit = (1 - measured / amplitudes) * used
    errors = ops.sum(ops.square(misfit * amplitudes), axis=(1, 2, 3))
    chi = model.adjoint(misfit)
    intensity = ops.broadcast_to(ops.sum(ops.square(ops.abs(probe)), axis=2), patches.shape)
    # O -= sum_j conj(P) chi / (2 (p max |P|^2 + (1 - p) sum_j |P|^2)), where chi = J^T u has the factor 2 of J
    scale = power * brightest + (1 - power) * accumulate_at(intensity, index, shape)
    sample = sample - scaled(accumulate_at(model.slice_gradients(chi)[0], index, shape), 2 * scale)
    if fits_probe:
        uncentred = ops.convert_to_tensor(centring(probe.shape[-1]).conj())  # their ramp on the way to the far field
        change = ops.sum(model.probe_gradient(chi), axis=1, keepdims=True) * uncentred
        # ePIE of the probe: over the largest sum_j |O_j|^2 of the batch. A quarter of that, as the object has already
        # made up for the same chi: with all of it, frames that overlap by 90 % and more overshot ever further.
        transmitted = ops.max(ops.sum(ops.square(ops.abs(patches)), axis=1), axis=(1, 2))
        probe = probe - scaled(change, 8 * transmitted[:, None, None, None, None])
    return sample, probe, errors


@lru_cache(maxsize=16)
def _compiled_step(shape: tuple[int, int], fits_probe: bool) -> Callable[..., tuple[Array, Array, Array]]:
    from ptycho.backend import compiled

    # XLA takes longer to compile than the fit takes.
    return compiled(partial(_epie_step, shape=shape, fits_probe=fits_probe), fused=False)


def defocused(probe: Complex[Array, "M N N"], defocus_rad: float) -> Complex[Array, "M N N"]:
    """A probe moved along the beam: ``F P exp(i a f^2 / <f^2>)``, a the phase at its root mean square frequency."""
    if not defocus_rad:
        return probe
    squared = np.add.outer(*(np.fft.fftfreq(probe.shape[-1]) ** 2,) * 2)
    spectrum = np.fft.fft2(probe)
    density = (np.abs(spectrum) ** 2).sum(axis=0)
    phase = defocus_rad * squared * density.sum() / (density * squared).sum()
    return np.fft.ifft2(spectrum * np.exp(1j * phase)).astype(np.complex64)


def widest_defocus(N: int, mean_square_frequency: float, window: float = 0.4) -> float:
    """Defocus in rad at the mean square frequency that spreads the probe over this part of its window from its middle.

    A phase ``a f^2 / <f^2>`` moves the rays of frequency f by ``a f / (pi <f^2>)`` pixels; those at the edge of a disc,
    ``f_e^2 = 2 <f^2>``, by ``2 a / (pi f_e)``.
    """
    edge = np.sqrt(2 * mean_square_frequency)
    return float(window * N * np.pi * edge / 2)
