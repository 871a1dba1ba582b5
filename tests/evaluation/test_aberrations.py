"""The lens of a microscope, by the probe that was found."""

import numpy as np
import pytest

from ptycho.data.beam import Beam, aperture_probe
from ptycho.evaluation.aberrations import HAIDER, Aberration, Lens, fit_lens

N, PIXEL_M = 128, 0.2e-10
WAVELENGTH_M = Beam(energy_eV=80e3, particle="electron").wavelength_m


def probe_of(semiangle_mrad: float, *coefficients: tuple[int, int, float, float]) -> np.ndarray:
    """``F^-1[A exp(-i chi)]`` of coefficients (n, m, A, degrees), written down once more."""
    k = np.fft.fftfreq(N, PIXEL_M) * WAVELENGTH_M
    alpha, phi = np.hypot(k[:, None], k), np.arctan2(k, k[:, None])
    chi = sum(
        2 * np.pi / (WAVELENGTH_M * 1e10) * c * alpha ** (n + 1) / (n + 1) * np.cos(m * (phi - np.deg2rad(degrees)))
        for n, m, c, degrees in coefficients
    )
    return np.fft.fftshift(np.fft.ifft2((alpha < semiangle_mrad * 1e-3) * np.exp(-1j * chi)))


LENS = ((1, 0, -150.0, 0.0), (1, 2, 15.0, 61.0), (2, 1, 400.0, 200.0), (2, 3, 300.0, 50.0), (3, 0, 2e4, 0.0))


def found(lens: Lens) -> dict:
    return {(each.n, each.m): each for each in lens.aberrations}


def test_coefficients_are_found_with_their_angles():
    """Of a probe in its own notation, to the rounding of complex64: phases of a turn to 1e-4 of it."""
    lens = fit_lens(probe_of(25.0, *LENS).astype("complex64"), PIXEL_M, WAVELENGTH_M)
    by_order = found(lens)
    for n, m, value, degrees in LENS:
        assert by_order[n, m].value_a == pytest.approx(value, rel=1e-3)
        assert by_order[n, m].angle_deg == pytest.approx(degrees, abs=0.1)
    assert by_order[3, 4].value_a < 20  # nothing is there
    assert lens.unexplained_rad < 1e-3
    # A pixel is 1.6 mrad: the area of the aperture tells the radius to a tenth of it.
    assert lens.semiangle_mrad == pytest.approx(25.0, abs=0.2)


def test_the_notation_is_that_of_probes_from_optics():
    probe = aperture_probe(N, 15.0, 150e-10, WAVELENGTH_M, PIXEL_M)
    by_order = found(fit_lens(probe[0], PIXEL_M, WAVELENGTH_M))
    assert by_order[1, 0].value_a == pytest.approx(-150, rel=1e-3)
    assert by_order[1, 2].value_a < 0.1


def test_errors_cover_the_truth():
    """Of twenty probes with noise in the phase: each coefficient within three of its standard errors, but for five of
    the hundred; Gauss would leave 0.3."""
    rng = np.random.default_rng(0)
    truth = {(n, m): value for n, m, value, _ in LENS}
    misses = 0
    for _ in range(20):
        spectrum = np.fft.fft2(np.fft.ifftshift(probe_of(25.0, *LENS)))
        noisy = spectrum * np.exp(0.05j * rng.standard_normal(spectrum.shape))
        for key, each in found(fit_lens(np.fft.fftshift(np.fft.ifft2(noisy)), PIXEL_M, WAVELENGTH_M)).items():
            if key in truth:  # of those that are not there the magnitude is never below 0
                misses += abs(each.value_a - truth[key]) > 3 * each.error_a
    assert misses <= 5


def test_a_shifted_probe_has_the_same_lens():
    probe = probe_of(25.0, *LENS)
    moved = np.roll(probe, (3, -2), (0, 1))
    here, there = (found(fit_lens(each, PIXEL_M, WAVELENGTH_M)) for each in (probe, moved))
    for key in HAIDER:
        assert there[key].value_a == pytest.approx(here[key].value_a, abs=1e-3 * abs(here[key].value_a) + 0.5)


def test_without_an_aperture_there_is_no_lens():
    narrow = np.zeros((N, N), complex)
    narrow[N // 2, N // 2] = 1  # its far field fills the detector
    assert fit_lens(narrow, PIXEL_M, WAVELENGTH_M) is None


def test_what_is_told_of_it():
    lens = fit_lens(probe_of(25.0, *LENS), PIXEL_M, WAVELENGTH_M)
    assert lens.sentence().startswith("lens: semi-angle 2")
    assert "defocus 150" in lens.sentence()
    record = found(lens)[2, 1].to_dict()
    assert record["name"] == "C21"
    assert record["haider"]["name"] == "B2"
    assert record["haider"]["value_a"] == pytest.approx(record["value_a"] / 3)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (145.07, 1.3, "145 +- 1 A"),
        (16.44, 0.04, "16.44 +- 0.04 A"),
        (12829.9, 3564.0, "1.3 +- 0.4 um"),
        (942, 81, "940 +- 80 A"),
    ],
)
def test_digits_are_those_that_the_error_leaves(value, error, text):
    assert Aberration(1, 2, value, error, 0.0).rounded() == text
