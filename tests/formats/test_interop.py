"""Files of other programs written by the programs themselves, and ours opened by them.

`emdfile`, `nexusformat`, `scipy` and `tifffile` belong to the test extra and are used where their formats are tested.
Those here come with a hundred packages that reading files does not need: `make test-interop` installs them without.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho.data.beam import Beam
from ptycho.data.scan import Scan
from ptycho.formats import read_product, read_scan, write_scan
from tests.formats.scans import assert_same, scan_of, truth
from tests.formats.test_other_formats import hdf5, ptylab_values

BEAM, PIXEL = Beam(energy_eV=6200, distance_m=2.0), 9e-9


@pytest.fixture
def scan() -> Scan:
    mask = np.random.default_rng(0).random((16, 16)) > 0.1
    return scan_of(modes=2, beam=BEAM, pixel_size_m=PIXEL, object=truth(50, 35), mask=mask)


# -------------------------------------------------------------------------------------------------- Ptychodus


@pytest.fixture
def product(scan: Scan, tmp_path: Path) -> Any:
    """What Ptychodus makes of a product that was written here."""
    pytest.importorskip("ptychodus", reason="Ptychodus is not installed: make test-interop")
    from ptychodus.plugins.h5_product_file import H5ProductFileIO

    write_scan(scan, tmp_path / "ours_para.hdf5")
    return H5ProductFileIO().read(tmp_path / "ours_para.hdf5")


def test_ptychodus_opens_our_product_and_patterns(product: Any, scan: Scan, tmp_path: Path) -> None:
    from ptychodus.plugins.h5_diffraction_file import H5DiffractionFileReader

    assert product.metadata.photon_energy_eV == 6200 and product.metadata.detector_distance_m == 2
    np.testing.assert_array_equal(product.object_.get_array()[0], truth(50, 35))
    np.testing.assert_array_equal(product.probes.get_array()[0], scan.probe)
    assert product.object_.get_pixel_geometry().width_m == pytest.approx(PIXEL)
    found = np.stack([getattr(product.probe_positions, f"get_coordinates_{axis}_m")() for axis in "yx"], axis=1)
    from_the_middle = scan.positions - np.array([50, 35]) / 2  # of the object; probe pixel N // 2 is a probe's middle
    np.testing.assert_allclose(found, from_the_middle * PIXEL, atol=1e-6 * PIXEL)
    patterns = H5DiffractionFileReader("/dp").read(tmp_path / "ours_dp.hdf5")
    np.testing.assert_array_equal(np.concatenate([array.get_patterns() for array in patterns]), scan.counts)


def test_ptychodus_opens_our_cxi(scan: Scan, tmp_path: Path) -> None:
    pytest.importorskip("ptychodus", reason="Ptychodus is not installed: make test-interop")
    from ptychodus.plugins.cxi_file import CXIDiffractionFileReader

    write_scan(scan, tmp_path / "ours.cxi")
    found = CXIDiffractionFileReader().read(tmp_path / "ours.cxi")
    about = found.get_metadata()
    assert about.photon_energy_eV == pytest.approx(6200) and about.detector_distance_m == 2
    assert about.detector_pixel_geometry.width_m == pytest.approx(BEAM.wavelength_m * 2 / (16 * PIXEL))
    np.testing.assert_array_equal(np.concatenate([array.get_patterns() for array in found]), scan.counts)
    np.testing.assert_array_equal(found.get_bad_pixels(), ~scan.mask)


@pytest.mark.parametrize("kind", ["hdf5", "npz"])
def test_what_ptychodus_writes_is_read(kind: str, product: Any, scan: Scan, tmp_path: Path) -> None:
    """The product of either kind, with the patterns in its own file of the same kind."""
    from ptychodus.plugins.h5_diffraction_file import H5DiffractionFileReader, H5DiffractionFileWriter
    from ptychodus.plugins.h5_product_file import H5ProductFileIO
    from ptychodus.plugins.npz_diffraction_file import NPZDiffractionFileIO
    from ptychodus.plugins.npz_product_file import NPZProductFileIO

    path = tmp_path / f"theirs_para.{kind}"
    patterns = H5DiffractionFileReader("/dp").read(tmp_path / "ours_dp.hdf5")
    (H5ProductFileIO() if kind == "hdf5" else NPZProductFileIO()).write(path, product)
    writer = H5DiffractionFileWriter("/dp") if kind == "hdf5" else NPZDiffractionFileIO()
    writer.write(tmp_path / f"theirs_dp.{kind}", patterns)
    again = read_product(path)
    np.testing.assert_array_equal(again.object, truth(50, 35))
    np.testing.assert_allclose(again.positions, scan.positions, atol=1e-6)
    assert again.beam == BEAM and again.pixel_size_m == pytest.approx(PIXEL)
    assert_same(read_scan(path), scan, lost=("mask", "object", "probe"))  # whether its probe is scaled nobody knows


# ----------------------------------------------------------------------------------------------------- PtyLab

PTYLAB = """
import json, sys, warnings
import numpy as np
warnings.simplefilter("ignore")
from PtyLab.ExperimentalData.ExperimentalData import ExperimentalData
from PtyLab.Params.Params import Params
from PtyLab.Reconstruction.Reconstruction import Reconstruction
data = ExperimentalData(sys.argv[1], operationMode="CPM")
result = Reconstruction(data, Params())
result.initializeObjectProbe()
rng = np.random.default_rng(0)
result.object = (rng.normal(size=result.object.shape) + 1j * rng.normal(size=result.object.shape)).astype("c8")
result.error = [1.0]
result.saveResults(sys.argv[2])
np.save(sys.argv[3], result.object.squeeze())
print(json.dumps(dict(corners=result.positions.tolist(), N=int(result.Np), pixel=float(result.dxo))))
"""


def test_ptylab_and_we_have_the_same_positions_and_its_results_are_read(tmp_path: Path) -> None:
    """It opens the file that our test of its format made; the corners of probes are its own numbers, rounded."""
    pytest.importorskip("PtyLab", reason="PtyLab is not installed: make test-interop")
    scan = scan_of()
    path, result, image = (tmp_path / name for name in ("scan.hdf5", "result.hdf5", "object.npy"))
    hdf5(path, ptylab_values(scan, entrancePupilDiameter=[1e-7]))
    command = [sys.executable, "-c", PTYLAB, *map(str, (path, result, image))]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"MPLBACKEND": "agg"})
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    corners = np.array(said["corners"])
    assert said["pixel"] == pytest.approx(PIXEL, rel=1e-6) and said["N"] == 16
    mine = read_scan(path).positions
    np.testing.assert_allclose(mine - mine[0], corners - corners[0], atol=1e-5)
    product = read_product(result)
    np.testing.assert_array_equal(product.object, np.load(image))
    np.testing.assert_allclose(product.positions, corners + 16 // 2, atol=1e-5)
    assert product.pixel_size_m == pytest.approx(PIXEL, rel=1e-6)


# ------------------------------------------------------------------------------------------------- RosettaSciIO


@pytest.mark.filterwarnings("ignore:The NestedDirectoryStore is deprecated:FutureWarning")  # RosettaSciIO 0.15
@pytest.mark.parametrize("kind", ["hspy", "zspy"])
def test_what_rosettasciio_writes_is_read(kind: str, tmp_path: Path) -> None:
    """A raster of 3 x 5 frames, calibrated; a `.zspy` is a folder."""
    writer = pytest.importorskip(f"rsciio.{kind}", reason="RosettaSciIO is not installed: make test-interop")
    scan, path = scan_of(), tmp_path / f"scan.{kind}"
    names, steps, units = ("y", "x", "ky", "kx"), (0.6, 0.4, 2.0, 2.0), ("nm", "nm", "mrad", "mrad")
    data = scan.counts.reshape(3, 5, 16, 16)
    axes = [
        dict(name=name, scale=step, offset=0.0, units=unit, size=size, navigate=k < 2, index_in_array=k)
        for k, (name, step, unit, size) in enumerate(zip(names, steps, units, data.shape, strict=True))
    ]
    about = dict(
        General=dict(title=""), Signal=dict(signal_type=""), Acquisition_instrument=dict(TEM=dict(beam_energy=300.0))
    )
    other = {key: {} for key in ("original_metadata", "learning_results", "models", "tmp_parameters")}
    versions = dict(package="test", package_version="1")
    signal = dict(data=data, axes=axes, metadata=about, attributes=dict(_lazy=False), package_info=versions, **other)
    writer.file_writer(str(path), signal)
    assert path.is_dir() == (kind == "zspy")
    read = read_scan(path)
    np.testing.assert_array_equal(read.counts, scan.counts)
    assert read.beam == Beam(energy_eV=3e5, particle="electron")
    assert read.pixel_size_m == pytest.approx(read.beam.wavelength_m / (16 * 2e-3), rel=1e-6)
    raster = np.stack(np.mgrid[:3, :5], axis=-1).reshape(-1, 2) * (0.6e-9, 0.4e-9) / read.pixel_size_m
    np.testing.assert_allclose(read.positions - read.positions[0], raster, atol=1e-6)
