"""What a refinement recovers from scans whose truth is known, and what it promises."""

import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from ptycho.config import NearField, RefineConfig, SimulationConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.evaluation import frame_error, shot_noise_error
from ptycho.physics.noise import SCATTER_ERROR
from ptycho.refinement import refine as fit
from ptycho.refinement import solver
from ptycho.refinement.checkpoint import Checkpoint
from ptycho.refinement.refine import Refinement, disc, orthogonal, refine
from ptycho.refinement.solver import MARGIN_PX, Solver
from ptycho.refinement.starts import find_focus
from ptycho.refinement.unknowns import Object
from ptycho.simulation.probes import make_probe, with_modes
from ptycho.simulation.simulate import simulate
from tests.helpers import complex_normal

SMALL = SimulationConfig(N=25, positions=100, step_px=3.0, jitter_px=1.0, photons=1e5, seed=4)
QUICK = RefineConfig(epochs=12)
LONG = RefineConfig(epochs=80, patience=10, tolerance=1e-3)


@pytest.fixture(scope="module")
def noisy():
    return simulate(SMALL)


@pytest.fixture(scope="module")
def bright():
    return simulate(replace(SMALL, photons=1e6))


def drawn(scan: Scan, expected: np.ndarray) -> Scan:
    """A scan with Poisson counts of its own, that tells no truth."""
    return replace(scan, counts=np.random.default_rng(7).poisson(expected).astype("uint32"), object=None)


def judged(found: Refinement) -> float:
    return found.history[found.best]["criterion"]


def assert_same(one: Refinement, two: Refinement) -> None:
    """Bit for bit, all but the times."""
    for name in ("object", "probe", "positions_px", "coverage", "used_frames"):
        np.testing.assert_array_equal(getattr(one.result, name), getattr(two.result, name))
    assert one.best == two.best
    without_times = lambda found: [{k: v for k, v in entry.items() if k != "seconds"} for entry in found.history]
    assert without_times(one) == without_times(two)


def root_mean_square(offsets: np.ndarray) -> float:
    """Of ``(P, 2)`` but for their mean, which no scan can tell."""
    return float(np.sqrt(((offsets - offsets.mean(axis=0)) ** 2).mean()))


# What is recovered.


@pytest.mark.parametrize(
    "own",
    [dict(), dict(probe_modes=2), dict(near_field=NearField(distance_px=12.0, wavelength_px=0.5))],
    ids=["far", "modes", "near"],
)
def test_a_noiseless_scan_is_recovered_from_empty_space(own):
    scan = simulate(replace(SMALL, noise=False, **own))
    found = refine(scan, replace(LONG, epochs=100, patience=30))
    assert found.history[0]["criterion"] > 5e-3
    # A residual of 1e-5 is one of 0.3 % in amplitude, where conjugate gradients are after 100 steps; shot noise: 2e-3.
    assert found.history[-1]["error"] < 2e-5
    assert judged(found) < 1e-4
    np.testing.assert_array_equal(found.result.probe, scan.probe)


@pytest.mark.parametrize("own", [dict(), dict(noise="poisson")], ids=str)
@pytest.mark.parametrize("near", [None, NearField(distance_px=12.0, wavelength_px=0.5)], ids=["far", "near"])
def test_the_misfit_nears_the_shot_noise(own, near):
    scan = simulate(replace(SMALL, near_field=near))
    found = refine(scan, replace(LONG, **own))
    entry = found.history[found.best]
    judging = fit.divided(scan, None, LONG)[1]
    expected = truth(scan).expected_counts(judging)
    # Of the model and of the truth. Their counts differ by shot noise, a few per cent of it; and least squares of
    # amplitudes put too few photons in dim pixels, where the mean of roots is less than the root of the mean.
    bias = 0.06 if own else 0.12
    assert entry["shot_noise"] == pytest.approx(shot_noise_error(expected), rel=SCATTER_ERROR + bias)
    # 5 frames of 441 pixels, many of them dark, scatter by 5 %; the fit's own noise adds about a twentieth.
    assert 0.9 < entry["held_out_error"] / entry["shot_noise"] < 1.3
    result = found.result
    # In all frames no worse than the truth, as a model that moves the object by fractions of pixels has it.
    error, least = (frame_error(estimate, scan.counts, range(len(scan))) for estimate in (result, truth(scan)))
    assert error < 1.1 * least


