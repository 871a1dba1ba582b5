"""How the frames lie against the positions: eight flips and transpositions, scored by a few fast iterations each.

A wrong one fits the counts worse, as neighbouring frames then contradict each other. Frames turned by 180 degrees fit
the conjugate of object and probe, so that only the phase of the probe tells the two apart. Codes are those of PtyPy: 1
flips left-right, 2 up-down, 4 transposes first.
"""

from dataclasses import replace

import numpy as np

from ptycho.arrays import Array, Float, Shaped
from ptycho.data.scan import Scan, illumination
from ptycho.diagnostics.statistics import rescale_probe

_FLIPS = ("as they are", "flipped left-right", "flipped up-down", "turned by 180 degrees")
NAMES = (*_FLIPS, "transposed", *(f"transposed, then {flip}" for flip in _FLIPS[1:]))
CODES = range(len(NAMES))


def turned(frames: Shaped[Array, "*batch N N"], code: int) -> Shaped[Array, "*batch N N"]:
    """Frames by a code, the zero frequency staying at ``N // 2``."""
    frames = np.swapaxes(frames, -1, -2) if code & 4 else frames
    for bit, axis in ((1, -1), (2, -2)):
        if code & bit:
            # A flip takes pixel N // 2 to N - 1 - N // 2, one before N // 2 where N is even: rolled back by that.
            frames = np.roll(np.flip(frames, axis), 1 - frames.shape[-1] % 2, axis)
    return frames


def orientation_errors(
    scan: Scan, seed: int = 0, frames: int = 120, side: int = 64, epochs: int = 6
) -> Float[Array, "8"]:
    """Squared error of the amplitudes over the counts, by the code that the frames are turned with.

    Of the ``frames`` nearest the middle of the scan, ``side`` pixels around the zero frequency are fitted for
    ``epochs``: as few of each as tell the orientations apart, in 3 s on one core.
    """
    from ptycho.physics.grid import nearest_the_middle

    scan, _ = rescale_probe(replace(scan, object=None))
    scan = scan.subset(nearest_the_middle(scan.positions, frames)).cropped(min(side, scan.N))
    return _fit_errors(scan, epochs, np.random.default_rng(seed))


def _fit_errors(scan: Scan, epochs: int, rng: np.random.Generator, power: float = 0.5) -> Float[Array, "8"]:
    """Errors in the last epoch of fits from vacuum to the frames by each code, all eight at once.

    ePIE (Maiden & Rodenburg, Ultramicroscopy 109, 1256 (2009)) on batches of frames. The misfit of amplitudes, ``sum
    (sqrt(e) - sqrt(n))^2``, has the derivative ``u = 1 - sqrt(n / e)`` by the expected counts e, so that ``-J^T u / 2``
    is the change of the exit waves that brings them to the measured amplitudes. The object takes it times ``conj(P)``
    over the illumination of the batch, ``power`` of it the maximum of one frame's: where little light falls, steps are
    short. A guessed probe follows from the third epoch on.
    """
    from keras import ops

    from ptycho.physics.forward import Diffraction, centring, frame_probes
    from ptycho.physics.grid import ObjectGrid
    from ptycho.physics.patches import accumulate_at, extract_at, patch_index

    grid = ObjectGrid.around(scan.positions, scan.N)
    counts, mask = np.asarray(scan.counts, np.float32), scan.mask.astype(np.float32)
    used = ops.convert_to_tensor(np.stack([turned(mask, code) for code in CODES])[:, None])
    measured = ops.convert_to_tensor(np.stack([turned(np.sqrt(counts) * mask, code) for code in CODES]))
    positions = np.rint(grid.on_grid(scan.positions)).astype(np.int32)
    index = patch_index(np.broadcast_to(positions, (len(CODES), *positions.shape)), (scan.N, scan.N), grid.shape)
    sample = ops.ones((len(CODES), *grid.shape), "complex64")
    probe = ops.convert_to_tensor(np.broadcast_to(scan.probe, (len(CODES), 1, *scan.probe.shape)))
    brightest = float(illumination(scan.probe).max())
    uncentred = ops.convert_to_tensor(centring(scan.N).conj())  # probes have this ramp on their way to the far field
    scaled = lambda change, scale: change / ops.cast(scale, "complex64")
    errors = ops.zeros(len(CODES))
    size = int(np.clip(len(scan) // 15, 1, 8))  # small, as later batches profit from earlier ones
    for epoch in range(epochs):
        errors = ops.zeros(len(CODES))
        order = rng.permutation(len(scan))
        for batch in (order[first : first + size] for first in range(0, len(order), size)):
            at = ops.take(index, batch, axis=1)
            patches = extract_at(sample, at)
            model = Diffraction([patches], frame_probes(probe)[0])
            amplitudes = ops.sqrt(ops.maximum(model.expected, 1e-12))
            # u = d sum (sqrt(e) - sqrt(n))^2 / de = 1 - sqrt(n / e)
            misfit = (1 - ops.take(measured, batch, axis=1) / amplitudes) * used
            errors = errors + ops.sum(ops.square(misfit * amplitudes), axis=(1, 2, 3))
            chi = model.adjoint(misfit)
            intensity = ops.broadcast_to(ops.sum(ops.square(ops.abs(probe)), axis=2), patches.shape)
            # O -= sum_j conj(P) chi / (2 (p max |P|^2 + (1 - p) sum_j |P|^2)), where chi = J^T u has the factor 2 of J
            scale = power * brightest + (1 - power) * accumulate_at(intensity, at, grid.shape)
            sample = sample - scaled(accumulate_at(model.slice_gradients(chi)[0], at, grid.shape), 2 * scale)
            if not scan.probe_known and epoch >= 2:
                change = ops.sum(model.probe_gradient(chi), axis=1, keepdims=True) * uncentred
                # ePIE of the probe: over the largest sum_j |O_j|^2 of the batch
                transmitted = ops.max(ops.sum(ops.square(ops.abs(patches)), axis=1), axis=(1, 2))
                probe = probe - scaled(change, 2 * transmitted[:, None, None, None, None])
    return ops.convert_to_numpy(errors) / max(float((counts * mask).sum()), 1e-30)
