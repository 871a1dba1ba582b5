"""The runner: data, rows, what is left to do after a kill, and what a failure does."""

import csv
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from ptycho.config import SimulationConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.formats import write_scan
from ptycho.studies.cases import Case, Study
from ptycho.studies.data import central_square, scans, wrong_probe
from ptycho.studies.dose_response import DoseResponse
from ptycho.studies.runner import Failure, attempt, finished, run_case, run_study, sizes
from ptycho.studies.tables import flattened
from tests.cli.test_app import run
from tests.studies.conftest import TINY

SMALL = Case(
    name="small",
    simulation=SimulationConfig(N=24, step_px=3.0, jitter_px=0.75, photons=1e4),
    train_frames=64,
    test_frames=49,
    model=dict(stages=1, width=4, gridsize=2),
    training=dict(epochs=2),
    refine=None,
)


def untimed(row: dict) -> dict:
    """What must be the same whenever and wherever a case runs, as one table of columns."""
    flat = {key: value for key, value in flattened(row).items() if not key.startswith(("seconds", "peak_memory"))}
    return flat | {f"loss {epoch}": loss for epoch, loss in enumerate(row["losses"])}


def assert_same(row: dict, other: dict) -> None:
    """Equal to the rounding that another number of threads makes."""
    row, other = untimed(row), untimed(other)
    assert row.keys() == other.keys()
    for key, value in row.items():
        assert other[key] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value), key


def test_the_losses_see_the_same_noise_and_another_object_on_the_same_trajectory():
    likelihood, amplitudes = (scans(replace(SMALL, training=dict(mae_weight=float(k)))) for k in range(2))
    np.testing.assert_array_equal(likelihood.train.counts, amplitudes.train.counts)
    np.testing.assert_array_equal(likelihood.test.counts, amplitudes.test.counts)
    train, test = likelihood.train, likelihood.test
    assert (len(train), len(test)) == (64, 49)
    steps = train.positions[central_square(train.positions, 49)] - test.positions
    np.testing.assert_allclose(steps, np.broadcast_to(steps[0], steps.shape), atol=1e-9)
    y, x = np.rint(steps[0]).astype(int)
    there = train.object[y : y + test.object.shape[0], x : x + test.object.shape[1]]
    assert (
        abs(np.corrcoef(np.angle(there).ravel(), np.angle(test.object[: len(there), : there.shape[1]]).ravel())[0, 1])
        < 0.5
    )
    brighter = scans(replace(SMALL, simulation=replace(SMALL.simulation, photons=1e6)))
    np.testing.assert_array_equal(brighter.test.object, test.object)
    np.testing.assert_array_equal(brighter.test.positions, test.positions)
    assert brighter.test.mean_counts == pytest.approx(100 * test.mean_counts, rel=0.02)  # 49 frames of 5e3: 0.2 %
    own = scans(replace(SMALL, own_object=True))
    assert own.test is own.train


def test_a_measured_scan_is_thinned_and_judged_by_all_its_photons(tmp_path, small_scan):
    write_scan(small_scan, tmp_path / "scan.h5")
    case = replace(SMALL, simulation=None, file=str(tmp_path / "scan.h5"), kept=0.1)
    data = scans(case)
    np.testing.assert_array_equal(data.full.counts, small_scan.counts)
    assert np.all(data.test.counts <= data.full.counts)
    total = float(small_scan.counts.sum())
    assert abs(data.test.counts.sum() - 0.1 * total) < 5 * np.sqrt(0.09 * total)
    assert data.test.photons == pytest.approx(0.1 * small_scan.photons, rel=1e-5)
    np.testing.assert_array_equal(data.train.positions, small_scan.positions[~small_scan.held_out_mask(10)])


def test_a_wrong_probe_is_a_guess_with_the_photons_of_the_right_one(small_scan):
    assert wrong_probe(small_scan, {}, 0) is small_scan
    for error in (dict(defocus=0.5), dict(blur_px=1.0), dict(noise=0.3)):
        guess = wrong_probe(small_scan, error, 0)
        assert not guess.probe_known
        assert guess.photons == pytest.approx(small_scan.photons, rel=1e-5)
        assert np.abs(guess.probe - small_scan.probe).max() > 0.05 * np.abs(small_scan.probe).max()


