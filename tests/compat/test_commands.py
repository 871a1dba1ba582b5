"""The command lines that users of PtychoPINN type."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ptycho.config import SimulationConfig
from ptycho.data.scan import Scan
from ptycho.formats import read_scan, write_scan
from ptycho.raw_data import RawData
from ptycho.simulation.simulate import simulate
from ptycho.workflows.commands import inference_command, simulate_command, train_command
from ptycho.workflows.components import simulated


@pytest.fixture(scope="module")
def scan() -> Scan:
    return simulate(SimulationConfig(N=24, positions=64, step_px=4.0, photons=1e5, seed=2))


@pytest.fixture(scope="module")
def scan_file(scan: Scan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scan(scan, tmp_path_factory.mktemp("pinn") / "scan.npz", format="ptychopinn")


def data_of(scan: Scan) -> RawData:
    y, x = scan.positions.T
    data = RawData.from_coords_without_pc(x, y, scan.counts, scan.probe, None, scan.object)
    return replace(data, file_scan=scan)


def test_a_file_of_ptychopinn_itself_brings_its_object(scan: Scan, tmp_path: Path) -> None:
    """``objectGuess`` is nothing that we call a truth, and what simulations and supervised trainings are made of."""
    y, x = scan.positions.T
    names = dict(xcoords=x, ycoords=y, xcoords_start=x, ycoords_start=y, diff3d=np.sqrt(scan.counts).astype("float32"))
    np.savez(tmp_path / "file.npz", **names, probeGuess=scan.probe[0], objectGuess=scan.object)
    data = RawData.from_file(tmp_path / "file.npz")
    np.testing.assert_array_equal(data.objectGuess, scan.object)
    assert data.scan().object is None
    assert len(simulated(data, frames=5)) == 5


def test_a_session_as_it_was_typed(scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Simulate, train with a YAML file, reconstruct what was simulated: frames of the object that the file holds."""
    simulate_command(
        ["--input-file", str(scan_file), "--output-file", str(tmp_path / "sim.npz"), "--n-images", "80", "--seed", "3"]
    )
    assert len(read_scan(tmp_path / "sim.npz")) == 80
    (tmp_path / "run.yaml").write_text("nepochs: 5\nmodel:\n  n_filters_scale: 1\n")
    train_command(
        f"--config {tmp_path}/run.yaml --nepochs 1 --train_data_file {scan_file} --test_data_file {tmp_path}/sim.npz "
        f"--n_images 49 --output_dir {tmp_path}/run".split()
    )
    assert (tmp_path / "run" / "wts.h5.zip").is_file() and (tmp_path / "run" / "recon_phase.npy").is_file()
    inference_command(f"--model_path {tmp_path}/run --test_data {tmp_path}/sim.npz --output_dir {tmp_path}/out".split())
    # The network is deterministic: what training left and what it gives again from its file are one image.
    np.testing.assert_allclose(
        np.load(tmp_path / "out" / "recon_amp.npy"), np.load(tmp_path / "run" / "recon_amp.npy"), atol=1e-5
    )
    assert (tmp_path / "out" / "object.png").stat().st_size > 1000
    assert "recon_amp.npy" in capsys.readouterr().out


def test_frames_are_those_of_object_and_probe(scan: Scan) -> None:
    """At its own positions the frames are the same but for shot noise, pixel by pixel."""
    data = data_of(scan)
    again = simulated(data, seed=5)
    a, b = (frames.astype(float) for frames in (again.counts, scan.counts))
    bright = a + b > 40
    # Two draws of one Poisson mean differ by their sum, on average; the ratio's own variance is about 2 a pixel.
    ratio = ((a - b) ** 2 / (a + b + 1e-9))[bright]
    assert abs(ratio.mean() - 1) < 5 * np.sqrt(2 / ratio.size)
    brighter = simulated(data, photons=4 * scan.photons)
    assert float(brighter.counts.sum()) == pytest.approx(4 * a.sum(), rel=5 * np.sqrt(2 / a.sum()))
    with pytest.raises(ValueError, match="needs the object"):
        simulated(replace(data, objectGuess=None))
    small = data_of(replace(scan.subset([0]), positions=np.full((1, 2), 12.0), object=scan.object[:24, :24]))
    with pytest.raises(ValueError, match="hardly larger"):
        simulated(small, frames=3)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("", "--train_data_file is needed"),
        ("--train_data_file nowhere.npz", "nowhere.npz"),
        ("--train_data_file {scan} --N 64", "24 x 24 pixels"),
        ("--train_data_file {scan} --n_images 999", "999 frames were asked for; there are 64"),
        ("--train_data_file {scan} --config {folder}/odd.yaml", "no setting nonsense"),
        ("--train_data_file {scan} --config {folder}/list.yaml", "not YAML with one setting a line"),
        ("--train_data_file {scan} --config {folder}/wrong.yaml", "nepochs is 'many'"),
    ],
)
def test_mistakes_are_one_line(
    typed: str, said: str, scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "odd.yaml").write_text("nonsense: 1\n")
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    (tmp_path / "wrong.yaml").write_text("nepochs: many\ntest_data_file: null\n")
    with pytest.raises(SystemExit) as ended:
        train_command(typed.format(scan=scan_file, folder=tmp_path).split())
    error = capsys.readouterr().err.strip() or str(ended.value.code)
    assert said in error and "\n" not in error
