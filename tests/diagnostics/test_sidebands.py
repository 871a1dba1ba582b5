"""Geometry and focus by the beams that interfere in the bright field of a 4D-STEM scan."""

from dataclasses import replace

import numpy as np
import pytest

from ptycho.data.beam import Beam, aperture_probe
from ptycho.data.scan import Scan
from ptycho.diagnostics.geometry import FLIPS, rotation
from ptycho.diagnostics.orientation import defocused
from ptycho.diagnostics.sidebands import _Bands, _is_opposite, _Lens, find_sidebands
from ptycho.formats import read_scan

KNOWN = ("counts", "scan_step_A", "voltage_kV", "semi_angle_mrad", "detector_pixel_mrad", "defocus_A")


def as_measured(data_folder, folder, name, *, defocus_a=0.0, kept=1.0):
    """A simulated scan as a microscopist has it, with a part of its electrons; and the truth."""
    with np.load(data_folder / f"stem_{name}.npz") as file:
        truth = dict(file)
    known = {key: truth[key] for key in KNOWN} | dict(defocus_A=truth["defocus_A"] + defocus_a)
    known["counts"] = np.random.default_rng(0).binomial(known["counts"], kept).astype("uint16")
    np.savez(folder / "scan.npz", **known)
    return read_scan(folder / "scan.npz"), truth


def turned_off_by(scan, truth, found):
    """Degrees from a map that was found to the true one, and whether it has the true handedness."""
    grid = scan.positions - scan.positions.mean(axis=0)
    true = truth["positions_A"] - truth["positions_A"].mean(axis=0)
    off = np.array(found) @ np.linalg.inv(np.linalg.lstsq(grid, true, rcond=None)[0].T)
    return float(np.rad2deg(np.arctan2(off[1, 0], off[0, 0]))), bool(np.linalg.det(off) > 0)


def defocus_a(scan, defocus_rad):
    """``a = pi wavelength defocus <q^2>``, q in 1/m."""
    mean_square = _Lens(scan.probe[0]).mean_square / (1e10 * scan.pixel_size_m) ** 2
    return defocus_rad / (np.pi * 1e10 * scan.beam.wavelength_m * mean_square)


@pytest.mark.parametrize(("kept", "off_a"), [(1.0, 0.0), (0.01, 100.0), (0.01, -150.0)])
def test_a_thin_crystal_tells_geometry_and_focus_at_a_thousand_electrons_too(data_folder, tmp_path, off_a, kept):
    """Transposed and turned by 15 degrees; the defocus told right, wrong by 100 A, or none. Where it is wrong it is
    found to the depth of field, ``wavelength / semi-angle^2`` = 67 A, over four."""
    scan, truth = as_measured(data_folder, tmp_path, "thin", defocus_a=off_a, kept=kept)
    found = find_sidebands(scan)
    angle, same_hand = turned_off_by(scan, truth, found.map)
    assert same_hand and abs(angle) < 2.0  # LEAST_TURN_DEG
    assert found.skewness > 0
    assert defocus_a(scan, found.defocus_rad) == pytest.approx(-off_a, abs=67 / 4)


def test_a_thick_crystal_tells_them_too(data_folder, tmp_path):
    scan, truth = as_measured(data_folder, tmp_path, "thick", kept=0.01)
    found = find_sidebands(scan)
    angle, same_hand = turned_off_by(scan, truth, found.map)
    assert same_hand and abs(angle) < 2.0
    # In focus is a plane within its 156 A: overfocused by 200 A, it lies before the specimen's end.
    assert -156 - 67 / 4 < defocus_a(scan, found.defocus_rad) < 67 / 4


