import numpy as np
import pytest
from scipy.stats import poisson

from ptycho.evaluation import expected_counts, frame_error, shot_noise_error


def scan(side=15, modes=2, frames=12, photons=1e5, seed=0):
    """Random object, probe modes and fractional positions, some with frames that hang over the border."""
    rng = np.random.default_rng(seed)
    image = 1 + 0.3 * (rng.normal(size=(41, 30)) + 1j * rng.normal(size=(41, 30)))
    probe = rng.normal(size=(modes, side, side)) + 1j * rng.normal(size=(modes, side, side))
    probe *= np.sqrt(photons / np.sum(np.abs(probe) ** 2))
    return image, probe, rng.uniform((0, 0), (40, 29), (frames, 2))


def brute_force_counts(image, probe, position, transfer=None):
    """One frame by sums written out: border values go on, Fourier interpolation, the unitary DFT, centred; with a
    ``transfer`` function, centred too, times that and back."""
    side = probe.shape[-1]
    k = np.arange(side) - side // 2
    dft = np.exp(-2j * np.pi * np.outer(k, k) / side) / np.sqrt(side)
    corner = position - side // 2
    whole = np.floor(corner).astype(int)
    padded = np.pad(image, 60, mode="edge")
    patch = padded[60 + whole[0] :, 60 + whole[1] :][:side, :side]
    move = [dft.conj().T @ np.diag(np.exp(2j * np.pi * k * f / side)) @ dft for f in corner - whole]
    patch = move[0] @ patch @ move[1].T
    far = [dft @ (p * patch) @ dft.T for p in probe]
    if transfer is not None:
        far = [dft.conj().T @ (transfer * wave) @ dft.conj() for wave in far]
    return sum(np.abs(wave) ** 2 for wave in far)


@pytest.mark.parametrize("side", [15, 16])
def test_expected_counts_by_brute_force(side):
    image, probe, positions = scan(side)
    for i, counts in enumerate(expected_counts(image, probe, positions, range(12))):
        np.testing.assert_allclose(counts, brute_force_counts(image, probe, positions[i]), rtol=1e-9, atol=1e-6)


def near_field(side):
    """A transfer function with its zero frequency at pixel (0, 0)."""
    f = np.fft.fftfreq(side)
    return np.exp(-1j * np.pi * 9.0 * (f[:, None] ** 2 + f**2))


@pytest.mark.parametrize("side", [15, 16])
def test_the_near_field_by_brute_force(side):
    image, probe, positions = scan(side)
    transfer = near_field(side)
    counts = expected_counts(image, probe, positions, range(12), transfer)
    for frame, position in zip(counts, positions, strict=True):
        expected = brute_force_counts(image, probe, position, np.fft.fftshift(transfer))
        np.testing.assert_allclose(frame, expected, rtol=1e-9, atol=1e-6)
    assert abs(frame_error(image, probe, positions, counts, range(12), transfer=transfer)) < 1e-12
    assert frame_error(image, probe, positions, counts, range(12)) > 0.01


def test_photons_are_conserved():
    _, probe, positions = scan()
    counts = expected_counts(np.ones((41, 30)), probe, positions, [0, 5])
    np.testing.assert_allclose(counts.sum(axis=(1, 2)), 1e5)


def test_noiseless_frames_have_no_error():
    image, probe, positions = scan()
    counts = expected_counts(image, probe, positions, range(12))
    assert abs(frame_error(image, probe, positions, counts, range(12))) < 1e-12
    assert frame_error(np.ones_like(image), probe, positions, counts, range(12)) > 0.01


def test_by_hand_with_one_global_scale():
    """Model amplitudes 1 and 2, measured 2 and 1: best scale 4/5, error (5 - 16/5) / 5."""
    probe = np.array([[[1.0]]])
    image = np.array([[1.0, 2.0]])
    counts = np.array([[[4]], [[1]]])
    error = frame_error(image, probe, np.array([[0.0, 0.0], [0.0, 1.0]]), counts, [0, 1])
    assert error == pytest.approx((5 - 16 / 5) / 5)


def test_scale_and_phase_of_the_model_do_not_matter():
    image, probe, positions = scan()
    counts = np.random.default_rng(1).poisson(expected_counts(image, probe, positions, range(12)))
    error = frame_error(image, probe, positions, counts, range(12))
    assert error > 0
    assert frame_error(image * 3j, probe / 17, positions, counts, range(12)) == pytest.approx(error, rel=1e-9)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32, np.float32])
def test_type_of_the_counts_does_not_matter(dtype):
    image, probe, positions = scan(photons=3e3)
    counts = np.random.default_rng(1).poisson(expected_counts(image, probe, positions, range(12)))
    counts = counts.clip(max=255)
    reference = frame_error(image, probe, positions, counts.astype(float), range(12))
    assert frame_error(image, probe, positions, counts.astype(dtype), range(12)) == reference


def test_only_the_named_frames_and_used_pixels_count():
    image, probe, positions = scan()
    counts = expected_counts(image, probe, positions, range(12))
    counts[:, 3, 4] = 1e6  # a hot pixel
    counts[7] = 0  # a lost frame
    good = np.ones((15, 15), bool)
    good[3, 4] = False
    named = [i for i in range(12) if i != 7]
    assert abs(frame_error(image, probe, positions, counts, named, mask=good)) < 1e-12
    assert frame_error(image, probe, positions, counts, named) > 0.1
    assert frame_error(image, probe, positions, counts, range(12), mask=good) > 0.01


