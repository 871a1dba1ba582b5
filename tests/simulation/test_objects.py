"""Samples: what every kind must be, and what each is."""

from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ptycho.config import ObjectKind
from ptycho.simulation.objects import make_object, transmission

KINDS = get_args(ObjectKind)
STATISTICAL = ("leaves", "fractal", "weave")
"""Kinds of random contrast, down to 0.15 rad: what holds for them holds beside their own range of phase."""


def sample(kind: str, shape: tuple[int, int] = (150, 190), seed: int = 0) -> np.ndarray:
    return make_object(kind, shape, np.random.default_rng(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(150, 190), (61, 44), (17, 16)])
def test_a_transmission_is_complex64_and_never_above_one(kind: str, shape: tuple[int, int]) -> None:
    o = sample(kind, shape)
    assert o.shape == shape
    assert o.dtype == np.complex64
    assert np.abs(o.astype(np.complex128)).max() <= 1


def test_full_transmission_stays_at_most_one_at_any_phase() -> None:
    o = transmission(np.zeros(10_000), np.linspace(-np.pi, np.pi, 10_000)).astype(np.complex128)
    assert np.abs(o).max() <= 1
    assert np.abs(o).min() > 1 - 3e-7


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_decides(kind: str) -> None:
    one = sample(kind)
    np.testing.assert_array_equal(one, sample(kind))
    assert np.abs(one - sample(kind, seed=1)).max() > 0.1


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in STATISTICAL])
def test_samples_have_contrast_at_every_scale(kind: str) -> None:
    """Between blurs of 0 and 1, 1 and 3, 3 and 8 px each kind loses something: neither empty nor fuzzy."""
    phase = np.angle(sample(kind)).astype(float)
    blurs = [phase, *(gaussian_filter(phase, s) for s in (1, 3, 8))]
    for fine, coarse in pairwise(blurs):
        assert (fine - coarse).std() > 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_no_direction_is_like_another(kind: str) -> None:
    """Swapped or flipped axes cannot go unnoticed."""
    o = sample(kind, (160, 160))
    for other in (o.T, o[::-1], o[:, ::-1], o[::-1, ::-1]):
        assert np.abs(other - o).max() > 0.2 * min(1, np.ptp(np.angle(o)))


def phases(kind: str, seeds: int = 8) -> list[np.ndarray]:
    return [np.angle(sample(kind, (192, 192), seed)).astype(float) for seed in range(seeds)]


def test_a_fractal_has_a_spectrum_that_falls_as_a_power() -> None:
    """From 1/64 to 1/8 of the sampling the amplitude falls as f^-1 to f^-1.9.

    A slope over three octaves from 8 rings has a spread of about 0.1; the window against the borders adds its own, so
    0.4 to either side are allowed, 1.5 from the flat spectrum of noise.
    """
    window = np.hanning(192)[:, None] * np.hanning(192)
    frequency = np.hypot(np.fft.fftfreq(192)[:, None], np.fft.fftfreq(192))
    edges = np.geomspace(1 / 64, 1 / 8, 9)
    for phase in phases("fractal"):
        power = np.abs(np.fft.fft2(window * (phase - phase.mean()))) ** 2
        rings = [power[(frequency >= low) & (frequency < high)].mean() for low, high in pairwise(edges)]
        slope = np.polyfit(np.log(np.sqrt(edges[1:] * edges[:-1])), 0.5 * np.log(rings), 1)[0]
        assert -2.3 < slope < -0.6


def test_leaves_are_mostly_flat_with_edges() -> None:
    """The kurtosis of differences of neighbours is 3 in a Gaussian field; pictures have 10 and more."""
    for phase in phases("leaves"):
        step = np.diff(phase, axis=0)
        assert (step**4).mean() / (step**2).mean() ** 2 > 6


def test_a_weave_repeats_itself() -> None:
    """A few waves hold far more of the power than as many frequencies of a field without order."""
    for phase in phases("weave"):
        power = np.sort((np.abs(np.fft.fft2(phase - gaussian_filter(phase, 12))) ** 2).ravel())[::-1]
        assert power[: power.size // 50].sum() > 0.5 * power.sum()


@pytest.mark.parametrize("seed", range(3))
def test_cells_span_amplitude_and_phase(seed: int) -> None:
    o = sample("cells", (250, 250), seed)
    assert 0.45 < np.abs(o).min() < 0.75
    assert 1.0 < np.ptp(np.angle(o)) < 1.75


def test_the_marker_of_the_star_is_an_upright_l_in_the_upper_left_corner() -> None:
    phase = np.angle(sample("siemens", (200, 200)))
    marked = [c.max() > 0.5 for c in (phase[:25, :25], phase[:25, -25:], phase[-25:, :25], phase[-25:, -25:])]
    assert marked == [True, False, False, False]
    rows, columns = np.where(phase[:50, :27] > 0.5)
    assert np.ptp(rows) > 1.5 * np.ptp(columns)
    assert columns[rows < rows.mean()].max() < columns.max()  # the foot is at the bottom


def test_edges_of_the_star_are_anti_aliased() -> None:
    """A pixel on an edge takes a part of it.

    With 36 spokes of two edges, r = 92 pixels long and one pixel wide, about 72 r / (pi r^2) = 25 % of the
    disc is neither metal nor empty; without, nothing would be.
    """
    phase = np.angle(sample("siemens", (200, 200)))
    y, x = np.mgrid[:200, :200] - 99.5
    between = (phase > 0.02) & (phase < 0.88)
    assert 0.1 < between[np.hypot(y, x) < 92].mean() < 0.4


def test_gold_balls_shift_the_phase_and_hardly_absorb() -> None:
    o = sample("gold_balls")
    phase, absorption = np.angle(o), -np.log(np.abs(o))
    assert np.corrcoef(phase.ravel(), absorption.ravel())[0, 1] > 0.9
    assert 0.5 < phase.max() < np.pi
    assert absorption.max() < 0.3 * phase.max()


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'cell'; choose one of cells, siemens"):
        sample("cell")
