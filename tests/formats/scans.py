"""Scans that the tests of formats write, and how what is read is compared with them."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho import formats
from ptycho.data.frames import chunks
from ptycho.data.scan import Scan

CHUNK_PIXELS = inspect.signature(chunks).parameters["pixels"].default


def truth(height: int, width: int) -> np.ndarray:
    """An object without symmetry, not square."""
    y, x = np.mgrid[:height, :width] / 10.0
    return (np.exp(-0.2 * np.sin(y) ** 2) * np.exp(1j * np.sin(x + 0.3 * y**2))).astype(np.complex64)


def expected(sample: np.ndarray, positions: np.ndarray, probe: np.ndarray) -> np.ndarray:
    """(P, N, N) expected counts at whole positions, one at a time, by nothing but numpy."""
    N = probe.shape[-1]
    frames = []
    for y, x in positions.astype(int) - N // 2:
        waves = np.fft.fft2(np.fft.ifftshift(sample[y : y + N, x : x + N] * probe, axes=(-2, -1)), norm="ortho")
        frames.append(np.fft.fftshift((np.abs(waves) ** 2).sum(axis=0)))
    return np.array(frames)


def misfit(counts: np.ndarray, model: np.ndarray) -> float:
    """Squared error over that of Poisson noise, in standard deviations: ``Var (n - m)^2 = 2 m^2 + m``."""
    return float(((counts - model) ** 2 - model).sum() / np.sqrt((2 * model**2 + model).sum()))


def scan_of(N: int = 16, P: int = 15, modes: int = 1, dtype: str = "uint16", **changes: Any) -> Scan:
    """Poisson counts of `truth` over a field that is not square."""
    rng = np.random.default_rng(3)
    y, x = np.indices((N, N)) - N // 2
    spot = np.exp(-(y**2 + x**2) / (0.1 * N**2) + 1j * (0.02 * y**2 + 0.03 * x**2))
    probe = np.stack([3.5 * spot, 1.5 * spot * (y + 0.5 * x) / N][:modes]).astype(np.complex64)
    positions = np.stack([rng.integers(N // 2, 50 - N, P), rng.integers(N // 2, 35 - N, P)], axis=1)
    counts = rng.poisson(expected(truth(50, 35), positions, probe))
    assert 20 < counts.max() < 256  # enough to tell one thing from another, and every dtype holds it
    return Scan(**({"counts": counts.astype(dtype), "positions": positions, "probe": probe} | changes))


def near(actual: float | None, wanted: float | None) -> bool:
    """Equal to a few roundings, or both missing."""
    return actual is wanted is None or (None not in (actual, wanted) and actual == pytest.approx(wanted, rel=1e-14))


def assert_same(actual: Scan, wanted: Scan, lost: tuple[str, ...] = ()) -> None:
    """Equal but for the fields that are lost; beams to rounding, as files have them in other units."""
    assert actual.counts.dtype == wanted.counts.dtype
    np.testing.assert_array_equal(actual.counts, wanted.counts)
    np.testing.assert_allclose(actual.positions, wanted.positions, rtol=0, atol=0.01)
    assert actual.near_field == wanted.near_field
    if "probe" not in lost:
        np.testing.assert_array_equal(actual.probe, wanted.probe)
        assert actual.probe_known == wanted.probe_known
    if "mask" not in lost:
        np.testing.assert_array_equal(actual.mask, wanted.mask)
    if "pixel_size_m" not in lost:
        assert near(actual.pixel_size_m, wanted.pixel_size_m)
    if "beam" not in lost:
        for name in ("energy_eV", "distance_m"):
            assert near(getattr(actual.beam, name, None), getattr(wanted.beam, name, None))
        assert getattr(actual.beam, "particle", None) == getattr(wanted.beam, "particle", None)
    assert (actual.object is None) == (wanted.object is None or "object" in lost)
    if actual.object is not None:
        np.testing.assert_array_equal(actual.object, wanted.object)


def said(scan: Scan) -> str:
    return " ".join(scan.notes)


def recognised(path: Path, results: bool = False) -> list[str]:
    """The formats that take a file for a scan, or a result, of theirs; there should be one.

    The last, which takes any array of frames, counts where it is the only one.
    """
    pairs = [(format.name, format.products if results else format.scans) for format in formats.FORMATS]
    names = [name for name, access in pairs if access and access.recognises(path)]
    return names if names == ["array"] else [name for name in names if name != "array"]
