"""Ptychodus takes this package for PtychoPINN: its backend, as it is, trains and reconstructs with us."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ptycho.cli.app import app
from ptycho.config import SimulationConfig
from ptycho.config.config import InferenceConfig, ModelConfig, TrainingConfig, update_legacy_dict
from ptycho.data.beam import Beam
from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.formats import write_scan
from ptycho.loader import load
from ptycho.model_manager import ARCHIVE, MEMBER
from ptycho.model_manager import load as load_network
from ptycho.network.files import save_model
from ptycho.raw_data import RawData
from ptycho.simulation.simulate import simulate
from ptycho.tf_helper import reassemble_position
from ptycho.workflows.components import load_inference_bundle, run_cdi_example, save_outputs


@pytest.fixture(scope="module")
def scan() -> Scan:
    return simulate(SimulationConfig(N=24, positions=100, step_px=4.0, photons=1e5, seed=2))


def raw_of(scan: Scan) -> RawData:
    y, x = scan.positions.T
    return RawData.from_coords_without_pc(x, y, scan.counts, scan.probe, np.zeros(len(scan), int), scan.object)


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig(ModelConfig(N=24, n_filters_scale=1), nepochs=1, **changes)


def test_groups_are_the_nearest_frames_in_amplitudes(scan: Scan) -> None:
    data = raw_of(scan).generate_grouped_data(24, K=7, nsamples=1, gridsize=2)
    container = load(lambda: data, scan.probe, which=None, create_split=False)
    assert container.X.shape == (100, 24, 24, 4) and container.local_offsets.shape == (100, 1, 2, 4)
    np.testing.assert_allclose(container.X[..., 0] ** 2, scan.counts, rtol=1e-6)
    # -(r - mean r), as (x, y): with the mean it leads back to the frame.
    found = container.global_offsets[:, 0, ::-1] - container.local_offsets[:, 0, ::-1]
    np.testing.assert_allclose(found[..., 0], scan.positions, atol=1e-4)
    distances = np.linalg.norm(scan.positions[container.nn_indices] - scan.positions[:, None], axis=-1)
    assert (np.diff(distances, axis=1) >= 0).all() and (distances[:, 0] == 0).all()
    with pytest.raises(ValueError, match="24 x 24 pixels, the model 32 x 32"):
        raw_of(scan).generate_grouped_data(32)


def test_settings_are_written_under_the_keys_of_cfg() -> None:
    cfg: dict[str, Any] = {}
    update_legacy_dict(cfg, config(probe_trainable=True))
    assert cfg["N"] == 24 and cfg["nepochs"] == 1 and cfg["probe.trainable"] is True and cfg["object.big"] is True
    update_legacy_dict(cfg, InferenceConfig(ModelConfig(N=32), output_dir=Path("out")))
    assert cfg["N"] == 32 and cfg["output_dir"] == "out"


def test_the_doors_give_our_image_on_the_grid_of_the_object(scan: Scan, tmp_path: Path) -> None:
    raw = raw_of(scan)
    amplitude, phase, results = run_cdi_example(raw, raw, config())
    assert amplitude.shape == phase.shape == scan.object.shape
    save_outputs(amplitude, phase, results, tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "recon_amp.npy"), amplitude)
    from ptycho import model_manager

    model_manager.save(tmp_path)
    model, cfg = load_inference_bundle(tmp_path)
    container = load(lambda: raw.generate_grouped_data(24, gridsize=1), scan.probe)
    patches = model.predict([container.X * cfg["intensity_scale"], container.local_offsets])
    assert patches.shape == (100, 24, 24, 1)
    image = reassemble_position(patches, container.global_offsets, M=20)[..., 0]
    np.testing.assert_allclose(image, amplitude * np.exp(1j * phase), atol=1e-6)
    # Patches of any other origin are averaged.
    plain = reassemble_position(np.asarray(patches), container.global_offsets, M=20)
    assert plain.ndim == 3 and np.isfinite(plain).all()
    # A batch, in any order, has the patches of its own groups.
    order = np.array([71, 3, 50])
    batch = model.predict([container.X[order], container.local_offsets[order]])
    np.testing.assert_array_equal(np.asarray(batch), np.asarray(patches)[order])
    with pytest.raises(ValueError, match=r"ptycho\.loader\.load"):
        model.predict([np.asarray(container.X), container.local_offsets])
    with pytest.raises(ValueError, match="not known"):
        model.predict([container.X[order], container.local_offsets])


def test_a_supervised_network_learns_the_object_that_is_given(scan: Scan) -> None:
    supervised = TrainingConfig(ModelConfig(N=24, n_filters_scale=1, model_type="supervised"), nepochs=2)
    amplitude, _, results = run_cdi_example(raw_of(scan), raw_of(scan), supervised)
    assert np.isfinite(amplitude).all() and results["history"]["loss"][1] < results["history"]["loss"][0]
    with pytest.raises(ValueError, match="needs the object"):
        run_cdi_example(replace(raw_of(scan), objectGuess=None), None, supervised)


def test_foreign_weights_are_named(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / ARCHIVE, "w") as archive:
        archive.writestr("diffraction_to_obj/model.keras", b"")
    with pytest.raises(ValueError, match="holds no network of ptycho"):
        load_network(tmp_path)


@pytest.mark.slow
def test_ptychodus_trains_and_reconstructs_with_this_package(scan: Scan, tmp_path: Path) -> None:
    """Headless, in processes of its own; the image is that of our own command, on its grid."""
    pytest.importorskip("ptychodus", reason="Ptychodus is not installed: make test-interop")
    from ptychodus.api.reconstruct import ReconstructInput
    from ptychodus.api.settings import SettingsRegistry
    from ptychodus.model.ptychopinn.core import PtychoPINNReconstructorLibrary
    from ptychodus.plugins.h5_product_file import H5ProductFileIO

    whole = replace(scan, beam=Beam(energy_eV=6200, distance_m=2.0), pixel_size_m=9e-9)
    write_scan(whole, tmp_path / "scan_para.hdf5")
    product = H5ProductFileIO().read(tmp_path / "scan_para.hdf5")
    parameters = ReconstructInput(scan.counts, np.zeros((24, 24), bool), product)
    library = PtychoPINNReconstructorLibrary(SettingsRegistry(), False)
    library.training_settings.nepochs.set_value(1)
    library.model_settings.n_filters_scale.set_value(1)
    backend = next(iter(library))
    data, bundle, run = (tmp_path / name for name in ("data", "bundle", "run"))
    for folder in (data, bundle, run):
        folder.mkdir()
    for name in ("train_data.npz", "test_data.npz"):
        backend.export_training_data(data / name, parameters)
    assert len(list(backend.train(data, bundle))) == 1
    backend.load_model_from_file(bundle / ARCHIVE)
    (output,) = backend.reconstruct(parameters)
    image = output.product.object_.get_array()[0]
    assert image.shape == scan.object.shape

    save_model(load_network(bundle), run / MEMBER)
    words = ["reconstruct", str(data / "test_data.npz"), "-o", str(tmp_path / "ours"), "--model", str(run)]
    done = CliRunner().invoke(app, [*words, "--no-refine", "--force"])
    assert done.exit_code == 0, done.output
    ours = Reconstruction.load(tmp_path / "ours" / "reconstruction.h5")
    y, x = ours.origin_px

    covered = ours.coverage > 0
    rows, columns = np.nonzero(covered)
    inside = (rows + y >= 0) & (rows + y < image.shape[0]) & (columns + x >= 0) & (columns + x < image.shape[1])
    rows, columns = rows[inside], columns[inside]
    np.testing.assert_allclose(image[rows + y, columns + x], ours.object[rows, columns], atol=1e-5)
