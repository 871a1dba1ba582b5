"""The probe of a scan whose probe is only a guess: a network finds the object for it, least squares finds it for the
object, and so on in turn."""

import numpy as np
from keras import ops

from ptycho.data.scan import Scan
from ptycho.network.build import PtychoNetwork
from ptycho.physics.diffraction import exit_waves, illumination, mode_intensities_sum, probe_descent
from ptycho.physics.fourier import dft, ifftshift
from ptycho.physics.noise import expected_root
from ptycho.physics.patches import split_positions
from ptycho.physics.translation import fourier_shift
from ptycho.progress import Progress
from ptycho.reconstruction.predict import predict
from ptycho.reconstruction.tiles import Mosaic

ROUNDS = 14
"""Objects and probes found in turn, at most."""

STEPS = 8
"""Steps of the probe for each object."""

MOMENTUM = 0.5
"""Part of the last round's change of the probe that is made once more: on measured data a third fewer rounds, with
0.8 it swings (docs/decisions/008-the-probe-in-turn.md)."""

STALLED = 0.995
"""A round that leaves more than this part of the misfit is the last."""

DAMPING = 0.05
"""Light of the object, over the brightest pixel's, that is added to the denominator of a step: where no frame tells,
the probe stays."""

BRIGHT = 1.0
"""Counts per used pixel from which on amplitudes are fitted by least squares, as engines do it. It is biased in dim
pixels, but those of detectors hold more than shot noise: 0.0142 against 0.0155 on held-out frames of the siemens star.
With fewer counts the bias is in all pixels, and `expected_root` takes it out."""

MOST_FRAMES = 1024
"""Frames that the probe is found from at most, those nearest the middle of the scan: it has far fewer unknowns."""

BATCH_PIXELS = 2**20
"""Detector pixels that are worked on at once."""


def find_probe(
    model: PtychoNetwork,
    scan: Scan,
    *,
    held_out: np.ndarray | None = None,
    rounds: int = ROUNDS,
    progress: Progress | None = None,
) -> list[float]:
    """Make the probe of a trained network that of a scan, in place; the network's other weights stay.

    A network that takes the probe as an input solves the object in one pass, so that this converges in about ten
    rounds where engines that change both a little at a time take hundreds.

    Args:
        model: a trained network (not a ``cnn``), whose probe is the guess to start from.
        scan: P frames with the model's N.
        held_out: ``(P,)`` bool: frames that must not be looked at.
        rounds: how often to go round at most; it ends when the misfit stalls.
        progress: told of the progress.

    Returns:
        The misfit ``sum (sqrt(counts) - sqrt(expected))^2 / sum counts`` that each round began with.

    Raises:
        ValueError: the scan does not fit the model, or the network does not use its probe.
    """
    if model.settings.architecture == "cnn":
        raise ValueError("a cnn does not see the probe: find it with another network, e.g. the pretrained one")
    used = np.arange(len(scan)) if held_out is None else np.flatnonzero(~held_out)
    middle = np.median(scan.positions[used], axis=0)
    nearest = np.argsort(np.linalg.norm(scan.positions[used] - middle, axis=1), kind="stable")
    used = np.sort(used[nearest[:MOST_FRAMES]])
    misfits: list[float] = []
    found = ops.convert_to_numpy(model.probe.value())
    momentum = 0.0
    for number in range(rounds):
        mosaic = predict(model, scan, used=used).mosaic
        before, (found, misfit) = found, fit_probe(ops.convert_to_numpy(model.probe.value()), scan, used, mosaic)
        misfits.append(misfit)
        if progress:
            progress("finding probe", number + 1, rounds, dict(misfit=misfit))
        stalled = number > 0 and misfit > STALLED * misfits[-2]
        last = number + 1 == rounds or (stalled and not momentum)
        # Momentum that does not pay starts anew (O'Donoghue & Candes, Found. Comput. Math. 15, 715 (2015)).
        momentum = 0.0 if stalled or last or number == 0 else MOMENTUM
        model.probe.assign(found + momentum * (found - before))
        if last:
            break
    return misfits


def fit_probe(
    probe: np.ndarray, scan: Scan, used: np.ndarray, mosaic: Mosaic, steps: int = STEPS
) -> tuple[np.ndarray, float]:
    """The probe ``(M, N, N)`` after some steps towards the counts, the object given; and the misfit before them.

    Each step is that of ePIE with all frames at once: the mean over frames, weighted with the object's intensity, of
    what each asks for.
    """
    side = scan.N
    whole, fractions = split_positions(scan.positions[used])
    corners = whole - side // 2 - mosaic.origin
    canvas, moved = mosaic.object, bool(fractions.any())
    mask = ifftshift(scan.mask.astype("float32"))
    batch = max(1, BATCH_PIXELS // side**2)
    mean_root = ops.sqrt if scan.mean_counts >= BRIGHT * scan.mask.sum() else expected_root
    misfit = 0.0
    for step in range(steps):
        wanted, light, total = np.zeros_like(probe), np.zeros((side, side), "float32"), 0.0
        for first in range(0, len(used), batch):
            here = slice(first, first + batch)
            patches = np.stack([canvas[y : y + side, x : x + side] for y, x in corners[here]])
            counts = scan.counts[used[here]].astype("float32")
            roots = ops.sqrt(ifftshift(counts))
            shifts = fractions[here][:, None]
            own = fourier_shift(probe[None], shifts) if moved else ops.convert_to_tensor(probe)[None]
            change = probe_descent(patches, roots, own, mask, mean_root)
            change = fourier_shift(change, -shifts) if moved else change
            wanted += ops.convert_to_numpy(ops.sum(change, axis=0))
            light += ops.convert_to_numpy(ops.sum(illumination(patches[:, None]), axis=0))
            if step == 0:
                expected = mode_intensities_sum(dft(exit_waves(patches, own)))
                misfit += float(ops.sum(mask * (roots - ops.sqrt(expected)) ** 2))
                total += float((counts * scan.mask).sum())
        misfit = misfit / total if step == 0 else misfit
        probe = probe + wanted / (light + DAMPING * light.max())
    return probe.astype("complex64"), misfit
