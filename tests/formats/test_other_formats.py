"""fold_slice, PtychoShelves, PtyLab, HXN, EMD, EMPAD, TIFF: files made key by key, signs and axes by the physics."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import tifffile

from ptycho.config import ReadConfig
from ptycho.data.beam import Beam
from ptycho.data.product import Product
from ptycho.data.scan import Scan
from ptycho.formats import (
    BadFile,
    ReadOptions,
    convert,
    read_product,
    read_scan,
    write_product,
    write_scan,
)
from ptycho.formats.ptylab import oriented
from tests.formats.scans import expected, misfit, recognised, said, scan_of, truth

PIXEL = 9e-9
UNTOLD, TOLD = ReadOptions(), ReadOptions(pixel_size_m=PIXEL)
XRAY = Beam(energy_eV=6200, distance_m=2.0)


def detector_pixel(N: int) -> float:
    return XRAY.wavelength_m * 2.0 / (N * PIXEL)


def hdf5(path: Path, values: dict[str, Any], **attributes: Any) -> Path:
    """Of values that are not None; an attribute is named ``key@name``."""
    with h5py.File(path, "w") as file:
        for key, value in values.items():
            if value is not None and "@" not in key:
                file[key] = value
        for key, value in values.items():
            if "@" in key:
                where, name = key.split("@")
                file.require_group(where or "/").attrs[name] = value
        file.attrs.update(attributes)
    return path


def assert_read(path: Path, scan: Scan, options: ReadOptions = UNTOLD, name: str | None = None) -> Scan:
    """The frames and positions of a scan, up to a common shift, found by content."""
    assert recognised(path) == [name]
    again = read_scan(path, options=options)
    np.testing.assert_array_equal(again.counts, scan.counts)
    shift = again.positions[0] - scan.positions[0]
    np.testing.assert_allclose(again.positions - shift, scan.positions, rtol=0, atol=1e-6)
    # What the object gives at these places: axes and signs are those of the physics.
    assert abs(misfit(again.counts, expected(truth(50, 35), np.rint(again.positions - shift), scan.probe))) < 5
    return again


def assert_beam(scan: Scan) -> None:
    assert scan.pixel_size_m == pytest.approx(PIXEL, rel=1e-12)
    assert scan.beam is not None and scan.beam.distance_m == 2.0
    assert scan.beam.energy_eV == pytest.approx(6200, rel=1e-12)


# ------------------------------------------------------------------------------- fold_slice and PtychoShelves


def fold_slice_pair(folder: Path, scan: Scan, unit: float = 1.0, **changes: Any) -> Path:
    """As MATLAB writes (rows, columns, P): HDF5 holds the axes in reverse order."""
    in_matlab = scan.counts.transpose(1, 2, 0)
    hdf5(folder / "data_roi0_dp.hdf5", {"dp": in_matlab.T})
    y, x = -scan.positions.T * PIXEL / unit
    return hdf5(folder / "data_roi0_para.hdf5", {"ppX": x[None], "ppY": y[:, None]} | changes)


@pytest.mark.parametrize("unit", [1.0, 1e-10])
@pytest.mark.parametrize("given", ["para", "dp"])
def test_fold_slice(given: str, unit: float, tmp_path: Path) -> None:
    """Electrons in angstroms spread further than a millimetre; X-rays in metres do not."""
    scan = scan_of()
    fold_slice_pair(tmp_path, scan, unit)
    again = assert_read(tmp_path / f"data_roi0_{given}.hdf5", scan, TOLD, "fold_slice")
    assert "were transposed" in said(again) and ("angstroms" in said(again)) == (unit != 1)


def test_fold_slice_needs_the_pixel_size_and_both_coordinates(tmp_path: Path) -> None:
    path = fold_slice_pair(tmp_path, scan_of())
    with pytest.raises(BadFile, match=r"_para\.hdf5 has positions in metres.*give --pixel-size-nm"):
        read_scan(path)
    path = fold_slice_pair(tmp_path, scan_of(), ppX=np.zeros(3))
    with pytest.raises(BadFile, match="3 'ppX' and 15 'ppY'"):
        read_scan(path, options=TOLD)


def fold_slice_result(path: Path, v73: bool, scan: Scan, electrons: bool) -> Path:
    """As MATLAB has it: (rows, columns, ...), (x, y) from the object's centre; v7.3 reverses axes, {real, imag}."""
    N, image = scan.N, truth(50, 35)
    corners = scan.positions - N // 2
    centred = corners - (np.ceil(np.array(image.shape) / 2 - N / 2) - 1)
    unit = 1e-10 if electrons else 1.0
    values: dict[str, Any] = {
        "object": np.stack([image, 2 * image], axis=2),
        "probe": scan.probe.transpose(1, 2, 0),
        "outputs": {"probe_positions": centred[:, ::-1], "fourier_error_out": np.arange(3.0)},
        "p": {"dx_spec": np.array([PIXEL, PIXEL]) / unit, "lambda": 2e-12 / unit, "angle": 0.0},
    }
    if not v73:
        scipy.io.savemat(path, values, do_compression=True)
        return path

    def put(group: Any, content: dict[str, Any]) -> None:
        for name, value in content.items():
            if isinstance(value, dict):
                put(group.create_group(name), value)
                continue
            value = np.atleast_2d(value).T
            if value.dtype.kind == "c":
                pair = np.empty(value.shape, [("real", "<f8"), ("imag", "<f8")])
                pair["real"], pair["imag"] = value.real, value.imag
                value = pair
            group[name] = value

    with h5py.File(path, "w", userblock_size=512) as file:
        put(file, values)
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, HDF5 schema 1.00 .".ljust(124) + b"\x00\x02IM"
    with path.open("r+b") as file:
        file.write(header)
    return path


