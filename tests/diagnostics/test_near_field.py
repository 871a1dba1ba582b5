"""Scans in the near field are recognised by frames that move with the positions, whatever the file makes of them."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ptycho.config import NearField, ReadConfig, SimulationConfig
from ptycho.data.beam import ELEMENTARY_CHARGE_C, Beam
from ptycho.data.scan import Scan
from ptycho.diagnostics.checks import examine, require_sound
from ptycho.diagnostics.near_field import find_shadow, in_near_field
from ptycho.formats import ReadOptions, read_scan
from ptycho.formats._near_field import in_near_field as told
from ptycho.physics.propagation import transfer_function
from ptycho.simulation.simulate import simulate
from tests.formats.test_cxi import DETECTOR, cxi_file

N = 64


def shadows(photons: float = 1e6, distance_px: float = 2000.0, wavelength_px: float = 0.01, seed: int = 0) -> Scan:
    """A broad beam over a sample of soft features, on a detector in the near field; the scan says so."""
    rng = np.random.default_rng(seed)
    field = lambda side, width: (lambda f: f / f.std())(gaussian_filter(rng.normal(size=(side, side)), width))
    sample = np.exp(0.4j * (field(160, 4) + field(160, 1.5)))
    k = np.arange(N) - N // 2
    beam = np.exp(-((np.hypot.outer(k, k) / 24) ** 6)) * np.exp(0.3j * field(N, 6))
    beam *= np.sqrt(photons / (np.abs(beam) ** 2).sum())
    positions = np.stack(np.meshgrid(*(np.linspace(60, 96, 8),) * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    positions = np.rint(positions + rng.uniform(-1, 1, positions.shape))
    transfer = transfer_function((N, N), distance_px, wavelength_px, "fresnel")
    corners = positions.astype(int) - N // 2
    waves = np.stack([beam * sample[y : y + N, x : x + N] for y, x in corners])
    counts = rng.poisson(np.abs(np.fft.ifft2(np.fft.fft2(waves) * transfer)) ** 2)
    near = NearField(distance_px=distance_px, wavelength_px=wavelength_px, kind="fresnel")
    return Scan(counts=counts, positions=positions, probe=beam, near_field=near)


@pytest.mark.parametrize("photons", [1e4, 1e6])
@pytest.mark.parametrize("turn", [1.0, -1.0])
def test_frames_that_move_with_the_positions_are_shadows(photons: float, turn: float) -> None:
    """The map is that of the positions to pixels of the detector: 1 here, or -0.5 of positions twice as far apart."""
    scan = replace(shadows(photons), near_field=None)
    scale = 1.0 if turn > 0 else 0.5
    shadow = find_shadow(replace(scan, positions=turn * scan.positions / scale))
    assert shadow is not None and shadow.inverted == (turn < 0)
    # Moves are whole pixels, 0.29 off in the root mean square, over steps of 5 to 15 pixels of 60 pairs.
    np.testing.assert_allclose(shadow.map, turn * scale * np.eye(2), atol=0.03)


def test_patterns_of_the_far_field_are_not(small_scan: Scan, data_folder) -> None:
    assert find_shadow(small_scan) is None
    for name in ("siemens-star-small.npz.bz2", "cryo_rotavirus_A_48x48_bin2.npz", "sim64_test.npz"):
        assert in_near_field(read_scan(data_folder / name)) is None


def test_a_defocused_beam_on_dense_leaves_stays_in_the_far_field() -> None:
    """Its shadow moves too, with two thirds of the pairs: a beam that seems as wide as the window is not enough."""
    config = SimulationConfig(
        N=40, photons=1e6, positions=169, step_px=40 / 12, jitter_px=1.0, object_kind="leaves", probe_modes=3, seed=11
    )
    scan = simulate(config)
    shadow = find_shadow(scan)
    assert shadow is not None and shadow.agreeing < 0.8  # what is refused elsewhere is in the frames
    assert in_near_field(replace(scan, pixel_size_m=20e-9)) is None


def test_a_scan_of_electrons_is_never_taken_for_one() -> None:
    """A defocused electron probe throws a shadow into the far field."""
    scan = replace(shadows(), near_field=None, beam=Beam(energy_eV=3e5, particle="electron"))
    assert find_shadow(scan) is not None and in_near_field(scan) is None


@pytest.mark.parametrize("focus_m", [0.02, -0.02])
def test_what_is_missing_is_asked_for_with_a_proposal_and_then_told(focus_m: float, tmp_path) -> None:
    """A cone of light on a detector 1 m behind the sample, in a CXI file, which says nothing of the near field."""
    right, z2, pixel_m, energy = shadows(), 1.0, 50e-6, 8000.0
    magnification = (focus_m + z2) / focus_m
    side_m = pixel_m / abs(magnification)
    beam = Beam(energy_eV=energy, distance_m=z2)
    positions = np.sign(magnification) * right.positions
    y, x = (positions - positions.mean(axis=0)).T * side_m
    written: dict[str, object] = {
        f"{DETECTOR}/distance": z2,
        f"{DETECTOR}/x_pixel_size": pixel_m,
        f"{DETECTOR}/y_pixel_size": pixel_m,
        "entry_1/instrument_1/source_1/energy": energy * ELEMENTARY_CHARGE_C,
        "entry_1/sample_1/geometry_1/translation": np.stack([x, y, np.zeros_like(x)], axis=1),
    }
    path = cxi_file(tmp_path / "near.cxi", right, **written)
    scan = read_scan(path)
    checks = examine(scan)
    with pytest.raises(ValueError, match="--focus-m") as error:
        require_sound(checks)
    proposed = float(str(error.value).split("about --focus-m ")[1].split()[0])
    assert proposed == pytest.approx(focus_m, rel=0.05)
    near = read_scan(path, options=ReadOptions.of(ReadConfig(focus_m=focus_m)))
    assert near.near_field is not None and near.pixel_size_m == pytest.approx(side_m)
    # z = z2 / M, in pixels on the sample
    assert near.near_field.distance_px == pytest.approx(z2 / magnification / side_m)
    assert near.near_field.wavelength_px == pytest.approx(beam.wavelength_m / side_m)
    off = (near.positions - near.positions.mean(axis=0)) - (right.positions - right.positions.mean(axis=0))
    assert np.abs(off).max() < 1e-6
    assert not any(check.verdict == "fail" for check in examine(near))


def test_parallel_light_is_told_by_its_distance() -> None:
    right = shadows()
    # The far field's object pixel l z / (N d), by which a reader divides positions
    beam, d = Beam(energy_eV=1e4, distance_m=0.5), 1e-6
    far = beam.wavelength_m * 0.5 / (N * d)
    scan = replace(right, near_field=None, beam=beam, pixel_size_m=far, positions=right.positions * d / far)
    near = told(scan, ReadOptions.of(ReadConfig(near_field_m=0.3)))
    assert near.pixel_size_m == pytest.approx(d)
    np.testing.assert_allclose(near.positions, right.positions, rtol=1e-9)
    assert near.near_field.distance_px == pytest.approx(0.3 / d)
    with pytest.raises(ValueError, match="--energy-ev, --distance-m"):
        told(replace(scan, beam=None), ReadOptions.of(ReadConfig(near_field_m=0.3)))
