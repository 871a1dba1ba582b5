"""Every format round-trips; every reader converts what its format is known to do differently."""

import bz2
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho import formats
from ptycho.config import NearField
from ptycho.data.beam import Beam
from ptycho.data.scan import Scan, vacuum_pattern
from ptycho.formats import Format, losses, read_scan, write_scan
from tests.formats.scans import CHUNK_PIXELS, assert_same, expected, misfit, recognised, said, scan_of, truth

SCANS = [format for format in formats.FORMATS if format.scans]
WRITABLE = [format for format in SCANS if format.scans.write]
README = Path(__file__).parents[2] / "README.md"
NAMES = [format.name for format in SCANS]


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "odd, two modes": {"N": 15, "modes": 2},
    "one byte": {"dtype": "uint8"},
    "signed": {"dtype": "int32"},
    "big-endian": {"dtype": ">u2"},
    "float32": {"dtype": "float32"},
    "everything": {
        "N": 15,
        "modes": 2,
        "mask": np.arange(225).reshape(15, 15) % 11 != 0,
        "object": truth(50, 35),
        "pixel_size_m": 8.1e-9,
        "beam": Beam(energy_eV=8333.25, distance_m=2.17),
        "probe_known": False,
        "notes": ("A note with an umlaut: ä.", "Another."),
    },
    "electrons": {"beam": Beam(energy_eV=3e5, particle="electron"), "pixel_size_m": 2e-11},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("format", WRITABLE, ids=lambda format: format.name)
def test_round_trip(format: Format, variant: str, tmp_path: Path) -> None:
    scan = scan_of(**VARIANTS[variant])
    path = write_scan(scan, tmp_path / f"scan{format.suffixes[0]}", format.name)
    assert recognised(path) == [format.name]
    again = read_scan(path)
    lacks = format.lacks
    lost = () if format.keeps_lacking else format.lacks
    assert_same(again, scan, lost)
    said = losses(scan, path, format.name)
    for field in lacks:
        value = getattr(scan, field)
        there = value is not None and not (field == "notes" and not value) if field != "mask" else not value.all()
        assert any(formats.FIELDS[field] in sentence for sentence in said) == there
    assert again.source == str(path)
    if "notes" not in lacks:
        assert again.notes == scan.notes