@pytest.mark.parametrize("N", [15, 16])
@pytest.mark.parametrize("electrons", [False, True])
@pytest.mark.parametrize("v73", [False, True])
def test_results_of_fold_slice(v73: bool, electrons: bool, N: int, tmp_path: Path) -> None:
    scan = scan_of(N, modes=2)
    path = fold_slice_result(tmp_path / "Niter100.mat", v73, scan, electrons)
    product = read_product(path)
    np.testing.assert_array_equal(product.object, truth(50, 35))
    np.testing.assert_array_equal(product.probe, scan.probe)
    assert product.positions is not None and product.beam is not None
    np.testing.assert_allclose(product.positions, scan.positions, atol=1e-9)
    assert product.pixel_size_m == pytest.approx(PIXEL) and "several slices" in " ".join(product.notes)
    assert product.beam.wavelength_m == pytest.approx(2e-12)
    assert product.beam.particle == ("electron" if electrons else "photon")


def prepared(scan: Scan, **changes: Any) -> dict[str, Any]:
    """By LibDetXR; MATLAB permutes [2 1 3] what it loads, so that HDF5 has (P, rows, columns)."""
    return {
        "measurement/n0/data": scan.counts,
        "measurement/n0/positions": scan.positions * PIXEL,
        "measurement/n0@max_sum": float(scan.counts.sum(axis=(1, 2)).max()),
    } | changes


@pytest.mark.parametrize("place", ["measurement", "detector"])
def test_prepared_data_of_ptychoshelves(place: str, tmp_path: Path) -> None:
    """Bad pixels are listed from 0 as (row, column); modules are [rows, columns, first row, first column]."""
    scan = scan_of()
    more = {f"{place}/n0/bad_pixels": [[1, 2], [3, 0]], "detector/n0/modules": [[16, 7, 0, 0], [10, 8, 0, 8]]}
    again = assert_read(hdf5(tmp_path / "a.h5", prepared(scan, **more)), scan, TOLD, "ptychoshelves")
    mask = np.zeros((16, 16), bool)
    mask[:, :7], mask[:10, 8:] = True, True
    mask[1, 2] = mask[3, 0] = False
    np.testing.assert_array_equal(again.mask, mask)


def test_positions_in_two_rows_and_several_scans(tmp_path: Path) -> None:
    scan = scan_of()
    more = {"measurement/n0/positions": scan.positions.T * PIXEL, "measurement/n1/data": scan.counts}
    again = assert_read(hdf5(tmp_path / "a.h5", prepared(scan, **more)), scan, TOLD, "ptychoshelves")
    assert "holds 2 scans; this is the first" in said(again)


