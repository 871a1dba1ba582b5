"""What `ptycho export` leaves: every file holds the object it was given, at its size, and tells its units."""

from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from matplotlib import image as images

from ptycho.config import Multislice
from ptycho.data.beam import Beam
from ptycho.data.product import Product
from ptycho.data.reconstruction import Reconstruction
from ptycho.formats import read_product, reconstruction, write_product
from ptycho.images import LIT, illuminated_region
from ptycho.output.export import FORMATS, export
from ptycho.output.figures import scale_bar
from tests.cli.test_app import failure, run

PIXEL = 12.5e-9


@pytest.fixture
def run_folder(small_scan, tmp_path) -> Path:
    """A run folder with the true object, tilted as ptychography may find it."""
    tilt = np.exp(1j * (0.3 + 0.05 * np.arange(small_scan.object.shape[0])))[:, None]
    folder = tmp_path / "run"
    folder.mkdir()
    product = Product(
        object=small_scan.object * tilt,
        probe=small_scan.probe,
        positions=small_scan.positions,
        pixel_size_m=PIXEL,
        beam=Beam(energy_eV=6200.0, distance_m=2.0),
    )
    write_product(product, folder / "reconstruction.h5")
    return folder


def test_every_format_holds_the_object(run_folder, small_scan, tmp_path):
    said = run(f"export {run_folder} -o {tmp_path / 'out'}")
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == sorted(
        [
            "object.emd",
            "object_amplitude.tif",
            "object_phase.tif",
            "amplitude.png",
            "phase.png",
            "reconstruction.h5",
            "object.cxi",
        ]
        + ["figure.pdf", "figure.png"]
    )
    assert all(name in said.replace("\n", "") for name in files)
    given = read_product(run_folder / "reconstruction.h5")
    for name in ("reconstruction.h5", "object.cxi"):
        again = read_product(tmp_path / "out" / name)
        np.testing.assert_array_equal(again.object, given.object)
        np.testing.assert_array_equal(again.probe, given.probe)
        np.testing.assert_array_equal(again.positions, given.positions)
        assert again.pixel_size_m == pytest.approx(PIXEL, rel=1e-12)
        assert again.beam == pytest.approx(given.beam) or again.beam.energy_eV == pytest.approx(6200.0)
    with h5py.File(tmp_path / "out/object.cxi") as file:
        height, width = given.object.shape
        np.testing.assert_allclose(file["entry_1/image_1/image_size"][()], [width * PIXEL, height * PIXEL, 0])


def test_images_are_upright_without_the_tilt_and_know_their_pixels(run_folder, small_scan, tmp_path):
    export(run_folder, tmp_path / "out", ["tiff", "png"])
    amplitude, phase = (tifffile.imread(tmp_path / f"out/object_{name}.tif") for name in ("amplitude", "phase"))
    # The lit part, somewhere inside the object, as it is there to float32; corners without light have the mean.
    height, width = amplitude.shape
    given = read_product(run_folder / "reconstruction.h5")
    coverage = reconstruction.coverage(given.object.shape, given.probe, given.positions)
    dark = coverage[illuminated_region(coverage)] <= LIT * coverage.max()
    assert 0 < dark.mean() < 0.1
    assert len(np.unique(amplitude[dark])) == 1
    truth = np.abs(small_scan.object)
    windows = np.lib.stride_tricks.sliding_window_view(truth, (height, width))
    difference = np.abs(windows - amplitude)[..., ~dark].max(axis=-1)
    assert difference.min() < 1e-5
    y, x = np.unravel_index(np.argmin(difference), difference.shape)
    true_phase = np.angle(small_scan.object[y : y + height, x : x + width])
    # The ramp is found to 1/32 of a Fourier pixel, pi / 16 from edge to edge, and the mean phase is free.
    rows = np.angle(np.where(dark, 0, np.exp(1j * (phase - true_phase))).mean(axis=1))
    assert abs(rows[-1] - rows[0]) < abs(0.05 * height) / 4
    with tifffile.TiffFile(tmp_path / "out/object_phase.tif") as file:
        pixels, parts = file.pages[0].tags["XResolution"].value
        assert pixels / parts == pytest.approx(1e-2 / PIXEL, rel=1e-6)
    for name, part in (("amplitude", amplitude), ("phase", phase)):
        picture = images.imread(tmp_path / f"out/{name}.png")
        assert picture.shape == part.shape
        low, high = np.percentile(part, (0.5, 99.5))
        np.testing.assert_allclose(
            picture, np.clip((part - low) / (high - low), 0, 1), atol=0.51 / 255
        )  # rounded to 8 bits


