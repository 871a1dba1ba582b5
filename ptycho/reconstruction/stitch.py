"""Patches into one object: align their phases, and average them, weighted with their illumination."""

from typing import NamedTuple

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from scipy.spatial import cKDTree

from ptycho.reconstruction.tiles import COVERED


class Stitched(NamedTuple):
    """An object put together from patches."""

    object: np.ndarray
    """``(H, W)`` complex64; 0 where ``coverage`` is 0."""
    coverage: np.ndarray
    """``(H, W)`` float32: illumination of each pixel by all patches, in units of the probe's brightest pixel; 0
    where it is less than `COVERED`."""
    positions_px: np.ndarray
    """``(P, 2)`` float64: the positions of all the patches in pixels of ``object``."""
    used: int
    dropped: int
    """Patches left out because they hold values that are not numbers; used + dropped = P."""


def stitch(patches: np.ndarray, positions: np.ndarray, probe: np.ndarray, *, align: bool = True) -> Stitched:
    """Average of patches, weighted with the illumination of each of their pixels.

    Args:
        patches: ``(P, n, n)`` complex.
        positions: ``(P, 2)`` (y, x): the object coordinate under patch pixel ``(n // 2, n // 2)``; a sub-pixel
            position spreads each patch pixel bilinearly over four.
        probe: ``(M, n, n)``; the weight is ``sum_m |P_m|^2``.
        align: first turn each patch by the global phase that makes it agree best with its neighbours (one pattern
            does not tell its global phase).

    Raises:
        ValueError: the shapes do not fit, or no patch is finite.
    """
    patches, positions = np.asarray(patches), np.asarray(positions)
    n = patches.shape[-1]
    if patches.shape != (len(positions), n, n) or positions.shape[1:] != (2,):
        raise ValueError(f"patches {patches.shape} and positions {positions.shape} do not fit: (P, n, n), (P, 2)")
    illumination = (np.abs(probe) ** 2).reshape(-1, n, n).sum(axis=0).astype("float32")
    weight = illumination / illumination.max()
    good = np.isfinite(patches).all(axis=(1, 2))
    if not good.any():
        raise ValueError("no patch is finite; the network's output is not a number anywhere")
    origin = np.floor(positions.min(axis=0)).astype(int) - n // 2
    # `ceil`: a sub-pixel position reaches one pixel further.
    shape = tuple(np.ceil(positions.max(axis=0)).astype(int) - origin - n // 2 + n)
    kept, centres = patches[good], positions[good] - origin
    if align:
        # Patch j is exp(i phi_j) times the object under it: conj takes its phase out.
        kept = kept * np.conj(common_phases(kept, centres, weight))[:, None, None]
    total, weights = np.zeros(shape, "complex64"), np.zeros(shape, "float32")
    for corners, tap in _taps(centres - n // 2):
        add_patches(total, kept * weight * tap, corners)
        add_patches(weights, np.broadcast_to(weight, kept.shape) * tap, corners)
    covered = weights > COVERED
    # O = sum_j w_j o_j / sum_j w_j, bilinear where positions are sub-pixel
    merged = np.divide(total, weights, out=np.zeros_like(total), where=covered)
    return Stitched(
        merged,
        np.where(covered, weights, 0).astype("float32"),
        positions - origin.astype(float),
        int(good.sum()),
        int((~good).sum()),
    )


def common_phases(patches: np.ndarray, positions: np.ndarray, weight: np.ndarray, neighbours: int = 6) -> np.ndarray:
    """Phase factor ``(P,)`` of each patch relative to its neighbours.

    The correlations of overlapping patches form a Hermitian matrix whose leading eigenvector holds the phases
    that agree best (angular synchronisation: Singer, Appl. Comput. Harmon. Anal. 30, 20 (2011)). The mean of the
    patches turned by them is made real: the object's own global phase is a gauge.
    """
    count = len(patches)
    if count > 1:
        pairs = _neighbour_pairs(positions, min(neighbours, count - 1))
        overlaps = _overlaps(patches, np.rint(positions).astype(int), weight, pairs)
        # C_ij = sum w_i w_j o_i conj(o_j), about |C_ij| exp(i (phi_i - phi_j)): the leading eigenvector holds phi.
        matrix = scipy.sparse.coo_array((overlaps, pairs.T), (count, count)).tocsr()
        factors = _leading_phases(matrix + matrix.conj().T, count)
    else:
        factors = np.ones(1, "complex64")
    # sum_j conj(f_j) sum w o_j: the mean of all patches once they agree
    mean = np.vdot(factors, (patches * weight).sum(axis=(1, 2)))
    return (factors * np.exp(1j * np.angle(mean))).astype("complex64")


def _leading_phases(matrix, count: int) -> np.ndarray:
    # Normalised by each patch's total correlation: all neighbourhoods weigh the same, the border too.
    scale = scipy.sparse.diags_array(1 / np.sqrt(np.maximum(np.abs(matrix).sum(axis=1), 1e-30)))
    even = (scale @ matrix @ scale).astype("complex128")
    if count < 4:
        # ARPACK does not take matrices this small.
        vector = np.linalg.eigh(even.toarray())[1][:, -1]
    else:
        # A start of its own: by default it is random, and the result would differ from run to run.
        start = np.ones(count, "complex128")
        vector = scipy.sparse.linalg.eigsh(even, k=1, which="LA", v0=start, tol=1e-6)[1][:, 0]
    return np.exp(1j * np.angle(vector))


def _neighbour_pairs(positions: np.ndarray, neighbours: int) -> np.ndarray:
    """Pairs ``(K, 2)`` of nearest neighbours, each once."""
    near = cKDTree(positions).query(positions, neighbours + 1)[1]
    pairs = np.stack([near[:, :1].repeat(neighbours, 1), near[:, 1:]], axis=-1).reshape(-1, 2)
    # The nearest is the patch itself, or one at the same place; pairs are sorted, so that each comes once.
    pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
    return np.unique(pairs, axis=0)


def _overlaps(patches, corners, weight, pairs, batch: int = 512) -> np.ndarray:
    """``sum w_i w_j o_i conj(o_j)`` over the pixels that patches i and j share, for every pair."""
    n = patches.shape[-1]
    grid = np.arange(n)
    out = np.empty(len(pairs), "complex64")
    for start in range(0, len(pairs), batch):
        i, j = pairs[start : start + batch].T
        # Pixel p of patch i lies on pixel p + corner_i - corner_j of patch j.
        offset = corners[i] - corners[j]
        y, x = offset[:, :1] + grid, offset[:, 1:] + grid
        inside = ((y >= 0) & (y < n))[:, :, None] & ((x >= 0) & (x < n))[:, None, :]
        at = (np.clip(y, 0, n - 1)[:, :, None], np.clip(x, 0, n - 1)[:, None, :])
        shared = weight * weight[at] * inside
        out[start : start + batch] = (patches[i] * np.conj(patches[j[:, None, None], *at]) * shared).sum((1, 2))
    return out


def _taps(corners: np.ndarray):
    """Whole corners ``(P, 2)`` and bilinear shares ``(P, 1, 1)`` that sub-pixel corners fall on."""
    floor = np.floor(corners).astype(int)
    piece = (corners - floor).astype("float32")
    for dy in (0, 1):
        for dx in (0, 1):
            # 1 - f for the pixel before the position, f for the one behind
            tap = np.abs(1 - dy - piece[:, 0]) * np.abs(1 - dx - piece[:, 1])
            if tap.any():
                yield floor + [dy, dx], tap[:, None, None]


def add_patches(canvas: np.ndarray, patches: np.ndarray, corners: np.ndarray) -> None:
    """Add patches ``(P, n, n)`` to a canvas in place, their first pixels at integer ``corners (P, 2)`` inside it."""
    n = patches.shape[-1]
    for patch, (y, x) in zip(patches, corners, strict=True):
        canvas[y : y + n, x : x + n] += patch
