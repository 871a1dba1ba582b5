"""Files as strangers bring them: detectors with darks and gains, units in every spelling, frames without a place."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptycho.config import ReadConfig
from ptycho.diagnostics.checks import examine
from ptycho.formats import BadFile, ReadOptions, read_scan
from ptycho.formats._metres import known_unit
from tests.formats.scans import said, scan_of
from tests.formats.test_cxi import DETECTOR, PIXEL, assert_read, cxi_file, detector_pixel, nexus_file

MOVES = "entry_1/sample_1/transformations"


def told(**given: Any) -> ReadOptions:
    return ReadOptions.of(ReadConfig(**given))


# -------------------------------------------------------------------------------------------------------- detector


@pytest.mark.parametrize("name", ["data_dark", "dark", "darkfield", "pedestal"])
def test_a_dark_in_the_file_is_subtracted(name: str, tmp_path: Path) -> None:
    scan, dark = scan_of(), np.random.default_rng(0).integers(90, 110, (3, 16, 16))
    raised = scan.counts + np.rint(dark.mean(axis=0)).astype(np.uint16)
    again = read_scan(cxi_file(tmp_path / "a.cxi", scan_of(counts=raised), **{f"{DETECTOR}/{name}": dark}))
    assert "A dark of" in said(again)
    np.testing.assert_allclose(again.counts, scan.counts, atol=0.51)


def test_flat_field_and_gain_are_divided_by_unless_they_were_before(tmp_path: Path) -> None:
    scan, flat = scan_of(), np.random.default_rng(0).uniform(0.5, 2, (16, 16))
    flat[3, 4] = 0  # which does not count
    taken = scan_of(counts=scan.counts * flat * 12)
    more: dict[str, Any] = {f"{DETECTOR}/flatfield": flat, f"{DETECTOR}/gain": 12.0}
    again = read_scan(nexus_file(tmp_path / "a.nxs", taken, **more))
    assert np.argwhere(~again.mask).tolist() == [[3, 4]]
    np.testing.assert_allclose(again.counts[:, again.mask], scan.counts[:, again.mask], rtol=1e-5)
    assert "divided by the flat field" in said(again) and "a gain of 12" in said(again)
    applied = read_scan(nexus_file(tmp_path / "b.nxs", taken, **more, **{f"{DETECTOR}/flatfield_applied": 1}))
    np.testing.assert_allclose(applied.counts, taken.counts / 12, rtol=1e-5)
    assert "'flatfield' of the detector was applied when" in said(applied)


def test_a_dark_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"data_dark' of shape \(8, 8\); expected that of a frame"):
        read_scan(cxi_file(tmp_path / "a.cxi", scan_of(), **{f"{DETECTOR}/data_dark": np.ones((8, 8))}))


def test_what_the_user_tells_of_a_pedestal_is_subtracted(tmp_path: Path) -> None:
    scan = scan_of()
    path = cxi_file(tmp_path / "a.cxi", scan_of(counts=scan.counts + 100))
    again = read_scan(path, options=told(pedestal=100.0))
    np.testing.assert_array_equal(again.counts, scan.counts)


@pytest.mark.parametrize("name", ["mask", "pixel_mask"])
def test_marks_under_the_mask_of_a_file_do_no_harm(name: str, tmp_path: Path) -> None:
    scan, bad = scan_of(), np.zeros((16, 16), np.uint32)
    bad[2] = 1
    counts = np.where(bad, -1, scan.counts.astype(np.int32))
    again = read_scan(nexus_file(tmp_path / "a.nxs", scan_of(counts=counts.clip(0)), **{
        f"{DETECTOR}/data": counts, f"{DETECTOR}/{name}": bad}))  # fmt: skip
    np.testing.assert_array_equal(again.mask, bad == 0)
    np.testing.assert_array_equal(again.counts, np.where(bad, 0, scan.counts))


# ----------------------------------------------------------------------------------------------------------- units


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("um", "um"), ("µm", "um"), ("μm", "um"), ("UM", "um"), ("micron", "um"), ("Microns", "um"),
        ("micrometer", "um"), ("micrometres", "um"), ("micro-meter", "um"), ("mm", "mm"), ("MM", "mm"),
        ("millimetre", "mm"), ("[mm]", "mm"), ("m", "m"), ("meters", "m"), ("Metre", "m"), ("nanometers", "nm"),
        ("NM", "nm"), ("Angstroms", "angstrom"), ("Å", "Å"), ("\u212b", "Å"), ("keV", "keV"), ("KEV", "keV"),
        ("kev", "keV"), ("eV", "eV"), ("MeV", "MeV"), ("meV", None), ("J", "J"), ("joules", "J"), ("furlong", None),
        ("m/s", None), ("px", None),
    ],
)  # fmt: skip
def test_units_in_every_spelling(text: str, wanted: str | None) -> None:
    assert known_unit(text) == wanted


def test_an_energy_without_unit_is_what_makes_the_steps_plausible(tmp_path: Path) -> None:
    scan = scan_of()
    for value, name in ((8.0, "keV"), (8000 * 1.602176634e-19, "joules"), (8000.0, None)):
        path = nexus_file(
            tmp_path / f"{value}.nxs", scan, **{"entry_1/instrument_1/beam_1/incident_beam_energy": value}
        )
        again = assert_read(path, scan)
        assert (f"taken for {name}" in said(again)) == (name is not None)


def test_a_detector_pixel_and_a_distance_without_unit_are_no_metres(tmp_path: Path) -> None:
    sides: dict[str, Any] = {f"{DETECTOR}/{axis}_pixel_size": detector_pixel(16) * 1e6 for axis in "xy"}
    again = assert_read(
        nexus_file(tmp_path / "a.nxs", scan_of(), **sides, **{f"{DETECTOR}/distance": 1500.0}), scan_of()
    )
    assert "taken for um" in said(again) and "taken for mm" in said(again)


def test_values_have_any_number_of_axes(tmp_path: Path) -> None:
    scan = scan_of()
    y, x = scan.positions.T * PIXEL
    moves: dict[str, Any] = {f"{MOVES}/x": (x[:, None, None], "m"), f"{MOVES}/y": (y[:, None, None] * 1e3, "MM")}
    assert_read(nexus_file(tmp_path / "a.nxs", scan, **moves), scan)


@pytest.mark.parametrize("unit, factor", [("mm", 1e3), ("um", 1e6), ("nm", 1e9)])
def test_positions_in_a_unit_that_is_not_written_fail_and_the_unit_is_proposed(
    unit: str, factor: float, tmp_path: Path
) -> None:
    scan = scan_of()
    y, x = scan.positions.T * PIXEL * factor
    path = nexus_file(tmp_path / "a.nxs", scan, **{f"{MOVES}/x": x, f"{MOVES}/y": y})
    overlap = next(check for check in examine(read_scan(path), orientation=False) if check.name == "overlap")
    assert overlap.verdict == "fail" and f"--position-unit {unit}" in overlap.remedy
    again = read_scan(path, options=told(position_unit=unit))
    np.testing.assert_allclose(again.positions, scan.positions, rtol=0, atol=1e-3)
    assert "fail" not in {check.verdict for check in examine(again, orientation=False)}


def test_positions_may_be_in_pixels_though_the_format_has_metres(tmp_path: Path) -> None:
    y, x = scan_of().positions.T
    path = nexus_file(tmp_path / "b.nxs", scan_of(), **{f"{MOVES}/x": x, f"{MOVES}/y": y})
    again = read_scan(path, options=told(position_unit="px"))
    np.testing.assert_allclose(again.positions, scan_of().positions, atol=1e-9)


# ------------------------------------------------------------------------------------------------------------ NeXus


def by_class(path: Path, scan: Any, positions: str) -> Path:
    """Other names than those of the definition, as light sources write; frames in two numbered pieces."""
    side, (y, x) = detector_pixel(scan.N), scan.positions.T * PIXEL
    classes = {
        "scan7": "NXentry", "scan7/beamline": "NXinstrument", "scan7/beamline/merlin": "NXdetector",
        "scan7/beamline/mono": "NXmonochromator", "scan7/frames": "NXdata", "scan7/film": "NXsample",
    }  # fmt: skip
    values: dict[str, tuple[Any, str]] = {
        "scan7/beamline/merlin/distance": (DISTANCE_MM, "millimetre"),
        "scan7/beamline/merlin/x_pixel_size": (side * 1e6, "micrometer"),
        "scan7/beamline/mono/energy": (8.0, "keV"),
        "scan7/frames/data_000001": (scan.counts[:9], ""),
        "scan7/frames/data_000002": (scan.counts[9:], ""),
    }
    if positions == "positioner":
        classes |= {"scan7/film/samx": "NXpositioner", "scan7/film/samy": "NXpositioner"}
        values |= {"scan7/film/samx/value": (x * 1e6, "um"), "scan7/film/samy/value": (y * 1e6, "um")}
    else:
        values |= {"scan7/frames/x": (x * 1e6, "um"), "scan7/frames/y": (y * 1e6, "um")}
    with h5py.File(path, "w") as file:
        for group, name in classes.items():
            file.create_group(group).attrs["NX_class"] = name
        for key, (value, units) in values.items():
            file[key] = value
            if units:
                file[key].attrs["units"] = units
    return path


DISTANCE_MM = 1500.0


@pytest.mark.parametrize("positions", ["positioner", "data"])
def test_nexus_by_classes(positions: str, tmp_path: Path) -> None:
    scan = scan_of()
    assert_read(by_class(tmp_path / "a.nxs", scan, positions), scan)


def test_two_motors_of_a_raster_make_its_positions(tmp_path: Path) -> None:
    scan = scan_of()
    rows, columns = np.arange(3) * 3e-8, np.arange(5) * 2e-8
    path = nexus_file(tmp_path / "a.nxs", scan, True, **{f"{MOVES}/x": (columns, "m"), f"{MOVES}/y": (rows, "m")})
    wanted = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2) / PIXEL
    np.testing.assert_allclose(read_scan(path).positions, wanted, atol=1e-3)


# -------------------------------------------------------------------------------------------- frames and positions


def test_frames_without_a_position_are_left_out(tmp_path: Path) -> None:
    scan = scan_of()
    y, x = scan.positions.T * PIXEL
    x[[3, 7]] = np.nan
    again = read_scan(nexus_file(tmp_path / "a.nxs", scan, **{f"{MOVES}/x": (x, "m"), f"{MOVES}/y": (y, "m")}))
    kept = np.setdiff1d(np.arange(15), [3, 7])
    np.testing.assert_array_equal(again.counts, scan.counts[kept])
    assert "position is NaN: 2 frames (3, 7)" in said(again)


@pytest.mark.parametrize("value", [0.0, 3e-7])
def test_a_buffer_of_positions_that_was_not_filled_is_named(value: float, tmp_path: Path) -> None:
    scan = scan_of()
    y, x = scan.positions.T * PIXEL
    x[-4:] = y[-4:] = value
    again = read_scan(nexus_file(tmp_path / "a.nxs", scan, **{f"{MOVES}/x": (x, "m"), f"{MOVES}/y": (y, "m")}))
    np.testing.assert_array_equal(again.counts, scan.counts[:-4])
    assert "a buffer not filled" in said(again)


def test_several_frames_at_each_position_are_no_empty_buffer(tmp_path: Path) -> None:
    scan = scan_of(positions=np.repeat(scan_of().positions[:5], 3, axis=0))
    assert len(read_scan(cxi_file(tmp_path / "a.cxi", scan))) == 15


@pytest.mark.parametrize("lacking", ["frames", "positions"])
def test_frames_and_positions_of_different_number(lacking: str, tmp_path: Path) -> None:
    scan = scan_of()
    y, x = scan.positions.T * PIXEL
    cut = slice(None, -2)
    more: dict[str, Any] = {f"{DETECTOR}/data": scan.counts[cut]}
    if lacking == "positions":
        more = {f"{MOVES}/x": (x[cut], "m"), f"{MOVES}/y": (y[cut], "m")}
    path = nexus_file(tmp_path / "a.nxs", scan, **more)
    with pytest.raises(BadFile, match=r"--drop-unplaced reads the first 13 of both"):
        read_scan(path)
    again = read_scan(path, options=told(drop_unplaced=True))
    np.testing.assert_array_equal(again.counts, scan.counts[cut])
    np.testing.assert_allclose(again.positions, scan.positions[cut], atol=1e-3)
    if lacking == "positions":
        last = read_scan(path, options=told(frames="2:"))
        np.testing.assert_array_equal(last.counts, scan.counts[2:])
        np.testing.assert_allclose(last.positions, scan.positions[cut], atol=1e-3)


@pytest.mark.parametrize("in_memory", [0, 2**30])
@pytest.mark.parametrize("fault", ["none", "short", "gone", "hole"])
def test_virtual_data_are_read_as_far_as_they_are_complete(fault: str, in_memory: int, tmp_path: Path) -> None:
    scan = scan_of()
    path = cxi_file(tmp_path / "a.cxi", scan, **{f"{DETECTOR}/data": None})
    layout = h5py.VirtualLayout((15, 16, 16), "u2")
    for k in range(3):
        part = tmp_path / f"part{k}.h5"
        with h5py.File(part, "w") as file:
            file["entry/data/data"] = scan.counts[5 * k : 5 * k + (2 if fault == "short" and k == 1 else 5)]
        if not (fault == "hole" and k == 1):
            layout[5 * k : 5 * k + 5] = h5py.VirtualSource(part.name, "entry/data/data", (5, 16, 16))
        if fault == "gone" and k == 1:
            part.unlink()
    with h5py.File(path, "r+") as file:
        file.create_virtual_dataset(f"{DETECTOR}/data", layout)
    again = read_scan(path, options=ReadOptions(in_memory_bytes=in_memory))
    left = {"none": np.arange(15), "short": np.r_[0:7, 10:15]}.get(fault, np.r_[0:5, 10:15])
    np.testing.assert_array_equal(again.counts, scan.counts[left])
    np.testing.assert_allclose(again.positions, scan.positions[left], atol=1e-3)
    named = {"short": "part1.h5 has 2 of 5 frames", "gone": "part1.h5 is not there", "hole": "no file is named"}
    assert fault == "none" or named[fault] in said(again)