def test_older_prepared_data_has_masks_the_other_way_round(tmp_path: Path) -> None:
    scan, good = scan_of(), np.ones((16, 16), np.uint8)
    good[2, 3] = 0
    values: dict[str, Any] = {"measurements@max_power": 1.0}
    for i in range(15):
        key = f"measurements/measurement_{i}"
        values |= {f"{key}/diff_pat": scan.counts[i], f"{key}/bad_pixels": good}
        values[f"{key}@position"] = scan.positions[i] * PIXEL
    again = assert_read(hdf5(tmp_path / "a.h5", values), scan, TOLD, "ptychoshelves")
    assert np.argwhere(~again.mask).tolist() == [[2, 3]]


def test_results_of_ptychoshelves(tmp_path: Path) -> None:
    scan, compound = scan_of(), np.dtype([("r", "<f4"), ("i", "<f4")])
    path = tmp_path / "recons.h5"
    with h5py.File(path, "w") as file:
        for key, wave in {"objects/object_0": truth(50, 35).T, "probes/probe_0": scan.probe[0].T}.items():
            pair = np.empty(wave.shape, compound)
            pair["r"], pair["i"] = wave.real, wave.imag
            file[f"reconstruction/p/{key}"] = pair
        file["reconstruction/object"] = h5py.SoftLink("/reconstruction/p/objects/object_0")
        file["measurement/data"] = h5py.ExternalLink("prepared.h5", "/measurement/n0/data")
    product = read_product(path, options=TOLD)
    np.testing.assert_array_equal(product.object, truth(50, 35))
    np.testing.assert_array_equal(product.probe, scan.probe)
    assert product.pixel_size_m == PIXEL


# ----------------------------------------------------------------------------------------------------- PtyLab


def ptylab_values(scan: Scan, **changes: Any) -> dict[str, Any]:
    return {
        "ptychogram": scan.counts.astype(np.float32),
        "encoder": (scan.positions - [20, 15]) * PIXEL,
        "wavelength": [XRAY.wavelength_m],
        "dxd": [detector_pixel(scan.N)],
        "zo": [2.0],
    } | changes


def test_ptylab(tmp_path: Path) -> None:
    scan = scan_of()
    again = assert_read(hdf5(tmp_path / "a.hdf5", ptylab_values(scan)), scan, name="ptylab")
    assert_beam(again)
    again = assert_read(
        hdf5(tmp_path / "a.hdf5", ptylab_values(scan, encoder=(scan.positions * PIXEL).T)), scan, name="ptylab"
    )
    assert "transposed" in said(again)


def undone(frames: np.ndarray, code: int) -> np.ndarray:
    """Inverse of the orientation: the flips, then the transposition."""
    for bit, axis in ((2, -2), (1, -1)):
        frames = np.flip(frames, axis) if code & bit else frames
    return np.swapaxes(frames, -1, -2) if code & 4 else frames


@pytest.mark.parametrize("code", range(8))
def test_the_orientation_of_ptylab_is_applied(code: int, tmp_path: Path) -> None:
    scan = scan_of(15)
    values = ptylab_values(scan, ptychogram=undone(scan.counts, code), orientation=[code])
    assert_read(hdf5(tmp_path / "a.hdf5", values), scan, name="ptylab")


def test_the_codes_of_orientation_by_hand() -> None:
    frame = np.array([[[1, 2], [3, 4]]])
    wanted = [
        [1, 2, 3, 4],
        [2, 1, 4, 3],
        [3, 4, 1, 2],
        [4, 3, 2, 1],
        [1, 3, 2, 4],
        [3, 1, 4, 2],
        [2, 4, 1, 3],
        [4, 2, 3, 1],
    ]
    assert [oriented(frame, code).ravel().tolist() for code in range(8)] == wanted


def test_fourier_ptychography_and_wrong_codes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="Fourier ptychography"):
        read_scan(hdf5(tmp_path / "a.hdf5", ptylab_values(scan_of(), zled=[0.06])))
    with pytest.raises(BadFile, match="'orientation' 8; expected one of 0 to 7"):
        read_scan(hdf5(tmp_path / "a.hdf5", ptylab_values(scan_of(), orientation=[8])))


