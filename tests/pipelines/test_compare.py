"""Several methods on one scan: the same frames, the same measures, one table."""

import json
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from ptycho.data.reconstruction import Reconstruction
from ptycho.formats import write_scan
from ptycho.pipelines import compare as comparison
from ptycho.pipelines.assess import assess
from ptycho.pipelines.compare import Entry, compare_run, table
from tests.cli.test_app import run as command


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """More wait for each other on a machine that is busy otherwise."""
    monkeypatch.setattr(comparison, "run_ptychi", partial(comparison.run_ptychi, threads=1))


def test_the_command_compares(small_scan, tmp_path, monkeypatch):
    pytest.importorskip("ptychi")
    monkeypatch.setenv("COLUMNS", "200")
    write_scan(small_scan, tmp_path / "scan.h5")
    said = command(f"compare {tmp_path}/scan.h5 -o {tmp_path}/out --engines lsqml --epochs 3 --hold-out-every 10")
    for words in ("refine", "pty-chi lsqml", "flat object", "SNR (dB)", "held-out error"):
        assert words in said
    record = json.loads((tmp_path / "out/comparison.json").read_text())
    assert list(record["methods"]) == ["refine", "lsqml"]
    assert record["ptychi"]
    (note,) = record["notes"]
    assert "limit of 3 epochs while it was still improving" in note
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    for heading in (
        "Scores",
        "Object: refine",
        "Object: lsqml",
        "Frames on the scan",
        "Epochs",
        "Fourier ring correlation",
    ):
        assert f"<h2>{heading}" in page
    assert len(page) < 15e6
    held_out = small_scan.held_out_mask(10)
    for method, found in record["methods"].items():
        # Ours begins its history with what it starts from, and ends with all frames.
        assert found["epochs"] == len(found["history"]) == (3 if method == "lsqml" else 1 + 3)
        assert found["seconds"] > 0
        assert (tmp_path / f"out/{method}.png").exists()
        result = Reconstruction.load(tmp_path / f"out/{method}.h5")
        outcome = assess(result, small_scan, held_out)
        assert found["held_out_error"] == pytest.approx(outcome.held_out_error, rel=1e-6)
        assert found["object"]["snr_db"] == pytest.approx(outcome.scores.snr_db, abs=1e-3)
        assert result.provenance["hold_out_every"] == 10
        assert not result.used_frames[held_out].any()


def test_without_pty_chi_the_own_method_runs(small_scan, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ptychi", None)
    found = compare_run(small_scan, tmp_path, epochs=2)
    assert [entry.method for entry in found.entries] == ["refine"]
    note, limit = found.notes
    assert "limit of 2 epochs" in limit
    assert note.startswith("without lsqml, rpie: ")
    assert note.endswith("pip install 'ptycho[ptychi]'")
    assert "\n" not in note
    assert {p.name for p in tmp_path.iterdir()} == {"refine.h5", "refine.png", "comparison.json", "report.html"}


def test_a_method_that_diverges_is_named(small_scan, tmp_path):
    pytest.importorskip("ptychi")
    found = compare_run(small_scan, tmp_path, engines=["rpie"], epochs=25, batch_size=72)
    assert [entry.method for entry in found.entries] == ["refine"]
    assert any("rpie of pty-chi diverged" in note for note in found.notes)


def test_an_engine_that_there_is_not(small_scan, tmp_path):
    with pytest.raises(ValueError, match="no engine dm; those of pty-chi are lsqml, rpie, epie"):
        compare_run(small_scan, tmp_path, engines=["lsqml", "dm"])


def test_the_table_has_one_row_for_each_method_and_a_floor(small_scan):
    result = Reconstruction(
        object=small_scan.object,
        probe=small_scan.probe,
        positions_px=small_scan.positions,
        coverage=np.ones(small_scan.object.shape, "float32"),
        used=len(small_scan),
        dropped=0,
    )
    outcome = assess(result, small_scan, small_scan.held_out_mask(10))
    exact = Entry("refine", outcome, [dict(epoch=1, seconds=1.5), dict(epoch=2, seconds=0.25)], 0.5)
    titles, rows = table([exact, exact._replace(method="rpie")])
    assert titles[:4] == ["method", "epochs", "epochs (s)", "set-up (s)"]
    assert [row[0] for row in rows] == ["refine", "pty-chi rpie", "flat object"]
    assert {len(row) for row in rows} == {len(titles)}
    assert rows[0][1:4] == ["2", "1.8", "0.5"]
    error, noise = map(float, rows[0][-2:])
    assert error == pytest.approx(noise, rel=0.2)  # a perfect object leaves the shot noise
    assert table([exact._replace(outcome=replace(outcome, scores=None))])[0][4:] == titles[-2:]
