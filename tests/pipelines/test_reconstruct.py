"""What a run says about how far to believe its result: in the files and on the terminal."""

import json
import re
from dataclasses import replace

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from ptycho.cli.app import app
from ptycho.config import ModelConfig, NearField, RefineConfig, RunConfig, SimulationConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.formats import write_scan
from ptycho.network.build import build_model
from ptycho.pipelines.assess import assess, image_warnings, network_warnings, shows_raster, with_residuals
from ptycho.pipelines.open import open_model
from ptycho.pipelines.provenance import provenance
from ptycho.pipelines.reconstruct import better_fit, reconstruct_run
from ptycho.refinement.from_network import photons_per_object_pixel, usual_symmetries
from ptycho.refinement.refine import refine
from ptycho.simulation.simulate import simulate
from tests.cli.test_app import run as command

SCARCE = 300.0
"""Photons per object pixel below which `usual_symmetries` averages eight views."""
TINY = RunConfig(model=dict(stages=1, width=4, gridsize=2), training=dict(epochs=2))


@pytest.fixture(scope="module")
def trained(small_scan, tmp_path_factory):
    """A run with one view and frames withheld; frame 33 was exposed for 30 times as long."""
    counts = small_scan.counts.astype("uint32")
    counts[33] *= 30
    folder = tmp_path_factory.mktemp("trained")
    outcome = reconstruct_run(
        replace(small_scan, counts=counts), folder, TINY, hold_out_every=10, auto=False, force=True
    )
    return folder, outcome


def test_residuals_are_in_the_file_and_in_the_scores(trained, small_scan):
    folder, outcome = trained
    result = Reconstruction.load(folder / "reconstruction.h5")
    held_out = small_scan.held_out_mask(10)
    assert result.frame_residual.shape == (len(small_scan),)
    np.testing.assert_array_equal(np.isnan(result.frame_residual), held_out)
    np.testing.assert_array_equal(result.used_frames, ~held_out)
    scores = json.loads((folder / "scores.json").read_text())
    trust = scores["trust"]
    assert trust["median_ratio"] == pytest.approx(np.nanmedian(result.frame_residual), rel=1e-5)
    assert trust["median_ratio"] > 0.9  # never better than noise, but for what two epochs can overfit
    assert trust["worst_frames"][0] == int(np.nanargmax(result.frame_residual)) == 33
    assert len(trust["worst_frames"]) == 10
    assert 1 <= trust["frames_beyond_5_sigma"] <= (~held_out).sum()
    assert scores["warnings"] == list(outcome.warnings)
    assert result.spread is None
    assert result.uncertainty is None


def test_a_dark_image_is_named_and_is_no_start_of_a_refinement(trained, small_scan):
    """As what absolute errors of amplitudes teach a network where most pixels count nothing."""
    folder, _ = trained
    alone = Reconstruction.load(folder / "network.h5")
    dark = replace(alone, object=0.05 * alone.object)
    assert "dark" in image_warnings(dark, small_scan)[-1]
    assert image_warnings(alone, small_scan) == ()
    config, held_out = RefineConfig(epochs=3, noise="poisson"), small_scan.held_out_mask(10)
    vacuum = refine(small_scan, config, held_out=held_out)
    chosen, choice = better_fit(open_model(folder), small_scan, config, dark, vacuum, held_out, 1, None)
    assert chosen is vacuum
    assert "dark" in choice


