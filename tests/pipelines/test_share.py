"""What is shared of a scan file helps whoever reads the report, and tells nothing of whoever wrote it."""

import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from ptycho.config import ReadConfig
from ptycho.data.scan import Scan
from ptycho.formats import write_scan
from ptycho.pipelines.share import _without_names, write_shared


def shared(path: Path, tmp_path: Path) -> tuple[dict, zipfile.ZipFile]:
    write_shared(path, tmp_path / "out.zip", ReadConfig())
    archive = zipfile.ZipFile(tmp_path / "out.zip")
    return json.loads(archive.read("about.json")), archive


def test_all_but_the_frames_is_there(small_scan: Scan, tmp_path: Path) -> None:
    path = write_scan(small_scan, tmp_path / "scan.h5")
    about, archive = shared(path, tmp_path)
    assert about["info"]["frames"] == str(len(small_scan)) and about["checks"] and about["software"]["ptycho"]
    assert any(row.startswith("counts: ") and str(small_scan.counts.shape) in row for row in about["arrays"])
    with archive.open("positions.npy") as member:
        np.testing.assert_array_equal(np.load(member), small_scan.positions)
    assert {name for name in archive.namelist() if name.endswith(".npy")} == {
        f"{name}.npy" for name in ("positions", "frame_counts", "probe", "mask", "mean_pattern")
    }
    # One frame, not P: what the mean of the frames takes and no more.
    assert archive.getinfo("mean_pattern.npy").file_size < 4 * small_scan.N**2 + 200


def test_nothing_personal_is_in_it(small_scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither names of files and folders, which tell of people and samples, nor texts inside the file."""
    folder = tmp_path / "jane-doe" / "secret-sample"
    folder.mkdir(parents=True)
    path = write_scan(small_scan, folder / "a scan of  unobtainium.2026-11-03.h5")
    with h5py.File(path, "a") as file:
        file["user"] = "Jane Doe"
        file.attrs["owner"] = "Jane Doe"
    for broken in ("", "absent", "linked"):
        if broken == "absent":
            with h5py.File(path, "a") as file:
                name = next(key for key in file if "positions" in key)
                del file[name]
        if broken == "linked":
            with h5py.File(path, "a") as file:
                file[name] = h5py.ExternalLink("/gpfs/home/jane/secret sample/data_001.h5", "/x")
        _, archive = shared(path, tmp_path)
        text = archive.read("about.json").decode().lower()
        assert ('"error"' in text) is bool(broken)
        for word in ("jane", "doe", "secret", "unobtainium", "2026-11-03"):
            assert word not in text


@pytest.mark.parametrize(
    ("sentence", "left"),
    [
        ("a.h5 lacks 'entry/data': give --scan-step", "PATH lacks 'entry/data': give --scan-step"),
        ("links 'x' to /gpfs/jane/data 1.h5, outside its folder", "links 'x' to PATH, outside its folder"),
        ("to scan_data_0001.h5, which is not there", "to PATH, which is not there"),
        ("12.5 of 3/4 pixels at '/entry/1'", "12.5 of 3/4 pixels at '/entry/1'"),
    ],
)
def test_names_of_files_go_and_the_message_stays(sentence: str, left: str) -> None:
    assert _without_names(sentence, Path("a.h5")) == left


def test_a_file_that_no_format_knows_is_described(tmp_path: Path) -> None:
    path = tmp_path / "odd.npz"
    np.savez(path, strange=np.zeros((4, 5), "uint16"))
    about, archive = shared(path, tmp_path)
    assert about["arrays"] == ["strange: (4, 5) uint16"] and "no format recognises" in about["error"]
    assert archive.namelist() == ["about.json"]
