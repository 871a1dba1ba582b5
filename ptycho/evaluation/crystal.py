"""The lattice of a crystal in an image: its cell with standard errors, and the pixel size where the cell is known.

The phase of a crystal is periodic. Where the image of it is displaced by u,

    phase(r) = sum_g c_g exp(2 pi i g . (r - u(r))),

so that the phase of each harmonic, taken block by block, tells the displacement of the block (geometric phase
analysis: Hytch, Snoeck & Kilaas, Ultramicroscopy 74, 131 (1998)). A displacement that is linear in the place, u = D r,
is a wrong guess of the lattice, and mends it; what the blocks disagree by is noise, defects and bending, and makes the
standard errors.
"""

from itertools import combinations, pairwise, product
from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter, maximum_filter, minimum_filter1d

from ptycho.arrays import Array, Bool, Complex, Float
from ptycho.evaluation.measured import Measured

PEAK = 30.0
"""A harmonic has this times the mean power of its surroundings. Of noise, whose power is exponential, one frequency
in a thousand million has."""
LARGEST = 2048
"""Pixels along each axis that are looked at, in the middle of larger images."""
QUIET = 0.2
"""The quantile of a ring of frequencies that the peaks do not reach."""
PEAKS = 24
HIGHEST = 4
"""Of the Miller indices of the harmonics that are used."""
OFF_LATTICE = 0.6
"""How far a peak may lie from a point of the reciprocal lattice, in periods an image."""
EXPLAINED = 0.8
"""The share of the amplitudes of the peaks that lies on the lattice of a crystal."""
PERIODS = 4.5
"""How many cells an image holds at least, along each axis."""
ALIKE = 0.15
"""How far the scales of a cell may be from those of a known one, as logarithms, where several could be it."""
NEARLY = 0.1
"""A cell whose sides, and whose angle in rad, differ by less from those of a square or a hexagonal one may be one."""


class Cell(NamedTuple):
    """A cell as it is known, of a projected crystal."""

    a: float
    """In A; the side of a square or hexagonal cell, where nothing else is told."""
    b: float | None = None
    gamma_deg: float | None = None


class Crystal(NamedTuple):
    """What an image tells of the lattice of a crystal, in A where its pixel size is known, otherwise in pixels."""

    a: Measured
    """The shorter side of the reduced cell."""
    b: Measured
    gamma_deg: Measured
    """The angle between them, 90 to 120 degrees."""
    unit: str
    """A or px."""
    pixel_size_a: Measured | None = None
    """By the known cell."""
    off: Measured | None = None
    """By how much that is larger than the pixel size that was told, as a fraction."""
    distortion: Measured | None = None
    """The larger scale of the image over the smaller one, less 1; None where one constant alone is known."""

    def sentence(self) -> str:
        """One line for the end of a run."""
        cell = f"{self.a.rounded()} and {self.b.rounded(self.unit)}, {self.gamma_deg.rounded()} degrees"
        if self.pixel_size_a is None:
            return f"lattice in the image: {cell}"
        clauses = [f"pixel size by the lattice {self.pixel_size_a.rounded('A')}"]
        if self.off is not None:
            percent = Measured(100 * self.off.value, 100 * self.off.error)
            agrees = abs(self.off.value) <= 2 * self.off.error
            clauses.append(f"{percent.rounded()} % off what was told" + (", which agrees" if agrees else ""))
        if self.distortion is not None and self.distortion.value > 2 * self.distortion.error:
            percent = Measured(100 * self.distortion.value, 100 * self.distortion.error)
            clauses.append(f"the image is stretched by {percent.rounded()} % along one direction")
        return f"lattice in the image: {cell}; " + ", ".join(clauses)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        values = {name: value for name, value in self._asdict().items() if value is not None}
        return {name: value._asdict() if isinstance(value, Measured) else value for name, value in values.items()}


