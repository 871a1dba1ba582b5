"""The lattice of a crystal: its cell and errors against the truth, what is no crystal, and the pixel size."""

import numpy as np
import pytest
from scipy.stats import binom

from ptycho.config import ReadConfig, lattice_constants
from ptycho.evaluation.crystal import Cell, Crystal, fit_crystal, reduced, scanned_pixels
from ptycho.evaluation.measured import Measured
from ptycho.simulation.objects import make_object

PIXEL_A = 0.15
SQUARE, HEXAGONAL = Cell(3.905, 3.905, 90.0), Cell(3.16, 3.16, 120.0)
ATOMS = {SQUARE: ((0.0, 0.0, 1.0), (0.5, 0.5, 0.5)), HEXAGONAL: ((0.0, 0.0, 1.0), (1 / 3, 2 / 3, 0.5))}


def vectors_of(cell: Cell) -> np.ndarray:
    """Columns, in A."""
    gamma = np.deg2rad(cell.gamma_deg)
    return np.array([[cell.a, cell.b * np.cos(gamma)], [0.0, cell.b * np.sin(gamma)]])


def image_of(cell: Cell, distortion: np.ndarray, noise: float, seed: int, side: int = 180) -> tuple:
    """A crystal turned by some angle and distorted, with a ramp of the phase, and its vectors in pixels (columns)."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi)
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    vectors = distortion @ turned @ vectors_of(cell) / PIXEL_A
    y, x = np.mgrid[:side, :side].astype(float)
    places, phase = np.stack([y, x], axis=-1), np.zeros((side, side))
    for u, v, height in ATOMS[cell]:
        offset = places @ np.linalg.inv(vectors).T - [u, v]
        apart = (offset - np.rint(offset)) @ vectors.T
        phase += height * np.exp(-(apart**2).sum(axis=-1) / (2 * 2.5**2))
    return np.exp(1j * (phase + noise * rng.standard_normal(phase.shape) + 0.01 * y)), vectors


def everywhere(image: np.ndarray) -> np.ndarray:
    return np.ones(image.shape, bool)


def truth_of(vectors: np.ndarray, cell: Cell) -> dict[str, float]:
    a, b = reduced(vectors.T) * PIXEL_A
    scales = np.linalg.svd(vectors @ np.linalg.inv(vectors_of(cell)))[1]
    gamma = np.rad2deg(np.arccos(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)))
    sides = np.linalg.norm(a), np.linalg.norm(b)
    return dict(
        a=sides[0],
        b=sides[1],
        gamma_deg=gamma,
        pixel_size_a=1 / scales.mean(),
        distortion=np.ptp(scales) / scales.min(),
    )


def test_errors_hold() -> None:
    """Of 16 distorted crystals the cell is found to 0.1 %, and 95 % of the values lie within 2 errors.

    Noise s in each of n x n pixels leaves a displacement of s / sqrt(pi / 2 sum_atoms h^2), and n / sqrt(12) of that of
    its gradient: 3e-4 here.
    """
    rng = np.random.default_rng(0)
    within = []
    for seed in range(16):
        cell = (SQUARE, HEXAGONAL)[seed % 2]
        distortion = np.eye(2) + rng.normal(0, 0.01, (2, 2))
        image, vectors = image_of(cell, distortion, 0.15, seed)
        crystal = fit_crystal(image, everywhere(image), PIXEL_A, cell)
        assert crystal is not None
        for name, value in truth_of(vectors, cell).items():
            measured = getattr(crystal, name)
            within.append(abs(measured.value - value) < 2 * measured.error)
        assert crystal.a.error < 1e-3 * crystal.a.value
    # Three of the five are independent. Errors themselves are known from 16 to 25 blocks: t instead of a normal
    # distribution, 0.94 for 0.95.
    least = binom.ppf(0.001, 48, 0.94) / 48
    assert np.mean(within) > least


@pytest.mark.parametrize("kind", ["cells", "lines", "weave", "noise"])
def test_no_lattice_where_there_is_none(kind: str) -> None:
    rng = np.random.default_rng(0)
    shape = (200, 200)
    image = np.exp(1j * rng.standard_normal(shape)) if kind == "noise" else make_object(kind, shape, rng)
    assert fit_crystal(image, everywhere(image), PIXEL_A) is None


def test_the_period_of_the_scan_is_not_the_sample_s() -> None:
    image, vectors = image_of(SQUARE, np.eye(2), 0.1, seed=3)
    steps = np.stack(np.meshgrid(np.arange(-8, 8), np.arange(-8, 8)), axis=-1).reshape(-1, 2)
    assert fit_crystal(image, everywhere(image)) is not None
    assert fit_crystal(image, everywhere(image), raster=90 + steps @ vectors.T) is None


def test_a_pixel_size_that_is_told_wrong_is_found() -> None:
    image, _ = image_of(SQUARE, np.eye(2), 0.1, seed=5)
    crystal = fit_crystal(image, everywhere(image), 1.03 * PIXEL_A, Cell(3.905))
    assert crystal is not None and crystal.pixel_size_a is not None and crystal.off is not None
    assert abs(crystal.pixel_size_a.value - PIXEL_A) < 4 * crystal.pixel_size_a.error < 2e-3 * PIXEL_A
    assert crystal.off.value == pytest.approx(1 / 1.03 - 1, abs=1e-3)
    assert "% off what was told" in crystal.sentence() and "agrees" not in crystal.sentence()


def test_columns_that_look_alike_make_no_smaller_cell() -> None:
    """Both kinds of columns alike: the image repeats along the diagonal of half a cell."""
    ATOMS[SQUARE], before = ((0.0, 0.0, 1.0), (0.5, 0.5, 1.0)), ATOMS[SQUARE]
    try:
        image, _ = image_of(SQUARE, np.eye(2), 0.1, seed=7)
    finally:
        ATOMS[SQUARE] = before
    alone = fit_crystal(image, everywhere(image), PIXEL_A)
    told = fit_crystal(image, everywhere(image), PIXEL_A, Cell(3.905))
    assert alone is not None and alone.a.value == pytest.approx(3.905 / np.sqrt(2), rel=2e-3)
    assert told is not None and told.a.value == pytest.approx(3.905, rel=2e-3)


def test_without_a_pixel_size_it_is_in_pixels() -> None:
    image, _ = image_of(HEXAGONAL, np.eye(2), 0.1, seed=9)
    crystal = fit_crystal(image, everywhere(image))
    assert isinstance(crystal, Crystal) and crystal.unit == "px"
    assert crystal.a.value == pytest.approx(3.16 / PIXEL_A, rel=2e-3)
    assert "px" in crystal.sentence() and crystal.to_dict()["a"]["value"] == crystal.a.value


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("3.905", (3.905,)), ("3.16, 3.16, 120", (3.16, 3.16, 120.0)), ("3 4 180", ()), ("a", ()), ("-1", ())],
)
def test_how_a_lattice_is_told(text: str, numbers: tuple[float, ...]) -> None:
    assert lattice_constants(text) == numbers
    if numbers:
        assert ReadConfig(lattice=text).lattice == text
    else:
        with pytest.raises(ValueError, match="lattice"):
            ReadConfig(lattice=text)


def test_one_constant_is_that_of_a_square_though_the_image_is_stretched() -> None:
    image, vectors = image_of(SQUARE, np.diag([1.05, 1.0]), 0.1, seed=11)
    crystal = fit_crystal(image, everywhere(image), PIXEL_A, Cell(3.905))
    assert crystal is not None and crystal.pixel_size_a is not None and crystal.distortion is not None
    expected = truth_of(vectors, SQUARE)
    assert crystal.pixel_size_a.value == pytest.approx(expected["pixel_size_a"], rel=2e-3)
    assert crystal.distortion.value == pytest.approx(0.05, abs=3e-3)


def test_what_lies_between_the_positions() -> None:
    triangle = np.array([[2.0, 2.0], [2.0, 12.0], [12.0, 2.0]])
    inside = scanned_pixels(triangle, (20, 20))
    y, x = np.indices((20, 20))
    np.testing.assert_array_equal(inside, (y >= 2) & (x >= 2) & (y + x <= 14))
    assert not scanned_pixels(np.c_[np.arange(5.0), np.arange(5.0)], (9, 9)).any()
    assert fit_crystal(np.ones((9, 9), "complex64"), np.zeros((9, 9), bool)) is None


def test_numbers_have_the_digits_that_their_errors_leave():
    assert Measured(3.90512, 0.0042).rounded("A") == "3.905 +- 0.004 A"
    assert Measured(-0.0003, 0.02).rounded() == "0.00 +- 0.02"
    assert Measured(942.0, 81.0).rounded("px") == "940 +- 80 px"