def test_an_image_with_the_raster_in_it_is_no_start_of_a_refinement(trained, small_scan):
    folder, _ = trained
    alone = Reconstruction.load(folder / "network.h5")
    y, x = np.indices(alone.object.shape)
    # The scan is jittered: `lattice_share` is told of the raster that it was made of.
    step = 4
    raster = 0.5 * (np.cos(2 * np.pi * y / step) + np.cos(2 * np.pi * x / step))
    grid = np.stack(np.meshgrid(*[np.arange(12.0) * step] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    printed = replace(
        alone, object=alone.object * np.exp(1j * raster), positions_px=alone.positions_px.min(axis=0) + grid
    )
    assert shows_raster(printed) and not shows_raster(alone)
    config, held_out = RefineConfig(epochs=3, noise="poisson"), small_scan.held_out_mask(10)
    vacuum = refine(small_scan, config, held_out=held_out)
    chosen, choice = better_fit(open_model(folder), small_scan, config, printed, vacuum, held_out, 1, None)
    assert chosen is vacuum
    assert "raster" in choice


def test_what_predicts_unseen_frames_better_is_the_result(trained, small_scan):
    """Of the network's image refined, and of a fit from vacuum that is stopped early, or given the true probe."""
    folder, _ = trained
    model, held_out = open_model(folder), small_scan.held_out_mask(10)
    image = Reconstruction.load(folder / "network.h5")
    config = RefineConfig(epochs=12, noise="poisson", h1_weight=1e-3)
    poor, good = (refine(small_scan, replace(config, epochs=epochs), held_out=held_out) for epochs in (1, 40))
    assert good.criterion < poor.criterion
    chosen, choice = better_fit(model, small_scan, config, image, poor, held_out, 1, None)
    assert chosen is not poor and chosen.criterion < poor.criterion
    assert choice.startswith("The network's image, refined, is the result")
    network, config = chosen, replace(config, epochs=1)
    chosen, choice = better_fit(model, small_scan, config, image, good, held_out, 1, None)
    assert network.criterion > good.criterion
    assert chosen is good
    assert choice.startswith("The fit from vacuum is the result")


@pytest.mark.parametrize("forced", [False, True])
def test_no_image_is_exit_code_3_and_is_written_only_by_force(small_scan, tmp_path, forced):
    """The positions are those of other frames; an older image in the folder must not be taken for this run's."""
    wrong = replace(small_scan, positions=np.random.default_rng(0).permutation(small_scan.positions), object=None)
    write_scan(wrong, tmp_path / "scan.h5")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/reconstruction.h5").write_bytes(b"of an earlier run")
    words = ["refine", str(tmp_path / "scan.h5"), "-o", str(tmp_path / "run"), "--epochs", "8", "--no-auto"]
    result = CliRunner().invoke(app, words + ["--force"] * forced, catch_exceptions=False)
    assert result.exit_code == (0 if forced else 3), result.output
    scores = json.loads((tmp_path / "run/scores.json").read_text())
    assert scores["verdict"]["kind"] == "no image"
    assert scores["warnings"][0] == scores["verdict"]["sentence"]
    assert "No image" in result.output
    assert "No image" in (tmp_path / "run/report.html").read_text()
    assert (tmp_path / "run/reconstruction.h5").exists() == forced
    assert (tmp_path / "run/object.png").exists() == forced


def test_an_image_of_too_few_frames_to_be_compared_is_an_image(small_scan):
    corner = small_scan.subset([0])
    image = Reconstruction(
        object=np.ones((24, 24), "complex64"),
        probe=small_scan.probe,
        positions_px=np.full((1, 2), 12.0),
        coverage=np.ones((24, 24), "float32"),
        used=1,
        dropped=0,
    )
    with pytest.warns(UserWarning, match="not scored against the true object: recon has shape"):
        outcome = assess(image, corner, np.zeros(1, bool))
    assert outcome.scores is None
    with pytest.raises(ValueError, match="NaN"):  # that is wrong, and not only too small
        assess(replace(image, object=np.full((24, 24), np.nan, "complex64")), corner, np.zeros(1, bool))


def dim(scan, per_pixel):
    """The scan with as many photons on a pixel of its object, on average."""
    part = per_pixel / photons_per_object_pixel(scan)
    counts = np.random.default_rng(0).binomial(scan.counts.astype(int), part)
    return replace(scan, counts=counts, probe=scan.probe * np.sqrt(part).astype("float32"))


def test_where_photons_are_scarce_eight_views_are_averaged(small_scan):
    assert usual_symmetries(small_scan) == 1
    assert [usual_symmetries(dim(small_scan, SCARCE * part)) for part in (1.1, 0.9)] == [1, 8]
    # Fewer frames of the same light over the same area.
    apart = small_scan.subset(slice(None, None, 4))
    assert usual_symmetries(apart) == 1
    assert usual_symmetries(dim(small_scan, 2 * SCARCE).subset(slice(None, None, 4))) == 8


@pytest.mark.filterwarnings("ignore:counts per frame")
def test_views_give_a_calibrated_uncertainty_and_the_command_says_what_it_found(trained, small_scan, tmp_path):
    folder, _ = trained
    write_scan(dim(small_scan, SCARCE / 2), tmp_path / "scan.h5")
    said = command(f"reconstruct {tmp_path}/scan.h5 -o {tmp_path}/run --model {folder} --no-refine --force")
    assert re.search(
        r"frames agree with the object to [\d.e+]+ times the shot noise \(median\)", " ".join(said.split())
    )
    with h5py.File(tmp_path / "run/reconstruction.h5") as file:
        sigma, coverage, spread = (file[name][()] for name in ("uncertainty", "coverage", "spread"))
        factor = file.attrs["uncertainty_calibration"]
        assert file.attrs["views"] == 8
        assert not np.isnan(file["frame_residual"][()]).any()
    assert factor > 0
    assert np.isfinite(sigma[coverage > 0]).all()
    assert np.isinf(sigma[coverage == 0]).all()
    assert (sigma >= factor * spread * (1 - 1e-6)).all()


def test_a_network_of_bounded_outputs_is_looked_at_for_saturation(small_scan):
    """The bias of the last layer alone makes the phase tanh(+-5) pi, within 1e-4 of +-pi."""
    network = build_model(ModelConfig(N=small_scan.N, architecture="cnn", stages=1, width=4), small_scan.probe)
    flat = Reconstruction(
        object=np.ones((60, 60), "complex64"),
        probe=small_scan.probe,
        positions_px=small_scan.positions,
        coverage=np.ones((60, 60), "float32"),
        used=1,
        dropped=0,
    )
    (warning,) = network_warnings(network, flat, small_scan)
    assert "flat" in warning
    network.nets[0].head.weights[-1].assign([0.0, 5.0])
    network.nets[0].head.weights[0].assign(np.zeros(network.nets[0].head.weights[0].shape))
    assert "phase is within 1 % of +-pi in 100 % of pixels" in network_warnings(network, flat, small_scan)[1]


@pytest.fixture(scope="module")
def near_scan():
    near = NearField(distance_px=40.0, wavelength_px=0.5)
    return simulate(SimulationConfig(N=24, positions=64, step_px=4.0, near_field=near, seed=3))


def test_the_true_object_is_judged_by_the_near_field_it_was_seen_in(near_scan):
    """Six held-out frames of 1e5 photons are off by what shot noise leaves, to a few parts in a hundred."""
    held_out = near_scan.held_out_mask(10)
    coverage = np.ones(near_scan.object.shape, "float32")
    truth = Reconstruction(
        object=near_scan.object,
        probe=near_scan.probe,
        positions_px=near_scan.positions,
        coverage=coverage,
        near_field=near_scan.near_field,
        used_frames=~held_out,
        used=int((~held_out).sum()),
        dropped=0,
        provenance=provenance(near_scan),
    )
    outcome = assess(truth, near_scan, held_out)
    assert outcome.held_out_error == pytest.approx(outcome.shot_noise, rel=0.1)
    assert with_residuals(truth, near_scan)[1].median_ratio == pytest.approx(1, abs=0.1)
    assert truth.provenance["near_field"] == near_scan.near_field.to_dict()
    far = replace(near_scan, near_field=None)
    assert assess(replace(truth, near_field=None), near_scan, held_out).held_out_error > 5 * outcome.held_out_error
    assert "near_field" not in provenance(far)


def test_a_near_field_is_simulated_and_described_by_the_commands(tmp_path):
    near = "simulation.near_field={distance_px=40,wavelength_px=0.5}"
    command(f"simulate {tmp_path}/scan.h5 --N 24 --positions 16 --set {near}")
    assert "near field (angular-spectrum), 40 pixels" in " ".join(command(f"info {tmp_path}/scan.h5").split())
