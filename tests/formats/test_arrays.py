"""Frames alone, and masters without positions: what files lack is asked for by option, what they state is applied."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from ptycho.config import ReadConfig, RunConfig
from ptycho.data.beam import Beam, aperture_probe, object_pixel_m
from ptycho.data.scan import Scan
from ptycho.formats import BadFile, ReadOptions, read_scan
from ptycho.formats.array import frames_last
from ptycho.pipelines.provenance import provenance
from tests.formats.scans import recognised, said

ROWS, COLUMNS, N = 3, 4, 16


def cube(height: int = N, width: int = N) -> np.ndarray:
    """Frames with a disc off any symmetry."""
    y, x = np.mgrid[:height, :width]
    mean = 40.0 * (np.hypot(y - height // 2, x - width // 2) < 5) + 5.0 * (y == 3) + 0.2
    return np.random.default_rng(0).poisson(mean, (ROWS, COLUMNS, height, width)).astype(np.uint16)


def saved(folder: Path, kind: str, data: np.ndarray) -> Path:
    path = folder / f"a.{kind}"
    flat = data.reshape(-1, *data.shape[2:])
    if kind == "npy":
        np.save(path, data)
    elif kind == "npz":
        np.savez(path, data=data, step_A=2.0, voltage_kV=300.0)
    elif kind == "mat":
        scipy.io.savemat(path, {"dp": flat.transpose(1, 2, 0)})
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            file["some/frames"] = flat
    else:
        with (
            h5py.File(folder / "m_data_000001.h5", "w") as first,
            h5py.File(folder / "m_data_000002.h5", "w") as second,
        ):
            first["entry/data/data"], second["entry/data/data"] = flat[:5], flat[5:]
        path = folder / "m_master.h5"
        with h5py.File(path, "w") as file:
            for number in (1, 2):
                name = f"data_00000{number}"
                file[f"entry/data/{name}"] = h5py.ExternalLink(f"m_{name}.h5", "entry/data/data")
    return path


def read(path: Path, **given: object) -> Scan:
    return read_scan(path, options=ReadOptions.of(ReadConfig(**given)))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["npy", "npz", "mat", "h5", "master"])
def test_frames_alone_are_read_with_what_the_user_gives(kind: str, tmp_path: Path) -> None:
    data = cube()
    path = saved(tmp_path, kind, data)
    assert recognised(path) == ["dectris" if kind == "master" else "array"]
    with pytest.raises(BadFile, match=r"give --(scan-(shape|step)|detector-pixel)") as error:
        read_scan(path)
    assert "\n" not in str(error.value)
    scan = read(path, scan_shape=(ROWS, COLUMNS), scan_step=(3.0, "px"), voltage_kv=300.0, scan_rotation_deg=90.0)
    np.testing.assert_array_equal(scan.counts, data.reshape(-1, N, N))
    np.testing.assert_allclose(scan.positions[1] - scan.positions[0], [-3, 0], atol=1e-12)
    np.testing.assert_allclose(scan.positions[COLUMNS] - scan.positions[0], [0, 3], atol=1e-12)
    assert scan.beam == Beam(energy_eV=300e3, particle="electron")


def test_numbers_beside_the_frames_count(tmp_path: Path) -> None:
    scan = read(saved(tmp_path, "npz", cube()), detector_pixel=(1.0, "mrad"))
    pixel = 1.9687e-12 / (N * 1e-3)
    assert scan.pixel_size_m == pytest.approx(pixel, rel=1e-4)
    np.testing.assert_allclose(scan.positions[1], [0, 2e-10 / pixel], rtol=1e-4)


def test_a_rectangular_detector_is_padded_with_masked_pixels(tmp_path: Path) -> None:
    data = cube(width=11)
    np.save(tmp_path / "a.npy", data)
    scan = read(tmp_path / "a.npy", scan_step=(3.0, "px"))
    # Pixel 11 // 2 comes to 16 // 2.
    np.testing.assert_array_equal(scan.counts[:, :, 3:14], data.reshape(-1, N, 11))
    assert scan.mask[:, 3:14].all() and not scan.mask[:, :3].any() and not scan.mask[:, 14:].any()


def test_normalised_frames_become_counts_again(tmp_path: Path) -> None:
    data = cube()
    np.save(tmp_path / "a.npy", (data / data.max()).astype(np.float32))
    scan = read(tmp_path / "a.npy", scan_step=(3.0, "px"))
    np.testing.assert_array_equal(scan.counts, data.reshape(-1, N, N))
    assert "counts times" in said(scan)


def test_frames_come_last_whatever_their_place():
    data = cube().reshape(-1, N, N)
    for array in (data, data.transpose(1, 2, 0)):
        np.testing.assert_array_equal(frames_last(array), data)
    square = data[:N].repeat(2, axis=0)[:N]  # as many frames as pixels on a side
    np.testing.assert_array_equal(frames_last(square.transpose(1, 2, 0)), square)


def test_a_run_records_what_its_reader_was_told(tmp_path: Path) -> None:
    scan = read(saved(tmp_path, "npy", cube()), scan_step=(3.0, "px"), frames="0:8", scan_shape=(2, 4))
    record = json.loads(json.dumps(provenance(scan)["reading"]))
    assert ReadConfig.from_dict(record) == scan.reading and len(scan) == 8


def test_what_has_no_effect_is_refused(tmp_path: Path) -> None:
    data = cube().reshape(-1, N, N)
    positions = np.random.default_rng(0).uniform(0, 9, (len(data), 2))
    np.savez(tmp_path / "a.npz", counts=data, positions_px=positions, probe=np.ones((N, N)) * 99)
    with pytest.raises(ValueError, match="--scan-step has no effect"):
        read(tmp_path / "a.npz", scan_step=(3.0, "px"))
    turned = read(tmp_path / "a.npz", scan_rotation_deg=90.0, orientation=4, frames=":5")
    np.testing.assert_allclose(turned.positions, positions[:5] @ [[0, 1], [-1, 0]], atol=1e-12)
    np.testing.assert_array_equal(turned.counts, data[:5].swapaxes(1, 2))


@pytest.mark.parametrize(
    "values",
    [
        dict(scan_step=(0.0, "A")),
        dict(scan_step=(1.0, "feet")),
        dict(voltage_kv=300.0, energy_ev=8e3),
        dict(frames="first"),
        dict(orientation=8),
    ],
)
def test_impossible_values_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=rf"ReadConfig\.{next(iter(values))} is"):
        RunConfig(reading=values).make(ReadConfig)  # type: ignore[arg-type]


@pytest.mark.parametrize("unit, value", [("1/A", 0.05), ("1/m", 5e8), ("mrad", 0.05 * 19.6875), ("um", 98.4375)])
def test_an_object_pixel_by_any_unit_of_the_detector(unit: str, value: float) -> None:
    beam = Beam(energy_eV=300e3, particle="electron", distance_m=0.1)
    assert object_pixel_m(64, (value, unit), beam) == pytest.approx(1e-10 / (64 * 0.05), rel=1e-4)


def test_the_probe_of_an_aperture_is_a_disc_that_defocus_widens():
    focused, wide = (aperture_probe(64, 12.0, defocus, 2e-12, 2e-11) for defocus in (0.0, 2e-8))
    disc = np.abs(np.fft.fftshift(np.fft.fft2(wide[0]))) ** 2
    assert np.hypot(*(np.argwhere(disc > disc.max() / 2) - 32).T).max() == pytest.approx(12, abs=1)
    assert (np.abs(wide) ** 2).sum() == pytest.approx(1, rel=1e-5)
    assert (np.abs(wide) ** 4).sum() < 0.2 * (np.abs(focused) ** 4).sum()


def test_merlin_frames_are_read_and_shaped_by_what_lies_beside(tmp_path: Path) -> None:
    data = cube().reshape(-1, N, N)
    headers = (f"MQ1,{k + 1:06d},00384,01,{N:04d},{N:04d},U16,   1x1,01".ljust(384).encode() for k in range(len(data)))
    content = b"".join(h + frame.astype(">u2").tobytes() for h, frame in zip(headers, data))
    (tmp_path / "a.mib").write_bytes(content)
    assert recognised(tmp_path / "a.mib") == ["mib"]
    with pytest.raises(BadFile, match="--scan-shape"):
        read(tmp_path / "a.mib")
    (tmp_path / "a.hdr").write_text(f"HDR\nFrames per Trigger (Number):\t{COLUMNS}\nEnd\t\n")
    scan = read(tmp_path / "a.mib", scan_step=(3.0, "px"))
    np.testing.assert_array_equal(scan.counts, data)
    (tmp_path / "a.mib").write_bytes(content[:-7])
    assert len(read(tmp_path / "a.mib", scan_step=(3.0, "px"))) == 2 * COLUMNS


def test_files_of_microscopes_name_the_extra_or_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "a.dm4").write_bytes(b"\0" * 100)
    assert recognised(tmp_path / "a.dm4") == ["microscopy"]
    with pytest.raises(BadFile, match=r"pip install ptycho\[microscopy\]|is damaged, or of a kind"):
        read(tmp_path / "a.dm4")


def test_a_folder_is_read_where_it_is_a_zarr_store_only(tmp_path: Path) -> None:
    (tmp_path / "a.zspy").mkdir()
    with pytest.raises(BadFile, match=r"pip install ptycho\[microscopy\]|is damaged, or of a kind"):
        read(tmp_path / "a.zspy")
    (tmp_path / "run").mkdir()
    with pytest.raises(BadFile, match="is a folder, and no Zarr store"):
        read(tmp_path / "run")