def test_half_the_defocus_is_half_the_diameter():
    """Geometrical optics, good to a fifth for a probe of some Fresnel zones."""
    scan = scans(replace(SMALL, simulation=SimulationConfig(N=128, probe_diameter=0.5))).test
    from ptycho.simulation.probes import probe_diameter

    widths = [probe_diameter(wrong_probe(scan, dict(defocus=part), 0).probe[0]) for part in (0.0, 0.5)]
    assert widths[1] / widths[0] == pytest.approx(0.5, rel=0.2)


@pytest.mark.slow
def test_a_study_of_two_N_leaves_rows_images_and_one_page(studied):
    rows = json.loads((studied / "results.json").read_text())
    assert [row["N"] for row in rows] == [24, 24, 32, 32]
    table = list(csv.DictReader((studied / "results.csv").read_text().splitlines()))
    for row, line in zip(rows, table, strict=True):
        assert float(line["final.snr_db"]) == row["final"]["snr_db"] > row["flat"]["snr_db"] + 1
        assert row["bound"]["snr_db"] > row["flat"]["snr_db"]
        result = Reconstruction.load(studied / row["folder"] / "reconstruction.h5")
        assert result.provenance["counts_per_frame"] == pytest.approx(row["counts_per_frame"])
        assert row["seconds"]["arm"] > 0
        assert row["peak_memory_mb"] > 100
        assert row["versions"]["keras"]
    page = (studied / "report.html").read_text(encoding="utf-8")
    assert "How it was made" in page and "learning_rate" in page
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page.split("base64")[0]
    assert all(row["name"] in page for row in rows)


@pytest.mark.slow
def test_finished_arms_are_not_run_again(studied):
    times = {path: path.stat().st_mtime_ns for path in studied.glob("*/row.json")}
    before = json.loads((studied / "results.json").read_text())
    said = run(f"study dose-response -o {studied} {TINY}")
    assert "4 of 4 arms are done already" in said
    assert times == {path: path.stat().st_mtime_ns for path in studied.glob("*/row.json")}
    assert json.loads((studied / "results.json").read_text()) == before


