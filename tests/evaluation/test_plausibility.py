"""Warnings by name: results that cannot be right, beside healthy ones."""

import numpy as np
import pytest

from ptycho.evaluation import transmitted_fraction, warnings_about


def image(contrast: float, ramp: float = 0.0, seed: int = 0):
    """(object, coverage, probe): a complex object of this rms contrast where light is; 100 photons on the brightest
    probe pixel, coverage 4 inside. Shot noise alone: sqrt(1 / (2 * 400)) = 0.035."""
    rng = np.random.default_rng(seed)
    coverage = np.zeros((80, 90), "float32")
    coverage[10:70, 10:80] = 4.0
    noise = contrast * np.sqrt(0.5) * (rng.normal(size=(2, 80, 90)) * np.array([1, 1j])[:, None, None]).sum(axis=0)
    wave = (0.8 + noise) * np.exp(1j * ramp * np.arange(90))
    return np.where(coverage > 0, wave, 0), coverage, np.full((1, 8, 8), 10.0 + 0j)


@pytest.mark.parametrize("ramp", [0.0, 0.2])
def test_a_flat_object_is_named_with_numbers(ramp):
    (warning,) = warnings_about(*image(0.01, ramp))
    assert "flat" in warning
    assert "0.01 (rms)" in warning
    assert "0.035" in warning


@pytest.mark.parametrize("ramp", [0.0, 0.2])
def test_a_healthy_object_gives_no_warning(ramp):
    assert warnings_about(*image(0.1, ramp)) == []


def test_a_dark_object_is_named_with_its_share():
    """4200 lit pixels of 400 photons let 0.8^2 + 0.1^2 of them through."""
    object, coverage, probe = image(0.1)
    passed = 4200 * 400 * 0.65
    assert transmitted_fraction(object, coverage, probe, passed) == pytest.approx(1, rel=0.01)
    assert warnings_about(object, coverage, probe, counts=passed) == []
    (warning,) = warnings_about(object, coverage, probe, counts=100 * passed)
    assert "dark: it lets 1 % of the photons through" in warning
    assert transmitted_fraction(object, coverage, probe, 0.0) == np.inf


def test_dead_output_is_flat():
    _, coverage, probe = image(0.1)
    assert "flat" in warnings_about(np.zeros(coverage.shape, complex), coverage, probe)[0]
    with pytest.raises(ValueError, match="no light"):
        warnings_about(coverage + 0j, 0 * coverage, probe)


def test_true_objects_are_healthy(small_scan):
    coverage = np.ones(small_scan.object.shape, "float32")
    assert warnings_about(small_scan.object, coverage, small_scan.probe) == []


def test_saturated_outputs_are_named_with_their_share():
    """8 x 8 patches all lit: 5 of the 100 at the bound of the phase, 10 at that of the amplitude."""
    rng = np.random.default_rng(1)
    amplitude, phase = rng.uniform(0.2, 0.9, (100, 8, 8)), rng.uniform(-2, 2, (100, 8, 8))
    healthy = amplitude * np.exp(1j * phase)
    assert warnings_about(*image(0.1), patches=healthy, amplitude_bound=1.0) == []
    phase[:5], amplitude[-10:] = 0.995 * np.pi, 0.995
    at_bounds = amplitude * np.exp(1j * phase)
    first, second = warnings_about(*image(0.1), patches=at_bounds, amplitude_bound=1.0)
    assert "phase is within 1 % of +-pi in 5 % of pixels" in first
    assert "bound 1 in 10 % of pixels" in second
    assert len(warnings_about(*image(0.1), patches=at_bounds)) == 1  # without a bound there is none to be at