@pytest.mark.parametrize("defocus", [1.5, -3.0])
def test_a_guessed_probe_is_brought_into_focus(defocus):
    scan = simulate(replace(SMALL, N=32, positions=144, object_kind="cells"))
    squared = np.add.outer(*(np.fft.fftfreq(32) ** 2,) * 2)
    spectrum = np.fft.fft2(scan.probe)
    power = (np.abs(spectrum) ** 2).sum(axis=0)
    ramp = np.exp(1j * defocus * power.sum() / (power * squared).sum() * squared)
    guess = replace(scan, probe=np.fft.ifft2(spectrum * ramp), probe_known=False, object=None)
    solver = Solver(guess, np.arange(len(guess)), np.arange(0))
    assert find_focus(solver) is None
    overlap = lambda probe: abs(np.vdot(probe, scan.probe)) / np.vdot(scan.probe, scan.probe).real
    assert overlap(guess.probe) < 0.7
    assert overlap(solver.state["probe"]) > 0.9
    assert (solver.state["object"] == 1).all()
    found = refine(guess, replace(LONG, epochs=40, probe_from=1))
    assert judged(found) < 1.2 * found.history[found.best]["shot_noise"]


@pytest.mark.parametrize("probe_from", [None, 1], ids=["known", "guessed"])
def test_positions_are_recovered(probe_from, bright):
    error = np.random.default_rng(1).normal(0, 0.5, (len(bright), 2))
    moved = replace(bright, positions=bright.positions + error, object=None)
    found = refine(moved, replace(LONG, positions_from=5, probe_from=probe_from))
    off = found.result.positions_px - bright.positions
    assert root_mean_square(off) < 0.25 * root_mean_square(error)
    # Where all frames move alike, it is the object that moves: the fit leaves them where they were on average.
    shift = (found.result.positions_px - moved.positions).mean(axis=0)
    np.testing.assert_allclose(shift, np.rint(shift), atol=0.05)


def test_positions_move_by_the_margin_at_most(noisy):
    moved = replace(noisy, positions=noisy.positions + [[20.0, 0.0]] * (np.arange(100) == 50)[:, None], object=None)
    found = refine(moved, replace(LONG, epochs=30, positions_from=2))
    off = found.result.positions_px - moved.positions
    assert np.abs(off - np.rint(off.mean(axis=0))).max() <= MARGIN_PX + 1e-6


def test_an_affine_map_is_recovered(bright):
    """2 % too large and turned by a degree."""
    middle, angle = bright.positions.mean(axis=0), np.deg2rad(1.0)
    wrong = 1.02 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    x = bright.positions - middle
    found = refine(replace(bright, positions=x @ wrong.T + middle, object=None), replace(LONG, affine_from=3))
    y = found.result.positions_px - found.result.positions_px.mean(axis=0)
    left = np.linalg.lstsq(x, y, rcond=None)[0].T - np.eye(2)
    assert np.abs(left).max() < 0.2 * np.abs(wrong - np.eye(2)).max()
    # One map for all: nothing else has moved.
    np.testing.assert_allclose(y, x @ (np.eye(2) + left).T, atol=1e-3)


def test_scans_that_are_nearly_alike_share_what_is_compiled(noisy):
    """XLA never frees the code of a shape: the second scan, whose object is a pixel larger, must not add any."""
    middle = noisy.positions.mean(axis=0)
    width = np.ptp(noisy.positions, axis=0).max()
    larger = replace(noisy, positions=(1 + 1 / width) * (noisy.positions - middle) + middle, object=None)
    shapes = [refine(noisy, replace(QUICK, epochs=2)).result.object.shape]
    before = solver._compiled.cache_info().misses
    shapes.append(refine(larger, replace(QUICK, epochs=2)).result.object.shape)
    assert shapes[0] != shapes[1]
    assert solver._compiled.cache_info().misses == before


def test_a_rotation_is_recovered_and_distances_stay(bright):
    """Turned by 1.5 degrees; what an affine map would make of the scale is left as it is."""
    middle, angle = bright.positions.mean(axis=0), np.deg2rad(1.5)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    x = bright.positions - middle
    wrong = replace(bright, positions=x @ turn.T + middle, object=None)
    y = refine(wrong, replace(LONG, rotation_from=3)).result.positions_px
    y = y - y.mean(axis=0)
    left = np.linalg.lstsq(x, y, rcond=None)[0].T
    assert abs(np.arctan2(left[1, 0] - left[0, 1], np.trace(left))) < 0.2 * angle
    # The fit moves along the tangents where the positions were: what the search left, 3 mrad, times the turn.
    np.testing.assert_allclose(np.linalg.svd(left)[1], 1.0, atol=1.5 * 3e-3 * angle)


