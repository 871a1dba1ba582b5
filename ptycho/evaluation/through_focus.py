"""A probe along the beam: where it is smallest, how wide it is there, and how it looks from the side."""

import warnings
from typing import NamedTuple

import numpy as np

from ptycho.arrays import Complex, Float
from ptycho.data.scan import illumination


class ThroughFocus(NamedTuple):
    """A probe in planes along the beam; the sample is at 0, what comes after it is positive."""

    distances_m: Float[np.ndarray, " Z"]
    side_y: Float[np.ndarray, "N Z"]
    """Intensity summed along x, of all modes: the beam seen from the side."""
    side_x: Float[np.ndarray, "N Z"]
    """Intensity summed along y."""
    focus_m: float
    """Where the probe is smallest."""
    middle: Complex[np.ndarray, "M n n"]
    """The modes there, eight times as wide as the probe is, around its brightest pixel."""
    width_m: tuple[float, float]
    """Full width at half maximum there, of the intensity along y and x through its brightest pixel."""
    pixel_size_m: float

    @property
    def at_an_end(self) -> bool:
        """Whether the smallest probe is that of the first or last plane: the focus lies further away."""
        return self.focus_m in (self.distances_m[0], self.distances_m[-1])


def through_focus(
    probe: Complex[np.ndarray, "M N N"],
    pixel_size_m: float,
    wavelength_m: float,
    *,
    planes: int = 65,
    window: float = 0.4,
) -> ThroughFocus:
    """Carry the modes of a probe through free space before and behind the sample (`angular_spectrum_lag`).

    The smallest probe has the largest ``sum_x I^2``. Light does not change its total, so that this is the inverse of
    the area over which it is spread.

    Args:
        probe: at the sample.
        pixel_size_m, wavelength_m: of the object pixel, and of the light or the electrons.
        planes: at equal distances.
        window: part of the frame's side by which the rays at the edge of the aperture walk to the last plane on either
            side: frames are periodic, what walks further comes back at the other side.

    Raises:
        ValueError: the probe is empty.
    """
    density = (np.abs(np.fft.fft2(probe)) ** 2).sum(axis=0)
    if not density.sum() > 0:
        raise ValueError("the probe is empty: it has no focus")
    N, wavelength_px = probe.shape[-1], wavelength_m / pixel_size_m
    squared = np.add.outer(*(np.fft.fftfreq(N) ** 2,) * 2)
    # <f^2> = f_e^2 / 2 of a disc; its edge rays walk z lambda f_e.
    edge = np.sqrt(2 * (density * squared).sum() / density.sum())
    farthest_px = window * N / (wavelength_px * max(edge, 1 / N))
    distances_px = np.linspace(-farthest_px, farthest_px, planes)
    intensities = [illumination(_carried(probe, distance, wavelength_px)) for distance in distances_px]
    concentration = [float((intensity**2).sum()) for intensity in intensities]
    best = int(np.argmax(concentration))
    widths_px = _half_widths(intensities[best])
    middle = _around_brightest(_carried(probe, distances_px[best], wavelength_px), round(8 * max(widths_px)))
    return ThroughFocus(
        distances_px * pixel_size_m,
        np.stack([intensity.sum(axis=1) for intensity in intensities], axis=1),
        np.stack([intensity.sum(axis=0) for intensity in intensities], axis=1),
        float(distances_px[best] * pixel_size_m),
        middle,
        (widths_px[0] * pixel_size_m, widths_px[1] * pixel_size_m),
        pixel_size_m,
    )


def _carried(
    probe: Complex[np.ndarray, "M N N"], distance_px: float, wavelength_px: float
) -> Complex[np.ndarray, "M N N"]:
    from keras import ops

    from ptycho.physics.propagation import near_field, transfer_function

    with warnings.catch_warnings():
        # It is for light of every frequency that the pixels can hold; that of the probe ends at its aperture.
        warnings.filterwarnings("ignore", message="the near field is undersampled")
        transfer = transfer_function(probe.shape[-2:], float(distance_px), wavelength_px)
    return ops.convert_to_numpy(near_field(ops.convert_to_tensor(probe), ops.convert_to_tensor(transfer)))


def _half_widths(intensity: Float[np.ndarray, "N N"]) -> tuple[float, float]:
    """Along y and x through the brightest pixel; half of the maximum is reached between pixels, on a straight line."""
    y, x = _brightest(intensity)
    return _half_width(intensity[:, x], y), _half_width(intensity[y], x)


def _brightest(intensity: Float[np.ndarray, "N N"]) -> tuple[int, int]:
    y, x = np.unravel_index(int(np.argmax(intensity)), intensity.shape)
    return int(y), int(x)


def _around_brightest(modes: Complex[np.ndarray, "M N N"], side: int) -> Complex[np.ndarray, "M n n"]:
    N = modes.shape[-1]
    side = min(max(side, 16), N)
    rows, columns = (np.clip(at - side // 2, 0, N - side) for at in _brightest(illumination(modes)))
    return modes[:, rows : rows + side, columns : columns + side]


def _half_width(values: Float[np.ndarray, " N"], top: int) -> float:
    half, width = values[top] / 2, 0.0
    for side in (values[top:], values[top::-1]):
        below = np.flatnonzero(side < half)
        if not len(below):  # the light fills the frame
            width += len(side) - 0.5
            continue
        k = int(below[0])
        width += k - 1 + float((side[k - 1] - half) / (side[k - 1] - side[k]))
    return width
