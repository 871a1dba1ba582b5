"""From the sample to the detector, which is in the far field (a centred DFT) or in the near field (free space).

`propagate` and its adjoint take the transfer function of a near field, or None for the far field: that is all the
difference. The near field is on the pixels of the object.

Metres never enter: lengths are in object pixels, which are the detector's too, and frequencies in cycles per pixel.
A wave is ``exp(i (k x - omega t))``: phase grows along the beam, a wave whose phase grows towards larger indices
travels towards them, and ``conj`` reverses time. The DFT is ``sum_x exp(-2 pi i f x)``, so that frequency f stands for
``exp(2 pi i f x)``. Frames are periodic: what leaves at one side comes back at the other, which is why
`transfer_function` warns where much could.
"""

import warnings
from collections.abc import Callable

import numpy as np
from keras import ops

from ptycho import backend
from ptycho.arrays import Array, Complex
from ptycho.config import Multislice, NearField
from ptycho.physics.fourier import dft, inverse_dft


def propagate(
    waves: Complex[Array, "*batch n m"], transfer: Complex[Array, "*lead n m"] | None
) -> Complex[Array, "*batch n m"]:
    """Exit waves on the detector: in the far field (`dft`, unitary), or the near field of a transfer function."""
    return dft(waves) if transfer is None else near_field(waves, transfer)


def propagate_adjoint(
    waves: Complex[Array, "*batch n m"], transfer: Complex[Array, "*lead n m"] | None
) -> Complex[Array, "*batch n m"]:
    """Adjoint of `propagate`."""
    return inverse_dft(waves) if transfer is None else near_field_adjoint(waves, transfer)


def near_field(
    waves: Complex[Array, "*batch n m"], transfer: Complex[Array, "*lead n m"]
) -> Complex[Array, "*batch n m"]:
    """Waves after the distance of a `transfer_function`: ``F^-1[transfer * F waves]``, no pixel is moved.

    Unitary where no wave is evanescent (``|transfer| = 1``): photons are conserved.
    """
    # The factors of `fft2` and `ifft2` cancel: no norm is needed.
    return backend.ifft2(ops.multiply(transfer, backend.fft2(waves)))


def near_field_adjoint(
    waves: Complex[Array, "*batch n m"], transfer: Complex[Array, "*lead n m"]
) -> Complex[Array, "*batch n m"]:
    """Adjoint of `near_field`: back-propagation; the inverse too where no wave is evanescent."""
    return near_field(waves, ops.conj(transfer))


def fresnel_lag(squared: np.ndarray, wavelength_px: float) -> np.ndarray:
    """``lambda f^2 / 2``: the lag of frequencies f behind zero frequency for small angles, in waves per pixel."""
    return squared * (wavelength_px / 2)


def angular_spectrum_lag(squared: np.ndarray, wavelength_px: float) -> np.ndarray:
    """``1/lambda - sqrt(1/lambda^2 - f^2)``, exact; as ``f^2 / (sqrt(...) + 1/lambda)`` nothing cancels."""
    # + 0j: beyond 1/lambda the root is i kappa, so that exp(-2 pi i z lag) decays as exp(-2 pi z kappa).
    return squared / (np.sqrt(wavelength_px**-2 - squared + 0j) + 1 / wavelength_px)


LAGS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "fresnel": fresnel_lag,
    "angular-spectrum": angular_spectrum_lag,
}
"""What free space does, by the kinds of `NearField`: lag of squared frequencies ``f^2``, at a wavelength in pixels."""


def free_space(path: NearField | Multislice | None, n: int) -> np.ndarray | None:
    """The `transfer_function` ``(n, n)`` of a path through free space: to a near detector, or between slices.

    None stays None: the far field, or a thin sample.
    """
    if path is None:
        return None
    distance = path.distance_px if isinstance(path, NearField) else path.spacing_px
    return transfer_function((n, n), distance, path.wavelength_px, path.kind)


def transfer_function(
    size: tuple[int, int], distance_px: float | int, wavelength_px: float | int, kind: str = "angular-spectrum"
) -> np.ndarray:
    """What free space does to each frequency f of a wave: complex64 ``size`` (n, m), zero frequency at pixel (0, 0).

    ``fresnel``: ``exp(-i pi lambda z f^2)``. ``angular-spectrum``: ``exp(2 pi i z (sqrt(1/lambda^2 - f^2) -
    1/lambda))``, exact; evanescent waves, ``f > 1/lambda``, decay along the way, forwards and back. In both the phase
    ``exp(2 pi i z / lambda)`` that all share is left out. Goodman, Introduction to Fourier Optics, 4th ed., sections
    3.10 and 4.2. A negative distance z gives the complex conjugate: the way back.

    Warns (UserWarning) where its phase changes by more than pi from one frequency to the next along an axis, so that
    it is undersampled: the steepest of the waves that the pixels can hold walk by more than half the frame
    (`walk_px`), and come back on its other side. For Fresnel that is ``lambda |z| > n`` (Voelz & Roggemann, Appl. Opt.
    48, 6132 (2009)). It does not matter where the wave has no such frequencies.

    Raises ValueError for an unknown ``kind`` and for a wavelength that is not above 0.
    """
    if kind not in LAGS:
        raise ValueError(f"kind is {kind!r}; expected one of {tuple(LAGS)}")
    if not np.isfinite(distance_px):
        raise ValueError(f"distance_px is {distance_px}; expected a finite number of pixels")
    if not (np.isfinite(wavelength_px) and wavelength_px > 0):
        raise ValueError(f"wavelength_px is {wavelength_px}; expected a finite number of pixels above 0")
    # Frequencies are 1/n apart, and the phase has the slope 2 pi walk: it changes by more than pi where walk > n / 2.
    for length, walk in zip(size, walk_px(size, distance_px, wavelength_px, kind), strict=True):
        if walk > length / 2:
            warnings.warn(
                f"the near field is undersampled: after {distance_px:g} pixels at a wavelength of {wavelength_px:g} "
                f"the steepest light has walked {walk:.4g} pixels sideways, more than half of a frame of {length}, and "
                "comes back on its other side; use larger frames if there is such light",
                UserWarning,
                stacklevel=2,
            )
    y, x = _frequencies(size)
    lag = LAGS[kind](y**2 + x**2, wavelength_px)
    # |z|: with a negative z evanescent waves would grow. The way back is the complex conjugate.
    ahead = np.exp(-2j * np.pi * abs(distance_px) * lag).astype(np.complex64)
    return ahead if distance_px >= 0 else ahead.conj()


def walk_px(
    size: tuple[int, int], distance_px: float | int, wavelength_px: float | int, kind: str
) -> tuple[float, float]:
    """How far the steepest waves of a frame walk sideways along (y, x): the distance times the tangent of their angle.

    It is the slope of the transfer function's phase over 2 pi. Fresnel takes ``lambda f`` for the tangent.
    """
    y, x = _frequencies(size)
    # tan(angle) = f / sqrt(1/lambda^2 - f_y^2 - f_x^2); for small angles lambda f
    along_squared = wavelength_px**-2 - (0 if kind == "fresnel" else y**2 + x**2)
    travels = along_squared > 0
    along = np.sqrt(np.where(travels, along_squared, np.inf))  # evanescent waves do not walk
    reach = [float(np.max(np.abs(f) / along)) for f in (y, x)]
    return abs(distance_px) * reach[0], abs(distance_px) * reach[1]


def _frequencies(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(n, 1) and (1, m) in cycles per pixel."""
    return np.fft.fftfreq(size[0])[:, None], np.fft.fftfreq(size[1])[None, :]