@pytest.fixture
def thick_run(small_scan, tmp_path) -> Path:
    """The run of electrons of 80 kV through three slices 2 nm apart: the object, nothing, and the object again."""
    beam, pixel = Beam(energy_eV=80e3, particle="electron"), 2e-11
    slices = np.stack([small_scan.object, np.ones_like(small_scan.object), small_scan.object])
    coverage = reconstruction.coverage(small_scan.object.shape, small_scan.probe, small_scan.positions)
    result = Reconstruction(
        object=slices.prod(axis=0),
        slices=slices,
        multislice=Multislice(slices=3, spacing_px=100.0, wavelength_px=beam.wavelength_m / pixel),
        probe=small_scan.probe,
        positions_px=small_scan.positions,
        coverage=coverage,
        pixel_size_m=pixel,
        used=len(small_scan),
        dropped=0,
        provenance=dict(beam=asdict(beam)),
    )
    folder = tmp_path / "thick"
    folder.mkdir()
    result.save(folder / "reconstruction.h5")
    return folder


def test_slices_are_stacks_and_their_phases_the_projected_potential(thick_run, tmp_path):
    export(thick_run, tmp_path / "out", ["tiff", "emd"])
    with tifffile.TiffFile(tmp_path / "out/object_slices_phase.tif") as file:
        stack, told = file.asarray(), file.imagej_metadata
    assert told["unit"] == "nm" and told["spacing"] == pytest.approx(2.0)
    assert stack.shape[0] == 3 and np.ptp(stack[1]) < 1e-5
    np.testing.assert_allclose(stack[0], stack[2], atol=1e-5)
    potential = tifffile.imread(tmp_path / "out/object_potential.tif")
    # 1.0087 mrad / (V A) at 80 kV (Kirkland's figure 5.6); twice the phase of one slice, but for a constant
    phase = 2 * stack[0]
    np.testing.assert_allclose(potential - potential.mean(), (phase - phase.mean()) / 1.0087e-3, rtol=1e-3, atol=1e-2)
    with h5py.File(tmp_path / "out/object.emd") as file:
        assert (file.attrs["version_major"], file.attrs["version_minor"]) == (0, 2)
        np.testing.assert_array_equal(file["data/slices/data"][()], stack.T)
        np.testing.assert_array_equal(file["data/potential/data"][()], potential.T)
        assert file["data/potential/data"].attrs["units"] == "V A"
        along, across = (file[f"data/slices/dim{number}"] for number in (3, 1))
        assert np.diff(along[()]) == pytest.approx([2.0, 2.0]) and along.attrs["name"] == "z"
        assert np.diff(across[()])[0] == pytest.approx(0.02) and across.attrs["units"] == "[n_m]"


def test_slices_of_another_size_are_no_product(small_scan):
    with pytest.raises(ValueError, match=r"Product\.slices has shape"):
        Product(object=small_scan.object, slices=small_scan.object[None, :-1])


def test_a_pixel_size_that_is_told_is_used(small_scan, tmp_path):
    product = Product(object=small_scan.object, probe=small_scan.probe, positions=small_scan.positions)
    write_product(product, tmp_path / "a.h5", "reconstruction")
    run(f"export {tmp_path / 'a.h5'} -o {tmp_path / 'out'} --formats hdf5,cxi --pixel-size-nm 5")
    for name in ("reconstruction.h5", "object.cxi"):
        assert read_product(tmp_path / "out" / name).pixel_size_m == pytest.approx(5e-9)
    assert read_product(tmp_path / "a.h5").pixel_size_m is None


def test_what_cannot_be_exported_is_said(run_folder, tmp_path, monkeypatch, capsys):
    code, _ = failure(f"export {run_folder} -o {tmp_path / 'out'} --formats png,jpeg", monkeypatch, capsys)
    assert code == f"ptycho: no format jpeg; formats are {', '.join(FORMATS)}"
    (tmp_path / "empty").mkdir()
    code, _ = failure(f"export {tmp_path / 'empty'} -o {tmp_path / 'out'}", monkeypatch, capsys)
    assert "no reconstruction in" in code
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("width", "pixel", "length", "label"),
    [
        (100, None, 20, "20 px"),
        (399, None, 50, "50 px"),
        (240, 12.5e-9, 40, "500 nm"),
        (400, 12.5e-9, 80, "1 µm"),
        (1000, 0.4e-10, 250, "10 nm"),
        (10, 0.4e-10, 2.5, "1 Å"),
        (10, 0.2e-10, 2.5, "50 pm"),
    ],
)
def test_scale_bars_are_round_and_a_tenth_to_a_quarter_of_the_width(width, pixel, length, label):
    found = scale_bar(width, pixel)
    assert found == (pytest.approx(length), label)
    assert width / 10 <= found[0] <= width / 4 * (1 + 1e-9)


def test_the_figure_says_what_it_shows(run_folder, tmp_path):
    """Letters stay letters in the PDF (Type 42), and the PNG has 300 dots per inch over two columns."""
    export(run_folder, tmp_path / "out", ["figure"])
    assert (tmp_path / "out/figure.pdf").read_bytes().count(b"/FontFile2") >= 1
    picture = images.imread(tmp_path / "out/figure.png")
    assert picture.shape[1] == 2100
    assert picture[..., :3].std() > 0.1
