"""CXI and NeXus files made key by key, with signs that a reader may get wrong."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptycho.formats import BadFile, ReadOptions, read_scan, write_scan
from tests.formats.scans import expected, misfit, recognised, said, scan_of, truth

WAVELENGTH, DISTANCE, PIXEL = 1.9864459e-25 / (8000 * 1.602176634e-19), 1.5, 8e-9
DETECTOR = "entry_1/instrument_1/detector_1"


def detector_pixel(N: int) -> float:
    return WAVELENGTH * DISTANCE / (N * PIXEL)


def cxi_file(path: Path, scan: Any, **changes: Any) -> Path:
    """As CDTools writes it: the sample moves against the beam, rows run along -y and columns along -x."""
    side = detector_pixel(scan.N)
    y, x = scan.positions.T * PIXEL
    values = {
        "cxi_version": 160,
        "number_of_entries": 1,
        "entry_1/instrument_1/source_1/energy": 8000 * 1.602176634e-19,
        f"{DETECTOR}/data": scan.counts,
        f"{DETECTOR}/distance": DISTANCE,
        f"{DETECTOR}/x_pixel_size": side,
        f"{DETECTOR}/y_pixel_size": side,
        f"{DETECTOR}/basis_vectors": [[0, -side], [-side, 0], [0, 0]],
        "entry_1/sample_1/geometry_1/translation": np.stack([x, y, np.zeros_like(x)], axis=1),
    }
    with h5py.File(path, "w") as file:
        for key, value in (values | changes).items():
            if value is not None:
                file[key] = value
        file["entry_1/data_1/data"] = h5py.SoftLink(f"/{DETECTOR}/data")
    return path


def assert_read(path: Path, scan: Any, **changes: Any) -> Any:
    again = read_scan(path)
    np.testing.assert_array_equal(again.counts, scan.counts)
    np.testing.assert_allclose(again.positions, scan.positions, rtol=0, atol=1e-3)
    assert again.pixel_size_m == pytest.approx(PIXEL, rel=1e-6)
    assert again.beam is not None and again.beam.energy_eV == pytest.approx(8000)
    return again


def test_a_file_of_cdtools(tmp_path: Path) -> None:
    scan = scan_of(N=15, modes=2)
    again = assert_read(cxi_file(tmp_path / "a.dat", scan), scan)
    assert again.beam.distance_m == DISTANCE and not again.probe_known and "no probe" in said(again)
    # What the object gives at the positions read: the signs are those of the physics, not of this file's writer.
    assert abs(misfit(again.counts, expected(truth(50, 35), np.rint(again.positions), scan.probe))) < 5


@pytest.mark.parametrize(
    "basis, signs",
    [([[0, 1], [1, 0], [0, 0]], (-1, -1)), ([[0, 1], [-1, 0], [0, 0]], (1, -1)), ([[1, 0], [0, -1], [0, 0]], None)],
)
def test_the_basis_of_the_detector_decides_signs_and_axes(basis: Any, signs: Any, tmp_path: Path) -> None:
    """The beam moves by -t over the sample; along a detector axis that is -t . axis."""
    scan = scan_of()
    path = cxi_file(tmp_path / "a.cxi", scan, **{f"{DETECTOR}/basis_vectors": np.multiply(basis, detector_pixel(16))})
    y, x = scan.positions.T
    wanted = np.stack([-x, y] if signs is None else [signs[0] * y, signs[1] * x], axis=1)
    np.testing.assert_allclose(read_scan(path).positions, wanted, rtol=0, atol=1e-3)
    transposed = cxi_file(
        tmp_path / "b.cxi", scan, **{f"{DETECTOR}/basis_vectors": np.multiply(basis, detector_pixel(16)).T}
    )
    np.testing.assert_allclose(read_scan(transposed).positions, wanted, rtol=0, atol=1e-3)


@pytest.mark.parametrize("left_out", ["x_pixel_size", "y_pixel_size", "both", "basis", "distance", "energy", "place"])
def test_what_may_be_missing_or_elsewhere(left_out: str, tmp_path: Path) -> None:
    scan, side = scan_of(), detector_pixel(16)
    moved = np.stack([*(scan.positions.T[::-1] * PIXEL), np.zeros(len(scan))], axis=1)
    source = "entry_1/instrument_1/source_1"
    changes: dict[str, dict[str, Any]] = {
        "both": {f"{DETECTOR}/x_pixel_size": None, f"{DETECTOR}/y_pixel_size": None},
        "basis": {f"{DETECTOR}/basis_vectors": None, f"{DETECTOR}/y_pixel_size": None},
        "distance": {f"{DETECTOR}/distance": None, f"{DETECTOR}/corner_position": [7 * side, 8 * side, DISTANCE]},
        "energy": {f"{source}/energy": None, f"{source}/wavelength": WAVELENGTH},
        "place": {"entry_1/sample_1/geometry_1/translation": None, "entry_1/data_1/translation": moved},
    }
    path = cxi_file(tmp_path / "a.cxi", scan, **changes.get(left_out, {f"{DETECTOR}/{left_out}": None}))
    assert assert_read(path, scan).beam.distance_m == pytest.approx(DISTANCE)


def test_the_mask_takes_signal_above_background_for_good_and_any_other_bit_for_bad(tmp_path: Path) -> None:
    scan = scan_of()
    bits = np.zeros((16, 16), np.uint32)
    bits[0, 0], bits[1, 2], bits[3, 4], bits[5, 6] = 0x1000, 0x1, 0x1001, 0x80000000
    again = read_scan(cxi_file(tmp_path / "a.cxi", scan, **{f"{DETECTOR}/mask": bits}))
    assert [tuple(place) for place in np.argwhere(~again.mask)] == [(1, 2), (3, 4), (5, 6)]


def test_a_probe_and_corrections_that_other_programs_leave(tmp_path: Path) -> None:
    scan = scan_of(modes=2)
    more = {"entry_1/instrument_1/source_1/illumination": scan.probe / 9, f"{DETECTOR}/data_dark": np.ones((3, 16, 16))}
    again = read_scan(cxi_file(tmp_path / "a.cxi", scan, **more))
    np.testing.assert_array_equal(again.probe, scan.probe / 9)
    assert not again.probe_known and "A dark of 1 (median) was subtracted" in said(again)
    np.testing.assert_array_equal(again.counts, np.maximum(scan.counts.astype(float) - 1, 0))


def test_without_an_energy_the_user_tells_the_pixel(tmp_path: Path) -> None:
    scan = scan_of()
    path = cxi_file(tmp_path / "a.cxi", scan, **{"entry_1/instrument_1/source_1/energy": None})
    with pytest.raises(BadFile, match=r"a\.cxi .*not all of energy, distance.*--pixel-size-nm"):
        read_scan(path)
    again = read_scan(path, options=ReadOptions(pixel_size_m=PIXEL))
    np.testing.assert_allclose(again.positions, scan.positions, rtol=0, atol=1e-3)
    assert again.beam is None and again.pixel_size_m == PIXEL


# ------------------------------------------------------------------------------------------------------- NeXus


def nexus_file(path: Path, scan: Any, raster: bool = False, **changes: Any) -> Path:
    """The machine's energy (GeV) is where CXI has the photons'; sizes carry units; the raster is 3 x 5."""
    side = detector_pixel(scan.N)
    y, x = scan.positions.T * PIXEL
    shape = (3, 5) if raster else (15,)
    values: dict[str, Any] = {
        "entry_1/title": "a scan",
        "entry_1/definition": "NXptycho",
        "entry_1/instrument_1/source_1/energy": (3.0, "GeV"),
        "entry_1/instrument_1/beam_1/incident_beam_energy": (8.0, "keV"),
        f"{DETECTOR}/data": scan.counts.reshape(*shape, scan.N, scan.N),
        f"{DETECTOR}/distance": (DISTANCE * 1e3, "mm"),
        f"{DETECTOR}/x_pixel_size": (side * 1e6, "um"),
        f"{DETECTOR}/y_pixel_size": (side * 1e6, "µm"),
        "entry_1/sample_1/transformations/x": (x.reshape(shape) * 1e6, "um"),
        "entry_1/sample_1/transformations/y": (y.reshape(shape), "m"),
    }
    with h5py.File(path, "w") as file:
        for key, value in (values | changes).items():
            if value is not None:
                file[key] = value[0] if isinstance(value, tuple) else value
                if isinstance(value, tuple):
                    file[key].attrs["units"] = value[1]
        if "entry_1/sample_1/transformations/x" in file:
            file["entry_1/sample_1/transformations/x"].attrs["vector"] = [1.0, 0.0, 0.0]
            file["entry_1/sample_1/transformations/y"].attrs["vector"] = [0.0, 1.0, 0.0]
        file["entry_1/data_1/data"] = h5py.SoftLink(f"/{DETECTOR}/data")
    return path


@pytest.mark.parametrize("raster", [False, True])
def test_nexus_by_transformations(raster: bool, tmp_path: Path) -> None:
    scan = scan_of()
    again = assert_read(nexus_file(tmp_path / "a.nxs", scan, raster), scan)
    assert again.beam.distance_m == pytest.approx(DISTANCE)


def test_nexus_by_translation_and_another_energy(tmp_path: Path) -> None:
    scan = scan_of()
    moved = np.stack([*(scan.positions.T[::-1] * PIXEL * 1e6), np.zeros(15)], axis=1)
    changes: dict[str, Any] = {f"entry_1/sample_1/transformations/{axis}": None for axis in "xy"}
    changes |= {
        f"{DETECTOR}/translation": (moved, "um"),
        "entry_1/instrument_1/beam_1/incident_beam_energy": None,
        "entry_1/instrument_1/beam_1/energy": (8000.0, "eV"),
        "cxi_version": 160,  # for compatibility; the energy is elsewhere all the same
        f"{DETECTOR}/beam_center_x": 2.0,
        f"{DETECTOR}/beam_center_y": 8.0,
    }
    again = assert_read(nexus_file(tmp_path / "a.nxs", scan, **changes), scan)
    assert "beam at pixel (8, 2)" in said(again)


def test_nexus_with_unknown_units_or_positions_of_different_number(tmp_path: Path) -> None:
    path = nexus_file(tmp_path / "a.nxs", scan_of(), **{f"{DETECTOR}/distance": (1.0, "furlong")})
    with pytest.raises(BadFile, match=r"'entry_1/instrument_1/detector_1/distance' in units 'furlong'; write m"):
        read_scan(path)
    path = nexus_file(tmp_path / "b.nxs", scan_of(), **{"entry_1/sample_1/transformations/y": (np.ones(7), "m")})
    with pytest.raises(BadFile, match=r"transformations/y' of 7 values"):
        read_scan(path)


def test_nexusformat_writes_what_is_read_and_opens_what_is_written(tmp_path: Path) -> None:
    """The NeXus project's own library."""
    from nexusformat import nexus as nx

    scan, side = scan_of(), detector_pixel(16)
    y, x = scan.positions.T * PIXEL
    detector = nx.NXdetector(
        data=nx.NXfield(scan.counts),
        distance=nx.NXfield(DISTANCE, units="m"),
        x_pixel_size=nx.NXfield(side * 1e6, units="um"),
        y_pixel_size=nx.NXfield(side * 1e6, units="um"),
        translation=nx.NXfield(np.stack([x, y, 0 * x], axis=1), units="m"),
    )
    instrument = nx.NXinstrument(
        source_1=nx.NXsource(energy=nx.NXfield(3.0, units="GeV")),
        beam_1=nx.NXbeam(incident_beam_energy=nx.NXfield(8.0, units="keV")),
        detector_1=detector,
    )
    root = nx.NXroot(entry_1=nx.NXentry(definition="NXptycho", instrument_1=instrument))
    root.save(str(tmp_path / "a.nxs"))
    assert_read(tmp_path / "a.nxs", scan)

    path = write_scan(read_scan(tmp_path / "a.nxs"), tmp_path / "b.cxi")
    entry = nx.nxload(str(path))["entry_1"]
    assert entry["data_1/data"].shape == (15, 16, 16)
    np.testing.assert_allclose(entry["data_1/translation"].nxdata[:, 0], x, rtol=1e-9)


def test_both_are_known_by_content(tmp_path: Path) -> None:
    wanted = {"cxi": cxi_file(tmp_path / "a.h5", scan_of()), "nexus": nexus_file(tmp_path / "b.h5", scan_of())}
    for name, path in wanted.items():
        assert recognised(path) == [name]
