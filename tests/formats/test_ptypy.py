"""Files of PtyPy made key by key: chunks that grow, links, results."""

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptycho.data.beam import Beam
from ptycho.data.scan import Scan
from ptycho.formats import BadFile, ReadOptions, read_product, read_scan, write_scan
from tests.formats.scans import said, scan_of

BEAM, PIXEL = Beam(energy_eV=6200, distance_m=2.0), 9e-9


def meta(scan: Scan, **changes: Any) -> dict[str, Any]:
    psize = BEAM.wavelength_m * 2.0 / (scan.N * PIXEL)
    return {
        "version": "0.1",
        "energy": 6.2,
        "distance": 2.0,
        "psize": psize,
        "center": "None",
        "label": "None",
    } | changes


def chunk(scan: Scan, frames: slice, **changes: Any) -> dict[str, Any]:
    """Positions of the beam on the sample, (y, x) in metres; no weights, as an empty array."""
    found = {
        "data": scan.counts[frames].astype(np.float32),
        "indices": np.arange(len(scan))[frames],
        "positions": scan.positions[frames] * PIXEL,
        "weights": np.array([]),
    } | changes
    return {name: value for name, value in found.items() if value is not None}


def ptyd_file(path: Path, about: dict[str, Any], *chunks: dict[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in about.items():
            file[f"meta/{name}"] = value
        file.create_group("chunks")
        for i, part in enumerate(chunks):
            for name, value in part.items():
                file[f"chunks/{i}/{name}"] = value
    return path


def assert_read(path: Path, scan: Scan) -> Scan:
    again = read_scan(path)
    np.testing.assert_array_equal(again.counts, scan.counts)
    np.testing.assert_allclose(again.positions, scan.positions, rtol=0, atol=1e-9)
    assert again.beam == BEAM and again.pixel_size_m == pytest.approx(PIXEL, rel=1e-12)
    return again


@pytest.mark.parametrize("psize", ["one", "two"])
def test_chunks_in_any_order_of_frames(psize: str, tmp_path: Path) -> None:
    scan = scan_of()
    about = meta(scan, label="x", center=np.array([8.0, 8.0]))
    about["psize"] = about["psize"] if psize == "one" else [about["psize"]] * 2
    path = ptyd_file(tmp_path / "a.dat", about, chunk(scan, slice(1, None, 2)), chunk(scan, slice(0, None, 2)))
    again = assert_read(path, scan)
    assert "no probe" in said(again) and "moved" not in said(again)


def test_ten_chunks_and_more_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    scan = scan_of()
    parts = [chunk(scan, slice(i, i + 1), indices=None) for i in range(15)]
    assert_read(ptyd_file(tmp_path / "a.ptyd", meta(scan), *parts), scan)


@pytest.mark.parametrize("late", [{"positions": None}, {"data": None}, {"positions": np.zeros((2, 2))}])
def test_a_file_that_grows_is_read_as_far_as_it_is_there(late: dict[str, Any], tmp_path: Path) -> None:
    scan = scan_of()
    path = ptyd_file(tmp_path / "a.ptyd", meta(scan), chunk(scan, slice(9)), chunk(scan, slice(9, None), **late))
    again = assert_read(path, scan.subset(slice(9)))
    assert "last chunk (1) is not complete" in said(again)


def test_chunks_in_other_files_of_the_folder_and_outside_it(tmp_path: Path) -> None:
    scan, inner = scan_of(), tmp_path / "in"
    inner.mkdir()
    path = ptyd_file(inner / "a.ptyd", meta(scan))
    for i, frames in enumerate((slice(9), slice(9, None))):
        with h5py.File(inner / f"a.ptyd.part{i:03d}.chunk", "w") as part:
            part.update(chunk(scan, frames))
        with h5py.File(path, "r+") as file:
            file[f"chunks/{i}"] = h5py.ExternalLink(f"a.ptyd.part{i:03d}.chunk", "/")
    assert_read(path, scan)

    shutil.move(inner / "a.ptyd.part000.chunk", tmp_path)
    with pytest.raises(BadFile, match=r"a\.ptyd\.part000\.chunk, which is not there; copy"):
        read_scan(path)
    with h5py.File(path, "r+") as file:
        del file["chunks/0"]
        file["chunks/0"] = h5py.ExternalLink("../a.ptyd.part000.chunk", "/")
    with pytest.raises(BadFile, match=r"outside its folder.*--trusted"):
        read_scan(path)
    assert len(read_scan(path, options=ReadOptions(trusted=True))) == 15


def test_weights_make_the_mask(tmp_path: Path) -> None:
    scan = scan_of()
    weights = np.ones(scan.counts.shape, np.float32)
    weights[:, 2, 3] = 0
    weights[4, 5, 6] = 0
    again = assert_read(ptyd_file(tmp_path / "a.ptyd", meta(scan), chunk(scan, slice(None), weights=weights)), scan)
    assert np.argwhere(~again.mask).tolist() == [[2, 3], [5, 6]]
    assert "weights of 1 pixels differ" in said(again)


@pytest.mark.parametrize(
    "about, part, message",
    [
        ({"energy": "None"}, {}, "not all of meta/energy, distance and psize; give --pixel-size-nm"),
        ({}, {"positions": np.zeros((14, 2))}, "15 frames and 14 positions in 'chunks/0'"),
        ({}, {"data": None}, "no 'chunks/0/data'"),
        ({}, {"weights": np.ones(3)}, r"'chunks/0/weights' of shape \(3,\)"),
        ({"energy": -6.2}, {}, r"Beam\.energy_eV is -6200"),
        ({"distance": "far"}, {}, r"'meta/distance'"),
    ],
)
def test_what_is_wrong_is_named(about: dict[str, Any], part: dict[str, Any], message: str, tmp_path: Path) -> None:
    scan = scan_of()
    with pytest.raises(BadFile, match=message):
        read_scan(ptyd_file(tmp_path / "a.ptyd", meta(scan, **about), chunk(scan, slice(None), **part)))


def test_what_is_written_has_the_keys_of_ptypy(tmp_path: Path) -> None:
    scan = scan_of(beam=BEAM, pixel_size_m=PIXEL, mask=np.arange(256).reshape(16, 16) > 2)
    with h5py.File(write_scan(scan, tmp_path / "a.ptyd")) as file:
        assert file["meta/energy"][()] == pytest.approx(6.2) and file["meta/distance"][()] == 2.0
        assert file["meta/psize"][()] == pytest.approx([meta(scan)["psize"]] * 2, rel=1e-12)
        assert file["meta/num_frames"][()] == 15 and file["meta/center"][()].tolist() == [8, 8]
        assert file["chunks/0/data"].shape == file["chunks/0/weights"].shape == (15, 16, 16)
        assert file["chunks/0/weights"][3, 0, :4].tolist() == [0, 0, 0, 1]
        np.testing.assert_allclose(file["chunks/0/positions"], scan.positions * PIXEL)
        assert file["chunks/0/indices"][()].tolist() == list(range(15))


def test_a_result(tmp_path: Path) -> None:
    """A pixel p of the object is at ``_origin + p _psize``."""
    scan = scan_of(modes=2, object=None)
    image = np.arange(50 * 35).reshape(1, 50, 35) * (1 + 0.5j)
    origin = np.array([-3e-7, -2e-7])
    with h5py.File(tmp_path / "a.ptyr", "w") as file:
        file["header/kind"] = "full_flat"
        for key, data in {"content/obj/Sscan00G00": image, "content/probe/Sscan00G00": scan.probe}.items():
            file[f"{key}/data"], file[f"{key}/_psize"] = data, [PIXEL, PIXEL]
            file[f"{key}/_origin"], file[f"{key}/shape"] = origin, data.shape
        file["content/positions/Sscan00G00"] = scan.positions * PIXEL + origin
    product = read_product(tmp_path / "a.ptyr")
    np.testing.assert_array_equal(product.object, image[0])
    np.testing.assert_array_equal(product.probe, scan.probe)
    assert product.positions is not None
    np.testing.assert_allclose(product.positions, scan.positions, atol=1e-9)
    assert product.pixel_size_m == PIXEL
    with h5py.File(tmp_path / "a.ptyr", "r+") as file:
        del file["content/positions"]
    assert read_product(tmp_path / "a.ptyr").positions is None
