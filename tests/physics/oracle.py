"""An independent forward model, slow and in double precision: DFTs as matrices, one frame and one mode after the other.

It shares no code with the package. Conventions are those of `ptycho.physics`.
"""

import numpy as np


def dft_matrix(n: int, centred: bool) -> np.ndarray:
    """The unitary DFT ``(n, n)``, with zero frequency and origin at pixel ``n // 2`` if ``centred``, else at 0."""
    i = np.arange(n) - (n // 2 if centred else 0)
    return np.exp(-2j * np.pi * np.outer(i, i) / n) / np.sqrt(n)


def frequencies(n: int) -> np.ndarray:
    """In cycles per pixel, zero first, the Nyquist frequency of an even n negative."""
    return np.array([k if k < (n + 1) // 2 else k - n for k in range(n)]) / n


def filtered(wave: np.ndarray, transfer: np.ndarray) -> np.ndarray:
    """``F^-1[transfer F wave]``."""
    f = dft_matrix(len(wave), centred=False)
    return f.conj().T @ (transfer * (f @ wave @ f.T)) @ f.conj()


def shifted(wave: np.ndarray, dy: float, dx: float) -> np.ndarray:
    """The wave moved by (dy, dx) pixels."""
    f = frequencies(len(wave))
    return filtered(wave, np.exp(-2j * np.pi * (f[:, None] * dy + f[None] * dx)))


def free_space(n: int, distance_px: float, wavelength_px: float, kind: str) -> np.ndarray:
    """Transfer function of free space, without the phase that all waves share."""
    f = frequencies(n)
    squared = f[:, None] ** 2 + f[None] ** 2
    if kind == "fresnel":
        return np.exp(-1j * np.pi * wavelength_px * distance_px * squared)
    k = np.sqrt(wavelength_px**-2 - squared + 0j) - 1 / wavelength_px
    return np.exp(2j * np.pi * distance_px * k)  # no evanescent waves in the tests


def expected_counts(
    slices, probe, positions, *, near=None, spacing=None, opr=None, weights=None, background=None, blur_px=0.0
) -> np.ndarray:
    """Expected counts ``(P, N, N)``.

    ``slices (S, H, W)``; ``positions (P, 2)`` in pixels of the object, zero outside it; ``near`` and ``spacing`` are
    ``(distance_px, wavelength_px, kind)``; ``opr (K, N, N)`` with ``weights (P, K)``; ``blur_px`` a standard deviation.
    """
    slices, probe = np.asarray(slices, complex), np.asarray(probe, complex)
    n = probe.shape[-1]
    padded = np.pad(slices, ((0, 0), (n, n), (n, n)))
    far = dft_matrix(n, centred=True)
    frames = []
    for j, (y, x) in enumerate(positions):
        row, column = int(np.floor(y + 0.5)), int(np.floor(x + 0.5))
        modes = probe.copy()
        for k in range(0 if opr is None else len(opr)):
            modes[0] = modes[0] + weights[j, k] * opr[k]
        total = np.zeros((n, n))
        for mode in modes:
            wave = shifted(mode, y - row, x - column)
            for s, layer in enumerate(padded):
                if s:
                    wave = filtered(wave, free_space(n, *spacing))
                wave = wave * layer[row - n // 2 + n :, column - n // 2 + n :][:n, :n]
            if near is None:
                wave = far @ wave @ far.T
            else:
                wave = shifted(filtered(wave, free_space(n, *near)), row - y, column - x)
            total += np.abs(wave) ** 2
        if blur_px:
            f = frequencies(n)
            total = filtered(total, np.exp(-2 * np.pi**2 * blur_px**2 * (f[:, None] ** 2 + f[None] ** 2))).real
        frames.append(total + (0 if background is None else background))
    return np.array(frames)