def fit_crystal(
    object: Complex[Array, "H W"],
    inside: Bool[Array, "H W"],
    pixel_size_a: float | None = None,
    known: Cell | None = None,
    *,
    raster: Float[Array, "P 2"] | None = None,
    rounds: int = 4,
) -> Crystal | None:
    """The lattice of the phase of an image inside a mask; None where it is not periodic along two directions.

    Args:
        object: the image.
        inside: the pixels that count.
        pixel_size_a: A, as told.
        known: the cell of the crystal, if it is known.
        raster: (y, x) of the frames: a period that these have is theirs.
        rounds: corrections of the lattice.
    """
    y, x = (slice(max(side - LARGEST, 0) // 2, max(side - LARGEST, 0) // 2 + LARGEST) for side in inside.shape)
    object, inside = object[y, x], inside[y, x]
    if not inside.any():
        return None
    raster = None if raster is None else raster - [y.start, x.start]
    phase = slow_phase_removed(object, inside)
    basis = find_lattice(phase, inside, raster)
    if basis is None:
        return None
    for number in range(rounds):
        harmonics = strong_harmonics(phase, basis)
        displaced = None if len(harmonics) < 2 else displacements(phase, inside, basis, harmonics)
        if displaced is None:
            return None
        gradient, covariance = linear_part(*displaced)
        if number + 1 < rounds:
            # g . (r - D r) = (g (1 - D)) . r
            basis = basis @ (np.eye(2) - gradient)
    return described(np.linalg.inv(basis), covariance, pixel_size_a, known)


def scanned_pixels(positions: Float[Array, "P 2"], shape: tuple[int, int]) -> Bool[Array, "H W"]:
    """The pixels between the positions (their convex hull); none where these lie on a line."""
    from scipy.spatial import ConvexHull, QhullError

    y, x = np.arange(shape[0])[:, None], np.arange(shape[1])
    try:
        facets = ConvexHull(positions).equations
    except QhullError:
        return np.zeros(shape, bool)
    inside = np.ones(shape, bool)
    for normal_y, normal_x, offset in facets:
        inside &= normal_y * y + normal_x * x + offset <= 1e-9 * max(shape)  # rounding
    return inside


def slow_phase_removed(object: Complex[Array, "H W"], inside: Bool[Array, "H W"]) -> Float[Array, "H W"]:
    """The phase without a ramp and without what is slower than a tenth of the image; 0 outside the mask."""
    waves = np.where(inside, np.exp(1j * np.angle(object)), 0)
    for axis in (0, 1):
        step = np.angle(np.sum(np.roll(waves, -1, axis) * waves.conj()))
        turn = np.exp(-1j * step * np.arange(waves.shape[axis]))
        waves = waves * (turn[:, None] if axis == 0 else turn)
    width = np.sqrt(inside.sum()) / 10
    slow = gaussian_filter(waves.real, width) + 1j * gaussian_filter(waves.imag, width)
    phase = np.where(inside, np.angle(waves * slow.conj()), 0.0)
    return np.where(inside, phase - phase[inside].mean(), 0.0)


def find_lattice(
    phase: Float[Array, "H W"], inside: Bool[Array, "H W"], raster: Float[Array, "P 2"] | None
) -> Float[Array, "2 2"] | None:
    """Rows: the shortest two vectors of the reciprocal lattice, in periods a pixel; None where there is none."""
    peaks, powers = spectral_peaks(phase, inside, raster)
    extents = np.ptp(np.argwhere(inside), axis=0) + 1
    near = OFF_LATTICE / extents.min()
    amplitudes, candidates = np.sqrt(powers), []
    for pair in combinations(peaks, 2):
        area = abs(np.linalg.det(pair))
        if area < 0.2 * np.linalg.norm(pair[0]) * np.linalg.norm(pair[1]):
            continue  # as good as parallel
        pair, on = _adjusted(reduced(np.array(pair)), peaks, amplitudes, near)
        area = abs(np.linalg.det(pair))
        # A peak that is anywhere is near a point of a fine lattice by chance.
        chance = np.pi * near**2 / area
        candidates.append(((amplitudes[on].sum() / amplitudes.sum() - chance) / (1 - chance), area, pair))
    best = max((explained for explained, _, _ in candidates), default=0.0)
    if best < EXPLAINED:
        return None
    # A reciprocal lattice that is finer than it need be explains the same.
    basis = max(
        (candidate for candidate in candidates if candidate[0] > 0.95 * best), key=lambda candidate: candidate[1]
    )[2]
    return basis if np.linalg.norm(basis, axis=1).min() * extents.min() > PERIODS else None


def _adjusted(
    pair: Float[Array, "2 2"], peaks: Float[Array, "K 2"], amplitudes: Float[Array, " K"], near: float
) -> tuple[Float[Array, "2 2"], Bool[Array, " K"]]:
    """The basis that fits the peaks near its lattice best, and which these are: low ones first, which tell where the
    high ones are."""
    for order in (1.5, 2.5, 4.5, np.inf):
        indices = np.rint(peaks @ np.linalg.inv(pair))
        on = (np.linalg.norm(peaks - indices @ pair, axis=1) < near) & (indices != 0).any(axis=1)
        used = on & (np.abs(indices).max(axis=1) <= order)
        rows = indices[used] * amplitudes[used, None]
        if order < np.inf and np.linalg.matrix_rank(rows) == 2:
            pair = np.linalg.lstsq(rows, peaks[used] * amplitudes[used, None], rcond=None)[0]
    return pair, on


def spectral_peaks(
    phase: Float[Array, "H W"], inside: Bool[Array, "H W"], raster: Float[Array, "P 2"] | None
) -> tuple[Float[Array, "K 2"], Float[Array, " K"]]:
    """Frequencies in periods a pixel, of one half plane, and powers of what stands out from its surroundings."""
    depth = distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    window = 0.5 - 0.5 * np.cos(np.pi * np.minimum(depth / (0.4 * depth.max()), 1))
    shape = tuple(2 * side for side in phase.shape)
    power = np.abs(np.fft.fft2((phase - np.average(phase, weights=window)) * window, shape)) ** 2
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])
    radius = np.hypot(fy, fx)
    bins = np.minimum((radius * min(shape) / 6).astype(int), min(shape) // 12)  # rings of six frequencies
    order = np.argsort(bins, axis=None)
    edges = np.searchsorted(bins.ravel()[order], np.arange(bins.max() + 2))
    quiet = np.array([np.quantile(power.ravel()[order[a:b]], QUIET) if b > a else np.inf for a, b in pairwise(edges)])
    # The mean of an exponential distribution by its quantile; peaks fill more of a ring than of its neighbours.
    surroundings = minimum_filter1d(quiet, 3, mode="nearest")[bins] / -np.log1p(-QUIET)
    extents = np.ptp(np.argwhere(inside), axis=0) + 1
    slow = radius < PERIODS / extents.min()
    half = (fy > 0) | ((fy == 0) & (fx > 0))
    peaks = (power == maximum_filter(power, 9, mode="wrap")) & (power > PEAK * surroundings) & ~slow & half
    if raster is not None:
        peaks &= structure_factor(raster, shape, fy, fx, peaks) < 0.3
    maxima = np.argwhere(peaks)
    strongest = maxima[np.argsort(-power[peaks])][:PEAKS]
    y, x = strongest.T
    within = np.stack([_top(power, y, x, axis) for axis in (0, 1)], axis=1)
    return np.c_[fy[y, 0], fx[x]] + within / shape, power[y, x]


def _top(power: Float[Array, "H W"], y: Array, x: Array, axis: int) -> Float[Array, " K"]:
    """Where along an axis the parabola through the logarithms at a maximum and its neighbours is highest, in pixels."""
    before, centre, behind = (np.log(np.roll(power, shift, axis)[y, x]) for shift in (1, 0, -1))
    return np.clip(0.5 * (behind - before) / (2 * centre - before - behind), -0.5, 0.5)


def structure_factor(
    positions: Float[Array, "P 2"], shape: tuple[int, ...], fy: Array, fx: Array, where: Bool[Array, "H W"]
) -> Float[Array, "H W"]:
    """``|sum_j exp(-2 pi i k . r_j)| / P`` at some frequencies, 0 at the others."""
    factor = np.zeros(shape)
    y, x = np.nonzero(where)
    turns = np.exp(-2j * np.pi * (np.outer(fy[y, 0], positions[:, 0]) + np.outer(fx[x], positions[:, 1])))
    factor[y, x] = np.abs(turns.mean(axis=1))
    return factor


def reduced(pair: Float[Array, "2 2"]) -> Float[Array, "2 2"]:
    """The shortest basis of the same lattice (Gauss), the shorter vector first, their angle 90 degrees or more."""
    a, b = pair
    while True:
        if np.dot(a, a) > np.dot(b, b):
            a, b = b, a
        turns = np.rint(np.dot(a, b) / np.dot(a, a))
        if turns == 0:
            return np.array([a, -b if np.dot(a, b) > 0 else b])
        b = b - turns * a


def strong_harmonics(phase: Float[Array, "H W"], basis: Float[Array, "2 2"]) -> Float[Array, "K 2"]:
    """Miller indices of one half plane, the strongest first, of what has a hundredth of the strongest's power."""
    span = range(-HIGHEST, HIGHEST + 1)
    indices = np.array([(h, k) for h, k in product(span, span) if h > 0 or (h == 0 and k > 0)], float)
    indices = indices[np.abs(indices @ basis).max(axis=1) < 0.45]
    y, x = (np.arange(side) for side in phase.shape)
    frequencies = indices @ basis
    rows, columns = (np.exp(-2j * np.pi * np.outer(f, at)) for f, at in zip(frequencies.T, (y, x), strict=True))
    power = np.abs(((rows @ phase.astype(complex)) * columns).sum(axis=1)) ** 2
    if not len(power):
        return indices
    order = np.argsort(-power)
    return indices[order[power[order] > 0.01 * power.max()]]


def displacements(
    phase: Float[Array, "H W"], inside: Bool[Array, "H W"], basis: Float[Array, "2 2"], harmonics: Float[Array, "K 2"]
) -> tuple[Float[Array, "B 2"], Float[Array, "B 2"]] | None:
    """Places and displacements in pixels of the blocks of an image; None of fewer than six blocks."""
    frequencies = harmonics @ basis
    longest = 1 / np.linalg.norm(basis, axis=1).min()  # between planes of the lattice
    pixels = np.argwhere(inside)
    first, extents = pixels.min(axis=0), np.ptp(pixels, axis=0) + 1
    counts = np.clip(extents / (1.5 * longest), 1, 10).astype(int)
    block = np.minimum((pixels - first) * counts // extents, counts - 1) @ [counts[1], 1]
    largest = np.prod(extents / counts)
    blocks = [mine for mine in (pixels[block == n] for n in range(counts.prod())) if len(mine) >= 0.6 * largest]
    if len(blocks) < 6:
        return None
    amplitudes = np.array([_amplitudes(mine, phase[mine[:, 0], mine[:, 1]], frequencies) for mine in blocks])
    mean_amplitudes = amplitudes.mean(axis=0)
    displaced = []
    for local in amplitudes:
        # phase of the harmonic = -2 pi g . u
        weights = np.abs(local) * np.abs(mean_amplitudes)
        rows, turns = -2 * np.pi * frequencies, np.angle(local * mean_amplitudes.conj())
        displaced.append(np.linalg.lstsq(rows * weights[:, None], turns * weights, rcond=None)[0])
    return np.array([mine.mean(axis=0) for mine in blocks]), np.array(displaced)


def _amplitudes(pixels: Array, values: Float[Array, " L"], frequencies: Float[Array, "K 2"]) -> Complex[Array, " K"]:
    """Complex amplitudes of harmonics, fitted together by least squares, with a constant."""
    angles = 2 * np.pi * pixels @ frequencies.T
    columns = np.concatenate([np.cos(angles), np.sin(angles), np.ones((len(pixels), 1))], axis=1)
    normal = columns.T @ columns
    solution = np.linalg.lstsq(normal, columns.T @ values, rcond=1e-8)[0]
    K = len(frequencies)
    return solution[:K] - 1j * solution[K : 2 * K]


def linear_part(
    centres: Float[Array, "B 2"], displaced: Float[Array, "B 2"]
) -> tuple[Float[Array, "2 2"], Float[Array, "4 4"]]:
    """D of ``u = u0 + D r`` by least squares, and the covariance of D, row by row, from what is left."""
    rows = np.c_[np.ones(len(centres)), centres - centres.mean(axis=0)]
    solution = np.linalg.lstsq(rows, displaced, rcond=None)[0]
    left = displaced - rows @ solution
    variance = (left**2).sum(axis=0) / (len(centres) - 3)
    inverse = np.linalg.inv(rows.T @ rows)[1:, 1:]
    return solution[1:].T, np.kron(np.diag(variance), inverse)


def described(
    cell: Float[Array, "2 2"], covariance: Float[Array, "4 4"], pixel_size_a: float | None, known: Cell | None
) -> Crystal:
    """The cell, whose columns are vectors in pixels, in words of crystals; errors by the derivatives of each."""
    unit = 1.0 if pixel_size_a is None else pixel_size_a
    vectors = reduced(cell.T)
    if known is not None and pixel_size_a is not None:
        vectors = _as_large_as(vectors, known, pixel_size_a)
    sides = _matched(vectors, known)

    def numbers(gradient: Array) -> Array:
        """Of a cell whose displacements have such a gradient: ``a -> (1 + D) a``."""
        (a, b) = vectors @ (np.eye(2) + gradient.reshape(2, 2)).T
        lengths = np.linalg.norm(a), np.linalg.norm(b)
        gamma = np.rad2deg(np.arccos(np.clip(np.dot(a, b) / np.prod(lengths), -1, 1)))
        values = [lengths[0] * unit, lengths[1] * unit, gamma]
        if known is not None:
            # vectors = F known: F^-1 is A a pixel
            small, large = (1 / known.a * np.array([lengths[0]] * 2)) if sides is None else _scales(a, b, sides)
            values += [2 / (small + large), large / small - 1]
        return np.array(values)

    values = numbers(np.zeros(4))
    step = 1e-5
    slopes = np.stack([(numbers(step * one) - numbers(-step * one)) / (2 * step) for one in np.eye(4)], axis=1)
    errors = np.sqrt(np.einsum("ki,ij,kj->k", slopes, covariance, slopes))
    measured = [Measured(float(value), float(error)) for value, error in zip(values, errors)]
    crystal = Crystal(measured[0], measured[1], measured[2], "px" if pixel_size_a is None else "A")
    if known is None:
        return crystal
    size = measured[3]
    off = None if pixel_size_a is None else Measured(size.value / pixel_size_a - 1, size.error / pixel_size_a)
    return crystal._replace(pixel_size_a=size, off=off, distortion=None if sides is None else measured[4])


def _as_large_as(vectors: Float[Array, "2 2"], known: Cell, pixel_size_a: float) -> Float[Array, "2 2"]:
    """The cell that the image shows, or a multiple of it that is nearer to the known one: columns that look alike make
    the cell of an image smaller than that of the crystal."""
    if _unlike(vectors, known, pixel_size_a) < ALIKE:
        return vectors
    multiples = (np.array(entries, float).reshape(2, 2) for entries in product((-2, -1, 0, 1, 2), repeat=4))
    cells = [reduced(multiple @ vectors) for multiple in multiples if 0.5 < abs(np.linalg.det(multiple)) < 4.5]
    best = min(cells, key=lambda cell: _unlike(cell, known, pixel_size_a))
    return best if _unlike(best, known, pixel_size_a) < ALIKE else vectors


def _unlike(vectors: Float[Array, "2 2"], known: Cell, pixel_size_a: float) -> float:
    """How far the scales of a cell are from those of the known one, as logarithms; infinite of another shape."""
    sides = _matched(vectors, known)
    a, b = vectors
    return np.inf if sides is None else float(max(abs(np.log(pixel_size_a * scale)) for scale in _scales(a, b, sides)))


def _matched(vectors: Float[Array, "2 2"], known: Cell | None) -> Float[Array, "2 2"] | None:
    """Rows: the reduced vectors of a known cell in A, in an orientation of their own; None where only one constant is
    known, of a cell that is neither square nor hexagonal."""
    if known is None:
        return None
    b, gamma = known.b, known.gamma_deg
    if b is None or gamma is None:
        lengths = np.linalg.norm(vectors, axis=1)
        angle = np.arccos(np.clip(np.dot(*vectors) / lengths.prod(), -1, 1))
        alike = lengths[1] / lengths[0] - 1 < NEARLY
        fits = [angle_deg for angle_deg in (90.0, 120.0) if alike and abs(angle - np.deg2rad(angle_deg)) < NEARLY]
        if not fits:
            return None
        b, gamma = known.a, fits[0]
    turned = np.deg2rad(gamma)
    return reduced(np.array([[known.a, 0.0], [b * np.cos(turned), b * np.sin(turned)]]))


def _scales(a: Array, b: Array, sides: Float[Array, "2 2"]) -> tuple[float, float]:
    """The smaller and the larger scale of the map from a known cell to the measured one, in pixels an A."""
    large, small = np.linalg.svd(np.array([a, b]).T @ np.linalg.inv(sides.T))[1]
    return float(small), float(large)
