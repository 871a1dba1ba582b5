"""Where two images of half the data each agree, there is sample, not noise: the resolution of an image."""

from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter, median_filter

from ptycho.arrays import Bool, Complex, Float
from ptycho.evaluation.align import TooSmall
from ptycho.evaluation.frc import RingCorrelation, ring_correlation
from ptycho.evaluation.uncertainty import illuminated_pixels
from ptycho.images import illuminated_region, length_text

AGAIN = 1.25
"""By which factor beyond the resolution rings have to agree again to be worth a sentence."""

LEAST_PX = 16
"""Width of a well-lit area whose rings tell something."""


class HalfSets(NamedTuple):
    """How far two halves of a scan agree."""

    halves: Literal["frames", "photons"]
    """What was halved."""
    correlation: RingCorrelation
    """Of the two images, in the square at the middle of what both see."""
    pixel_size_m: float | None = None

    @property
    def half_bit(self) -> float | None:
        """Up to which frequency (over Nyquist) the halves agree by the half-bit criterion; 1: all. None: at none."""
        return agreement(self.correlation.frequency, self.correlation.correlation, self.correlation.half_bit)

    @property
    def resolution_px(self) -> float | None:
        """Half a period of that frequency, in pixels of the object: 1 at Nyquist."""
        return None if self.half_bit is None else 1 / self.half_bit

    @property
    def finest(self) -> float | None:
        """The last frequency (over Nyquist) at which the halves agree: between the reflections of a crystal there is
        nothing to agree on, so that they agree again beyond `half_bit`. None where they do nowhere."""
        curves = self.correlation
        agreeing = np.flatnonzero(above(curves.correlation, curves.half_bit))
        return float(curves.frequency[agreeing[-1]]) if len(agreeing) else None

    def resolution(self) -> str:
        """The same in nm where the pixel is known."""
        return "none" if self.resolution_px is None else self._length(self.resolution_px)

    def _length(self, px: float) -> str:
        limit = "" if px > 1 else " or better"
        if self.pixel_size_m is None:
            return f"{px:.2g} px{limit}"
        return f"{length_text(px * self.pixel_size_m, 2)} ({px:.2g} px){limit}"

    def sentence(self) -> str:
        """What a reader should know of it."""
        if self.resolution_px is None:
            return f"Two images of half the {self.halves} each agree at no spatial frequency (half-set FRC, half bit)."
        sentence = (
            f"Resolution: {self.resolution()}, half a period. So far two images of half the {self.halves} each agree "
            "(half-set FRC, half bit)."
        )
        assert self.half_bit is not None and self.finest is not None
        if self.finest > AGAIN * self.half_bit:
            sentence += (
                " Beyond, single rings agree again, as the reflections of a crystal do: up to "
                f"{self._length(1 / self.finest)}."
            )
        if self.halves == "photons":
            sentence += " They do not tell what too little overlap of the frames leaves uncertain."
        return sentence

    def to_dict(self) -> dict[str, Any]:
        """The numbers, ready for JSON; the frequency over Nyquist."""
        curves = {name: np.round(values, 5).tolist() for name, values in self.correlation._asdict().items()}
        return dict(
            halves=self.halves,
            half_bit_of_nyquist=self.half_bit,
            resolution_px=self.resolution_px,
            finest_of_nyquist=self.finest,
            **curves,
        )


def agreement(
    frequency: Float[np.ndarray, " rings"],
    correlation: Float[np.ndarray, " rings"],
    threshold: Float[np.ndarray, " rings"],
) -> float | None:
    """Where the longest run of rings above the threshold ends: the first frequency below it; 1 where none falls below,
    None where none lies above.

    Of three rings the middle one counts: a single ring may fall by chance. The first rings may lie below: the slowest
    waves of few photons are uncertain where finer ones are not, and the criterion is strict where a ring has few
    pixels.
    """
    agreeing = above(correlation, threshold)
    if not agreeing.any():
        return None
    steps = np.diff(np.concatenate([[0], agreeing, [0]]))
    starts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    end = ends[np.argmax(ends - starts)]
    return float(frequency[end]) if end < len(frequency) else 1.0


def above(
    correlation: Float[np.ndarray, " rings"], threshold: Float[np.ndarray, " rings"]
) -> Bool[np.ndarray, " rings"]:
    """Which rings are above a threshold; of three the middle one counts."""
    return median_filter(np.asarray(correlation) - threshold, 3, mode="nearest") >= 0


def correlated(
    one: Complex[np.ndarray, "H W"], other: Complex[np.ndarray, "H W"], coverage: Float[np.ndarray, "H W"]
) -> RingCorrelation:
    """The FRC of two images of one grid where both are well lit: brought to one global phase, without their means, and
    faded at the edges of that area.

    Raises TooSmall where that area is less than `LEAST_PX` wide.
    """
    bright = illuminated_pixels(coverage)
    box = illuminated_region(bright.astype("float32"))
    bright = bright[box]
    if min(bright.shape) < LEAST_PX:
        raise TooSmall(
            f"{bright.shape[0]} x {bright.shape[1]} well-lit pixels are too few for a Fourier ring correlation"
        )
    # Where a sharp edge of the bright area is the same in both, it would correlate at all frequencies.
    fade = np.clip(2 * gaussian_filter(bright.astype(float), 2.0) - 1, 0, 1) * bright
    cut = [image[box] for image in (one, other)]
    phase = np.vdot(cut[1][bright], cut[0][bright])
    cut[1] = cut[1] * (phase / max(abs(phase), np.finfo(float).tiny))
    one, other = ((image - image[bright].mean()) * fade for image in cut)
    return ring_correlation(one, other)