def test_a_map_is_found_with_an_image_to_start_from_and_the_image_goes_with_it(bright):
    """Positions 4 % too large, and the image that they gave: the fit ends where one from vacuum does."""
    middle = bright.positions.mean(axis=0)
    wrong = replace(bright, positions=1.04 * (bright.positions - middle) + middle, object=None)
    start = refine(wrong, replace(LONG, epochs=20)).result
    config = replace(LONG, affine_from=3, epochs=30)
    found, vacuum = refine(wrong, config, start=start), refine(wrong, config)
    assert found.criterion < 1.05 * vacuum.criterion
    spread = lambda result: np.linalg.norm(result.positions_px - result.positions_px.mean(axis=0))
    assert spread(found.result) / np.linalg.norm(bright.positions - middle) == pytest.approx(1.0, abs=0.004)
    # It was scaled with its positions: else the first look at it would be no better than vacuum.
    assert found.history[0]["held_out_error"] < 0.1 * vacuum.history[0]["held_out_error"]


@pytest.mark.parametrize("blur", [0.0, 2.0])
def test_a_background_is_recovered(blur, noisy):
    y, x = np.mgrid[:25, :25]
    background = 10 * np.exp(-((y - 8) ** 2 + (x - 12) ** 2) / 100)
    seen = drawn(noisy, truth(noisy).expected_counts() + background)
    without = refine(seen, replace(LONG, epochs=40))
    solver, found = followed(seen, replace(LONG, background_from=1, background_blur_px=blur))
    error = np.linalg.norm(solver.state["background"] - background) / np.linalg.norm(background)
    shot_noise = np.sqrt(seen.counts.mean(axis=0).sum() / 100) / np.linalg.norm(background)
    assert (solver.state["background"] >= 0).all()
    # Pixel by pixel, a background in the bright field is hardly told from a darker object.
    assert error < (1.5 * shot_noise if blur else 1.0)
    assert judged(found) < 0.7 * judged(without)
    assert found.history[found.best]["held_out_error"] < 1.25 * found.history[found.best]["shot_noise"]


@pytest.mark.parametrize("probe_from", [None, 1], ids=["known", "guessed"])
def test_the_varying_strength_of_a_probe_is_recovered(probe_from, noisy):
    strength = np.random.default_rng(2).normal(0, 0.1, 100)
    expected = truth(noisy).expected_counts()
    seen = drawn(noisy, expected * ((1 + strength) ** 2)[:, None, None])
    solver, found = followed(seen, replace(LONG, opr_from=3, probe_from=probe_from))
    slope, _ = np.polyfit(strength, solver.state["opr_weights"][:, 0], 1)
    assert np.corrcoef(strength, solver.state["opr_weights"][:, 0])[0, 1] > 0.95
    assert slope == pytest.approx(1, abs=0.1)
    assert judged(found) < 1.4 * found.history[found.best]["shot_noise"]
    if probe_from is None:
        np.testing.assert_array_equal(found.result.probe, noisy.probe)


def test_powers_of_modes_are_recovered():
    """70, 20 and 10 %, from modes that are rough and of equal powers."""
    scan = simulate(replace(SMALL, positions=144, probe_modes=3, seed=5))
    unit = scan.probe / np.sqrt((np.abs(scan.probe) ** 2).sum(axis=(1, 2), keepdims=True))
    powers = np.array([0.7, 0.2, 0.1])
    scan = simulate(
        replace(SMALL, positions=144, seed=5, photons=1e6), probe=unit * np.sqrt(1e6 * powers)[:, None, None]
    )
    rough = unit + 0.5 / 25 * complex_normal(np.random.default_rng(1), *unit.shape)
    guess = replace(scan, probe=rough * np.sqrt(1e6 / (np.abs(rough) ** 2).sum()), object=None)
    found = refine(guess, replace(LONG, probe_from=1))
    result = (np.abs(found.result.probe) ** 2).sum(axis=(1, 2))
    np.testing.assert_allclose(result / result.sum(), powers, atol=0.02)
    flat = found.result.probe.reshape(3, -1)
    gram = np.abs(flat.conj() @ flat.T)
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-5 * gram.max()


