"""Geometry and focus of a 4D-STEM scan, by where the beams of a weak sample interfere in the bright field.

A sample ``1 + i phi``, with ``phi(r) = sum_Q phi_Q exp(2 pi i Q r)``, scatters the aperture A by every Q, so that the
counts of the detector pixel k vary over the scan as

    G(k, Q) = sum_j n_j(k) exp(-2 pi i Q r_j) ~ i phi_Q W(k, Q),  W = A*(k) A(k - Q) - A(k) A*(k + Q)

(single side bands: Rodenburg, McCallum & Nellist, Ultramicroscopy 48, 304 (1993); aberrations by them: Yang et al.,
Nature Communications 7, 12532 (2016)). W knows how the positions lie in the axes of the frames, and the phase of A. All
frames, and all pixels of the disc, tell each phi_Q: where a fit of a few frames no longer tells angle and focus, at a
thousand electrons per A^2, they still do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ptycho.arrays import Array, Complex, Float, Int
from ptycho.data.frames import chunks
from ptycho.data.scan import Scan
from ptycho.diagnostics.geometry import FLIPS, Geometry, Matrix, as_matrix, rotation
from ptycho.diagnostics.orientation import Trial, widest_defocus
from ptycho.diagnostics.statistics import bright_disc

LEAST_TURN_DEG = 2.0
"""Turns below are left to the fit of an affine map: side bands tell the angle to about one degree."""


class Sidebands(NamedTuple):
    """What the side bands tell."""

    map: Matrix
    """Takes the positions (y, x), about their mean, to where they are in the frames' axes."""
    defocus_rad: float
    """By which the guessed probe was off: phase at the root mean square of its frequencies."""
    probe: Complex[Array, "M N N"]
    """The guess with the defocus and the astigmatism that were found."""
    gain: float
    """By which the side bands tell less of the sample with the positions as they are."""
    margin: float
    """By which they tell less of it in the best of the other orientations."""
    skewness: float
    """Of the sample's phase: atoms are peaks, so that it is positive."""

    @property
    def geometry(self) -> Geometry:
        """For `with_geometry`."""
        off = float(np.abs(np.array(self.map) - np.eye(2)).max())
        return Geometry(
            Trial(map=self.map),
            self.gain,
            self.margin,
            True,
            bool(off > np.deg2rad(LEAST_TURN_DEG)),
            told_by="told by the beams that interfere in the bright field",
            probe=self.probe,
        )