def test_a_result_of_ptylab(tmp_path: Path) -> None:
    scan, image = scan_of(modes=2), truth(50, 35)
    path = hdf5(
        tmp_path / "a.hdf5",
        {
            "object": image[None, None, None, None],
            "probe": scan.probe[None, None, :, None],
            "dxp": [PIXEL],
            "encoder_corrected": (scan.positions - np.array([25, 17])) * PIXEL,
            "wavelength": [XRAY.wavelength_m],
        },
    )
    product = read_product(path)
    np.testing.assert_array_equal(product.object, image)
    np.testing.assert_array_equal(product.probe, scan.probe)
    assert product.positions is not None
    np.testing.assert_allclose(product.positions, scan.positions, atol=1e-9)


# -------------------------------------------------------------------------------------------------------- HXN


@pytest.mark.parametrize("corner", [False, True])
def test_hxn_amplitudes(corner: bool, tmp_path: Path) -> None:
    scan = scan_of()
    frames = np.fft.ifftshift(scan.counts, axes=(1, 2)) if corner else scan.counts
    values = {
        "diffamp": np.sqrt(frames.astype(np.float32)),
        "points": scan.positions.T[::-1] * PIXEL * 1e6,
        "lambda_nm": XRAY.wavelength_m * 1e9,
        "z_m": 2.0,
        "ccd_pixel_um": detector_pixel(16) * 1e6,
        "angle": 0.0,
    }
    again = assert_read(hdf5(tmp_path / "a.h5", values), scan, name="hxn")
    assert_beam(again)
    assert "squared" in said(again) and ("moved to the centre" in said(again)) == corner


def test_hxn_streamed_and_raw(tmp_path: Path) -> None:
    scan = scan_of()
    points = scan.positions.T[::-1] * PIXEL * 1e6
    attributes = dict(lambda_nm=XRAY.wavelength_m * 1e9, z_m=2.0, ccd_pixel_um=detector_pixel(16) * 1e6)
    path = hdf5(tmp_path / "a.h5", {"dp": scan.counts.astype(np.float32), "points": points}, **attributes)
    assert_beam(assert_read(path, scan, name="hxn"))
    for place in ("entry/data/data", "diff_data/merlin1/det_images"):
        values = {place: scan.counts, "scan/scan_positions": points, "scan/energy": 6200.0}
        again = assert_read(hdf5(tmp_path / "b.h5", values), scan, TOLD, "hxn")
        assert again.beam is not None and again.beam.energy_eV == 6200


# ---------------------------------------------------------------------------------------------- EMD and EMPAD


def raster(rows: int = 5, columns: int = 4, step: int = 3) -> tuple[Scan, np.ndarray]:
    """A scan on a raster, and its frames as (rows, columns, N, N)."""
    places = np.stack(np.meshgrid(8 + step * np.arange(rows), 9 + step * np.arange(columns), indexing="ij"), -1)
    probe = scan_of().probe
    counts = np.random.default_rng(1).poisson(expected(truth(50, 35), places.reshape(-1, 2), probe)).astype(np.uint16)
    scan = Scan(counts=counts, positions=places.reshape(-1, 2), probe=probe)
    return scan, counts.reshape(rows, columns, 16, 16)


@pytest.mark.parametrize("calibration", ["dims", "root"])
def test_emd_written_by_emdfile(calibration: str, tmp_path: Path) -> None:
    """py4DSTEM's own library writes the file; an object pixel of 0.4 A, steps of 3 pixels."""
    import emdfile

    scan, cube = raster()
    q, r = 1 / (16 * 0.4), 3 * 0.4
    known = calibration == "dims"
    array = emdfile.Array(
        data=cube,
        name="datacube",
        units="pixel intensity",
        dims=[r, r, q, q] if known else [1, 1, 1, 1],
        dim_names=["Rx", "Ry", "Qx", "Qy"],
        dim_units=["A", "A", "A^-1", "A^-1"] if known else ["pixels"] * 4,
    )
    root = emdfile.Root(name="datacube_root")
    root.tree(array)
    if not known:
        about = emdfile.Metadata(name="calibration")
        for name, value in dict(R_pixel_size=r, R_pixel_units="A", Q_pixel_size=q, Q_pixel_units="A^-1").items():
            about[name] = value
        root.metadata = about
    emdfile.save(str(tmp_path / "a.h5"), root, mode="o")
    again = assert_read(tmp_path / "a.h5", scan, name="emd")
    assert again.pixel_size_m == pytest.approx(0.4e-10)


