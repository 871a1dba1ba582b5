"""Products of Ptychodus made key by key, HDF5 and NPZ, with patterns in a file of their own."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptycho.data.scan import Scan
from ptycho.formats import BadFile, convert, read_product, read_scan, write_product, write_scan
from tests.formats.scans import expected, misfit, said, scan_of, truth

PIXEL, CENTRE = np.array([9e-9, 8e-9]), np.array([2e-6, -1e-6])
OBJECT = ("center_y_m", "center_x_m", "pixel_height_m", "pixel_width_m")


def metres(scan: Scan) -> np.ndarray:
    """World coordinates (y, x) of scan positions within `truth` (50, 35); probe and pattern middles coincide."""
    middle = scan.positions - scan.N // 2 + scan.N / 2  # from the edge of the array
    return (middle - np.array([50, 35]) / 2) * PIXEL + CENTRE


def product(scan: Scan, indexes: Any = None, **changes: Any) -> dict[str, Any]:
    """Flat names, as in the NPZ."""
    y, x = metres(scan).T
    values = {
        "probe_energy_eV": 8000.0,
        "detector_object_distance_m": 1.5,
        "exposure_time_s": 0.1,
        "probe_position_indexes": np.arange(len(scan)) if indexes is None else indexes,
        "probe_position_x_m": x,
        "probe_position_y_m": y,
        "probe": scan.probe[None],
        "probe_pixel_width_m": PIXEL[1],
        "probe_pixel_height_m": PIXEL[0],
        "object": truth(50, 35)[None],
        **{f"object_{name}": value for name, value in zip(OBJECT, (*CENTRE, *PIXEL))},
    } | changes
    return {name: value for name, value in values.items() if value is not None}


def write(path: Path, values: dict[str, Any]) -> Path:
    """To NPZ as it is; to HDF5 with scalars as attributes of the root, of the probe or of the object."""
    if path.suffix == ".npz":
        np.savez(path, **values)
        return path
    with h5py.File(path, "w") as file:
        for name, value in values.items():
            if np.ndim(value):
                file[name] = value
        for name, value in values.items():
            where, _, attribute = name.partition("_")
            if not np.ndim(value) and attribute in OBJECT:
                if where in file:
                    file[where].attrs[attribute] = value
            elif not np.ndim(value):
                file.attrs[name] = value
    return path


def pair(folder: Path, scan: Scan, kind: str, order: Any = None, **changes: Any) -> Path:
    counts = scan.counts if order is None else scan.counts[order]
    if kind == "npz":
        indexes = np.arange(len(scan)) if order is None else order
        write(
            folder / "a_dp.npz",
            {"patterns": counts, "indexes": indexes, "bad_pixels": np.zeros((scan.N, scan.N), bool)},
        )
    else:
        write(folder / "a_dp.hdf5", {"dp": counts})
    return write(folder / f"a_para.{kind}", product(scan, **changes))


@pytest.mark.parametrize("N", [15, 16])
@pytest.mark.parametrize("kind", ["hdf5", "npz"])
@pytest.mark.parametrize("given", ["para", "dp"])
def test_product_and_patterns(given: str, kind: str, N: int, tmp_path: Path) -> None:
    scan = scan_of(N, modes=2)
    pair(tmp_path, scan, kind)
    again = read_scan(tmp_path / f"a_{given}.{kind}")
    np.testing.assert_array_equal(again.counts, scan.counts)
    np.testing.assert_allclose(again.positions, scan.positions, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(again.probe, scan.probe)
    assert again.beam is not None and (again.beam.energy_eV, again.beam.distance_m) == (8000, 1.5)
    assert not again.probe_known and again.object is None and "not known to be true" in said(again)
    assert abs(misfit(again.counts, expected(truth(50, 35), np.rint(again.positions), scan.probe))) < 5
    result = read_product(tmp_path / f"a_para.{kind}")
    np.testing.assert_array_equal(result.object, truth(50, 35))
    assert result.positions is not None
    np.testing.assert_allclose(result.positions, scan.positions, rtol=0, atol=1e-9)


def test_patterns_are_joined_by_their_index(tmp_path: Path) -> None:
    """Positions in another order than the patterns, one without a pattern, two patterns without a position."""
    scan = scan_of()
    order = np.random.default_rng(0).permutation(15)
    points = np.array([9, 4, 7, 99, *range(10, 15), 0, 1, 2, 3])
    known = points != 99
    some = scan.subset(np.where(known, points, 0))
    path = pair(tmp_path, scan, "npz", order)
    write(path, product(some, points))
    again = read_scan(path)
    np.testing.assert_array_equal(again.counts, some.counts[known])
    np.testing.assert_allclose(again.positions, some.positions[known], rtol=0, atol=1e-9)
    assert "1 positions have no pattern" in said(again) and "3 patterns have no position" in said(again)


@pytest.mark.parametrize("place", ["attribute", "data set", "npz", "nowhere"])
def test_both_places_of_the_weights_of_a_varying_probe(place: str, tmp_path: Path) -> None:
    scan = scan_of()
    probes = np.stack([scan.probe, 0.1j * scan.probe])
    weights = np.stack([np.linspace(0.9, 1.1, 15), np.linspace(0, 2, 15)], axis=1)
    kind = "npz" if place == "npz" else "hdf5"
    path = pair(tmp_path, scan, kind, probe=probes, opr_weights=weights if place in ("data set", "npz") else None)
    if place == "attribute":
        with h5py.File(path, "r+") as file:
            file["probe"].attrs["opr_weights"] = weights
    again = read_scan(path)
    wanted = scan.probe * (1 if place == "nowhere" else 1 + 0.1j)
    np.testing.assert_allclose(again.probe, wanted, rtol=1e-6)
    assert "varies from frame to frame in 2 modes" in said(again)


def test_bad_pixels_are_the_mask_upside_down(tmp_path: Path) -> None:
    scan = scan_of()
    path = pair(tmp_path, scan, "npz")
    bad = np.zeros((16, 16), bool)
    bad[3, 4] = True
    write(tmp_path / "a_dp.npz", {"patterns": scan.counts, "indexes": np.arange(15), "bad_pixels": bad})
    assert np.argwhere(~read_scan(path).mask).tolist() == [[3, 4]]


def test_a_product_alone_is_a_result_and_no_scan(tmp_path: Path) -> None:
    scan = scan_of()
    path = pair(tmp_path, scan, "hdf5")
    (tmp_path / "a_dp.hdf5").unlink()
    with pytest.raises(BadFile, match=r"result of the format ptychodus and holds no frames"):
        read_scan(path)
    convert(path, tmp_path / "b_para.h5")
    first, second = read_product(path), read_product(tmp_path / "b_para.h5")
    np.testing.assert_array_equal(first.object, second.object)
    assert first.positions is not None
    np.testing.assert_allclose(second.positions, first.positions, rtol=0, atol=1e-9)


def test_what_is_written_has_the_keys_of_ptychodus(tmp_path: Path) -> None:
    scan = scan_of(object=truth(50, 35), pixel_size_m=9e-9)
    path = write_scan(scan, tmp_path / "b_para.hdf5")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b_dp.hdf5", "b_para.hdf5"]
    with h5py.File(path) as file, h5py.File(tmp_path / "b_dp.hdf5") as patterns:
        assert {"name", "comments", "detector_object_distance_m", "probe_energy_eV", "exposure_time_s"} <= set(
            file.attrs
        )
        assert file["probe"].shape == (1, 1, 16, 16) and file["object"].shape == (1, 50, 35)
        assert file["object"].attrs["pixel_width_m"] == file["probe"].attrs["pixel_height_m"] == 9e-9
        x = (file["probe_position_x_m"][()] - file["object"].attrs["center_x_m"]) / 9e-9 + 35 / 2
        np.testing.assert_allclose(x, scan.positions[:, 1])
        assert patterns["dp"].shape == (15, 16, 16) and len(file["object_layer_spacing_m"]) == 0


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"probe": None}, "no 'probe'"),
        ({"probe_position_x_m": np.zeros(3)}, "3 'probe_position_x_m' and 15"),
        ({"indexes": np.arange(100, 115)}, "name no pattern"),
        ({"opr_weights": np.ones((15, 3)), "probe": np.ones((2, 1, 16, 16))}, r"'opr_weights' of shape \(15, 3\)"),
        ({"object_pixel_width_m": None, "probe_pixel_width_m": None}, "no 'pixel_width_m' of its object or probe"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=message):
        read_scan(pair(tmp_path, scan_of(), "hdf5", **changes))


def test_a_product_needs_a_probe(tmp_path: Path) -> None:
    from ptycho.data.product import Product

    with pytest.raises(ValueError, match="no probe"):
        write_product(Product(object=truth(20, 20)), tmp_path / "a_para.h5")
    assert list(tmp_path.iterdir()) == []