def test_what_they_found_is_what_they_find_next(data_folder, tmp_path):
    """With map and probe in place nothing is left to do."""
    scan, _ = as_measured(data_folder, tmp_path, "thin", defocus_a=80.0, kept=0.1)
    found = find_sidebands(scan)
    middle = scan.positions.mean(axis=0)
    right = replace(scan, positions=middle + (scan.positions - middle) @ np.array(found.map).T)
    again = find_sidebands(right.with_probe(found.probe, known=False))
    assert again.geometry.wrong is False
    assert abs(again.defocus_rad) < 0.3  # half a step
    assert again.margin >= found.margin  # the angles that are tried go through the true one now


def test_noise_tells_nothing(data_folder, tmp_path):
    scan, _ = as_measured(data_folder, tmp_path, "thin")
    rng = np.random.default_rng(1)
    flat = replace(scan, counts=rng.poisson(np.broadcast_to(scan.mean_pattern, scan.counts.shape)).astype("uint16"))
    assert find_sidebands(flat) is None
    shuffled = replace(scan, positions=rng.permutation(scan.positions))
    assert find_sidebands(shuffled) is None


def test_a_line_and_a_few_frames_tell_nothing(data_folder, tmp_path):
    scan, _ = as_measured(data_folder, tmp_path, "thin")
    assert find_sidebands(scan.subset(slice(0, 36))) is None
    assert find_sidebands(scan.subset(slice(0, 144))) is None  # four rows


@pytest.mark.parametrize(
    "off, opposite, skewness, turned, expected",
    [
        (0.5, -8.0, -2.0, False, False),  # near the focus that was told
        (8.0, -0.5, 2.0, False, True),
        (3.0, -3.0, -2.0, False, True),  # as near: peaks are upwards
        (3.0, -3.0, 2.0, True, False),
        (3.0, -3.0, 0.1, True, True),  # as near, and no skewness: positions are not turned
        (3.0, -3.0, -0.1, False, False),
    ],
)
def test_the_side_of_the_focus(off, opposite, skewness, turned, expected):
    assert _is_opposite(off, opposite, skewness, 0.1, turned=turned) is expected


