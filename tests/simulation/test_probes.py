"""Probes: photons, modes, size and shape."""

import os
from pathlib import Path

import numpy as np
import pytest

from ptycho.simulation.probes import make_probe, orthogonal_modes, probe_diameter, with_modes

EPS = float(np.finfo(np.float32).eps)


def far(wave: np.ndarray) -> np.ndarray:
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(wave), norm="ortho"))


@pytest.mark.parametrize(("n", "modes"), [(64, 1), (33, 3), (48, 10), (16, 2)])
def test_photons_are_exact_and_halve_from_mode_to_mode(n: int, modes: int) -> None:
    """Rounding each of the parts to float32 changes a square by EPS at most, and so the sum."""
    probe = make_probe(n, 12345.0, modes=modes)
    power = (np.abs(probe.astype(np.complex128)) ** 2).sum(axis=(1, 2))
    assert probe.shape == (modes, n, n)
    assert probe.dtype == np.complex64
    np.testing.assert_allclose(power.sum(), 12345.0, rtol=EPS)
    np.testing.assert_allclose(power[1:], power[:-1] / 2, rtol=2 * EPS)


@pytest.mark.parametrize("n", [64, 33])
def test_modes_are_orthogonal(n: int) -> None:
    """Rounding to float32 leaves inner products within EPS / 2 of the norms."""
    flat = make_probe(n, modes=8).reshape(8, -1).astype(np.complex128)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    np.testing.assert_allclose(flat @ flat.conj().T, np.eye(8), atol=EPS)


def test_the_first_mode_is_the_main_one() -> None:
    rng = np.random.default_rng(0)
    main = rng.normal(size=(20, 20)) + 1j * rng.normal(size=(20, 20))
    first = orthogonal_modes(main, 4)[0]
    np.testing.assert_allclose(first, main / np.linalg.norm(main), atol=1e-13)


def test_more_modes_leave_the_shape_of_the_first_alone() -> None:
    one, three = make_probe(40, 7e4), make_probe(40, 7e4, modes=3)
    np.testing.assert_allclose(three[0] * np.sqrt(7 / 4), one[0], atol=8 * EPS * np.abs(one).max())


@pytest.mark.parametrize(
    ("n", "diameter", "defocus"),
    [(64, 0.55, None), (65, 0.4, 1.0), (128, 0.5, 2.0), (96, 0.6, -2.0), (300, 0.5, 12.0)],
)
def test_the_diameter_is_the_one_asked_for(n: int, diameter: float, defocus: float | None) -> None:
    """To 3 %: the frame cuts off what the soft edge diffracts beyond it."""
    assert probe_diameter(make_probe(n, 1.0, diameter, defocus)[0]) == pytest.approx(diameter * n, rel=0.03)


def test_the_diameter_of_a_uniform_disc_is_its_diameter() -> None:
    y, x = np.mgrid[:101, :120]
    disc = np.hypot(y - 47, x - 60) < 30
    assert probe_diameter(disc) == pytest.approx(60, rel=0.01)


@pytest.mark.parametrize("n", [64, 63])
def test_the_probe_is_centred_on_the_middle_pixel(n: int) -> None:
    light = np.abs(make_probe(n)[0]) ** 2
    centre = [np.sum(light.sum(axis=1 - a) * np.arange(n)) / light.sum() for a in (0, 1)]
    np.testing.assert_allclose(centre, n // 2, atol=0.01 * n)


def test_positive_defocus_curves_the_phase_upwards_and_spreads_the_far_field() -> None:
    """Twice the waves at the same diameter take twice the aperture, where diffraction does not matter."""
    for sign in (1, -1):
        wave = make_probe(128, 1.0, 0.5, sign * 2.0, astigmatism=0, coma=0)[0]
        phase = np.unwrap(np.angle(wave[64, 64:80]))
        assert sign * (phase[-1] - phase[0]) == pytest.approx(2 * np.pi * 2 * (15 / 32) ** 2, rel=0.25)
    two, four = (probe_diameter(far(make_probe(128, 1.0, 0.5, d)[0])) for d in (2.0, 4.0))
    assert four / two == pytest.approx(2, rel=0.05)


def test_axes_and_directions_differ() -> None:
    amplitude = np.abs(make_probe(65, 1.0)[0])
    for other in (amplitude.T, amplitude[:, ::-1]):
        assert np.abs(other - amplitude).max() > 0.2 * amplitude.max()


def test_a_far_field_beyond_the_detector_is_refused() -> None:
    with pytest.raises(ValueError, match="beyond the detector: lower the defocus"):
        make_probe(64, 1.0, 0.5, 5.0)


@pytest.mark.skipif("PTYCHO_DATA" not in os.environ, reason="PTYCHO_DATA names the folder of sim64_train.npz")
def test_the_default_probe_is_like_the_one_of_the_benchmark() -> None:
    with np.load(Path(os.environ["PTYCHO_DATA"]) / "sim64_train.npz") as data:
        benchmark = data["probe"][0]
    ours = make_probe(64)[0]
    assert probe_diameter(ours) == pytest.approx(probe_diameter(benchmark), rel=0.1)
    assert probe_diameter(far(ours)) == pytest.approx(probe_diameter(far(benchmark)), rel=0.1)


def test_added_modes_take_a_little_of_the_light_and_leave_the_first_as_it_is() -> None:
    """Rounding to float32 changes a square by EPS at most."""
    first = make_probe(33, 5000.0)
    more = with_modes(first, 3).astype(np.complex128)
    power = (np.abs(more) ** 2).sum(axis=(1, 2))
    np.testing.assert_allclose(power.sum(), 5000.0, rtol=2 * EPS)
    np.testing.assert_allclose(power[1:] / power.sum(), 0.02, rtol=4 * EPS)
    ratio = more[0] / first[0]
    np.testing.assert_allclose(ratio, np.sqrt(0.96), rtol=8 * EPS)


def test_modes_are_not_taken_away() -> None:
    with pytest.raises(ValueError, match="has 3"):
        with_modes(make_probe(32, modes=3), 2)
