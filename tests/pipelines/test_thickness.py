"""How thick a sample is, found by its frames."""

from dataclasses import replace

import numpy as np
import pytest

from ptycho.config import RefineConfig, RunConfig, SimulationConfig
from ptycho.data.beam import Beam
from ptycho.pipelines.thickness import best_thickness, sliced, with_thickness, with_told_thickness
from ptycho.refinement.refine import refine
from ptycho.simulation.simulate import simulate


@pytest.mark.parametrize("truth", [2.5, 7.0, 15.6, 33.0, 90.0])
def test_the_lowest_point_of_a_valley_is_found(truth):
    """A parabola in the logarithm is met exactly, but for rounding, wherever it lies."""
    asked = []

    def criterion(nm: float) -> float:
        asked.append(nm)
        return 0.05 + 0.01 * np.log(nm / truth) ** 2

    assert best_thickness(criterion) == pytest.approx(truth, rel=1e-6)
    assert len(asked) <= 9


def test_a_valley_that_falls_beyond_all_that_is_tried_ends():
    assert best_thickness(lambda nm: 1 / nm) >= 160 / 2
    assert best_thickness(lambda nm: nm) <= 2.5


@pytest.mark.parametrize("slices", [2, 4, 8])
def test_slices_have_the_depth_of_the_slab(slices):
    """Mean square depth of the planes about their middle: that of a slab, thickness^2 / 12."""
    stack = sliced(16.0, slices, 0.02e-9, 2e-12)
    depths = stack.spacing_px * 0.02 * (np.arange(slices) - (slices - 1) / 2)
    assert np.mean(depths**2) == pytest.approx(16.0**2 / 12)
    assert stack.wavelength_px == pytest.approx(0.1)


@pytest.fixture(scope="module")
def thick():
    """Electrons of 300 kV through 16 nm, as four slices; their cone is 22 mrad wide."""
    beam, pixel_m = Beam(energy_eV=300e3, particle="electron"), 0.15e-10
    stack = sliced(16.0, 4, pixel_m, beam.wavelength_m)
    scan = simulate(SimulationConfig(positions=196, photons=1e6, seed=3, multislice=stack))
    return replace(scan, beam=beam, pixel_size_m=pixel_m, object=None)


CONFIG = RefineConfig(epochs=20)
NOBODY = np.zeros(196, bool)


@pytest.fixture(scope="module")
def thin_fit(thick):
    return refine(thick, CONFIG)


def test_the_thickness_is_found_and_the_fit_sliced(thick, thin_fit):
    fit, config, notes = with_thickness(thick, CONFIG, thin_fit, NOBODY, decided=frozenset({"modes"}))
    assert config.multislice is not None
    found_nm = config.multislice.spacing_px * thick.pixel_size_m * np.sqrt(15) * 1e9
    assert found_nm == pytest.approx(16.0, abs=1.0)  # what is asked of a thickness
    assert f"{found_nm:.1f} nm" in notes[0]
    assert fit.result.slices.shape[0] == 4
    assert len(fit.result.probe) == 1  # the user has decided
    assert fit.criterion < 0.5 * thin_fit.criterion
    # The probe is known, and stays: the slices together transmit what was counted of its photons. With half of the
    # light in the probe they would transmit the double.
    inside = fit.result.coverage > 0.5 * fit.result.coverage.max()
    transmitted = np.mean(np.abs(fit.result.object[inside]) ** 2)
    assert transmitted == pytest.approx(thick.mean_counts / thick.photons, rel=0.2)


def test_what_does_not_ask_for_slices_comes_back(thick, thin_fit):
    """Light, a thickness that the user has set, and a fit near the noise: nothing is tried."""
    light = replace(thick, beam=Beam(energy_eV=8000.0))
    assert with_thickness(light, CONFIG, thin_fit, NOBODY) == (thin_fit, CONFIG, ())
    assert with_thickness(thick, CONFIG, thin_fit, NOBODY, decided=frozenset({"multislice"})).notes == ()
    assert with_thickness(thick, CONFIG, thin_fit, NOBODY, far_from_noise=1e3).notes == ()


def test_a_thickness_that_is_told_is_fitted_as_slices(thick):
    scan, run, modes = with_told_thickness(thick, RunConfig(), 16.0, 8, None)
    stack = run.make(RefineConfig).multislice
    assert stack == sliced(16.0, 8, thick.pixel_size_m, thick.beam.wavelength_m)
    assert (modes, scan.modes, scan.probe_known) == (3, 3, False)
    scan, _, modes = with_told_thickness(thick, RunConfig(), 16.0, 8, 1)
    assert modes == 1 and scan is thick
    with pytest.raises(ValueError, match="leave one out"):
        with_told_thickness(thick, run, 16.0, 8, None)
    with pytest.raises(ValueError, match="--voltage-kv"):
        with_told_thickness(replace(thick, pixel_size_m=None), RunConfig(), 16.0, 8, None)