@pytest.mark.parametrize("kind", ["as they are", "exchanged, y for x"])
def test_templates_are_those_of_the_diffraction(kind):
    """A weak grating under an aberrated aperture: its side bands, by the forward model, are ``i phi W``.

    To first order in phi; the rest is phi squared, 1e-3 of it.
    """
    from ptycho.physics.forward import Diffraction, frame_probes

    N, phi, Q = 32, 1e-3, np.array([3, 5]) / 64
    k = np.stack(np.meshgrid(*(np.fft.fftfreq(N),) * 2, indexing="ij"), axis=-1)
    pupil = (np.hypot(*np.moveaxis(k, -1, 0)) < 0.2).astype(complex)
    centre = np.roll(np.fft.ifft2(pupil), (N // 2,) * 2, (0, 1)) * N
    probe = defocused(centre[None].astype("complex64"), 1.5)
    axes = np.array(FLIPS[kind]) @ rotation(20.0)
    raster = 4.0 * np.stack(np.meshgrid(np.arange(16), np.arange(16), indexing="ij"), axis=-1).reshape(-1, 2)
    lattice = Q @ np.linalg.inv(axes)  # in the axes of the frames
    y, x = np.indices((N, N)) - N // 2
    placed = raster @ axes.T
    waves = [np.exp(1j * phi * np.cos(2 * np.pi * (lattice @ p + lattice[0] * y + lattice[1] * x))) for p in placed]
    probes, _ = frame_probes(probe)
    expected = np.asarray(Diffraction([np.stack(waves).astype("complex64")[None]], probes).expected)[0]
    beam = Beam(energy_eV=8e4, particle="electron")
    scan = Scan(counts=1e6 * expected, positions=raster, probe=1e3 * probe, probe_known=False, beam=beam)
    lens = _Lens(scan.probe[0])
    bands = _Bands.of(scan, lens, 10_000)
    at = int(np.argmin(np.hypot(*(bands.Q - Q).T)))
    bands = bands.at(np.array([at]))
    W = 1j * bands.templates(axes, lens, (0.0, 0.0, 0.0))[0]
    alike = np.abs(np.vdot(W, bands.G[0])) / np.linalg.norm(W) / np.linalg.norm(bands.G[0])
    assert alike == pytest.approx(1, abs=0.02)
    elsewhere = 1j * bands.templates(axes, lens, (-3.0, 0.0, 0.0))[0]
    assert np.abs(np.vdot(elsewhere, bands.G[0])) < 0.9 * np.linalg.norm(elsewhere) * np.linalg.norm(bands.G[0])


LATTICE_PX = 10.65
"""Between the planes of graphene, 2.13 A, in pixels of 0.2 A."""


def crystal_scan(spherical_rad=0.0, defocus_told_a=80.0):
    """Six planes of a weak hexagonal crystal under 60 kV, 32 mrad and a defocus of 80 A, at 1e5 electrons per A^2; d of
    `_Lens.phase` besides. The probe is the guess."""
    N, pixel_a, beam = 96, 0.2, Beam(energy_eV=60e3, particle="electron")
    wavelength_a = 1e10 * beam.wavelength_m
    radius_px = 0.032 / wavelength_a * N * pixel_a
    in_focus_at = lambda a: aperture_probe(N, radius_px, 1e-10 * a, beam.wavelength_m, 1e-10 * pixel_a)
    lens = _Lens(in_focus_at(80.0)[0])
    probe = lens.applied(in_focus_at(80.0), (0.0, 0.0, 0.0, spherical_rad))[0]
    y, x = np.indices((N + 70, N + 70))
    planes = [np.deg2rad(angle) for angle in (8.0, 68.0, 128.0)]
    waves = [np.cos(2 * np.pi * (np.sin(a) * y + np.cos(a) * x) / LATTICE_PX) for a in planes]
    waves += [np.cos(2 * np.pi * np.sqrt(3) * (np.cos(a) * y - np.sin(a) * x) / LATTICE_PX) for a in planes]
    crystal = np.exp(1j * 0.03 * np.sum(waves, axis=0))
    corners = 2 * np.argwhere(np.ones((33, 33)))
    frames = np.stack([np.abs(np.fft.fft2(probe * crystal[a : a + N, b : b + N])) ** 2 for a, b in corners])
    frames *= 1e5 * (2 * pixel_a) ** 2 / frames.sum(axis=(1, 2)).mean()
    counts = np.random.default_rng(5).poisson(np.fft.fftshift(frames, axes=(1, 2))).astype("float32")
    told = in_focus_at(defocus_told_a) * np.sqrt(counts.sum(axis=(1, 2)).mean()).astype("float32")
    scan = Scan(counts=counts, positions=corners + N / 2, probe=told, probe_known=False, beam=beam)
    return replace(scan, pixel_size_m=1e-10 * pixel_a)


def test_a_field_of_few_planes_does_not_bend_the_focus():
    """A plane that is missed by a tenth of what the field tells apart, a sixtieth here, moves the defocus as much: by
    1.3 A. At frequencies beside the reflections it was 4 A off."""
    scan = crystal_scan(defocus_told_a=50.0)
    found = find_sidebands(scan)
    assert defocus_a(scan, found.defocus_rad) == pytest.approx(80.0 - 50.0, abs=1.3)


def test_spherical_aberration_is_found_where_there_is_some():
    """1.5 rad from the middle of the aperture to where it turns back: a sixth of the guess is another wave."""
    scan = crystal_scan(spherical_rad=1.5)
    found = find_sidebands(scan)
    true = _Lens(scan.probe[0]).applied(scan.probe, (0.0, 0.0, 0.0, 1.5))
    alike = lambda probe: abs(np.vdot(probe, true)) / np.linalg.norm(probe) / np.linalg.norm(true)
    assert alike(scan.probe) < 0.9
    # Half a dozen reflections tell its phase to 0.1 rad: what is lost is half its square.
    assert alike(found.probe) > 0.995
