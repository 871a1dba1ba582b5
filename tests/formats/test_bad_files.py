"""Bad files: one line that names file, key and remedy, and nothing written. Fuzzing: `tests/test_fuzz.py`."""

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
import scipy.io
import tifffile

from ptycho.formats import BadFile, ReadOptions, convert, read_scan, write_scan
from tests.formats import test_cxi, test_formats
from tests.formats.scans import scan_of
from tests.helpers import at_most

GB = 2**30


def own(path: Path, **changes: Any) -> Path:
    """The package's own HDF5 with other arrays; None leaves one out."""
    write_scan(scan_of(), path, "hdf5")
    with h5py.File(path, "r+") as file:
        for key, value in changes.items():
            del file[key]
            if value is not None:
                file[key] = value
    return path


def truncated(path: Path) -> None:
    own(path)
    path.write_bytes(path.read_bytes()[:-500])


def of_npz(path: Path, **changes: Any) -> None:
    scan = scan_of()
    arrays = dict(counts=scan.counts, positions_px=scan.positions, probe=scan.probe) | changes
    with path.open("wb") as file:
        np.savez(file, **arrays)


def npz_bomb(path: Path) -> None:
    """Ten million zeros in ten kilobytes."""
    of_npz(path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("mask.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": (10, 10**6)})
        for _ in range(10):
            member.write(bytes(10**6))


