"""Pixels of the detector that do not count photons: dead, hot, saturated, and the gaps between modules."""

import numpy as np

from ptycho.arrays import Array, Bool, Float, Int
from ptycho.data.frames import chunks
from ptycho.data.scan import Scan


def bad_pixels(
    scan: Scan,
    dead_counts: float = 20.0,
    hot_counts: float = 100.0,
    hot_ratio: float = 10.0,
    cluster_ratio: float = 1000.0,
) -> tuple[Bool[Array, "N N"], Bool[Array, "N N"]]:
    """``(dead, hot)`` among the used pixels, by the counts of all frames together.

    Dead: no count between two neighbours of ``dead_counts`` or more each (by chance exp(-20), once in 5e8); beside a
    single such neighbour it may be the edge of the illumination.
    Hot: ``hot_counts`` or more, and ``hot_ratio`` times its brightest neighbour, or ``cluster_ratio`` times the third
    brightest, as of two or three hot pixels side by side; but not the zero frequency, where an undiffracted beam may be
    one pixel wide.
    """
    from scipy import ndimage

    total = scan.mean_pattern * len(scan) * scan.mask
    padded = np.pad(total, 1)
    between_rows = np.minimum(padded[:-2, 1:-1], padded[2:, 1:-1])
    between_columns = np.minimum(padded[1:-1, :-2], padded[1:-1, 2:])
    # The dimmer of two opposite neighbours, and of both pairs the brighter: what a pixel between them should count
    expected = np.maximum(between_rows, between_columns)
    # All of the 3 x 3 pixels but the middle one
    neighbours = ~np.eye(9, dtype=bool)[4].reshape(3, 3)
    brightest = ndimage.maximum_filter(total, footprint=neighbours, mode="constant")
    dead = scan.mask & (total == 0) & (expected >= dead_counts)
    third = ndimage.rank_filter(total, rank=-3, footprint=neighbours, mode="constant")
    hot = (total >= hot_counts) & ((total > hot_ratio * brightest) | (total > cluster_ratio * np.maximum(third, 1)))
    if scan.near_field is None:
        hot[scan.N // 2, scan.N // 2] = False
    return dead, hot


def gaps(scan: Scan, neighbour_counts: float = 20.0) -> tuple[Int[Array, " rows"], Int[Array, " columns"]]:
    """Indices of rows and columns of the frames that lie between the modules of a detector.

    None of their used pixels ever counted, though the rows on both sides did, ``neighbour_counts`` times or more: by
    chance once in 5e8, as for dead pixels.
    """
    total = scan.mean_pattern * len(scan) * scan.mask
    rows, columns = (_gaps_along(total.sum(axis=1 - k), scan.mask.any(axis=1 - k), neighbour_counts) for k in (0, 1))
    return rows, columns


def _gaps_along(total: Float[Array, " N"], used: Bool[Array, " N"], neighbour_counts: float) -> Int[Array, " gaps"]:
    """Indices along an axis of runs of dark rows with bright ones on both sides, among the used rows."""
    index = np.flatnonzero(used)
    dark = total[index] < 0.5  # counts, but summed from means over the frames: 0 to rounding
    # Runs of rows that are all dark, or all bright; the first and the last have a neighbour on one side only.
    runs = np.split(np.arange(len(index)), np.flatnonzero(np.diff(dark)) + 1)
    bounded = [
        run for run in runs[1:-1] if dark[run[0]] and min(total[index[[run[0] - 1, run[-1] + 1]]]) >= neighbour_counts
    ]
    return index[np.concatenate(bounded)] if bounded else index[:0]


def without_gaps(scan: Scan) -> Bool[Array, "N N"]:
    """The scan's mask without `gaps`."""
    good, (rows, columns) = scan.mask.copy(), gaps(scan)
    good[rows], good[:, columns] = False, False
    return good


def unsound_pixels(scan: Scan) -> Bool[Array, "N N"]:
    """Used pixels that are dead or hot, or between the modules of a detector."""
    dead, hot = bad_pixels(scan)
    return dead | hot | (scan.mask & ~without_gaps(scan))


def proposed_mask(scan: Scan) -> Bool[Array, "N N"]:
    """The scan's mask without dead, hot and saturated pixels and gaps."""
    good = scan.mask & ~unsound_pixels(scan)
    if saturation(scan) is not None:
        largest = largest_count(scan)
        for chunk in chunks(scan.counts):
            good &= ~(chunk == largest).any(axis=0)
    return good


def largest_count(scan: Scan) -> float:
    """The largest count of any used pixel."""
    return max(float(chunk[:, scan.mask].max()) for chunk in chunks(scan.counts))


def saturation(scan: Scan, most_pixels: int = 10, most_fraction: float = 1e-4) -> str | None:
    """A sentence if the detector seems to have counted no further than the largest count of the scan, else None.

    Shot noise does not stop at one value: without a limit fewer pixels hold the very largest count k than lie within
    one standard deviation, ``sqrt(k)``, below it; a limit collects there all that is beyond. More than
    ``most_pixels``, and more than ``most_fraction`` of the pixels with half of k or more, have to be at it. Reads
    every used pixel, in chunks.
    """
    largest = largest_count(scan)
    if largest <= 0:
        return None
    at = near = half = 0
    for chunk in chunks(scan.counts):
        values = chunk[:, scan.mask]
        at += int(np.count_nonzero(values == largest))
        near += int(np.count_nonzero((values >= largest - max(1.0, largest**0.5)) & (values < largest)))
        half += int(np.count_nonzero(values >= largest / 2))
    if at <= most_pixels or at <= most_fraction * half or at <= near:
        return None
    return (
        f"{at} pixels hold exactly the largest count {largest:.6g}, and only {near} come near it: the detector seems "
        "saturated there; leave those pixels out by the mask"
    )


def listed(bad: Bool[Array, "N N"], most: int = 4) -> str:
    """The number of pixels, and the coordinates (y, x) of the first few."""
    first = [f"({y}, {x})" for y, x in np.argwhere(bad)[:most]]
    return f"{bad.sum()}" + (f": {', '.join(first)}{', ...' if bad.sum() > most else ''}" if first else "")
