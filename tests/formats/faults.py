"""Scans with one planted fault each, and the check of the doctor that is there for it: 17 kinds, and 7 orientations.

Also what `benchmarks/doctor.py` makes its confusion table from.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ptycho.data.scan import Scan
from tests.formats.scans import expected, truth


def healthy(seed: int, N: int = 32) -> Scan:
    """A disc out of focus over a sample, jittered raster of 64 positions, 1e4 to 1e6 photons."""
    rng = np.random.default_rng(seed)
    photons = 10 ** rng.uniform(4, 6)
    y, x = np.indices((N, N)) - N // 2
    squared = (y**2 + x**2) / rng.uniform(6.0, 8.0) ** 2
    probe = np.exp(-(squared**2) + 1j * np.pi * rng.uniform(-1.5, 1.5) * squared)
    probe = probe * np.sqrt(photons / (np.abs(probe) ** 2).sum())
    grid = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), -1).reshape(-1, 2) * rng.uniform(2.5, 4)
    positions = np.rint(grid + rng.uniform(-1, 1, grid.shape)) + N // 2 + 1
    sample = np.roll(truth(80, 70), rng.integers(0, 40, 2), axis=(0, 1))
    counts = rng.poisson(expected(sample, positions, probe[None]))
    return Scan(counts=counts.astype(np.uint32), positions=positions, probe=probe)


def changed(scan: Scan, change: Callable[[np.ndarray], Any]) -> Scan:
    counts = scan.counts.astype(np.int64)
    found = change(counts)
    return replace(scan, counts=counts if found is None else found)


def brightest(scan: Scan, rank: int = 0) -> tuple[int, int]:
    mean = scan.counts.mean(axis=0)
    y, x = np.unravel_index(np.argsort(mean, axis=None)[-1 - rank], mean.shape)
    return int(y), int(x)


def hot(scan: Scan, rng: np.random.Generator) -> Scan:
    y, x = rng.integers(0, 8, 2)
    return changed(scan, lambda counts: counts.__setitem__((slice(None), y, x), int(scan.counts.max()) * 2))


def dead(scan: Scan, rng: np.random.Generator) -> Scan:
    y, x = brightest(scan, int(rng.integers(0, 9)))
    return changed(scan, lambda counts: counts.__setitem__((slice(None), y, x), 0))


def gap(scan: Scan, rng: np.random.Generator) -> Scan:
    """Between modules: one to three of 32 rows near the middle, and columns too in one of two scans."""
    first, width = int(rng.integers(10, 20)), int(rng.integers(1, 4))
    lines = slice(first, first + width)
    found = changed(scan, lambda counts: counts.__setitem__((slice(None), lines), 0))
    return changed(found, lambda c: c.__setitem__((..., lines), 0)) if rng.random() < 0.5 else found


def dimmed(share: float) -> Callable[[Scan, np.random.Generator], Scan]:
    def fault(scan: Scan, rng: np.random.Generator) -> Scan:
        frame = int(rng.integers(0, len(scan)))
        return changed(scan, lambda counts: counts.__setitem__(frame, rng.binomial(counts[frame], share)))

    return fault


def brighter(scan: Scan, rng: np.random.Generator) -> Scan:
    frame = int(rng.integers(0, len(scan)))
    return changed(scan, lambda counts: counts.__setitem__(frame, counts[frame] * 5))


FAULTS: dict[str, tuple[str, Callable[[Scan, np.random.Generator], Scan]]] = {
    "amplitudes": ("values", lambda s, _: changed(s, lambda c: np.sqrt(c))),
    "normalised": ("values", lambda s, _: changed(s, lambda c: c / 37.7)),
    "corner": ("zero frequency", lambda s, _: changed(s, lambda c: np.fft.ifftshift(c, axes=(1, 2)))),
    "off centre": ("zero frequency", lambda s, r: changed(s, lambda c: np.roll(c, (3, -2), axis=(1, 2)))),
    "saturated": ("saturation", lambda s, _: changed(s, lambda c: np.minimum(c, int(c.max() * 0.3)))),
    "dead pixel": ("dead pixels", dead),
    "hot pixel": ("hot pixels", hot),
    "gap": ("gaps", gap),
    "shutter closed": ("empty frames", dimmed(0.03)),
    "flash": ("outlier frames", brighter),
    "metres": ("extent of positions|overlap", lambda s, _: replace(s, positions=s.positions * 1e-2)),
    "nanometres": ("overlap", lambda s, _: replace(s, positions=s.positions * 30)),
    "one motor": ("extent of positions", lambda s, _: replace(s, positions=s.positions * [1, 0])),
    "stuck motor": (
        "repeated positions",
        lambda s, _: replace(s, positions=np.where(np.arange(len(s))[:, None] < 40, s.positions, s.positions[40])),
    ),
    "gain": ("probe power", lambda s, _: changed(s, lambda c: c * 3)),
    "background": ("pattern in its frame", lambda s, r: changed(s, lambda c: c + r.poisson(c.mean(), c.shape))),
    "large probe": ("probe in its window", lambda s, _: replace(s, probe=np.full_like(s.probe, 1), probe_known=False)),
}