@pytest.mark.parametrize("format", WRITABLE, ids=lambda format: format.name)
def test_fractional_positions_and_counts_round_trip(format: Format, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    scan = scan_of(
        dtype="float64",
        positions=rng.uniform(-300, (3000, 400), (15, 2)),
        counts=rng.gamma(2.0, 30.0, (15, 16, 16)),
    )
    again = read_scan(write_scan(scan, tmp_path / f"scan{format.suffixes[0]}", format.name))
    np.testing.assert_array_equal(again.counts, scan.counts)
    # Metres and back: two roundings of numbers up to 3000.
    np.testing.assert_allclose(again.positions, scan.positions, rtol=0, atol=1e-11 if format.in_metres else 0)


@pytest.mark.parametrize("name, wanted", [("a.h5", "hdf5"), ("a.HDF5", "hdf5"), ("a.npz", "npz"), ("a.cxi", "cxi")])
def test_the_suffix_chooses_the_format_to_write(name: str, wanted: str, tmp_path: Path) -> None:
    path = write_scan(scan_of(), tmp_path / name)
    assert path == tmp_path / name
    assert recognised(path) == [wanted]


def test_a_file_is_known_by_its_content_not_its_name(tmp_path: Path) -> None:
    scan = scan_of()
    path = write_scan(scan, tmp_path / "scan.npz").rename(tmp_path / "scan.h5")
    assert_same(read_scan(path), scan)


def test_what_cannot_be_read_is_said_with_keys_and_formats(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_scan(tmp_path / "nowhere.npz")
    with pytest.raises(ValueError, match=f"{tmp_path.name} is a folder"):
        read_scan(tmp_path)
    os.mkfifo(tmp_path / "pipe.h5")  # opened, it would wait for somebody to write
    with pytest.raises(FileNotFoundError, match=r"pipe\.h5"):
        read_scan(tmp_path / "pipe.h5")
    path = tmp_path / "odd.npz"
    np.savez(path, intensities=np.ones((4, 4)), where=np.ones((3, 2)))
    with pytest.raises(ValueError) as error:
        read_scan(path)
    for word in (str(path), "intensities, where", *NAMES, "docs/howto/formats.md"):
        assert word in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match="neither HDF5 nor NPZ"):
        read_scan(tmp_path / "text.npz")


def test_keys_of_a_foreign_hdf5_file_are_listed(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["entry/data"] = np.ones(3)
    with pytest.raises(ValueError, match="entry/data"):
        read_scan(tmp_path / "a.h5")


def test_unknown_formats_and_suffixes(tmp_path: Path) -> None:
    scan = scan_of()
    path = write_scan(scan, tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"no format 'xyz'.*hdf5"):
        read_scan(path, format="xyz")
    with pytest.raises(ValueError, match=r"'a\.xyz'.*\.h5"):
        write_scan(scan, tmp_path / "a.xyz")
    with pytest.raises(ValueError, match=r"'tike' cannot write scans.*hdf5"):
        write_scan(scan, tmp_path / "b.npz", format="tike")
    with pytest.raises(ValueError, match=r"no 'diffraction'"):
        read_scan(path, format="tike")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_scan(scan_of(), tmp_path / "a.npz")
    before = path.read_bytes()

    def break_off(file: Any, **_: Any) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", break_off)
    with pytest.raises(OSError, match="disk full"):
        write_scan(scan_of(P=9), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_the_readme_lists_what_every_format_can() -> None:
    table = re.findall(r"^\|[^|]*\| `(\w+)` \|([^|]*)\|([^|]*)\|$", README.read_text(), re.MULTILINE)
    able = {
        format.name: tuple(
            "" if access is None else "read, write" if access.write else "read"
            for access in (format.scans, format.products)
        )
        for format in formats.FORMATS
    }
    assert {name: (scans.strip(), results.strip()) for name, scans, results in table} == able


def test_importing_the_formats_loads_nothing_heavy() -> None:
    heavy = ("h5py", "hdf5plugin", "keras", "tensorflow", "scipy", "matplotlib")
    code = f"import sys, ptycho.formats; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


# ------------------------------------------------------------------------------------------------ own formats


def test_hdf5_opens_without_a_plugin_and_frame_by_frame(tmp_path: Path) -> None:
    import h5py

    path = write_scan(scan_of(), tmp_path / "a.h5")
    with h5py.File(path) as file:
        assert file["counts"].chunks == (1, 16, 16) and file["counts"].compression == "gzip"
        assert file.attrs["format"] == "ptycho-scan" and file.attrs["version"] == 1


def test_hdf5_packed_with_a_plugin_is_read(tmp_path: Path) -> None:
    import h5py
    import hdf5plugin

    scan = scan_of()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("counts", data=scan.counts, **hdf5plugin.Bitshuffle())
        file["positions_px"], file["probe"] = scan.positions, scan.probe
        file["mask"] = np.ones((16, 16), np.uint8)
        file.attrs["notes"] = "Only one."
    again = read_scan(tmp_path / "a.h5")
    assert_same(again, scan)
    assert again.notes == ("Only one.",)
    name = str(tmp_path / "a.h5")
    code = f"from ptycho.formats import read_scan; print(read_scan({name!r}).counts.sum())"
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)  # no plugin yet
    assert fresh.stdout.strip() == str(scan.counts.sum()), fresh.stderr


def test_hdf5_of_a_later_version_is_refused(tmp_path: Path) -> None:
    import h5py

    path = write_scan(scan_of(), tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = 2
    with pytest.raises(ValueError, match="version 2, newer than 1"):
        read_scan(path)


def test_a_plain_npz_made_by_hand_is_a_known_probe(tmp_path: Path) -> None:
    scan = scan_of()
    np.savez(tmp_path / "a.npz", counts=scan.counts, positions_px=scan.positions, probe=scan.probe[0])
    assert_same(read_scan(tmp_path / "a.npz"), scan)


@pytest.mark.parametrize("name", ["a.npz", "a.h5"])
def test_own_files_are_not_shifted_but_a_corner_is_noted_once(name: str, tmp_path: Path) -> None:
    scan = scan_of(counts=np.fft.ifftshift(scan_of().counts, axes=(1, 2)))
    again = read_scan(write_scan(scan, tmp_path / name))
    assert_same(again, scan)
    assert len(again.notes) == 1 and "corners" in again.notes[0]
    assert read_scan(write_scan(again, tmp_path / name)).notes == again.notes


NEAR = NearField(distance_px=1234.5, wavelength_px=0.00625, kind="fresnel")


@pytest.mark.parametrize("name", ["a.npz", "a.h5"])
@pytest.mark.parametrize("near", [NEAR, NearField(distance_px=-3.0, wavelength_px=0.1)])
def test_a_near_field_round_trips_and_has_no_corner_to_note(name: str, near: NearField, tmp_path: Path) -> None:
    scan = scan_of(counts=np.fft.ifftshift(scan_of().counts, axes=(1, 2)), near_field=near)
    again = read_scan(write_scan(scan, tmp_path / name))
    assert_same(again, scan)
    assert again.notes == ()


def test_a_near_field_by_hand_needs_both_its_lengths(tmp_path: Path) -> None:
    scan = scan_of()
    arrays = dict(counts=scan.counts, positions_px=scan.positions, probe=scan.probe)
    np.savez(tmp_path / "a.npz", **arrays, near_field_distance_px=100, near_field_wavelength_px=0.01)
    assert read_scan(tmp_path / "a.npz").near_field == NearField(distance_px=100.0, wavelength_px=0.01)
    np.savez(tmp_path / "b.npz", **arrays, near_field_distance_px=100)
    with pytest.raises(ValueError, match=r"b\.npz has a near field without its wavelength_px"):
        read_scan(tmp_path / "b.npz")


def test_a_format_without_a_place_for_the_near_field_refuses_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"PtychoPINN are for the far field only: write HDF5 or NPZ"):
        write_scan(scan_of(near_field=NEAR), tmp_path / "a.npz", "ptychopinn")


class Bomb:
    """Unpickling this fails the test."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (pytest.fail, ("a pickle was opened",))


def pickled() -> np.ndarray:
    array = np.empty((), object)
    array[()] = Bomb()
    return array


def test_a_pickled_array_in_an_npz_is_named_and_not_opened(tmp_path: Path) -> None:
    scan = scan_of()
    np.savez(tmp_path / "a.npz", counts=scan.counts, positions_px=scan.positions, probe=pickled())
    with pytest.raises(ValueError, match=r"no 'probe' that can be read without unpickling"):
        read_scan(tmp_path / "a.npz")


# ------------------------------------------------------------------------------------------------- PtychoPINN


def ptychopinn_file(path: Path, scan: Scan, **changes: Any) -> Path:
    """A legacy file of the scan, with amplitudes; a change to None leaves a key out."""
    arrays = {
        "diffraction": np.sqrt(scan.counts.astype(np.float32)),
        "xcoords": scan.positions[:, 1],
        "ycoords": scan.positions[:, 0],
        "probeGuess": scan.probe[0] / 1000,
        "objectGuess": np.ones((60, 60), np.complex64),
    }
    arrays = {name: value for name, value in (arrays | changes).items() if value is not None}
    np.savez(path, **arrays)
    return path


def test_ptychopinn_amplitudes_become_the_counts_they_came_from(tmp_path: Path) -> None:
    scan = scan_of()
    read = read_scan(ptychopinn_file(tmp_path / "a.npz", scan))
    np.testing.assert_array_equal(read.counts, scan.counts)
    assert read.counts.dtype.kind == "u"
    assert "amplitudes, and squared" in said(read) and "arbitrary dose" not in said(read)


def test_ptychopinn_coordinates_give_rows_and_columns(tmp_path: Path) -> None:
    """The frames must be what the object gives at the positions read, not at transposed or mirrored ones."""
    scan = scan_of(P=30)
    read = read_scan(ptychopinn_file(tmp_path / "a.npz", scan, diffraction=scan.counts))
    assert abs(misfit(read.counts, expected(truth(50, 35), read.positions, scan.probe))) < 5
    square = np.pad(truth(50, 35), ((0, 0), (0, 15)))
    for wrong in (read.positions[:, ::-1], read.positions.max(axis=0) + 8 - read.positions):
        assert misfit(read.counts, expected(square, wrong, scan.probe)) > 15


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32", "float32", "float64"])
def test_ptychopinn_counts_of_every_dtype_are_counts(dtype: str, tmp_path: Path) -> None:
    scan = scan_of(dtype=dtype)
    read = read_scan(ptychopinn_file(tmp_path / "a.npz", scan, diffraction=None, diff3d=scan.counts))
    np.testing.assert_array_equal(read.counts, scan.counts)
    assert "taken as counts" in said(read)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32", "float32", "float64"])
def test_integer_amplitudes_are_cast_before_squaring(dtype: str, tmp_path: Path) -> None:
    """250 squared does not fit uint8, 300 squared not uint16."""
    amplitudes = np.array([[250, 3], [17, 0 if dtype == "uint8" else 300]], dtype)
    frames = np.zeros((15, 16, 16), dtype)
    frames[:, 7:9, 7:9] = amplitudes
    path = ptychopinn_file(
        tmp_path / "a.npz", scan_of(), diffraction=frames, measurement_domain=np.array("normalized_amplitude")
    )
    read = read_scan(path)
    np.testing.assert_array_equal(read.counts, frames.astype(np.int64) ** 2)
    assert "arbitrary dose" in said(read) and "normalized_amplitude" in said(read)


def test_amplitudes_of_more_than_one_chunk_are_all_squared(tmp_path: Path) -> None:
    N, P = 64, CHUNK_PIXELS // 64**2 + 6
    counts = np.random.default_rng(5).poisson(2.0, (P, N, N))
    counts[:, N // 2, N // 2] = np.arange(P) + 100
    positions = np.random.default_rng(6).uniform(0, 99, (P, 2))
    scan = Scan(counts=counts, positions=positions, probe=np.ones((N, N)))
    np.testing.assert_array_equal(read_scan(ptychopinn_file(tmp_path / "a.npz", scan)).counts, counts)


@pytest.mark.parametrize("scale", [1.0, 1 / 40])
def test_a_stated_domain_wins_over_the_statistics(scale: float, tmp_path: Path) -> None:
    scan = scan_of()
    frames = (scan.counts * scale).astype(np.float32)
    version = np.array("legacy_v1")
    read = read_scan(ptychopinn_file(tmp_path / "a.npz", scan, diffraction=frames, scale_contract_version=version))
    np.testing.assert_allclose(read.counts, frames**2, rtol=1e-6)
    stated = ptychopinn_file(
        tmp_path / "b.npz", scan, diffraction=frames, measurement_domain=np.array("count_intensity")
    )
    np.testing.assert_array_equal(read_scan(stated).counts, frames)


def test_a_domain_stated_in_json_metadata_is_used(tmp_path: Path) -> None:
    scan = scan_of()
    frames = scan.counts * np.float32(0.37)
    metadata = np.array(json.dumps({"measurement_domain": "count_intensity", "nphotons": 1e9}))
    read = read_scan(ptychopinn_file(tmp_path / "a.npz", scan, diffraction=frames, _metadata=metadata))
    np.testing.assert_array_equal(read.counts, frames)


def test_an_unknown_domain_is_left_to_the_statistics(tmp_path: Path) -> None:
    scan = scan_of()
    domain = np.array("something_else")
    read = read_scan(ptychopinn_file(tmp_path / "a.npz", scan, diffraction=scan.counts, measurement_domain=domain))
    np.testing.assert_array_equal(read.counts, scan.counts)
    assert "does not say" in said(read)


def test_normalised_amplitudes_are_squared_and_their_dose_called_arbitrary(tmp_path: Path) -> None:
    scan = scan_of()
    frames = (np.sqrt(scan.counts) / 37.7).astype(np.float32)
    read = read_scan(ptychopinn_file(tmp_path / "a.npz", scan, diffraction=frames))
    np.testing.assert_allclose(read.counts, scan.counts / 37.7**2, rtol=1e-6)
    assert "arbitrary dose" in said(read) and "Values this large" not in said(read)


def test_large_unclear_values_are_doubted(tmp_path: Path) -> None:
    scan = scan_of()
    read = read_scan(ptychopinn_file(tmp_path / "a.npz", scan, diffraction=scan.counts * np.float32(1.37)))
    assert scan.counts.max() > 10 and "Values this large" in said(read)


def test_a_pickled_metadata_is_neither_opened_nor_in_the_way(tmp_path: Path) -> None:
    scan = scan_of()
    read = read_scan(ptychopinn_file(tmp_path / "a.npz", scan, _metadata=pickled()))
    np.testing.assert_array_equal(read.counts, scan.counts)
    assert "_metadata would have to be unpickled" in said(read)


@pytest.mark.parametrize("metadata", ["no json", "[1, 2]"])
def test_other_metadata_is_ignored(metadata: str, tmp_path: Path) -> None:
    scan = scan_of()
    read = read_scan(ptychopinn_file(tmp_path / "a.npz", scan, _metadata=np.array(metadata)))
    np.testing.assert_array_equal(read.counts, scan.counts)


def test_old_axis_order_is_found_by_the_number_of_positions(tmp_path: Path) -> None:
    scan = scan_of()
    old = np.moveaxis(scan.counts, 0, 2)
    read = read_scan(ptychopinn_file(tmp_path / "a.npz", scan, diffraction=None, diff3d=old))
    np.testing.assert_array_equal(read.counts, scan.counts)
    assert "old axis order" in said(read)


def test_an_ambiguous_axis_order_is_said(tmp_path: Path) -> None:
    scan = scan_of(P=16)
    read = read_scan(ptychopinn_file(tmp_path / "a.npz", scan, diffraction=scan.counts))
    np.testing.assert_array_equal(read.counts, scan.counts)
    assert "could be" in said(read)
    assert "could be" not in said(read_scan(ptychopinn_file(tmp_path / "b.npz", scan_of())))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"diffraction": np.ones((7, 16, 16))}, r"\(7, 16, 16\) and 15 positions"),
        ({"diffraction": np.ones((15, 16, 12))}, r"\(15, 16, 12\) and 15 positions"),
        ({"diffraction": np.ones((15, 16))}, r"\(15, 16\); expected 3 axes"),
        ({"xcoords": np.arange(14.0)}, "14 xcoords and 15 ycoords"),
        ({"probeGuess": None}, "no 'probeGuess'"),
        ({"probeGuess": np.ones((12, 12))}, r"Scan\.probe has shape \(1, 12, 12\)"),
    ],
)
def test_ptychopinn_files_that_do_not_fit_together(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_scan(ptychopinn_file(tmp_path / "a.npz", scan_of(), **changes))


@pytest.mark.parametrize("layout", ["NN", "NN1", "1NN", "MNN", "NNM"])
def test_every_layout_of_the_probe(layout: str, tmp_path: Path) -> None:
    scan = scan_of(N=15, modes=2)
    modes = scan.probe if "M" in layout else scan.probe[:1]
    stored = {
        "NN": modes[0],
        "NN1": modes[0][..., None],
        "1NN": modes,
        "MNN": modes,
        "NNM": np.moveaxis(modes, 0, 2),
    }
    read = read_scan(ptychopinn_file(tmp_path / "a.npz", scan, probeGuess=stored[layout]))
    np.testing.assert_array_equal(read.probe, modes)
    assert not read.probe_known and "'probeGuess' is arbitrary" in said(read)
    assert ("(N, N, modes)" in said(read)) == (layout == "NNM")


def test_column_coordinates_an_object_of_no_certain_truth_and_several_scans(tmp_path: Path) -> None:
    scan = scan_of()
    path = ptychopinn_file(
        tmp_path / "a.npz",
        scan,
        xcoords=scan.positions[:, 1:],
        scan_index=np.repeat([0, 1, 2], 5),
        Y=pickled(),
    )
    read = read_scan(path)
    np.testing.assert_array_equal(read.positions, scan.positions)
    assert read.object is None and "'objectGuess' is not known to be true" in said(read)
    assert "tells 3 scans apart" in said(read)


def test_a_corner_in_a_ptychopinn_file_is_moved(tmp_path: Path) -> None:
    scan = scan_of(N=15)
    frames = np.fft.ifftshift(scan.counts, axes=(1, 2))
    read = read_scan(ptychopinn_file(tmp_path / "a.npz", scan, diffraction=frames))
    np.testing.assert_array_equal(read.counts, scan.counts)
    assert "moved to the centre" in said(read)


def test_what_ptychopinn_is_given_says_that_it_is_counts(tmp_path: Path) -> None:
    scan = scan_of()
    path = write_scan(scan, tmp_path / "a.npz", "ptychopinn")
    with np.load(path, allow_pickle=False) as archive:
        assert str(archive["measurement_domain"]) == "count_intensity"
        assert json.loads(archive["_metadata"].item())["scale_contract_version"] == "ci_intensity_v2"
        np.testing.assert_array_equal(archive["xcoords"], scan.positions[:, 1])
        assert archive["probeGuess"].shape == (16, 16)
        field = np.ptp(scan.positions, axis=0)
        assert (np.array(archive["objectGuess"].shape) >= field + 16).all()


# ------------------------------------------------------------------------------------------------------- tike


def tike_file(path: Path, truth: Scan, /, **changes: Any) -> Path:
    arrays = {
        "data": np.fft.ifftshift(truth.counts, axes=(1, 2))[None].astype(np.float32),
        "scan": (truth.positions - truth.N // 2)[None].astype(np.float32),
        "probe": truth.probe[None, None, None] / 100,
    }
    packed = io.BytesIO()
    np.savez(packed, **(arrays | changes))
    path.write_bytes(bz2.compress(packed.getvalue()) if path.suffix == ".bz2" else packed.getvalue())
    return path


@pytest.mark.parametrize("N", [15, 16])
@pytest.mark.parametrize("name", ["a.npz", "a.npz.bz2"])
def test_tike(name: str, N: int, tmp_path: Path) -> None:
    scan = scan_of(N, modes=2)
    path = tike_file(tmp_path / name, scan)
    read = read_scan(path)
    assert read.counts.dtype == np.uint8 and scan.counts.max() < 256  # whole floats, in a quarter of the memory
    np.testing.assert_array_equal(read.counts, scan.counts)
    np.testing.assert_array_equal(read.positions, scan.positions)  # the smallest corner plus N // 2
    assert read.probe.shape == (2, N, N) and not read.probe_known
    assert "moved to the centre" in said(read) and "scale of the probe is arbitrary" in said(read)


def test_tike_at_the_centre_or_without_views(tmp_path: Path) -> None:
    scan = scan_of()
    read = read_scan(tike_file(tmp_path / "a.npz", scan, data=scan.counts * np.float32(1.5), scan=scan.positions))
    np.testing.assert_array_equal(read.counts, scan.counts * np.float32(1.5))
    assert read.counts.dtype == np.float32 and "moved" not in said(read)


@pytest.mark.parametrize("name, shape", [("data", (2, 15, 16, 16)), ("probe", (15, 1, 1, 16, 16))])
def test_tike_with_several_views_or_probes(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"'{name}' of shape .*give one view"):
        read_scan(tike_file(tmp_path / "a.npz", scan_of(), **{name: np.ones(shape)}))


def test_a_damaged_bz2_file_is_called_damaged(tmp_path: Path) -> None:
    path = tike_file(tmp_path / "a.npz.bz2", scan_of())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"a\.npz\.bz2 is a damaged bz2 file"):
        read_scan(path)


def test_a_file_replaced_in_place_is_read_anew(tmp_path: Path) -> None:
    first, second = scan_of(), scan_of(P=9)
    path = tmp_path / "a.npz.bz2"
    assert len(read_scan(tike_file(path, first))) == 15
    assert len(read_scan(tike_file(path, second))) == 9


# -------------------------------------------------------------------------------------------------- real data


def real(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        pytest.skip(f"PTYCHO_DATA ({folder}) holds no {name}")
    return folder / name


def test_the_measured_siemens_star(data_folder: Path) -> None:
    scan = read_scan(real(data_folder, "siemens-star-small.npz.bz2"))
    assert scan.counts.shape == (516, 128, 128) and scan.counts.dtype == np.uint16
    assert scan.mean_counts == pytest.approx(4.61e5, rel=2e-3)  # as published with the file, to three digits
    assert 0.80 < scan.overlap < 0.88
    centre, corner = scan.counts[:, 60:69, 60:69].mean(), scan.counts[:, :9, :9].mean()
    assert centre > 100 * corner
    assert not scan.probe_known and "moved to the centre" in said(scan)


@pytest.mark.parametrize("name", ["sim64_train.npz", "sim64_test.npz"])
def test_the_simulated_benchmark(name: str, data_folder: Path) -> None:
    """What its object, probe and positions predict fits its Poisson counts: every convention at once."""
    scan = read_scan(real(data_folder, name))
    assert scan.counts.dtype == np.uint16 and len(scan) == 1681 and scan.notes == ()
    assert scan.object is not None and scan.check_dose() is None
    assert scan.photons == pytest.approx(1e5, rel=1e-5)
    assert vacuum_pattern(scan.probe).sum() == pytest.approx(scan.photons, rel=1e-5)  # single precision
    part = scan.subset(slice(0, None, 100))
    assert abs(misfit(part.counts, expected(scan.object, part.positions, scan.probe.astype(complex)))) < 5