def emd_array(path: Path, name: str, data: np.ndarray, unit: str = "A", step: float = 0.4) -> None:
    with h5py.File(path, "a") as file:
        root = file.require_group("root")
        root.attrs["emd_group_type"] = "root"
        group = root.create_group(name)
        group.attrs.update({"emd_group_type": "array", "python_class": "Array"})
        group["data"] = data
        for axis in range(data.ndim):
            group[f"dim{axis}"] = np.arange(data.shape[axis]) * step
            group[f"dim{axis}"].attrs.update({"name": "x", "units": unit})


def test_emd_without_calibration_and_results(tmp_path: Path) -> None:
    _, cube = raster()
    emd_array(tmp_path / "a.emd", "datacube", cube, "pixels")
    with pytest.raises(BadFile, match=r"give --scan-step .* and --detector-pixel"):
        read_scan(tmp_path / "a.emd")
    with pytest.raises(BadFile, match="give --scan-step"):
        read_scan(tmp_path / "a.emd", options=TOLD)
    given = ReadOptions.of(ReadConfig(scan_step=(3.0, "px")))
    assert read_scan(tmp_path / "a.emd", options=given).step_px == pytest.approx(3)
    emd_array(tmp_path / "b.emd", "reconstruction_object", truth(50, 35)[None])
    emd_array(tmp_path / "b.emd", "reconstruction_probe", scan_of().probe)
    product = read_product(tmp_path / "b.emd")
    np.testing.assert_array_equal(product.object, truth(50, 35))
    np.testing.assert_array_equal(product.probe, scan_of().probe)
    assert product.pixel_size_m == pytest.approx(0.4e-10)


def empad_files(folder: Path, name: str = "scan", **changes: Any) -> tuple[Path, np.ndarray]:
    """12 frames of 100 ADU per electron, x fast, with two rows of metadata each; 300 kV, 1.9687 pm."""
    counts = np.random.default_rng(0).poisson(2.0, (12, 128, 128)).astype(np.float32)
    counts[:, 60:68, 60:68] += 100
    raw = np.full((12, 130, 128), 7e7, "<f4")
    raw[:, :128] = counts * 100
    raw.tofile(folder / f"{name}.raw")
    facts = dict(
        file_type="empad_metadata",
        version="2.0",
        voltage=300e3,
        diff_step=1.9687 / 128 / 0.02,  # mrad: 0.2 A object pixels
        scan_shape=[4, 3],
        scan_step=[2e-10, 1e-10],
        adu=100.0,
        scan_rotation=0.0,
    )
    (folder / f"{name}.json").write_text(json.dumps({k: v for k, v in (facts | changes).items() if v is not None}))
    return folder / f"{name}.raw", counts


@pytest.mark.parametrize("suffix", [".raw", ".json"])
def test_empad(suffix: str, tmp_path: Path) -> None:
    path, counts = empad_files(tmp_path, scan_rotation=5.0)
    assert recognised(path.with_suffix(suffix)) == ["empad"]
    scan = read_scan(path.with_suffix(suffix))
    np.testing.assert_array_equal(scan.counts, counts)
    assert scan.pixel_size_m == pytest.approx(0.2e-10, rel=1e-4)  # the wavelength above has five digits
    y, x = np.divmod(np.arange(12), 4)
    a = np.deg2rad(5.0)
    turned = np.stack([5 * y * np.cos(a) - 10 * x * np.sin(a), 5 * y * np.sin(a) + 10 * x * np.cos(a)], axis=1)
    np.testing.assert_allclose(scan.positions, turned, rtol=1e-4, atol=1e-3)
    assert scan.beam == Beam(energy_eV=300e3, particle="electron") and "turned by 5 degrees" in said(scan)


