"""How the frames lie against the positions: eight flips and transpositions, scored by a few fast iterations each.

A wrong one fits the counts worse, as neighbouring frames then contradict each other. Frames turned by 180 degrees fit
the conjugate of object and probe, so that only the phase of the probe tells the two apart. Codes are those of PtyPy: 1
flips left-right, 2 up-down, 4 transposes first.
"""

import numpy as np

from ptycho.data.scan import Scan, illumination
from ptycho.diagnostics.statistics import rescale_probe

Array = np.ndarray

FRAMES, SIDE, EPOCHS = 120, 64, 8
"""Frames nearest the middle of the scan, pixels of each around the zero frequency, and rounds: 3 s on one core."""
_FLIPS = ("as they are", "flipped left-right", "flipped up-down", "turned by 180 degrees")
NAMES = (*_FLIPS, "transposed", *(f"transposed, then {flip}" for flip in _FLIPS[1:]))


def turned(frames: Array, code: int) -> Array:
    """Frames (..., N, N) by a code, the zero frequency staying at ``N // 2``."""
    frames = np.swapaxes(frames, -1, -2) if code & 4 else frames
    for bit, axis in ((1, -1), (2, -2)):
        if code & bit:
            frames = np.roll(np.flip(frames, axis), 1 - frames.shape[-1] % 2, axis)
    return frames


def orientation_errors(scan: Scan, seed: int = 0) -> Array:
    """(8,) squared error of the amplitudes over the counts, by the code that the frames are turned with."""
    side, middle = min(SIDE, scan.N), np.median(scan.positions, axis=0)
    chosen = np.sort(np.argsort(np.linalg.norm(scan.positions - middle, axis=1), kind="stable")[:FRAMES])
    places = scan.positions[chosen] - scan.positions[chosen].min(axis=0)
    places = np.rint(places * side / scan.N).astype(int)
    probe = np.fft.ifftshift(rescale_probe(scan)[0].probe, axes=(1, 2))
    waves = _middle(np.fft.fftshift(np.fft.fft2(probe, norm="ortho"), axes=(1, 2)), side)
    probe = np.fft.ifft2(np.fft.ifftshift(waves, axes=(1, 2)), norm="ortho").astype(np.complex64)
    frames, mask = _middle(scan.counts[chosen], side).astype(np.float32), _middle(scan.mask, side)
    return np.array(
        [
            _error(turned(frames, code), turned(mask, code), places, probe, not scan.probe_known, seed)
            for code in range(8)
        ]
    )


def _middle(frames: Array, side: int) -> Array:
    first = frames.shape[-1] // 2 - side // 2
    return frames[..., first : first + side, first : first + side]


def _error(frames: Array, mask: Array, places: Array, probe: Array, sought: bool, seed: int) -> float:
    """Error in the last round of ePIE (Maiden & Rodenburg, Ultramicroscopy 109, 1256 (2009)) from empty space.

    ``probe`` (M, N, N) has its middle at pixel 0; ``places`` (P, 2) are the first pixels of the frames.
    """
    amplitudes = np.fft.ifftshift(np.sqrt(frames), axes=(1, 2))
    used, N = np.fft.ifftshift(mask), frames.shape[-1]
    sample = np.ones(places.max(axis=0) + N, np.complex64)
    rng, error = np.random.default_rng(seed), 0.0
    for epoch in range(EPOCHS):
        error = 0.0
        for j in rng.permutation(len(frames)):
            window = tuple(slice(first, first + N) for first in places[j])
            patch = np.fft.ifftshift(sample[window])
            waves = np.fft.fft2(probe * patch, norm="ortho")
            expected = np.sqrt((np.abs(waves) ** 2).sum(axis=0)) + 1e-12
            error += float(np.square((amplitudes[j] - expected) * used).sum())
            waves *= np.where(used, amplitudes[j] / expected, 1)
            change = np.fft.ifft2(waves, norm="ortho").astype(np.complex64) - probe * patch
            better = patch + (probe.conj() * change).sum(axis=0) / illumination(probe).max()
            if sought and epoch >= 2:
                probe = probe + patch.conj() * change / np.square(np.abs(patch)).max()
            sample[window] = np.fft.fftshift(better)
    return error / max(float((frames * mask).sum()), 1e-30)
