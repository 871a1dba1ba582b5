"""Results from disk: what `save` wrote, and nothing else."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from ptycho.data.reconstruction import Reconstruction
from ptycho.io import BadFile
from tests.helpers import normal


@pytest.fixture
def saved(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    image, probe = normal(rng, 40, 50), normal(rng, 1, 16, 16)
    positions = rng.uniform(10, 30, (9, 2))
    result = Reconstruction(
        object=image, probe=probe, positions_px=positions, coverage=np.ones((40, 50), "float32"), used=9, dropped=0
    )
    return result.save(tmp_path / "result.h5")


def test_links_and_what_lies_elsewhere_are_not_followed(saved, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["object"] = np.ones((40, 50), "complex64")
    layout = h5py.VirtualLayout((40, 50), "complex64")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "object", (40, 50))
    replacements = dict(
        external=lambda file: file.__setitem__("object", h5py.ExternalLink("other.h5", "object")),
        soft=lambda file: file.__setitem__("object", h5py.SoftLink("/object")),
        group=lambda file: file.create_group("object"),
        virtual=lambda file: file.create_virtual_dataset("object", layout),
        raw=lambda file: file.create_dataset("object", (40, 50), "complex64", external=[("/dev/zero", 0, 16000)]),
        bomb=lambda file: file.create_dataset("object", (10**5, 10**5), "complex64", chunks=(1000, 1000)),
    )
    for name, replace in replacements.items():
        path = tmp_path / f"{name}.h5"
        path.write_bytes(saved.read_bytes())
        with h5py.File(path, "r+") as file:
            del file["object"]
            replace(file)
        with pytest.raises(BadFile, match="does not hold 'object' itself"):
            Reconstruction.load(path)


def test_other_and_damaged_files_are_one_line(saved, tmp_path):
    pipe, cut, empty = tmp_path / "pipe", tmp_path / "cut.h5", tmp_path / "empty.h5"
    os.mkfifo(pipe)
    cut.write_bytes(saved.read_bytes()[:-3000])
    with h5py.File(empty, "w") as file:
        file.attrs["format"] = "ptycho-reconstruction"
    for path, said in ((pipe, "is no file"), (tmp_path, "is no file"), (cut, "damaged"), (empty, "damaged")):
        with pytest.raises(BadFile, match=said):
            Reconstruction.load(path)
    with pytest.raises(FileNotFoundError):
        Reconstruction.load(tmp_path / "nowhere.h5")
    np.testing.assert_array_equal(Reconstruction.load(saved).positions_px.shape, (9, 2))


def test_any_damaged_byte_is_a_bad_file_or_does_no_harm(saved, tmp_path):
    rng, whole = np.random.default_rng(0), saved.read_bytes()
    for _ in range(200):
        data = bytearray(whole)
        data[rng.integers(3000)] = rng.integers(256)
        path = tmp_path / "damaged.h5"
        path.write_bytes(data)
        try:
            assert isinstance(Reconstruction.load(path), Reconstruction)
        except BadFile as error:
            assert "\n" not in str(error)