def test_powers_of_modes_are_found_from_one_coherent_probe():
    """70, 20 and 10 %, from 96, 2 and 2: what `ptycho refine scan --modes 3` starts from."""
    first = make_probe(32)
    units = with_modes(first, 3)
    units = units / np.sqrt((np.abs(units) ** 2).sum(axis=(1, 2), keepdims=True))
    powers = np.array([0.7, 0.2, 0.1])
    scan = simulate(replace(SMALL, N=32, positions=324), probe=units * np.sqrt(1e5 * powers)[:, None, None])
    guess = replace(scan, probe=with_modes(first, 3), probe_known=False, object=None)
    found = refine(guess, RefineConfig(probe_from=1, noise="poisson", epochs=20))
    light = (np.abs(found.result.probe) ** 2).sum(axis=(1, 2))
    # What is asked of them. A scan of 144 frames says less: fits of one end within 0.02 to 0.08 of the light.
    np.testing.assert_allclose(light / light.sum(), powers, atol=0.02)


def followed(scan: Scan, config: RefineConfig) -> tuple[Solver, Refinement]:
    """A refinement, and the solver that it was made with."""
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        make = fit.make_solver
        patch.setattr(fit, "make_solver", lambda *given: kept.append(make(*given)) or kept[-1])
        found = refine(scan, config)
    return kept[0], found


# Bounds and wishes.


@pytest.mark.parametrize("method", ["cg", "lsqml", "rpie", "adam"])
def test_bounds_hold(method, noisy):
    found = refine(noisy, replace(QUICK, method=method, probe_from=2, amplitude_bound=0.9, probe_support=0.6))
    assert np.abs(found.result.object).max() <= 0.9 * (1 + 1e-6)
    assert not found.result.probe[:, ~disc(25, 0.6)].any()
    assert found.result.probe[:, disc(25, 0.6)].all()


def test_total_variation_smooths(noisy):
    def roughness(weight):
        image = refine(noisy, replace(QUICK, epochs=20, held_out=0.0, tv_weight=weight)).result.object[15:-15, 15:-15]
        return sum(np.abs(np.diff(image, axis=axis)).mean() for axis in (0, 1))

    plain, little, much = (roughness(weight) for weight in (0.0, 0.01, 0.3))
    assert much < 0.6 * plain
    assert much < little < plain


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (dict(epochs=72), [0, 0, 0, 0, 0, 0.0, 0.01, 0.03, 0.1]),
        (dict(epochs=71), [0.1] * 9),
        (dict(epochs=72, method="lsqml"), [0.1] * 9),
        (dict(epochs=72, tv_weight=0.0), [0.0] * 9),
    ],
)
def test_total_variation_comes_in_slowly_where_there_is_time(noisy, config, expected):
    """The weight at the epochs 1 to 5, and at the ends of 12 without, 12 with a tenth, 12 with a third, and after."""
    config = replace(QUICK, tv_weight=0.1, **config) if "tv_weight" not in config else replace(QUICK, **config)
    solver = fit.make_solver(noisy, np.arange(100), np.arange(0), config, None)
    schedule = fit._Schedule(solver, config, fit.poisson_loss, after=0)
    parts = [fit.part_at(epoch, schedule.ramp) for epoch in (1, 2, 3, 4, 5, 12, 24, 36, 37)]
    assert [config.tv_weight * part for part in parts] == pytest.approx(expected)
    schedule.epoch(24, None, (Object(),))
    assert solver.priors.tv == pytest.approx(expected[6])


def test_an_anchor_holds(noisy):
    start = refine(noisy, QUICK).result
    free, held = (
        refine(noisy, replace(QUICK, noise="poisson", held_out=0.0, l2_weight=weight), start=start).result.object
        for weight in (0.0, 100.0)
    )
    inside = start.coverage > 0.5
    moved = [
        np.linalg.norm(image[: start.object.shape[0], : start.object.shape[1]][inside] - start.object[inside])
        for image in (free, held)
    ]
    assert moved[1] < 0.1 * moved[0]


# Promises.


@pytest.mark.parametrize("own", [dict(), dict(noise="poisson", positions_from=3), dict(method="adam")], ids=str)
def test_withheld_frames_are_never_looked_at(own, noisy):
    held_out = np.zeros(100, bool)
    held_out[[3, 50, 77]] = True
    other = noisy.counts.copy()
    other[held_out] = 7 * other[held_out][:, ::-1] + 3
    config = replace(QUICK, probe_from=1, **own)
    found, again = (
        refine(replace(noisy, counts=counts, probe_known=False), config, held_out=held_out)
        for counts in (noisy.counts, other)
    )
    assert_same(found, again)
    np.testing.assert_array_equal(found.result.used_frames, ~held_out)
    assert found.result.used == 97


