"""Whether frames lie in the near field of the sample: images, which move with the positions.

In the far field a frame is the diffraction pattern of what the beam meets, and stays where it is. In the near field it
is a blurred shadow of the sample: of two neighbouring frames the second shows the same features, moved by the step of
the scan as it appears on the detector. That also tells the magnification, hence the pixel on the sample.
"""

from typing import NamedTuple

import numpy as np

from ptycho.arrays import Array, Float, Int
from ptycho.data.scan import Scan


class Shadow(NamedTuple):
    """How frames move with the positions."""

    map: Float[Array, "2 2"]
    """Features of a frame move by ``-map @ step`` detector pixels, for a step (y, x) in the unit of the positions."""
    agreeing: float
    """Fraction of the pairs of neighbouring frames whose features moved so."""

    @property
    def inverted(self) -> bool:
        """Whether the shadow is turned by about 180 degrees: the sample lies before the focus."""
        return bool(np.trace(self.map) < 0)

    @property
    def pixels(self) -> float:
        """Detector pixels of one unit of the positions: the root of ``|det|`` of the map."""
        return float(np.sqrt(abs(np.linalg.det(self.map))))


def missing(scan: Scan, shadow: Shadow) -> str:
    """What a scan in the near field has to be told, by the options of the commands, as far as its shadow tells it.

    A cone of light from a focus at ``z1`` in front of the sample and ``z2`` from the detector magnifies by ``M = (z1 +
    z2) / z1``; a parallel beam does not.
    """
    beam, pixel = scan.beam, scan.pixel_size_m
    detector_pixel = None if beam is None or pixel is None else beam.detector_pixel_m(scan.N, pixel)
    if beam is None or beam.distance_m is None or pixel is None or detector_pixel is None:
        return (
            "tell the distance from the focus to the sample (--focus-m; parallel light: --near-field-m, the distance "
            "from the sample to the detector), with --energy-ev, --distance-m and --pixel-size-nm where the file "
            "lacks them"
        )
    z2 = beam.distance_m
    magnification = detector_pixel * shadow.pixels / pixel * (-1 if shadow.inverted else 1)
    on_sample = f"a detector pixel seems to be {1e9 * detector_pixel / abs(magnification):.4g} nm on the sample"
    if abs(magnification - 1) < 0.02:
        return f"{on_sample}, so the light is parallel: --near-field-m {z2:g}, the distance to the detector"
    focus = z2 / (magnification - 1)
    return (
        f"{on_sample}, so tell the distance from the focus to the sample, about --focus-m {focus:.3g} (negative: the "
        "sample is before the focus; parallel light: --near-field-m)"
    )


def find_shadow(
    scan: Scan,
    *,
    pairs: int = 60,
    neighbours: int = 24,
    within_px: float = 1.5,
    least_agreeing: float = 0.5,
    least_px: float = 1.5,
    least_ratio: float = 0.6,
    seed: int = 0,
) -> Shadow | None:
    """How the features of frames move with the positions; None where they do not, as in the far field.

    Args:
        pairs: of neighbouring frames that are looked at.
        neighbours: of a frame, from which its partner is drawn.
        within_px: by which a pair may miss the common map.
        least_agreeing: fraction of the pairs that must agree. By chance a few in a hundred do.
        least_px: features must move by more in the median, in every direction: patterns of the far field stand still,
            which would agree with a map of 0.
        least_ratio: of the singular values of the map. A shadow is magnified alike in all directions; patterns of a
            scan along one direction of a grating are not.
    """
    if len(scan) < 9:
        return None
    first, second = _neighbours(scan, pairs, neighbours, seed)
    if len(first) < 6:
        return None
    steps, moves = scan.positions[second] - scan.positions[first], _moves(scan, first, second, seed)
    fit = _common_map(steps, moves, within_px, seed)
    if fit is None:
        return None
    misses = np.linalg.norm(moves + steps @ fit.T, axis=1)
    large, small = np.linalg.svd(fit)[1]
    travel = small * float(np.median(np.linalg.norm(steps, axis=1)))
    agreeing = float((misses < within_px).mean())
    if agreeing < least_agreeing or travel < least_px or small < least_ratio * large:
        return None
    return Shadow(fit, agreeing)


