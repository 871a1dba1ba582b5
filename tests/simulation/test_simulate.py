"""Simulated scans: a brute-force reference, photon statistics, conventions of data made by others."""

import os
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ptycho.simulation.simulate as module
from ptycho.config import Multislice, NearField, SimulationConfig
from ptycho.physics.propagation import transfer_function
from ptycho.simulation.simulate import expected_batches, poisson_counts, simulate
from tests.physics import oracle

EPS = float(np.finfo(np.float32).eps)
SMALL = SimulationConfig(N=24, positions=30, step_px=5.0, photons=3e4, seed=4)
needs_data = pytest.mark.skipif(
    "PTYCHO_DATA" not in os.environ, reason="PTYCHO_DATA names the folder of the benchmark files"
)


def reference(
    object: np.ndarray, probe: np.ndarray, positions: np.ndarray, transfer: np.ndarray | None = None
) -> np.ndarray:
    """The forward model again, in plain numpy and double precision, pixel by pixel where it matters."""
    n = probe.shape[-1]
    ky, kx = np.fft.fftfreq(n)[:, None], np.fft.fftfreq(n)[None, :]
    frames = []
    for y, x in positions:
        iy, ix = int(np.floor(y + 0.5)), int(np.floor(x + 0.5))
        patch = np.array([[object[iy - n // 2 + j, ix - n // 2 + i] for i in range(n)] for j in range(n)])
        ramp = np.exp(-2j * np.pi * (ky * (y - iy) + kx * (x - ix)))
        moved = np.fft.ifft2(np.fft.fft2(probe.astype(complex)) * ramp)
        waves = np.fft.fft2(moved * patch)
        far = np.fft.fftshift(waves, axes=(1, 2)) / n
        near = None if transfer is None else np.fft.ifft2(transfer * ramp.conj() * waves)
        frames.append((np.abs(far if near is None else near) ** 2).sum(axis=0))
    return np.array(frames)


def complex_normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def frames_of(object: np.ndarray, probe: np.ndarray, positions: np.ndarray, batch: int | None = None) -> np.ndarray:
    return np.concatenate(list(expected_batches(object, probe, positions, batch)))


@pytest.mark.parametrize("n", [16, 17])
@pytest.mark.parametrize("modes", [1, 3])
@pytest.mark.parametrize("sub_pixel", [True, False])
def test_frames_agree_with_brute_force(n: int, modes: int, sub_pixel: bool) -> None:
    """Generic complex probe and object, a field that is not square, positions down to the half pixel.

    The amplitude of a pixel carries a few roundings of the root mean square amplitude for each of the three
    transforms, of log2(n^2) = 8 passes, and a few for the ramp: 32 EPS of the brightest amplitude, twice
    that in intensity.
    """
    rng = np.random.default_rng(n + modes)
    object, probe = complex_normal(rng, 50, 71), complex_normal(rng, modes, n, n)
    positions = rng.uniform((10, 10), (39, 60), (7, 2))
    positions[:2] = [[20.5, 30.5], [21.25, 33.75]]
    positions = positions if sub_pixel else np.floor(positions)
    expected = reference(object, probe, positions)
    np.testing.assert_allclose(frames_of(object, probe, positions), expected, atol=64 * EPS * expected.max(), rtol=0)


def test_a_near_detector_does_not_move_with_the_sample() -> None:
    """Where the object moves by fractions of a pixel under a probe that stays, by Fourier shifts of the whole canvas.

    Probe and object are so smooth (0.053 and 0.06 cycles a pixel) that their product aliases by exp(-40), and the probe
    is 1e-6 of its maximum at the border: what is left is float32, as above.
    """
    y, x = np.mgrid[:32, :32] - 16
    probe = (100 * np.exp(-(y**2 + x**2) / 18 + 0.01j * (y**2 - x * y))).astype("complex64")[None]
    f = np.fft.fftfreq(80)
    smooth = np.exp(-np.add.outer(f**2, f**2) / (2 * 0.06**2))
    spectrum = np.fft.fft2(1 + complex_normal(np.random.default_rng(1), 80, 80)) * smooth
    positions = np.random.default_rng(2).uniform(20, 56, (6, 2))
    near = NearField(distance_px=12.0, wavelength_px=0.5)
    scan = simulate(SimulationConfig(N=32, noise=False, near_field=near), np.fft.ifft2(spectrum), probe, positions)
    for counts, position in zip(scan.counts, positions, strict=True):
        moved = np.fft.ifft2(spectrum * np.exp(2j * np.pi * np.add.outer(f * position[0], f * position[1])))
        patch = np.roll(moved, (16, 16), (0, 1))[:32, :32]  # the position is at pixel (0, 0)
        expected = np.abs(np.fft.ifft2(scan.transfer * np.fft.fft2(probe[0] * patch))) ** 2
        np.testing.assert_allclose(counts, expected, atol=96 * EPS * expected.max(), rtol=0)


@pytest.mark.parametrize("kind", ["fresnel", "angular-spectrum"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_near_field_is_the_formula_and_the_scan_carries_it(kind: Any, whole: bool) -> None:
    """As above, with one transform more."""
    near = NearField(distance_px=30.0, wavelength_px=0.5, kind=kind)
    config = replace(SMALL, near_field=near, noise=False, probe_modes=2, integer_positions=whole)
    scan = simulate(config)
    assert scan.near_field == near
    transfer = transfer_function((24, 24), 30.0, 0.5, kind)
    np.testing.assert_array_equal(scan.transfer, transfer)
    expected = reference(scan.object, scan.probe, scan.positions, transfer)
    np.testing.assert_allclose(scan.counts, expected, atol=96 * EPS * expected.max(), rtol=0)
    far = simulate(replace(config, near_field=None))
    np.testing.assert_array_equal(scan.positions, far.positions)
    np.testing.assert_allclose(scan.frame_counts, far.frame_counts, rtol=64 * EPS)


def test_a_near_field_that_the_frames_cannot_hold_is_said() -> None:
    with pytest.warns(UserWarning, match="undersampled"):
        simulate(replace(SMALL, near_field=NearField(distance_px=60.0, wavelength_px=0.5)))


def test_moving_object_and_position_together_changes_nothing() -> None:
    """A position between pixels means the probe is *there*: shown with a smooth object known between pixels.

    The probe, a Gaussian of 3 px in 32 px, is 1e-6 of its peak at the frame's edge and at the Nyquist
    frequency, so shifting it is exact to that.
    """
    y, x = np.mgrid[:60, :70].astype(float)
    u = np.arange(32) - 16.0
    probe = 100 * np.exp(-(u[:, None] ** 2 + u**2) / 18 + 0.3j * u[:, None] - 0.2j * u)[None]

    def frame(dy: float, dx: float) -> np.ndarray:
        blob = np.exp(-((y - 27 - dy) ** 2 / 30 + (x - 37 - dx) ** 2 / 60))
        return frames_of(np.exp((0.9j - 0.4) * blob), probe, np.array([[29 + dy, 35 + dx], [25 + dy, 36 + dx]]))

    still = frame(0, 0)
    for dy, dx in [(0.3, -0.2), (-0.5, 0.5), (2.75, -1.4)]:
        np.testing.assert_allclose(frame(dy, dx), still, atol=1e-5 * still.max(), rtol=0)
    assert np.abs(frame(0.3, 0) - still).max() < 1e-5 * still.max() < np.abs(still[0] - still[1]).max()


def test_photons_are_conserved() -> None:
    """What reaches the detector is what passes the object: ``sum |P O|^2`` at whole positions."""
    rng = np.random.default_rng(2)
    object, probe = complex_normal(rng, 40, 55), complex_normal(rng, 2, 15, 15)
    positions = rng.integers((7, 7), (32, 47), (9, 2)).astype(float)
    passed = [
        (np.abs(probe.astype(complex) * object[y - 7 : y + 8, x - 7 : x + 8]) ** 2).sum()
        for y, x in positions.astype(int)
    ]
    totals = frames_of(object, probe, positions).sum(axis=(1, 2), dtype=float)
    np.testing.assert_allclose(totals, passed, rtol=16 * EPS)


def test_an_empty_sample_passes_all_photons() -> None:
    scan = simulate(replace(SMALL, noise=False), object=np.ones((60, 70)))
    np.testing.assert_allclose(scan.counts.sum(axis=(1, 2), dtype=float), SMALL.photons, rtol=16 * EPS)


def test_a_hole_is_seen_at_its_own_y_and_x() -> None:
    """An opaque sheet with one hole: the brightest frame is the one whose position is nearest to the hole."""
    object = np.zeros((48, 80))
    object[17:20, 55:58] = 1
    u = np.arange(16) - 8.0
    probe = np.exp(-(u[:, None] ** 2 + u**2) / 8)[None]
    positions = np.stack(np.meshgrid(np.arange(8.0, 40, 3), np.arange(8.0, 72, 3), indexing="ij"), -1).reshape(-1, 2)
    brightest = np.argmax(frames_of(object, probe, positions).sum(axis=(1, 2)))
    assert brightest == np.argmin(np.linalg.norm(positions - (18, 56), axis=1))


def test_batches_do_not_change_the_frames() -> None:
    rng = np.random.default_rng(3)
    object, probe = complex_normal(rng, 50, 60), complex_normal(rng, 2, 16, 16)
    positions = rng.uniform((9, 9), (40, 50), (11, 2))
    parts = list(expected_batches(object, probe, positions, batch=4))
    assert [len(p) for p in parts] == [4, 4, 3]
    whole = frames_of(object, probe, positions, 11)
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=64 * EPS * whole.max(), rtol=0)


def test_counts_are_poisson_around_the_expected_ones() -> None:
    """Sums over pixels of ``n - e`` and ``(n - e)^2 / e - 1`` have variance ``sum e`` and ``sum 2 + 1/e``."""
    scan = simulate(SMALL)
    e = reference(scan.object, scan.probe, scan.positions)
    n = scan.counts.astype(float)
    assert abs((n - e).sum()) < 5 * np.sqrt(e.sum())
    bright = e > 1
    chi = ((n - e) ** 2 / e - 1)[bright]
    assert bright.sum() > 3000
    assert abs(chi.sum()) < 5 * np.sqrt((2 + 1 / e[bright]).sum())


def test_another_dose_sees_the_same_object_at_the_same_positions() -> None:
    one = simulate(replace(SMALL, noise=False))
    ten = simulate(replace(SMALL, noise=False, photons=10 * SMALL.photons))
    np.testing.assert_array_equal(one.object, ten.object)
    np.testing.assert_array_equal(one.positions, ten.positions)
    np.testing.assert_allclose(ten.counts, 10 * one.counts, atol=64 * EPS * ten.counts.max(), rtol=0)


def test_another_object_sees_the_same_positions() -> None:
    np.testing.assert_array_equal(simulate(SMALL).positions, simulate(replace(SMALL, object_kind="lines")).positions)


def test_the_seed_decides_everything() -> None:
    first, again, other = simulate(SMALL), simulate(SMALL), simulate(replace(SMALL, seed=5))
    for name in ("counts", "positions", "probe", "object"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert (first.counts != other.counts).any()
    assert (first.positions != other.positions).all(axis=1).any()
    assert first.object.shape != other.object.shape or (first.object != other.object).any()


def test_object_positions_and_noise_have_generators_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """One seed for all three would tie the noise to the place of the cells."""
    states = []

    def noting(name: str) -> None:
        function = getattr(module, name)

        def noted(*args: Any) -> Any:
            states.append(args[-1].bit_generator.state["state"]["state"])
            return function(*args)

        monkeypatch.setattr(module, name, noted)

    for name in ("make_object", "jittered", "poisson_counts"):
        noting(name)
    simulate(SMALL)
    assert len(states) == len(set(states)) == 3


def test_parts_of_a_scan_given_back_make_the_same_scan() -> None:
    """Given arrays are used as they are, and the noise does not depend on what else had to be drawn."""
    made = simulate(SMALL)
    given = simulate(replace(SMALL, photons=1.0), object=made.object, probe=made.probe, positions=made.positions)
    np.testing.assert_array_equal(given.counts, made.counts)
    np.testing.assert_array_equal(given.probe, made.probe)
    assert "given object" in given.source


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"N": 33},
        {"trajectory": "spiral", "probe_modes": 2},
        {"integer_positions": True},
        {"positions": 2, "jitter_px": 0.0},
        {"object_kind": "siemens", "jitter_px": 9.0},
    ],
)
def test_every_frame_lies_inside_the_object(changes: dict) -> None:
    config = replace(SMALL, **changes)
    scan = simulate(config)
    low = np.floor(scan.positions + 0.5) - config.N // 2
    assert (low >= 0).all()
    assert (low + config.N <= scan.object.shape).all()
    assert len(scan) == config.positions
    assert scan.counts.shape == (config.positions, config.N, config.N)
    assert scan.probe.shape[0] == config.probe_modes


def test_positions_are_whole_on_demand() -> None:
    assert (simulate(SMALL).positions % 1 != 0).any()
    assert (simulate(replace(SMALL, integer_positions=True)).positions % 1 == 0).all()


def test_a_trajectory_is_centred_on_a_given_object() -> None:
    scan = simulate(SMALL, object=np.ones((90, 101)))
    middle = (scan.positions.min(axis=0) + scan.positions.max(axis=0)) / 2
    np.testing.assert_allclose(middle, (45, 50.5))


def test_counts_take_the_smallest_type_that_holds_them() -> None:
    rng = np.random.default_rng(0)
    assert poisson_counts(np.full((2, 3), 60_000.0), rng).dtype == np.uint16
    large = poisson_counts(np.array([10.0, 70_000.0, 4e9]), rng)
    assert large.dtype == np.uint32
    assert abs(large[2] - 4e9) < 6 * np.sqrt(4e9)
    with pytest.raises(ValueError, match="more than uint32 holds"):
        poisson_counts(np.array([1e10]), rng)


def test_a_bright_batch_does_not_overflow_among_dim_ones() -> None:
    """Only the last frame exceeds uint16; the stack widens and earlier frames keep their values."""
    dim, bright = np.full((2, 3, 3), 7, np.uint16), np.full((1, 3, 3), 70_000, np.uint32)
    stack = module.stacked(iter([dim, bright]), 3)
    assert stack.dtype == np.uint32
    assert stack[:, 0, 0].tolist() == [7, 7, 70_000]


def test_a_scan_without_noise_holds_expected_counts() -> None:
    assert simulate(SMALL).counts.dtype == np.uint16
    assert simulate(replace(SMALL, noise=False)).counts.dtype == np.float32


def test_memory_holds_the_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """1200 frames are 9.8 MB; a batch of 20 costs, as float32, float64 and int64 together, 1.6 MB more."""
    monkeypatch.setattr(module, "expected_batches", partial(expected_batches, batch=20))
    object, config = np.ones((150, 150), np.complex64), SimulationConfig(positions=1200, step_px=1.5)
    simulate(replace(config, positions=30), object=object)  # imports and caches of the backend
    tracemalloc.start()
    scan = simulate(config, object=object)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * scan.counts.nbytes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"object": np.ones((30, 60))}, r"beyond the object of \(30, 60\) px"),
        ({"positions": np.array([[11.0, 20.0], [30.0, 30.0]])}, r"span \[-1, 8\] to \[42, 42\]"),
        ({"probe": np.ones((1, 23, 23))}, r"shape \(1, 23, 23\); with N = 24"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate(SMALL, **given)


@needs_data
def test_frames_of_another_program_are_reproduced() -> None:
    """`tike_simulated_setup.npz`, made by tike: two incoherent modes of 16 px in frames of 32 px, no noise.

    There a position is the object pixel under probe pixel (0, 0), zero frequency is at the corner, and a
    probe smaller than the frame is padded with zeros. Here the probe sits in the middle of the frame,
    [8:24], so its pixel (0, 0) is pixel 8 and the one that positions refer to, 16, lies 8 further on:
    position + 8. The frames then reach beyond the object, where only padding falls on it: 16 more pixels of
    object all around.
    """
    with np.load(Path(os.environ["PTYCHO_DATA"]) / "tike_simulated_setup.npz") as data:
        theirs = np.fft.fftshift(data["diffraction"], axes=(1, 2))
        probe = np.pad(data["probe"][0, 0], ((0, 0), (8, 8), (8, 8)))
        object = np.pad(data["object"][0], 16)
        positions = data["positions_px"].astype(float) + 8 + 16
    scan = simulate(SimulationConfig(N=32, noise=False), object=object, probe=probe, positions=positions)
    np.testing.assert_allclose(scan.counts, theirs, atol=64 * EPS * theirs.max(), rtol=0)


@needs_data
@pytest.mark.parametrize("name", ["sim64_train", "sim64_test"])
def test_benchmark_counts_are_poisson_around_our_frames(name: str) -> None:
    """Frame by frame chi-square is 1 within its scatter (six standard errors, 1681 frames).

    So the convention of positions, centre and units is the benchmark's. One pixel off, it is 1.6.
    """
    with np.load(Path(os.environ["PTYCHO_DATA"]) / f"{name}.npz") as data:
        counts, positions, probe, object = (data[k] for k in ("counts", "positions_px", "probe", "object"))
    e = frames_of(object, probe, positions).astype(float)
    bright = e > 1
    excess = np.where(bright, (counts - e) ** 2 / np.maximum(e, 1) - 1, 0).sum(axis=(1, 2))
    scatter = np.sqrt(np.where(bright, 2 + 1 / np.maximum(e, 1), 0).sum(axis=(1, 2)))
    assert np.abs(excess / scatter).max() < 6
    assert abs(excess.sum()) < 5 * np.sqrt((scatter**2).sum())
    assert (e.sum(axis=(1, 2)) - counts.sum(axis=(1, 2))).std() < 1.1 * np.sqrt(e.sum(axis=(1, 2)).mean())


def test_a_thick_sample_is_simulated_slice_by_slice() -> None:
    """The expected counts are those of the oracle, and the scan's object is the product of the slices."""
    thick = Multislice(slices=3, spacing_px=40.0, wavelength_px=0.2)
    config = SimulationConfig(N=16, positions=9, step_px=3.0, noise=False, photons=1e4, multislice=thick)
    rng = np.random.default_rng(2)
    slices = np.exp(1j * rng.normal(0, 0.3, (3, 40, 40)))
    scan = simulate(config, slices)
    path = (thick.spacing_px, thick.wavelength_px, thick.kind)
    expected = oracle.expected_counts(slices, scan.probe, scan.positions, spacing=path)
    assert np.linalg.norm(scan.counts - expected) < 1e-5 * np.linalg.norm(expected)
    np.testing.assert_allclose(scan.object, slices.prod(axis=0), rtol=1e-6)
    with pytest.raises(ValueError, match=r"has 2 slices, config.multislice says 3"):
        simulate(config, slices[:2])
    made = simulate(config)
    assert made.counts.shape == (9, 16, 16) and np.abs(np.angle(made.object)).max() > 0.1