EVERYTHING = dict(probe_from=2, positions_from=4, affine_from=3, background_from=5, opr_from=6, opr_modes=2)


@pytest.mark.parametrize(
    "own",
    [
        EVERYTHING,
        dict(method="lsqml", probe_from=2),
        dict(method="adam", probe_from=2),
        dict(tv_weight=0.01, red_weight=3.0),
    ],
    ids=["cg", "lsqml", "adam", "priors"],
)
def test_the_same_seed_gives_the_same_result_and_a_killed_fit_goes_on_to_it(own, noisy, tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "Checkpoint", partial(Checkpoint, every_s=0.0))
    config = replace(QUICK, **own)
    saved = tmp_path / "run" / "refinement.npz"

    def keep(stage, epoch, epochs, numbers, image):
        if epoch == 7:
            shutil.copytree(saved.parent, tmp_path / "killed")

    whole = refine(noisy, config, folder=saved.parent, progress=keep)
    assert_same(refine(noisy, config), whole)
    assert_same(refine(noisy, config, folder=tmp_path / "killed", resume=True), whole)
    assert_same(refine(noisy, config, folder=saved.parent, resume=True), whole)  # one that had ended
    if own is EVERYTHING:
        with pytest.raises(ValueError, match=r"other settings \(epochs, seed\)"):
            refine(noisy, replace(config, seed=1, epochs=5), folder=saved.parent, resume=True)
        with pytest.raises(ValueError, match="another scan"):
            refine(noisy, config, folder=saved.parent, resume=True, held_out=np.arange(100) == 3)
        with pytest.raises(ValueError, match="another start"):
            refine(replace(noisy, probe=noisy.probe * 1.1), config, folder=saved.parent, resume=True)
        whole_file = saved.read_bytes()
        for damaged in (b"", b"nothing", whole_file[:-100], whole_file[:-100] + bytes(100)):
            saved.write_bytes(damaged)
            with pytest.raises(ValueError, match="is damaged"):
                refine(noisy, config, folder=saved.parent, resume=True)
    else:
        assert_differs(refine(noisy, replace(config, seed=1)), whole)


def assert_differs(one: Refinement, two: Refinement) -> None:
    assert not np.array_equal(one.result.object, two.result.object)


def test_a_fixed_probe_comes_back_as_it_was():
    scan = simulate(replace(SMALL, probe_modes=3))
    found = refine(scan, replace(QUICK, positions_from=2, opr_from=2, background_from=2))
    np.testing.assert_array_equal(found.result.probe, scan.probe)


def test_the_light_of_orthogonal_modes_is_the_same():
    probe = complex_normal(np.random.default_rng(0), 3, 9, 9)
    made = orthogonal(probe)
    coherence = [np.einsum("mi,mj->ij", own.reshape(3, -1), own.reshape(3, -1).conj()) for own in (probe, made)]
    np.testing.assert_allclose(coherence[1], coherence[0], atol=1e-5 * np.abs(coherence[0]).max())
    powers = (np.abs(made) ** 2).sum(axis=(1, 2))
    assert (np.diff(powers) <= 0).all()


def truth(scan: Scan) -> Reconstruction:
    """What is true of a scan, as a reconstruction."""
    return Reconstruction(
        object=scan.object,
        probe=scan.probe,
        positions_px=scan.positions,
        near_field=scan.near_field,
        coverage=np.ones(scan.object.shape, "float32"),
        used=len(scan),
        dropped=0,
    )


def test_a_result_is_never_worse_than_its_start(noisy):
    """By the frames that judge: where no step makes it better, the start comes back."""
    exact = simulate(replace(SMALL, noise=False))
    start = truth(exact)
    start = replace(start, object=np.pad(exact.object, ((5, 0), (3, 2))), positions_px=start.positions_px + [5, 3])
    start = replace(start, coverage=np.ones(start.object.shape, "float32"))
    found = refine(noisy, replace(QUICK, patience=2, method="adam"), start=start)
    entries = [entry["criterion"] for entry in found.history if entry["held_out_error"] is not None]
    assert found.best == int(np.argmin(entries)) == 0
    origin = np.rint((found.result.positions_px - exact.positions).mean(axis=0)).astype(int)
    there = found.result.coverage > 0
    y, x = np.nonzero(there)
    np.testing.assert_array_equal(found.result.object[there], exact.object[y - origin[0], x - origin[1]])
    np.testing.assert_allclose(found.result.positions_px - origin, exact.positions, atol=1e-9)
    np.testing.assert_array_equal(found.result.probe, exact.probe)
    assert found.result.used == 95