def npz_of_large_promises(path: Path) -> None:
    """A header of 8 TB over 8 bytes."""
    of_npz(path)
    with zipfile.ZipFile(path, "a") as archive, archive.open("mask.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)})
        member.write(bytes(8))


def hdf5_bomb(path: Path) -> None:
    """Frames that were never written cost nothing on the disk, and 4 GB in memory."""
    own(path, counts=None)
    with h5py.File(path, "r+") as file:
        file.create_dataset("counts", (10**6, 32, 64), "u2", chunks=(1, 32, 64))


def hdf5_of_many_chunks(path: Path) -> None:
    """Frames of 77 MB at most, in thirty million chunks of a byte, one of them written."""
    own(path, counts=None)
    with h5py.File(path, "r+") as file:
        file.create_dataset("counts", (1200, 160, 160), "u1", chunks=(1, 1, 1))[0, 0, 0] = 1


def matlab_bomb(path: Path) -> None:
    scipy.io.savemat(path, dict(object=np.zeros((1000, 1000)), probe=1.0, outputs=1.0), do_compression=True)


def linked(target: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        own(path, counts=None)
        with h5py.File(path, "r+") as file:
            file["counts"] = target(path)

    return make


def outside(path: Path) -> Any:
    other = path.parent.parent / f"outside {path.parent.name}.h5"
    own(other)
    return h5py.ExternalLink(str(other), "/counts")


def raw_outside(path: Path) -> None:
    """The values of a data set itself may be kept in any file, say one of passwords."""
    own(path, counts=None)
    with h5py.File(path, "r+") as file:
        file.create_dataset("counts", (15, 16, 16), "u1", external=[("/etc/passwd", 0, 15 * 256)])


def virtual_outside(path: Path) -> None:
    other = outside(path).filename
    layout = h5py.VirtualLayout((15, 16, 16), "u2")
    layout[:] = h5py.VirtualSource(other, "counts", (15, 16, 16))
    own(path, counts=None)
    with h5py.File(path, "r+") as file:
        file.create_virtual_dataset("counts", layout)


def virtual_by_a_link(path: Path) -> None:
    """The source is in the file itself, but a link that HDF5 would follow out of the folder."""
    link = outside(path)
    layout = h5py.VirtualLayout((15, 16, 16), "u2")
    layout[:] = h5py.VirtualSource(".", "elsewhere", (15, 16, 16))
    own(path, counts=None)
    with h5py.File(path, "r+") as file:
        file["elsewhere"] = link
        file.create_virtual_dataset("counts", layout)


def circular_files(path: Path) -> None:
    own(path, counts=None)
    with h5py.File(path, "r+") as file:
        file["counts"] = h5py.ExternalLink("other.h5", "/counts")
    with h5py.File(path.with_name("other.h5"), "w") as file:
        file["counts"] = h5py.ExternalLink(path.name, "/counts")


def attribute(name: str, value: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        own(path)
        with h5py.File(path, "r+") as file:
            file.attrs[name] = value

    return make


def without_filter(path: Path) -> None:
    """Packed by a filter that nobody has."""
    own(path, counts=None)
    with h5py.File(path, "r+") as file:
        packing = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        packing.set_chunk((15, 16, 16))
        packing.set_filter(32767, h5py.h5z.FLAG_OPTIONAL)
        data = h5py.h5d.create(
            file.id, b"counts", h5py.h5t.NATIVE_UINT16, h5py.h5s.create_simple((15, 16, 16)), packing
        )
        data.write_direct_chunk((0, 0, 0), bytes(15 * 512))


def pickled(path: Path) -> None:
    of_npz(path, probe=test_formats.pickled())


BAD: dict[str, tuple[str, Callable[[Path], Any], str, str]] = {
    # name: file, how it is made, key, remedy
    "truncated": ("a.h5", truncated, "HDF5", "copy it again"),
    "wrong dtype": ("a.h5", lambda p: own(p, counts=np.full((15, 16, 16), b"x")), "'counts'", "expected real numbers"),
    "missing key": ("a.h5", lambda p: own(p, probe=None), "counts, mask, positions_px", "says what each needs"),
    "no positions at all": (
        "a.h5",
        lambda p: own(p, positions_px=np.zeros((0, 2))),
        "'positions_px'",
        "expected at least one",
    ),
    "a group": ("a.h5", linked(lambda p: h5py.SoftLink("/")), "'counts'", "expected an array"),
    "pickled": ("a.npz", pickled, "'probe'", "without unpickling"),
    "object array": (
        "a.h5",
        lambda p: own(p, counts=np.array(["a", "b"], h5py.string_dtype())),
        "'counts' of dtype object",
        "expected real numbers",
    ),
    "NPZ bomb": ("a.npz", npz_bomb, "'mask' of 10 MB", "--trusted"),
    "NPZ of large promises": ("a.npz", npz_of_large_promises, "'mask'", "copy the file again"),
    "HDF5 bomb": ("a.h5", hdf5_bomb, "'counts' of 4096 MB", "--trusted"),
    "HDF5 of many chunks": ("a.h5", hdf5_of_many_chunks, "'chunks of counts' of 12288 MB", "--trusted"),
    "MATLAB bomb": ("a.mat", matlab_bomb, "MATLAB", "--trusted"),
    "text that is no UTF-8": ("a.h5", attribute("notes", np.bytes_(b"\xff\xfe")), "'/@notes'", "correct or delete"),
    "number that is none": ("a.h5", attribute("version", "new"), "'/@version'", "correct or delete"),
    "circular soft links": ("a.h5", linked(lambda p: h5py.SoftLink("/counts")), "'counts'", "link it to the data"),
    "circular external links": ("a.h5", circular_files, "'counts'", "link it to the data"),
    "link outside": ("a.h5", linked(outside), "'counts'", "--trusted"),
    "link to nothing": ("a.h5", linked(lambda p: h5py.ExternalLink("no.h5", "/")), "'counts'", "copy that file beside"),
    "values outside": ("a.h5", raw_outside, "'counts'", "--trusted"),
    "virtual values outside": ("a.h5", virtual_outside, "'counts'", "--trusted"),
    "virtual values by a link outside": ("a.h5", virtual_by_a_link, "'elsewhere'", "--trusted"),
    "complex counts": ("a.h5", lambda p: own(p, counts=scan_of().counts * 1j), "'counts'", "squared modulus"),
    "no frames": ("a.h5", lambda p: own(p, counts=np.zeros((0, 16, 16))), "'counts'", "expected at least one frame"),
    "no frames in NPZ": (
        "a.npz",
        lambda p: of_npz(p, counts=np.zeros((0, 16, 16))),
        "'counts'",
        "expected at least one frame",
    ),
    "complex counts in NPZ": (
        "a.npz",
        lambda p: of_npz(p, counts=1j * scan_of().counts),
        "'counts'",
        "squared modulus",
    ),
    "not a number": ("a.npz", lambda p: of_npz(p, counts=np.full((15, 16, 16), np.nan)), "counts is nan", "mask False"),
    "unknown filter": ("a.h5", without_filter, "'counts' packed by HDF5 filter 32767", "update hdf5plugin"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name: str, tmp_path: Path) -> None:
    file, make, key, remedy = BAD[name]
    small = name in ("NPZ bomb", "MATLAB bomb")  # for which the limit is lowered
    options = ReadOptions(unpacked_bytes=10**6) if small else ReadOptions()
    path = tmp_path / file
    make(path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(BadFile) as error:
        convert(path, tmp_path / "out.h5", options=options)
    line = str(error.value)
    assert str(path) in line and key in line and remedy in line, line
    assert "\n" not in line
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_refused_is_read_where_it_is_trusted(tmp_path: Path) -> None:
    trusted = ReadOptions(trusted=True)
    for make in (linked(outside), virtual_outside, raw_outside):
        make(tmp_path / "a.h5")
        assert len(read_scan(tmp_path / "a.h5", options=trusted)) == 15
    npz_bomb(tmp_path / "a.npz")
    with pytest.raises(BadFile, match=r"Scan\.mask has shape"):
        read_scan(tmp_path / "a.npz", options=trusted)


def test_text_that_became_a_sequence_does_not_crash(tmp_path: Path) -> None:
    """As one damaged byte of a data type makes it: HDF5 follows the pointers of a text as those of a sequence."""
    path = test_cxi.nexus_file(tmp_path / "a.nxs", scan_of())
    with h5py.File(path, "r+") as file:
        del file["entry_1/definition"]
        file["entry_1"].create_dataset("definition", (), dtype=h5py.vlen_dtype("u1"))
        file["entry_1/definition"][()] = np.arange(3, dtype="u1")
        sequence = np.empty(1, object)
        sequence[0] = np.arange(3)
        file[f"{test_cxi.DETECTOR}/distance"].attrs.create("units", sequence, dtype=h5py.vlen_dtype("i8"))
    with pytest.raises(BadFile, match=r"distance@units' of a kind that is not read"):
        read_scan(path)


def test_texts_that_hdf5_would_read_for_ever(tmp_path: Path) -> None:
    """The free space at the end of its heap says that it is of no size."""
    path = test_cxi.nexus_file(tmp_path / "a.nxs", scan_of())
    content = bytearray(path.read_bytes())
    place = content.index(b"GCOL") + 16
    while content[place]:
        place += 16 + -(-int.from_bytes(content[place + 8 : place + 16], "little") // 8) * 8
    assert any(content[place + 8 : place + 16])
    content[place + 8 : place + 16] = bytes(8)
    path.write_bytes(content)
    with at_most(20), pytest.raises(BadFile, match=r"a\.nxs has damaged tables: .* copy it again"):
        read_scan(path)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = own(tmp_path / "a.h5")

    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))  # root, who runs tests too, may read anything

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(BadFile, match=r"a\.h5 cannot be read .*Permission denied.*check its permissions"):
        read_scan(path)


def test_links_and_virtual_data_within_the_folder_are_followed(tmp_path: Path) -> None:
    own(tmp_path / "other.h5")
    path = own(tmp_path / "a.h5", counts=None, probe=None)
    layout = h5py.VirtualLayout((15, 16, 16), "u2")
    layout[:] = h5py.VirtualSource("other.h5", "counts", (15, 16, 16))
    with h5py.File(path, "r+") as file:
        file.create_virtual_dataset("counts", layout)
        file["probe"] = h5py.ExternalLink("./other.h5", "/probe")
    np.testing.assert_array_equal(read_scan(path).counts, scan_of().counts)


@pytest.mark.parametrize(
    "packing",
    [hdf5plugin.Bitshuffle(), hdf5plugin.LZ4(), hdf5plugin.Blosc(), hdf5plugin.Zstd()],
    ids=lambda p: type(p).__name__,
)
def test_every_format_of_hdf5_opens_what_plugins_pack(packing: Any, tmp_path: Path) -> None:
    scan = scan_of()
    path = test_cxi.cxi_file(tmp_path / "a.cxi", scan, **{f"{test_cxi.DETECTOR}/data": None})
    with h5py.File(path, "r+") as file:
        file.create_dataset(f"{test_cxi.DETECTOR}/data", data=scan.counts, **packing)
    np.testing.assert_array_equal(read_scan(path).counts, scan.counts)


def test_a_tiff_of_more_strips_than_bytes_is_refused_at_once(tmp_path):
    """One bit a pixel and sixteen million rows are little enough to be read; a million strips are not."""
    path = tmp_path / "scan.tif"
    tifffile.imwrite(path, np.zeros((16, 16), bool), rowsperstrip=16, metadata=None, photometric="minisblack")
    path.with_suffix(".csv").write_text("y_px,x_px\n0,0\n")
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["ImageLength"].overwrite(16_711_696)
    with at_most(5), pytest.raises(BadFile, match="more strips than bytes"):
        read_scan(path, options=ReadOptions(pixel_size_m=9e-9))


# ----------------------------------------------------------------------------------------------- killed writers

KILLING = """
import os, signal, sys, time
import numpy as np
from ptycho.formats import read_scan, write_scan
target, *names = sys.argv[1:]
scans = [read_scan(name) for name in names]
rng = np.random.default_rng(0)
for _ in range(50):
    written, ready = os.pipe()[::-1]
    child = os.fork()
    if not child:
        while True:
            for scan in scans:
                write_scan(scan, target)
                os.write(written, b"1")
    os.read(ready, 1)
    time.sleep(rng.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(written), os.close(ready)
    found = read_scan(target)
    print(len(found), bool((found.counts == scans[len(found) == len(scans[1])].counts).all()))
"""


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    """50 processes that write two scans in turn are each killed after another while."""
    scans = [scan_of(P=P, dtype="uint32") for P in (40, 30)]
    sources = [str(write_scan(scan, tmp_path / f"{len(scan)}.npz")) for scan in scans]
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", KILLING, str(tmp_path / "out" / "scan.h5"), *sources]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines()]
    assert len(found) == 50 and all(same == "True" for _, same in found)
    assert {frames for frames, _ in found} == {"30", "40"}
    assert list((tmp_path / "out").glob(".scan.h5.*.partial"))  # some were killed within a file