def find_sidebands(
    scan: Scan,
    *,
    most_frames: int = 4096,
    least_frames: int = 100,
    strongest: int = 60,
    polished_by: int = 80_000,
    step_deg: float = 15.0,
    step_rad: float = 0.6,
    least_margin: float = 0.25,
    sigmas: float = 8.0,
    least_spherical: float = 8.0,
    least_explained: float = 0.4,
) -> Sidebands | None:
    """How the positions lie against the frames, and how far the probe is out of focus; None where that is not told.

    Positions turned by 180 degrees fit as well, with the conjugate of the aperture: of the two, what is much nearer to
    the focus of the guess is believed, or else the one in which the phase has its peaks upwards.

    Args:
        scan: far field; the aperture of its probe is believed, its focus is not.
        most_frames: those nearest the middle.
        strongest: frequencies of the sample that are tried first, those at which the bright field varies most;
            at the end as many as make ``polished_by`` values with all pixels, and at least a third of them.
        step_deg, step_rad: between the angles and the defoci that are tried.
        least_spherical: log-likelihood that a spherical aberration has to add.
        least_explained: part of what varies in the bright field that has to be the side bands of a weak sample then: of
            thin crystals it is 0.5 to 0.9, of 16 nm of SrTiO3 0.27, whose lens seemed to have 25 um.
        least_margin: part by which any other orientation has to be worse, and by ``sigmas`` of what noise gives.
    """
    from ptycho.physics.grid import nearest_the_middle

    if len(scan) < least_frames:
        return None
    scan = scan.subset(nearest_the_middle(scan.positions, most_frames))
    lens = _Lens(scan.probe[0])
    bands = _Bands.of(scan, lens, 2000)
    if bands is None or len(bands.G) < strongest:
        return None
    few = bands.binned(2).at(bands.by_power[:strongest])
    angles = np.arange(0.0, 360.0, step_deg)
    kinds = (np.eye(2), np.array(FLIPS["exchanged, y for x"]))
    reach = int(np.ceil(widest_defocus(scan.N, lens.mean_square) / step_rad))
    defoci = step_rad * np.arange(-reach, reach + 1)
    table = np.array([[few.gains_of_defoci(rotation(a) @ kind, lens, defoci) for a in angles] for kind in kinds])
    kind, at, focus = map(int, np.unravel_index(int(np.argmax(table)), table.shape))
    apart = np.abs((angles - angles[at] + 90) % 180 - 90) > 25
    rival = max(table[1 - kind].max(), table[kind][apart].max())
    best = table[kind, at, focus]
    if best < (1 + least_margin) * rival or best - rival < sigmas * np.sqrt(strongest):
        return None
    behind = (at + len(angles) // 2) % len(angles)
    other = int(np.argmax(table[kind, behind]))
    skewness, error = bands.skewness(rotation(angles[at]) @ kinds[kind], lens, (defoci[focus], 0.0, 0.0))
    if 0 < other < len(defoci) - 1 and _is_opposite(
        float(defoci[focus]), float(defoci[other]), skewness, error, turned=np.cos(np.deg2rad(angles[at])) < 0
    ):
        at, focus = behind, other
    many = bands.at_peaks(max(strongest // 3, polished_by // len(bands.k)))
    gain_at = lambda p: float(many.gains(rotation(p[0]) @ kinds[kind], lens, p[1:].tolist()).sum())
    plain = _polished(gain_at, (angles[at], defoci[focus], 0.0, 0.0))
    spherical = _polished(gain_at, (*plain, 0.0))
    least = max(gain_at(plain) + least_spherical, least_explained * many.signal)
    angle, *phases = spherical if gain_at(spherical) > least else plain
    axes = rotation(angle) @ kinds[kind]
    return Sidebands(
        as_matrix(axes),
        float(phases[0]),
        lens.applied(scan.probe, phases),
        gain=float(best / table[0, 0].max() - 1),
        margin=float(best / rival - 1),
        skewness=bands.skewness(axes, lens, phases)[0],
    )


class _Lens:
    """The aperture of a probe, with more defocus and astigmatism."""

    finer = 4
    """Points between the frequencies of the window, which its phase needs where the probe fills the window."""

    def __init__(self, probe: Complex[Array, "N N"]) -> None:
        N = probe.shape[-1]
        wide = np.zeros((self.finer * N,) * 2, complex)
        wide[:N, :N] = probe
        wide = np.roll(wide, (-(N // 2),) * 2, (0, 1))
        self.spectrum = np.fft.fftshift(np.fft.fft2(wide))
        self.intensity = np.abs(self.spectrum[:: self.finer, :: self.finer]) ** 2
        """At the pixels of the detector."""
        squared = np.add.outer(*(((np.arange(N) - N // 2) / N) ** 2,) * 2)
        self.mean_square = float((squared * self.intensity).sum() / self.intensity.sum())

    def at(self, k: Float[Array, "*points 2"]) -> Complex[Array, "*points"]:
        """The aperture at frequencies in cycles a pixel, between those of the window by linear interpolation."""
        from scipy.ndimage import map_coordinates

        side = len(self.spectrum)
        index = np.moveaxis(k, -1, 0) * side + side // 2
        real, imaginary = (map_coordinates(each, index, order=1) for each in (self.spectrum.real, self.spectrum.imag))
        return real + 1j * imaginary

    def phase(self, k: Float[Array, "*points 2"], phases: Sequence[float]) -> Float[Array, "*points"]:
        """``(a |k|^2 + b (k_y^2 - k_x^2) + 2 c k_y k_x + d (|k|^4 / <k^2> - 2 |k|^2)) / <k^2>`` in rad.

        For phases ``(a, b, c)``, or ``(a, b, c, d)``: d is spherical aberration at the defocus that nearly makes up for
        it.
        """
        y, x = k[..., 0], k[..., 1]
        a, b, c, d = (*phases, 0.0)[:4]
        squared = y**2 + x**2
        balanced = squared * (squared / self.mean_square - 2)
        return (a * squared + b * (y**2 - x**2) + 2 * c * y * x + d * balanced) / self.mean_square

    def applied(self, probe: Complex[Array, "M N N"], phases: Sequence[float]) -> Complex[Array, "M N N"]:
        """A probe behind this lens with these phases besides."""
        f = np.fft.fftfreq(probe.shape[-1])
        k = np.stack(np.meshgrid(f, f, indexing="ij"), axis=-1)
        return np.fft.ifft2(np.fft.fft2(probe) * np.exp(1j * self.phase(k, phases))).astype(np.complex64)


@dataclass(frozen=True, eq=False)
class _Bands:
    """How the counts of the bright field vary over a scan."""

    k: Float[Array, "K 2"]
    """Frequencies of the detector pixels, or of the sums of some, in cycles a pixel of the object."""
    counts: Float[Array, " K"]
    """In all frames."""
    Q: Float[Array, "Q 2"]
    """Frequencies of the sample, of each pair of opposite ones the first, in the axes of the positions."""
    G: Complex[Array, "Q K"]
    """Times the window over the scan."""
    window: float
    """Mean square of the window over the scan."""
    positions: Float[Array, "P 2"]
    pixels: Int[Array, "K 2"]
    """Of the detector, (y, x), or of the sums, in their side."""
    windowed: Complex[Array, "P K"]
    """Counts less their mean, times the window; complex64, as they are transformed again and again."""

    @classmethod
    def of(cls, scan: Scan, lens: _Lens, most_pixels: int) -> "_Bands | None":
        """None of a scan that is no field."""
        pixels = np.argwhere(bright_disc(lens.intensity) & scan.mask) - scan.N // 2
        positions = scan.positions - scan.positions.min(axis=0)
        extent = positions.max(axis=0)
        if not len(pixels) or extent.min() < 4 * scan.step_px:
            return None
        side = int(np.ceil(np.sqrt(len(pixels) / most_pixels)))
        sums, summed = _in_squares(pixels, side)
        y, x = (pixels + scan.N // 2).T
        counts = np.concatenate([chunk[:, y, x].astype(np.float32) @ summed for chunk in chunks(scan.counts)])
        total = counts.sum(axis=0)
        # Fewer counts beyond the field would be a step, whose spectrum hides the sample's.
        window = np.prod(np.sin(np.pi * (positions + scan.step_px / 2) / (extent + scan.step_px)) ** 2, axis=1)
        Q = _half_plane(extent, min(0.5 / scan.step_px, 2 * np.sqrt(len(pixels) / np.pi) / scan.N))
        windowed = window[:, None] * (counts - counts.mean(axis=0))
        k = summed.T @ pixels / summed.sum(axis=0)[:, None] / scan.N
        lit_up = total > 0
        windowed = windowed[:, lit_up].astype(np.complex64)
        G, mean_square = _transformed(windowed, positions, Q), float((window**2).mean())
        return cls(k[lit_up], total[lit_up], Q, G, mean_square, positions, sums[lit_up], windowed)

    @cached_property
    def by_power(self) -> Int[Array, " Q"]:
        """Indices of the frequencies at which the bright field varies most."""
        return np.argsort(-self._power(self.G), kind="stable")

    def _power(self, G: Complex[Array, "q K"]) -> Float[Array, " q"]:
        """Over all pixels, in units of the variance of each."""
        return (np.abs(G) ** 2 / self.counts).sum(axis=1)

    def _transformed(self, Q: Float[Array, "q 2"]) -> Complex[Array, "q K"]:
        """G, at any frequencies."""
        return _transformed(self.windowed, self.positions, Q)

    @property
    def signal(self) -> float:
        """What a template that fits would add to the log-likelihood: the power beyond that of shot noise."""
        return float(self._power(self.G).sum()) / self.window - self.G.size

    def at(self, index: Int[Array, " q"]) -> "_Bands":
        """Of some frequencies of the sample."""
        return replace(self, Q=self.Q[index], G=self.G[index])

    def at_peaks(self, most: int, rounds: int = 2) -> "_Bands":
        """At the tops of the peaks of the power, the highest first; between the frequencies that the field tells apart.

        A reflection of a crystal spreads over all Q that the window over the field reaches. On its slope the beams
        still interfere as they do at its top, not as they would at Q: the defocus of graphene was 6 % too small.
        """
        extent = self.positions.max(axis=0)
        bins = self.Q * extent
        tops: list[int] = []
        for at in self.by_power:
            if all(min(np.hypot(*(bins[at] - bins[top])), np.hypot(*(bins[at] + bins[top]))) > 1.5 for top in tops):
                tops.append(at)
            if len(tops) == most:
                break
        Q, step = self.Q[tops], 0.5 / extent
        for _ in range(rounds):
            for axis in (0, 1):
                aside = step * np.eye(2)[axis]
                # The top of a parabola through the logarithms of three values
                powers = (self._power(self._transformed(Q + each)) for each in (-aside, 0 * aside, aside))
                below, middle, beyond = (np.log(np.maximum(power, 1e-30)) for power in powers)
                curvature = below - 2 * middle + beyond
                shift = np.where(curvature < 0, 0.5 * (below - beyond) / np.minimum(curvature, -1e-9), 0.0)
                Q = Q + np.clip(shift, -1, 1)[:, None] * aside
            step = step / 2
        return replace(self, Q=Q, G=self._transformed(Q))

    def binned(self, side: int) -> "_Bands":
        """With sums of as many pixels on a side as one."""
        sums, summed = _in_squares(self.pixels, side)
        k = summed.T @ self.k / summed.sum(axis=0)[:, None]
        windowed = self.windowed @ summed
        return replace(self, k=k, counts=self.counts @ summed, G=self.G @ summed, pixels=sums, windowed=windowed)

    def _beams(self, map: Float[Array, "2 2"], lens: _Lens) -> tuple[list[Array], list[Array]]:
        """Where the beams at k, and those that are scattered to it by -Q and Q, pass the lens, and their aperture."""
        turned = self.Q @ np.linalg.inv(map)  # Q r = Q A^-1 r'
        rays = [self.k, self.k - turned[:, None], self.k + turned[:, None]]
        return rays, [lens.at(ray) for ray in rays]

    def templates(self, map: Float[Array, "2 2"], lens: _Lens, phases: Sequence[float]) -> Complex[Array, "Q K"]:
        """W, with positions under a map and with phases of the lens besides."""
        rays, waves = self._beams(map, lens)
        straight, before, behind = (A * np.exp(1j * lens.phase(k, phases)) for k, A in zip(rays, waves, strict=True))
        return straight.conj() * before - straight * behind.conj()

    def gains(self, map: Float[Array, "2 2"], lens: _Lens, phases: Sequence[float]) -> Float[Array, " Q"]:
        """What each frequency of the sample adds to the log-likelihood; noise alone adds 1 in the mean.

        ``|sum_k W* G / n|^2 / sum_k |W|^2 / n``, n the counts of a pixel, which are the variance of G.
        """
        W = self.templates(map, lens, phases)
        scale = (np.abs(W) ** 2 / self.counts).sum(axis=1) * self.window
        return np.abs((W.conj() * self.G / self.counts).sum(axis=1)) ** 2 / np.maximum(scale, 1e-30)

    def gains_of_defoci(self, map: Float[Array, "2 2"], lens: _Lens, defoci: Float[Array, " D"]) -> Float[Array, " D"]:
        """The sum of `gains` at evenly spaced defoci, from one to the next by a product."""
        rays, (straight, before, behind) = self._beams(map, lens)
        s, s_before, s_behind = ((ray**2).sum(axis=-1) / lens.mean_square for ray in rays)
        turns = [
            np.exp(1j * d).astype(np.complex64) for d in np.diff(defoci)[0] * np.stack([s_before - s, s - s_behind])
        ]
        first = np.exp(1j * defoci[0] * np.stack([s_before - s, s - s_behind]))
        one, other = (first * np.stack([straight.conj() * before, straight * behind.conj()])).astype(np.complex64)
        weighed = (self.G / self.counts).astype(np.complex64)
        weights = (1 / self.counts).astype(np.float32)
        gains = np.empty(len(defoci))
        for at in range(len(defoci)):
            W = one - other
            scale = (np.abs(W) ** 2 @ weights) * self.window
            products = np.einsum("qk,qk->q", W.conj(), weighed)
            gains[at] = (np.abs(products) ** 2 / np.maximum(scale, 1e-30)).sum()
            one, other = one * turns[0], other * turns[1]
        return gains

    def phase_image(self, map: Float[Array, "2 2"], lens: _Lens, phases: Sequence[float]) -> Float[Array, " P"]:
        """The phase of the sample under each position, under the window over the scan; in an arbitrary unit."""
        W = 1j * self.templates(map, lens, phases)
        scale = (np.abs(W) ** 2 / self.counts).sum(axis=1)
        values = (W.conj() * self.G / self.counts).sum(axis=1) / (scale + 0.05 * scale.max())
        return (np.exp(2j * np.pi * self.positions @ self.Q.T) @ values).real

    def skewness(self, map: Float[Array, "2 2"], lens: _Lens, phases: Sequence[float]) -> tuple[float, float]:
        """Of the phase of the sample, and its error if that were noise."""
        from scipy.stats import skew

        image = self.phase_image(map, lens, phases)
        return float(skew(image)), float(np.sqrt(6 / min(len(image), 2 * len(self.Q))))


def _transformed(
    windowed: Complex[Array, "P K"], positions: Float[Array, "P 2"], Q: Float[Array, "q 2"]
) -> Complex[Array, "q K"]:
    """``sum_j n_j(k) exp(-2 pi i Q r_j)``."""
    return np.exp(-2j * np.pi * Q @ positions.T).astype(np.complex64) @ windowed


def _in_squares(pixels: Int[Array, "K 2"], side: int) -> tuple[Int[Array, "S 2"], Float[Array, "K S"]]:
    """Squares of so many pixels on a side, (y, x) in that unit, and 1 where a pixel is in one of them."""
    squares, index = np.unique(pixels // side, axis=0, return_inverse=True)
    inside = np.zeros((len(pixels), len(squares)), np.float32)
    inside[np.arange(len(pixels)), index.ravel()] = 1
    return squares, inside


def _half_plane(extent: Float[Array, " 2"], largest: float) -> Float[Array, "Q 2"]:
    """Frequencies up to a largest one that a field tells apart, one of each pair of opposite ones, without the very
    lowest."""
    axes = [np.arange(-np.floor(largest * side), np.floor(largest * side) + 1) / side for side in extent]
    y, x = (values.ravel() for values in np.meshgrid(*axes, indexing="ij"))
    norm = np.hypot(y, x)
    return np.stack([y, x], axis=-1)[((y > 0) | ((y == 0) & (x > 0))) & (norm <= largest) & (norm > 0.05 * largest)]


def _polished(gain: Callable[[Array], float], start: Sequence[float], most: int = 160) -> Float[Array, " D"]:
    """Angle in degrees and phases of the lens at which the gain is largest, from near there."""
    from scipy.optimize import minimize

    units = np.array([3.0, *(len(start) - 1) * [0.2]])
    origin = np.array(start)
    simplex = np.concatenate([np.zeros((1, len(start))), np.eye(len(start))])
    options = dict(initial_simplex=simplex, maxfev=most, xatol=0.05, fatol=0.0)
    optimum = minimize(lambda p: -gain(origin + units * p), np.zeros(len(start)), method="Nelder-Mead", options=options)
    return origin + units * optimum.x


def _is_opposite(
    off: float, opposite: float, skewness: float, error: float, *, turned: bool | np.bool_, sigmas: float = 4.0
) -> bool:
    """Whether the other of two foci, at which positions turned by 180 degrees fit as well, is the true one.

    One that is less than half as far from the guess is believed; else the skewness of the phase tells, where it does,
    and else positions are believed that lie more as they were told.
    """
    near, far = sorted((abs(off), abs(opposite)))
    if near < far / 2:
        return bool(abs(opposite) < abs(off))
    if abs(skewness) > sigmas * error:
        return bool(skewness < 0)
    return bool(turned)