def test_positions_of_the_start_are_kept(bright):
    """A fit that has moved frames can be gone on with."""
    error = np.random.default_rng(1).uniform(-1, 1, (100, 2))
    moved = replace(bright, positions=bright.positions + error - error.mean(axis=0), object=None)
    found = refine(moved, replace(QUICK, epochs=2), start=truth(bright))
    assert found.history[0]["criterion"] < 1.2 * found.history[0]["shot_noise"]
    off = found.result.positions_px - bright.positions
    np.testing.assert_allclose(off, np.broadcast_to(off.mean(axis=0), off.shape), atol=1e-9)


def test_what_several_fits_have_moved_adds_up(bright):
    """A map after another goes further than one of them may."""
    from_middle = bright.positions - bright.positions.mean(axis=0)
    moved = replace(bright, positions=bright.positions - 0.4 * from_middle, object=None)
    assert 0.4 * np.abs(from_middle).max() > fit.MARGIN_PX + 0.05 * np.linalg.norm(0.6 * from_middle, axis=1).max()
    found = refine(moved, replace(QUICK, epochs=2), start=truth(bright))
    assert found.history[0]["criterion"] < 1.2 * found.history[0]["shot_noise"]


def test_a_start_of_another_scan_is_refused(noisy):
    start = truth(noisy)
    with pytest.raises(ValueError, match="frames of 25 pixels, the scan 99"):
        refine(noisy.subset(np.arange(99)), QUICK, start=start)
    with pytest.raises(ValueError, match="another scan"):
        refine(noisy, QUICK, start=replace(start, positions_px=2 * start.positions_px))
    with pytest.raises(ValueError, match="20 pixels"):
        refine(noisy, QUICK, start=replace(start, probe=np.ones((1, 20, 20), "complex64")))


def test_it_stops_when_the_withheld_frames_are_not_fitted_better(noisy):
    found = refine(noisy, replace(LONG, epochs=200, patience=4))
    own = [entry for entry in found.history if entry["held_out_error"] is not None]
    assert len(found.history) == len(own) + fit.FINISH
    assert 10 < len(own) < 150
    errors = np.array([entry["criterion"] for entry in own])
    unit = 1 / noisy.frame_counts[fit.divided(noisy, None, LONG)[1]].sum()
    assert errors[-4:].min() > errors[:-4].min() - max(1e-3 * errors[:-4].min(), unit)
    assert judged(found) == errors.min()
    assert [entry["epoch"] for entry in found.history] == list(range(len(found.history)))
    assert found.result.used == 100


def test_without_frames_that_judge_all_are_fitted(noisy):
    found = refine(noisy, replace(QUICK, held_out=0.0))
    assert len(found.history) == 13
    assert all(entry["held_out_error"] is None for entry in found.history)
    assert found.history[0]["error"] == found.history[0]["criterion"]
    assert found.result.used == 100


@pytest.mark.parametrize("method", ["lsqml", "rpie", "adam"])
def test_stochastic_methods_reach_the_shot_noise(method, noisy):
    found = refine(noisy, replace(LONG, method=method, epochs=40))
    assert judged(found) < 1.5 * found.history[found.best]["shot_noise"]


def test_refusals(noisy):
    with pytest.raises(ValueError, match="all frames are held out"):
        refine(noisy, QUICK, held_out=np.ones(100, bool))
    with pytest.raises(ValueError, match="needs the method 'adam'"):
        refine(noisy, QUICK, loss=fit.amplitude_loss)


@pytest.mark.parametrize(
    "nonsense",
    [
        dict(method="sgd"),
        dict(noise="gauss"),
        dict(epochs=0),
        dict(probe_from=0),
        dict(method="lsqml", positions_from=1),
        dict(method="adam", background_from=1),
        dict(opr_modes=4),
        dict(tv_weight=-1.0),
        dict(l2_weight=-1.0),
        dict(background_blur_px=-1.0),
        dict(amplitude_bound=0.0),
        dict(probe_support=0.0),
        dict(batch_frames=0),
        dict(batching="sparse"),
        dict(held_out=0.5),
        dict(patience=0),
    ],
    ids=str,
)
def test_nonsense_is_refused(nonsense):
    with pytest.raises(ValueError, match=f"RefineConfig.{list(nonsense)[-1]} is"):
        RefineConfig(**nonsense)
