"""Engines of other programs: what a script is given and gives back, and, where they are installed, the programs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import fourier_shift, gaussian_filter

from ptycho.config import SimulationConfig
from ptycho.pipelines.assess import assess
from ptycho.pipelines.compare import compare_run, table
from ptycho.reconstruction import other_programs
from ptycho.reconstruction.other_programs import (
    PROGRAMS,
    Program,
    ProgramFailed,
    default_environments,
    python_for,
    run_program,
)
from ptycho.simulation.simulate import simulate

KNOWS = """
import sys
import numpy as np
scan, truth = dict(np.load(sys.argv[1])), np.load("{truth}")
image = np.ones(scan["shape"], "complex64")
height, width = np.minimum(truth.shape, scan["shape"] - {corner})
image[{corner}:{corner} + height, {corner}:{corner} + width] = truth[:height, :width]
seconds = np.full(scan["epochs"], 0.01)
np.savez(sys.argv[2], object=image, probe=scan["probe"], seconds=seconds, loss=seconds, version="7.1", note="it knows")
"""


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for scripts of a program called ``oracle``, which this Python can run."""
    monkeypatch.setattr(other_programs, "SCRIPTS", tmp_path)
    monkeypatch.setitem(PROGRAMS, "oracle", Program("Oracle", "numpy", ("numpy",)))
    return tmp_path


def test_what_a_program_makes_is_judged_as_our_own(small_scan, scripts, tmp_path):
    np.save(tmp_path / "truth.npy", small_scan.object)
    # The canvas begins at least a margin before the object's pixel (0, 0) may be; the corner is found as ours is.
    grid = other_programs.ObjectGrid.around(small_scan.positions, small_scan.N, other_programs.MARGIN_PX)
    top, left = grid.origin
    truth = small_scan.object[max(top, 0) :, max(left, 0) :]
    np.save(tmp_path / "truth.npy", truth)
    assert top == left, "the script below has one number for both"
    (scripts / "oracle.py").write_text(KNOWS.format(truth=tmp_path / "truth.npy", corner=max(-top, 0)))
    held_out = small_scan.held_out_mask(10)
    run = run_program(small_scan, "oracle", Path(sys.executable), epochs=4, held_out=held_out)
    assert [entry["epoch"] for entry in run.history] == [1, 2, 3, 4]
    assert run.note == "Oracle 7.1: it knows"
    outcome = assess(run.result, small_scan, held_out)
    assert outcome.scores.snr_db > 60
    assert outcome.held_out_error == pytest.approx(outcome.shot_noise, rel=0.2)
    assert not run.result.used_frames[held_out].any()


def test_a_comparison_with_a_program_and_one_that_is_missing(small_scan, scripts, tmp_path, monkeypatch):
    np.save(tmp_path / "truth.npy", np.ones((4, 4), "complex64"))
    (scripts / "oracle.py").write_text(KNOWS.format(truth=tmp_path / "truth.npy", corner=0))
    monkeypatch.setitem(PROGRAMS, "absent", Program("Absent", "there_is_no_such_module", ()))
    found = compare_run(
        small_scan, tmp_path / "out", engines=["oracle", "absent"], epochs=2, hold_out_every=10, environments=tmp_path
    )
    assert [entry.method for entry in found.entries] == ["refine", "oracle"]
    _, rows = table(found.entries)
    assert [row[0] for row in rows] == ["refine", "oracle", "flat object"]
    assert rows[1][1] == "2"
    assert f"without absent: it is not installed in {tmp_path} (--install-engines does so)" in found.notes
    assert "Oracle 7.1: it knows" in found.notes
    record = json.loads((tmp_path / "out/comparison.json").read_text())
    assert record["methods"]["oracle"]["epochs"] == 2
    assert "ptychi" not in record


def test_a_program_that_cannot_be_installed_is_named_and_the_others_go_on(small_scan, scripts, tmp_path, monkeypatch):
    monkeypatch.setitem(PROGRAMS, "oracle", Program("Oracle", "numpy", (), python="python9.99"))
    found = compare_run(
        small_scan, tmp_path / "out", engines=["oracle"], epochs=2, environments=tmp_path / "made", installs=True
    )
    assert [entry.method for entry in found.entries] == ["refine"]
    assert "without oracle: Oracle needs python9.99, which is not here" in found.notes


def test_a_program_that_fails_is_named_and_the_others_go_on(small_scan, scripts, tmp_path):
    (scripts / "oracle.py").write_text("import sys; sys.exit('it needs a larger computer')")
    with pytest.raises(ProgramFailed, match="Oracle failed: it needs a larger computer"):
        run_program(small_scan, "oracle", Path(sys.executable))
    found = compare_run(small_scan, tmp_path / "out", engines=["oracle"], epochs=2, environments=tmp_path)
    assert [entry.method for entry in found.entries] == ["refine"]
    assert "Oracle failed: it needs a larger computer" in found.notes
    with pytest.raises(ValueError, match="all frames are held out"):
        run_program(small_scan, "oracle", Path(sys.executable), held_out=np.ones(len(small_scan), bool))


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != "oracle"])
def test_a_program_and_its_script_agree_with_our_conventions(name):
    """A canvas that is not square, positions between pixels: half a pixel or a mirror would show."""
    python = python_for(name, default_environments())
    if python is None:
        pytest.skip(f"{name} is not installed: ptycho compare --install-engines")
    points = np.stack(np.mgrid[:9, :14], axis=-1).reshape(-1, 2) * 4.0 + 20
    points += np.random.default_rng(1).uniform(-1, 1, points.shape)
    scan = simulate(SimulationConfig(N=32, photons=1e5, seed=4), positions=points)
    held_out = scan.held_out_mask(10)
    run = run_program(scan, name, python, epochs=30, held_out=held_out)
    image, origin = run.result.object, run.result.origin_px
    # No shift is taken out, but a complex scale; only the middle is compared, and of what programs are slow to find,
    # the coarsest features, nothing.
    middle = tuple(slice(size // 4, size // 4 + 2 * (size // 4)) for size in image.shape)
    truth = scan.object[tuple(slice(part.start + first, part.stop + first) for part, first in zip(middle, origin))]
    fine = lambda field: (field - gaussian_filter(field.real, 4) - 1j * gaussian_filter(field.imag, 4))[4:-4, 4:-4]

    def error(made: np.ndarray) -> float:
        made, wanted = fine(made), fine(truth)
        scale = np.vdot(made, wanted) / np.vdot(made, made)
        return float(np.linalg.norm(wanted - scale * made) / np.linalg.norm(wanted))

    made = image[middle]
    right = error(made)
    assert right < 0.5
    # Half a pixel off, along y or x; and the conjugate.
    moved = [fourier_shift(np.fft.fft2(made), shift) for shift in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))]
    for wrong in (*(np.fft.ifft2(spectrum) for spectrum in moved), made.conj()):
        assert error(wrong) > 1.1 * right
    # Its object and probe explain the counts in our model: amplitudes that are all wrong by 15 % would leave 0.02.
    assert assess(run.result, scan, held_out).held_out_error < 0.02