def in_near_field(
    scan: Scan,
    *,
    lit: float = 0.2,
    filled: float = 0.85,
    of_window: float = 0.9,
    of_pixel: float = 0.1,
    clear: float = 0.8,
    more_of_window: float = 1.25,
) -> Shadow | None:
    """The shadow that frames show where the model of the far field cannot hold for it; None where it can.

    A beam before or behind its focus throws a shadow in the far field, too: there the window of ``N`` object pixels
    still holds the beam on the sample. That is as wide as the bright part of the frames (above ``lit`` of its
    maximum) over the detector pixels that features move by for an object pixel, and the near field begins where it is
    wider than ``of_window`` of the window. A bright part of more than ``filled`` of the frame is cut by its edges,
    which no pattern of the far field may be. Of a shadow in the far field, where diffraction changes the features as
    they move, fewer than ``clear`` of the pairs agree (0.60 to 0.67 of simulated leaves, 0.85 to 1 in the near field),
    and its map is less sure: such a beam has to be wider than the window by ``more_of_window``. Positions whose unit no
    file states are in pixels of the near field where features move by one pixel for each, within ``of_pixel``, in a
    beam that fills half of the frame.
    """
    if scan.near_field is not None or (scan.beam is not None and scan.beam.particle == "electron"):
        return None
    shadow = find_shadow(scan)
    if shadow is None:
        return None
    mean = scan.mean_pattern * scan.mask
    bright = float(np.sqrt((mean > lit * np.quantile(mean[scan.mask], 0.99)).sum()))
    if scan.pixel_size_m is None and abs(shadow.pixels - 1) < of_pixel and not shadow.inverted:
        return shadow if bright > scan.N / 2 else None
    window = of_window if shadow.agreeing >= clear else more_of_window
    return shadow if bright > scan.N * min(filled, window * shadow.pixels) else None


def _neighbours(scan: Scan, pairs: int, neighbours: int, seed: int) -> tuple[Int[Array, " K"], Int[Array, " K"]]:
    """Pairs of frames that lie near each other, in different places."""
    from scipy.spatial import cKDTree

    rng, p = np.random.default_rng(seed), scan.positions
    first = rng.permutation(len(p))[:pairs]
    _, near = cKDTree(p).query(p[first], k=min(neighbours + 1, len(p)))
    second = near[np.arange(len(first)), rng.integers(1, near.shape[1], len(first))]
    apart = np.linalg.norm(p[second] - p[first], axis=1) > 1e-6 * np.ptp(p, axis=0).max()
    return first[apart], second[apart]


def _moves(scan: Scan, first: Int[Array, " K"], second: Int[Array, " K"], seed: int) -> Float[Array, "K 2"]:
    """By how many pixels the features of each second frame lie from those of the first: where both correlate most.

    The mean of many frames shows what does not move, beam and detector: frames are divided by it.
    """
    from scipy.ndimage import gaussian_filter
    from scipy.signal import fftconvolve

    rng = np.random.default_rng(seed)
    others = rng.permutation(len(scan))[:200]
    frames = np.unique(np.concatenate([first, second, others]))
    mean = gaussian_filter(np.asarray(scan.counts[np.sort(frames)], float).mean(axis=0) * scan.mask, 0.5)
    floor = 0.05 * float(mean[scan.mask].mean())
    window = np.outer(*(np.hanning(scan.N + 2)[1:-1],) * 2) * scan.mask

    def features(frame: int) -> Float[Array, "N N"]:
        relative = np.where(mean > floor, np.asarray(scan.counts[frame], float) / np.maximum(mean, floor), 1.0)
        values = gaussian_filter(np.sqrt(np.clip(relative, 0, 9)), 0.7)  # outliers count little, noise is smoothed
        return (values - np.average(values, weights=window + 1e-12)) * window

    shown = {int(frame): features(int(frame)) for frame in np.union1d(first, second)}
    moves = []
    for a, b in zip(first, second):
        correlation = fftconvolve(shown[int(b)], shown[int(a)][::-1, ::-1])
        moves.append(np.array(np.unravel_index(int(correlation.argmax()), correlation.shape)) - (scan.N - 1))
    return np.array(moves, float)


def _common_map(
    steps: Float[Array, "K 2"], moves: Float[Array, "K 2"], within_px: float, seed: int, tries: int = 300
) -> Float[Array, "2 2"] | None:
    """The map with which most moves agree, ``move = -map @ step`` (RANSAC: of many pairs of pairs the best one)."""
    rng, best, chosen = np.random.default_rng(seed), 0, None
    for _ in range(tries):
        two = rng.choice(len(steps), 2, replace=False)
        lengths = np.linalg.norm(steps[two], axis=1)
        if abs(np.linalg.det(steps[two])) < 0.2 * lengths.prod():  # nearly parallel: nothing across them
            continue
        solved = np.linalg.solve(steps[two], -moves[two])
        agree = np.linalg.norm(moves + steps @ solved, axis=1) < within_px
        if agree.sum() > best:
            best, chosen = int(agree.sum()), agree
    if chosen is None or best < 4:
        return None
    return np.linalg.lstsq(steps[chosen], -moves[chosen], rcond=None)[0].T