@pytest.mark.slow
def test_an_arm_gives_what_it_gives_alone_in_a_fresh_process(studied, tmp_path):
    """The N 32 network came third in its process, after another N."""
    together = json.loads((studied / "results.json").read_text())[2]
    (tmp_path / "case.json").write_text(json.dumps(together["config"]))
    code = (
        "import json, sys; from pathlib import Path; from ptycho.studies.cases import Case\n"
        "from ptycho.studies.runner import run_case; from tests.conftest import run_graphs_as_traced\n"
        "run_graphs_as_traced()\n"  # as for the study: graphs that are rewritten round otherwise
        "here = Path(sys.argv[1]); run_case(Case.from_dict(json.loads((here / 'case.json').read_text())), here)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True)
    alone = json.loads((tmp_path / together["folder"] / "row.json").read_text())
    assert alone["losses"] == together["losses"]
    assert alone["final"] == pytest.approx(together["final"], rel=1e-6)


@pytest.mark.slow
def test_an_arm_stopped_in_mid_training_goes_on(tmp_path):
    case = replace(SMALL, training=dict(epochs=3))
    whole = run_case(case, tmp_path / "whole")

    def stop(what, done, total, numbers, image=None):
        if what == "training" and done > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_case(case, tmp_path / "stopped", stop)
    assert len(json.loads((tmp_path / "stopped" / case.folder / "network/checkpoint/history.json").read_text())) == 2
    assert_same(run_case(case, tmp_path / "stopped"), whole)


@pytest.mark.slow
def test_a_failed_arm_is_reported_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    said = []
    bright = replace(SMALL, name="bright", simulation=replace(SMALL.simulation, photons=1e15), start="pretrained")
    study = Study(
        "s", "two", (bright, replace(SMALL, name="good", start="pretrained")), lambda folder, rows: (rows, [])
    )
    results = run_study(study, tmp_path, say=said.append)
    assert [row["name"] for row in results.rows] == ["good"]
    assert [failure.name for failure in results.failures] == ["bright"]
    assert any("bright: FAILED, ValueError: a pixel counts" in line for line in said)
    assert "Traceback" in (tmp_path / "bright.error.txt").read_text()
    assert "bright: ValueError" in (tmp_path / "report.html").read_text()
    assert isinstance(attempt(bright, tmp_path), Failure)

    from ptycho.cli.app import main

    monkeypatch.setattr(sys, "argv", f"ptycho study dose-response -o {tmp_path / 'cli'} {TINY} --doses 1e15".split())
    with pytest.raises(SystemExit) as exit:
        main()
    assert str(exit.value.code).startswith("ptycho: 4 of 4 arms failed (nll-N24-1e15-s0: ValueError: a pixel counts")
    assert "FAILED nll-N24-1e15-s0" in capsys.readouterr().out


@pytest.mark.slow
def test_a_thinned_scan_is_judged_at_full_dose_and_against_the_full_image(tmp_path, small_scan):
    write_scan(replace(small_scan, object=None), tmp_path / "scan.h5")
    settings = DoseResponse(file=str(tmp_path / "scan.h5"), doses=(1.0, 0.01), seeds=1, refine=dict(epochs=6))
    alone = [case for case in settings.cases() if case.start == "empty"]
    results = run_study(settings.study()._replace(cases=tuple(alone)), tmp_path / "out")
    full, thin = results.rows
    assert thin["counts_per_frame"] == pytest.approx(0.01 * full["counts_per_frame"], rel=0.05)
    # The held-out frames that judge are the same, with the shot noise of their many photons.
    assert thin["final"]["shot_noise_error"] == pytest.approx(full["final"]["shot_noise_error"], rel=0.2)
    assert thin["final"]["held_out_error"] > 2 * full["final"]["held_out_error"]
    assert 0 < thin["final"]["frc_to_full"] < 1
    assert "frc_to_full" not in full["final"]
    assert {path.name for path in results.figures} == {"panel.png", "curves.png"}


def test_a_dry_run_loads_no_framework_and_writes_nothing(tmp_path):
    code = (
        "import sys, ptycho.cli.app\n"
        f"sys.argv = 'ptycho study dose-response -o {tmp_path}/out --dry-run'.split()\n"
        "try: ptycho.cli.app.main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('keras', 'tensorflow', 'matplotlib', 'distributed') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert "63 arms" in out
    assert out.strip().endswith("[]")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cut", ["reconstruction.h5", "network/model.keras"])
def test_an_arm_that_lost_a_part_of_a_file_is_not_finished(tmp_path, cut):
    """As a disk that failed, or was full, leaves it; what others have put there stays."""
    case, folder = SMALL, tmp_path / SMALL.folder
    names = ("reconstruction.h5", "network/model.keras", "network/checkpoint/arrays.h5")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(100))
    (folder / "row.json").write_text(json.dumps(dict(hash=case.hash, files=sizes(folder))))
    (folder / "notes.npy").write_bytes(bytes(10))
    assert finished(case, tmp_path) is not None
    (folder / cut).write_bytes(bytes(50))
    assert finished(case, tmp_path) is None
    assert all((folder / name).exists() for name in names)  # asking changes nothing
    (folder / cut).write_bytes(bytes(100))
    (folder / names[-1]).unlink()  # checkpoints of a finished arm may go
    assert finished(case, tmp_path) is not None


def test_an_arm_whose_checkpoint_was_cut_runs_anew_and_says_so(tmp_path):
    case = replace(SMALL, start="empty", training={}, model={}, refine=dict(epochs=3))
    checkpoint = tmp_path / case.folder / "checkpoint" / "refinement.npz"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"PK" + bytes(100))
    with pytest.warns(UserWarning, match=r"small runs anew: .*refinement.npz is damaged"):
        row = run_case(case, tmp_path)
    assert row["final"]["snr_db"] > 0
    assert finished(case, tmp_path) is not None