def test_empad_with_listed_positions_or_its_shape_in_the_name(tmp_path: Path) -> None:
    listed = [[i * 1e-10, -i * 2e-10] for i in range(12)]  # (x, y)
    path, _ = empad_files(tmp_path, scan_positions=listed)
    np.testing.assert_allclose(read_scan(path).positions, [[-10 * i, 5 * i] for i in range(12)], rtol=1e-4)
    path, _ = empad_files(tmp_path, "scan_x2_y6", scan_shape=None)
    assert read_scan(path).positions[2] == pytest.approx([5, 0], rel=1e-4)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"voltage": None}, "give --voltage-kv"),
        ({"diff_step": None}, "give --detector-pixel"),
        ({"scan_shape": [4, 2]}, r"12 frames for a scan of 2 x 4: --frames 0:8 .*--flyback 2"),
        ({"scan_shape": None}, "give --scan-shape ROWS COLUMNS"),  # nor a square
        ({"scan_step": None}, "give --scan-step"),
        ({"adu": "many"}, "'adu' that is no number"),
        ({"scan_positions": [[1, 2, 3]]}, "'scan_positions' of shape"),
        ({"scan_positions": [[0, 0], [1, 1]]}, "12 frames and 2 positions"),
    ],
)
def test_empad_metadata_that_do_not_fit(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path, _ = empad_files(tmp_path, **changes)
    with pytest.raises(BadFile, match=message):
        read_scan(path)


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"scan_shape": [5, 3]}, "cut short: 12 of 15 frames; its 2 complete rows"),
        ({"voltage": 300}, "taken for kV"),
        ({"adu": None}, "give --gain"),
        ({"conv_angle": 20.0, "defocus": 1e-8}, r"round aperture of 26.* 100 A underfocused"),
    ],
)
def test_empad_metadata_that_are_understood(changes: dict[str, Any], note: str, tmp_path: Path) -> None:
    scan = read_scan(empad_files(tmp_path, **changes)[0])
    assert re.search(note, said(scan))
    assert scan.beam == Beam(energy_eV=300e3, particle="electron")


def test_empad_files_that_are_not_whole(tmp_path: Path) -> None:
    path, counts = empad_files(tmp_path)
    path.write_bytes(path.read_bytes()[:-4])
    scan = read_scan(path, "empad")
    np.testing.assert_array_equal(scan.counts, counts[:8])
    assert "11 frames are complete" in said(scan) and "2 complete rows" in said(scan)
    path.with_suffix(".json").unlink()
    with pytest.raises(BadFile, match=r"give --scan-shape"):
        read_scan(path, "empad")
    given = ReadConfig(scan_shape=(2, 5), scan_step=(1.0, "A"), pixel_size_nm=0.02, gain=100.0, frames="1:11")
    np.testing.assert_array_equal(read_scan(path, "empad", ReadOptions.of(given)).counts, counts[1:11])


def test_empad_xml_and_the_second_generation(tmp_path: Path) -> None:
    path, counts = empad_files(tmp_path)
    path.with_suffix(".json").unlink()
    stem = path.rename(tmp_path / "frames.raw")
    (tmp_path / "scan.xml").write_text(
        '<root><raw_file filename="frames.raw"/><scan_parameters mode="search"><scan_resolution_x>64'
        "</scan_resolution_x></scan_parameters><calibrated_diffraction_angle>0.1</calibrated_diffraction_angle>"
        "<high_voltage>300000.0</high_voltage>"
        '<scan_parameters mode="acquire"><scan_resolution_x>4</scan_resolution_x><scan_resolution_y>3'
        "</scan_resolution_y><scan_rotation>90</scan_rotation></scan_parameters></root>"
    )
    given = ReadOptions.of(ReadConfig(scan_step=(1.0, "A"), gain=100.0))
    for file in (stem, tmp_path / "scan.xml"):
        scan = read_scan(file, options=given)
        np.testing.assert_array_equal(scan.counts, counts)
        assert scan.pixel_size_m == pytest.approx(1.9687e-12 / 0.1, rel=1e-4)
        # A quarter of a turn: along a row, x, becomes against y.
        step = scan.positions[1] - scan.positions[0]
        np.testing.assert_allclose(step, [-1e-10 / scan.pixel_size_m, 0], atol=1e-6)
    counts.astype("<u4").tofile(tmp_path / "g2_x4_y3.raw")
    given = ReadConfig(scan_step=(2.0, "px"), gain=1.0)
    np.testing.assert_array_equal(read_scan(tmp_path / "g2_x4_y3.raw", options=ReadOptions.of(given)).counts, counts)


