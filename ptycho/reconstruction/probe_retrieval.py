"""The probe of a scan whose probe is only a guess: a network finds the object for it, least squares finds it for the
object, and so on in turn."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from keras import ops

from ptycho.data.scan import Scan
from ptycho.deprecation import renamed_keywords
from ptycho.network.build import PtychoNetwork
from ptycho.physics.forward import ForwardModel, Specification
from ptycho.physics.fourier import intensity
from ptycho.physics.grid import nearest_the_middle
from ptycho.physics.noise import amplitude_residual, expected_root
from ptycho.progress import Progress
from ptycho.reconstruction.predict import predict
from ptycho.reconstruction.stream import probe_of
from ptycho.reconstruction.tiles import Mosaic


class RetrievedProbe(NamedTuple):
    """What `find_probe` gives."""

    probe: np.ndarray
    """``(M, N, N)`` complex64 in sqrt(photons)."""
    misfits: list[float]
    """The misfit ``sum (sqrt(counts) - sqrt(expected))^2 / sum counts`` that each round began with."""


@renamed_keywords
def find_probe(
    model: PtychoNetwork,
    scan: Scan,
    *,
    held_out: np.ndarray | None = None,
    rounds: int = 14,
    momentum: float = 0.5,
    stalled: float = 0.995,
    most_frames: int = 1024,
    progress: Progress | None = None,
) -> RetrievedProbe:
    """The probe of a scan by a trained network, whose weights stay as they are.

    A network that takes the probe as an input solves the object in one pass, so that this converges in about ten
    rounds where engines that change both a little at a time take hundreds. A probe of the network's own is the guess to
    start from, and becomes the one retrieved.

    Args:
        model: a trained network that sees the probe.
        scan: P frames, with a guess of their probe.
        held_out: ``(P,)`` bool: frames that must not be looked at.
        rounds: how often to go round at most; it ends when the misfit stalls.
        momentum: part of the last round's change of the probe that is made once more: on measured data a third fewer
            rounds, with 0.8 it swings (docs/decisions/008-the-probe-in-turn.md).
        stalled: a round that leaves more than this part of the misfit is the last.
        most_frames: frames that the probe is retrieved from at most, those nearest the middle of the scan: it has far
            fewer unknowns.
        progress: called with the progress.

    Raises:
        ValueError: the scan does not fit the model, or the network does not use the probe.
    """
    if not model.architecture.sees_probe:
        raise ValueError(
            f"a {model.settings.architecture} does not see the probe: find it with another network, e.g. the "
            "pretrained one"
        )
    used = np.arange(len(scan)) if held_out is None else np.flatnonzero(~held_out)
    used = used[nearest_the_middle(scan.positions[used], most_frames)]
    solver = model if model.probe is None else model.without_probe()
    misfits: list[float] = []
    start = retrieved = probe_of(model, scan.probe)
    step = 0.0
    for number in range(rounds):
        scan = replace(scan, probe=start)
        mosaic = predict(solver, scan, used=used).mosaic
        before, (retrieved, misfit) = retrieved, fit_probe(scan.probe, scan, used, mosaic)
        misfits.append(misfit)
        if progress:
            progress("finding probe", number + 1, rounds, dict(misfit=misfit))
        has_stalled = number > 0 and misfit > stalled * misfits[-2]
        last = number + 1 == rounds or (has_stalled and not step)
        # Momentum that does not pay starts anew (O'Donoghue & Candes, Found. Comput. Math. 15, 715 (2015)).
        step = 0.0 if has_stalled or last or number == 0 else momentum
        # P + beta (P - P_before)
        start = retrieved + step * (retrieved - before)
        if last:
            break
    if model.probe is not None:
        model.probe.assign(start)
    return RetrievedProbe(start, misfits)


def fit_probe(
    probe: np.ndarray,
    scan: Scan,
    used: np.ndarray,
    mosaic: Mosaic,
    steps: int = 8,
    *,
    damping: float = 0.05,
    batch_pixels: int = 2**20,
) -> tuple[np.ndarray, float]:
    """The probe ``(M, N, N)`` after some steps towards the counts, the object given; and the misfit before them.

    Each step is that of ePIE with all frames at once (Maiden & Rodenburg, Ultramicroscopy 109, 1256 (2009)),

        P <- P + sum_j conj(O_j) chi_j / (sum_j |O_j|^2 + d max),

    with chi_j the exit-wave residual of frame j, and d the ``damping``: where no frame sees the probe, it stays.
    ``batch_pixels`` detector pixels are worked on at once.
    """
    origin, subpixel = mosaic.grid.frames(scan.positions[used])
    specification = Specification(mosaic.shape, bool(subpixel.any()))
    fixed = {} if scan.transfer is None else dict(transfer=scan.transfer)
    mask = scan.mask.astype("float32")
    mean_amplitude = ops.sqrt if is_bright(scan) else expected_root
    count = max(1, batch_pixels // scan.N**2)
    batches = [slice(first, first + count) for first in range(0, len(used), count)]
    misfit = 0.0
    for step in range(steps):
        gradient, weight, total = np.zeros_like(probe), np.zeros(mask.shape, "float32"), 0.0
        estimate = dict(object=mosaic.object[None], probe=probe.astype("complex64"))
        for chosen in batches:
            counts = scan.counts[used[chosen]].astype("float32")
            batch = dict(origin=origin[chosen], subpixel=subpixel[chosen]) | fixed
            model = ForwardModel(estimate, batch, specification)
            amplitudes = ops.sqrt(counts)
            residual = amplitude_residual(amplitudes, model.expected, mask, mean_amplitude)
            # sum_j conj(O_j) chi_j, with chi = J^T u
            gradient += ops.convert_to_numpy(model.probe_gradient(model.diffraction.adjoint(residual)))
            # sum_j |O_j|^2
            weight += ops.convert_to_numpy(ops.sum(intensity(model.diffraction.slices[0]), axis=0))
            if step == 0:
                # Of the probe before its first step
                misfit += float(ops.sum(mask * (amplitudes - ops.sqrt(model.expected)) ** 2))
                total += float((counts * scan.mask).sum())
        misfit = misfit / total if step == 0 else misfit
        probe = probe + gradient / (weight + damping * weight.max())
    return probe.astype("complex64"), misfit


def is_bright(scan: Scan, least: float = 1.0, share: float = 0.1) -> bool:
    """Whether a used pixel has ``least`` counts or more on average, and so has a ``share`` of the pixels at least.

    Then amplitudes are fitted by least squares, as engines do it. It is biased in dim pixels, but those of detectors
    hold more than shot noise: 0.0142 against 0.0155 on held-out frames of the siemens star. With fewer counts the bias
    is in all pixels, and `expected_root` takes it out. So it is where all light but a hundredth falls into the disc of
    a microscope's aperture, 5 % of the pixels: the bias of the others outweighs what a thin sample does to the frames.
    """
    bright = scan.mean_pattern[scan.mask] >= least
    return bool(scan.mean_counts >= least * scan.mask.sum() and bright.mean() >= share)