def test_a_probe_without_mode_axis():
    image, probe, positions = scan(modes=1)
    counts = expected_counts(image, probe[0], positions, range(12))
    np.testing.assert_array_equal(counts, expected_counts(image, probe, positions, range(12)))
    assert abs(frame_error(image, probe[0], positions, counts, range(12))) < 1e-12


def test_a_model_without_light_explains_nothing():
    image, probe, positions = scan()
    counts = expected_counts(image, probe, positions, range(12))
    assert frame_error(0 * image, probe, positions, counts, range(12)) == 1.0


def test_input_that_cannot_be_judged_is_refused():
    image, probe, positions = scan()
    counts = np.ones((12, 15, 15))
    with pytest.raises(ValueError, match="none, or hold no photon"):
        frame_error(image, probe, positions, counts, [])
    with pytest.raises(ValueError, match="none, or hold no photon"):
        frame_error(image, probe, positions, 0 * counts, [1])
    with pytest.raises(ValueError, match="do not fit frames of 15 x 15"):
        frame_error(image, probe[..., 1:], positions, counts, [1])
    with pytest.raises(ValueError, match="object has values that are NaN"):
        frame_error(np.where(image.real > 1, image, np.nan), probe, positions, counts, [1])
    with pytest.raises(ValueError, match="expected counts"):
        shot_noise_error([-1.0, 2.0])
    with pytest.raises(ValueError, match="expected counts"):
        shot_noise_error(np.zeros(3))


# --- the limit of noise ------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [1e-6, 0.01, 0.3, 1, 5.5, 20, 63.99, 64.01, 300])
def test_shot_noise_by_summation(mean):
    k = np.arange(int(mean + 20 * np.sqrt(mean) + 50))
    exact = np.sum(poisson.pmf(k, mean) * (np.sqrt(k) - np.sqrt(mean)) ** 2) / mean
    assert shot_noise_error([mean]) == pytest.approx(exact, rel=2e-5)


def test_shot_noise_limits():
    assert shot_noise_error([1e-12]) == pytest.approx(2, rel=1e-5)  # 2 - 2 sqrt(l)
    assert shot_noise_error([1e6]) == pytest.approx(0.25e-6, rel=1e-6)  # 7 / 16 l^-1 relative


def test_shot_noise_is_weighted_by_photons():
    one, two = shot_noise_error([3.0]), shot_noise_error([50.0])
    assert shot_noise_error([[3.0, 0.0], [50.0, 50.0]]) == pytest.approx((3 * one + 100 * two) / 103)


def scatter_of_the_error(expected):
    """Standard deviation of ``sum (sqrt(k) - sqrt(l))^2 / sum l``, from 30 draws of everything."""
    rng = np.random.default_rng(5)
    draws = [np.sum((np.sqrt(rng.poisson(expected)) - np.sqrt(expected)) ** 2) for _ in range(30)]
    return np.std(draws, ddof=1) / expected.sum()


@pytest.mark.parametrize("photons", [100, 1e4])
def test_truth_is_left_with_shot_noise(photons):
    image, probe, positions = scan(photons=photons)
    expected = expected_counts(image, probe, positions, range(12))
    counts = np.random.default_rng(1).poisson(expected)
    error = frame_error(image, probe, positions, counts, range(12))
    # 5 standard deviations, of the numerator as drawn and of the photons in the denominator
    tolerance = 5 * (scatter_of_the_error(expected) + shot_noise_error(expected) / np.sqrt(expected.sum()))
    assert error == pytest.approx(shot_noise_error(expected), abs=tolerance)


def test_truth_of_the_shared_data_is_left_with_shot_noise(sim64):
    frames = range(0, len(sim64["counts"]), 10)
    args = sim64["probe"], sim64["positions_px"]
    error = frame_error(sim64["object"], *args, sim64["counts"], frames)
    expected = expected_counts(sim64["object"], *args, frames)
    assert error == pytest.approx(0.0061, abs=0.00005)
    tolerance = 5 * (scatter_of_the_error(expected) + shot_noise_error(expected) / np.sqrt(expected.sum()))
    assert error == pytest.approx(shot_noise_error(expected), abs=tolerance)
    wrong = frame_error(sim64["object"].conj(), *args, sim64["counts"], frames)
    assert wrong > 3 * error


def test_same_numbers_as_the_common_judge(sim64, score):
    rng = np.random.default_rng(0)
    image = sim64["object"] * (1 + 0.05 * rng.normal(size=sim64["object"].shape))
    positions = sim64["positions_px"] + rng.normal(size=sim64["positions_px"].shape)
    positions[:3] = [[3, 5.5], [390.2, 200], [100, 400]]  # frames that hang over the border, or lie beyond it
    frames = [0, 1, 2, *range(3, 1681, 40)]
    theirs = score.frame_error(image, sim64["probe"], *positions.T, sim64["counts"], frames)
    ours = frame_error(image, sim64["probe"], positions, sim64["counts"], frames)
    assert ours == pytest.approx(theirs, rel=1e-6)