# ------------------------------------------------------------------------------------------------------- TIFF


@pytest.mark.parametrize("table", ["x_px,y_px", "y_um,x_um", "x_nm,y_nm", ""])
def test_tiff_and_csv(table: str, tmp_path: Path) -> None:
    scan = scan_of()
    unit = {"": 1.0, "px": 1.0, "um": PIXEL * 1e6, "nm": PIXEL * 1e9}[table[-2:]]
    values = scan.positions[:, ::-1] if table.startswith("x") else scan.positions
    rows = [f"{float(a)},{float(b)}" for a, b in values * unit]
    tifffile.imwrite(tmp_path / "a.tif", scan.counts)
    (tmp_path / "a.csv").write_text("\n".join(([table] if table else []) + rows))
    for name in ("a.tif", "a.csv"):
        again = assert_read(tmp_path / name, scan, TOLD, "tiff")
        assert ("no names" in said(again)) == (table == "")


@pytest.mark.parametrize(
    "text, message",
    [
        ("y_px,x_m\n1,2", "expected y_px and x_px, or both in"),
        ("y_px,x_px\n1,2\n3", "row without two numbers"),
        ("y_px,x_px\n1,2\n3,4", "15 frames and 2 positions"),
        ("y_px,x_px\n1,b", "row without two numbers"),
        ("", "15 frames and 0 positions"),
    ],
)
def test_tables_that_do_not_fit(text: str, message: str, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", scan_of().counts)
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(BadFile, match=message):
        read_scan(tmp_path / "a.tif")


def test_an_object_as_two_images(tmp_path: Path) -> None:
    product = Product(object=truth(50, 35))
    write_product(product, tmp_path / "a.tif")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a_amplitude.tif", "a_phase.tif"]
    amplitude, phase = (tifffile.imread(tmp_path / f"a_{name}.tif") for name in ("amplitude", "phase"))
    np.testing.assert_allclose(amplitude * np.exp(1j * phase), truth(50, 35), rtol=1e-6)
    np.testing.assert_allclose(read_product(tmp_path / "a_phase.tif").object, truth(50, 35), rtol=1e-6)


# ---------------------------------------------------------------------------------------------------- results


@pytest.mark.parametrize("N", [15, 16])
@pytest.mark.parametrize("target", ["b.h5", "b_para.hdf5", "b.cxi", "b.tif"])
def test_results_go_to_every_format_of_results(target: str, N: int, tmp_path: Path) -> None:
    scan = scan_of(N, modes=2)
    source = fold_slice_result(tmp_path / "a.mat", False, scan, False)
    notes = convert(source, tmp_path / target)
    assert "several slices" in " ".join(notes)
    path = tmp_path / (target if target != "b.tif" else "b_phase.tif")
    names = {"b.h5": "reconstruction", "b_para.hdf5": "ptychodus", "b.cxi": "cxi", "b.tif": "tiff"}
    assert recognised(path, results=True) == [names[target]]
    assert not {"cxi", "tiff"} & set(recognised(path))
    again = read_product(path)
    np.testing.assert_allclose(again.object, truth(50, 35), rtol=1e-6)
    if target != "b.tif":
        np.testing.assert_array_equal(again.probe, scan.probe)
        assert again.positions is not None
        np.testing.assert_allclose(again.positions, scan.positions, atol=1e-9)
        assert again.pixel_size_m == pytest.approx(read_product(source).pixel_size_m)
        assert (again.beam is None) == (read_product(source).beam is None)


@pytest.mark.slow
def test_a_result_of_another_program_starts_a_refinement(tmp_path: Path) -> None:
    """What is converted is what `ptycho refine --start` loads."""
    from ptycho.reconstruction import Reconstruction

    scan = scan_of(16)
    convert(fold_slice_result(tmp_path / "a.mat", False, scan, False), tmp_path / "b.h5")
    result = Reconstruction.load(tmp_path / "b.h5")
    np.testing.assert_array_equal(result.object, truth(50, 35))
    light = np.zeros((50, 35))
    for y, x in (scan.positions - 8).astype(int):
        light[y : y + 16, x : x + 16] += np.abs(scan.probe[0]) ** 2
    np.testing.assert_allclose(result.coverage, light / (np.abs(scan.probe[0]) ** 2).max(), rtol=1e-5)


# -------------------------------------------------------------------------------------------------- every pair


def test_from_every_format_to_every_other(tmp_path: Path) -> None:
    """Chained through all that are written: nothing changes."""
    scan = scan_of(mask=np.arange(256).reshape(16, 16) != 7, beam=XRAY, pixel_size_m=PIXEL)
    path = write_scan(scan, tmp_path / "0.h5")
    kept = ["a.cxi", "b.ptyd", "c_para.hdf5", "d.npz", "e.h5"]
    for name in kept:
        assert not [sentence for sentence in convert(path, tmp_path / name) if "lost" in sentence]
        path = tmp_path / name
    again = read_scan(path)
    np.testing.assert_array_equal(again.counts, scan.counts)
    np.testing.assert_array_equal(again.probe, scan.probe)
    np.testing.assert_array_equal(again.mask, scan.mask)
    np.testing.assert_allclose(again.positions, scan.positions, rtol=0, atol=1e-9)
    assert_beam(again)
    convert(path, tmp_path / "f.tif")
    last = read_scan(tmp_path / "f.tif")
    np.testing.assert_array_equal(last.counts, scan.counts)
    np.testing.assert_array_equal(last.positions, again.positions)


# -------------------------------------------------------------------------------------------------- real data


def test_the_measured_virus_opens(data_folder: Path) -> None:
    scan = read_scan(data_folder / "cryo_rotavirus_A_48x48_bin2.npz")
    assert len(scan) == 2304 and scan.counts.dtype == np.uint8 and not scan.probe_known
    assert scan.beam is not None and scan.beam.wavelength_m == pytest.approx(1.9687e-12, rel=1e-4)
    assert scan.beam.particle == "electron" and scan.pixel_size_m == 4.65e-10
    assert scan.mean_counts == pytest.approx(9.1e4, rel=0.05)  # "about", says its README


def test_the_simulated_set_of_tike_opens(data_folder: Path) -> None:
    """Object, padded probe of two modes and positions predict its noise-free frames to single precision."""
    scan = read_scan(data_folder / "tike_simulated_setup.npz")
    assert scan.probe_known and scan.modes == 2 and scan.object is not None
    padded = np.pad(scan.object, 16)  # the padding of the probe reaches beyond the object
    predicted = expected(padded, scan.positions + 16, scan.probe)
    # The file is float32; its transform rounds log2(32^2) = 10 times.
    assert np.abs(predicted - scan.counts).max() < 10 * np.finfo(np.float32).eps * scan.counts.max()


def test_relativistic_electrons_and_photons() -> None:
    """Textbook wavelengths: 300, 200 and 80 kV electrons (Kirkland), 12.398 keV photons."""
    for volts, picometres in ((300e3, 1.969), (200e3, 2.508), (80e3, 4.176)):
        beam = Beam(energy_eV=volts, particle="electron")
        assert beam.wavelength_m == pytest.approx(picometres * 1e-12, abs=0.5e-15)
        assert Beam.of_wavelength(beam.wavelength_m, "electron").energy_eV == pytest.approx(volts, rel=1e-12)
    assert Beam(energy_eV=12398.42).wavelength_m == pytest.approx(1e-10, rel=1e-7)
    assert replace(XRAY, distance_m=None).object_pixel_m(16, 1e-4) is None
    for wrong in (dict(energy_eV=0.0), dict(energy_eV=float("nan")), dict(energy_eV=1.0, distance_m=-1.0)):
        with pytest.raises(ValueError, match=r"expected a number above 0"):
            Beam(**wrong)
