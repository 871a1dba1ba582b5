"""Whatever is changed in a valid file of any kind that is read, it is read, or refused by one line that names it.

3000 cases in all; ``PTYCHO_FUZZ=2600 pytest tests/test_fuzz.py`` has some 100 000, and times and memory are limited in
each. A file that failed is kept in `tests/corpus`, all of which is read again at every run.
"""

import hashlib
import json
import os
import random
import re
import resource
import zipfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptycho.cli.options import recorded
from ptycho.config import ModelConfig, RefineConfig, RunConfig, TrainingConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.formats import FORMATS, BadFile, Format, ReadOptions, read_product, read_scan, write_scan
from ptycho.network.build import build_model
from ptycho.network.files import load_model, save_model
from ptycho.refinement import checkpoint as of_fits
from ptycho.refinement.solver import Solver
from ptycho.simulation.probes import make_probe
from ptycho.studies.runner import finished
from ptycho.training import checkpoint as of_trainings
from tests.formats import test_cxi, test_formats, test_other_formats, test_ptychodus
from tests.formats.scans import scan_of
from tests.helpers import at_most

CORPUS = Path(__file__).parent / "corpus"


CASES = int(os.environ.get("PTYCHO_FUZZ", "70"))
SECONDS = 60
"""Of a clock: 5 s of computing are allowed to the walk through a file's tables, on a machine that may be busy."""
GB = 2**30
WORD = re.compile(rb'"[^"\n]*"|[-+.\w]+')
"""A word, a number or a text in quotes, of TOML or JSON."""
ODD = (
    b"",
    b"null",
    b"1e999",
    b"-1",
    b"0",
    b"[]",
    b"{}",
    b'""',
    b"NaN",
    b"true",
    b"9" * 5000,
    b"[" * 5000,
    b'"\xff"',
    b"[[1]]",
)
TOLD = ReadOptions(pixel_size_m=9e-9)
SCANS: tuple[Callable[[Path], Any], ...] = (
    lambda path: read_scan(path, options=TOLD),
    lambda path: np.asarray(read_scan(path, options=replace(TOLD, in_memory_bytes=0)).counts),  # from the file
    lambda path: read_product(path, options=TOLD),
)


def fold_slice(folder: Path) -> Path:
    return test_other_formats.fold_slice_pair(folder, scan_of())


def matlab(v73: bool) -> Callable[[Path], Path]:
    return lambda folder: test_other_formats.fold_slice_result(folder / "a.mat", v73, scan_of(P=3), False)


def hxn(folder: Path) -> Path:
    scan = scan_of(P=4)
    values = {"diffamp": scan.counts.astype("f4"), "points": scan.positions.T, "lambda_nm": 0.1, "z_m": 1.0}
    return test_other_formats.hdf5(folder / "a.h5", values | {"ccd_pixel_um": 50.0})


def emd(folder: Path) -> Path:
    test_other_formats.emd_array(folder / "a.emd", "datacube", test_other_formats.raster(2, 2)[1])
    return folder / "a.emd"


def written(format: Format) -> Callable[[Path], Path]:
    return lambda folder: write_scan(scan_of(modes=2, P=6), folder / f"scan{format.suffixes[0]}", format.name)


def prepared(folder: Path) -> Path:
    return test_other_formats.hdf5(folder / "a.h5", test_other_formats.prepared(scan_of(P=4)))


def ptylab(folder: Path) -> Path:
    return test_other_formats.hdf5(folder / "a.h5", test_other_formats.ptylab_values(scan_of(P=4)))


def second(make: Callable[[Path], Path], name: str) -> Callable[[Path], Path]:
    """The other file of a pair is the one that is mutated, and given."""
    return lambda folder: make(folder).with_name(name)


VALID: dict[str, Callable[[Path], Path]] = {
    **{f"{f.name} written": written(f) for f in FORMATS if f.scans and f.scans.write},
    "tiff table": second(written(next(f for f in FORMATS if f.name == "tiff")), "scan.csv"),
    "cxi": lambda folder: test_cxi.cxi_file(folder / "a.cxi", scan_of()),
    "nexus": lambda folder: test_cxi.nexus_file(folder / "a.nxs", scan_of()),
    "ptychodus patterns": second(lambda folder: test_ptychodus.pair(folder, scan_of(), "npz"), "a_dp.npz"),
    "ptychodus NPZ": lambda folder: test_ptychodus.pair(folder, scan_of(), "npz"),
    "legacy ptychopinn": lambda folder: test_formats.ptychopinn_file(folder / "a.npz", scan_of()),
    "fold_slice": fold_slice,
    "fold_slice frames": second(fold_slice, "data_roi0_dp.hdf5"),
    "MATLAB 7": matlab(False),
    "MATLAB 7.3": matlab(True),
    "ptychoshelves": prepared,
    "ptylab": ptylab,
    "hxn": hxn,
    "emd": emd,
    "empad": lambda folder: test_other_formats.empad_files(folder)[0].with_suffix(".json"),
    "tike": lambda folder: test_formats.tike_file(folder / "a.npz", scan_of()),
    "tike in bz2": lambda folder: test_formats.tike_file(folder / "a.npz.bz2", scan_of()),
}


class Kind(NamedTuple):
    """Of a file that is read: how a valid one is made in a folder, what reads it, and how it says no."""

    make: Callable[[Path], Path]
    reads: tuple[Callable[[Path], Any], ...] = SCANS
    error: type[ValueError] = BadFile
    in_folder: bool = False
    """Whether the folder is named instead of the file."""
    fraction: float = 1.0
    """Of the number of cases."""

    def read(self, path: Path) -> int:
        """In how many ways the file is read; what is refused is one line that names it."""
        name = path.parent.name if self.in_folder else path.stem.split("_")[0]
        count = 0
        for read in self.reads:
            try:
                with at_most(SECONDS):
                    read(path)
                count += 1
            except self.error as error:
                assert name in str(error) and "\n" not in str(error) and len(str(error)) < 2000, str(error)
        return count


def result(folder: Path) -> Path:
    image, positions = np.ones((30, 40), "complex64"), np.full((9, 2), 15.0)
    values = dict(object=image, probe=image[None, :16, :16], positions_px=positions, coverage=abs(image))
    return Reconstruction(**values, used=9, dropped=0, provenance=dict(version="1", epochs=3)).save(
        folder / "result.h5"
    )


def text(name: str, content: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_text(content)
        return path

    return make


TOML = """
[model]
stages = 3
width = 8
[refine]
method = "cg"
epochs = 30
tv_weight = 0.1
focus = true
[reading]
scan_shape = [8, 9]
energy_ev = 8000.0
"""


def training_of(folder: Path) -> of_trainings.Checkpoint:
    return of_trainings.Checkpoint(folder, TrainingConfig(epochs=3), "begin")


def history(folder: Path) -> Path:
    """Of a training, beside the weights that belong to it."""
    checkpoint = training_of(folder)
    with h5py.File(checkpoint.weights(1), "w") as file:
        file["w"] = np.ones(3)
    epoch = dict(epoch=1, loss=0.5, validation_loss=None, flat_loss=1.0, learning_rate=1e-3, seconds=2.0, restarts=0)
    settings = dict(settings=checkpoint.config.to_dict(), begin="begin")
    (folder / "training.json").write_text(json.dumps(settings))
    (folder / "history.json").write_text(json.dumps([epoch]))
    return folder / "history.json"


def resume_training(path: Path) -> None:
    trainer: Any = SimpleNamespace(load_weights=lambda path: None)
    training_of(path.parent).restore(trainer)


class NoFit(Solver):
    """What a checkpoint asks of a fit."""

    def __init__(self) -> None:
        pass

    def snapshot(self) -> of_fits.Snapshot:
        return dict(object=np.ones((9, 9), "complex64"))

    def restore(self, state: of_fits.Snapshot) -> None:
        pass


def fit_of(folder: Path) -> of_fits.Checkpoint:
    checkpoint = of_fits.Checkpoint.__new__(of_fits.Checkpoint)  # without a fit
    checkpoint.path, checkpoint.config, checkpoint.begin = folder / "refinement.npz", RefineConfig(), "begin"
    checkpoint.every_s, checkpoint.saved_at = 0.0, 0.0
    return checkpoint


def fit(folder: Path) -> Path:
    fit_of(folder).save(NoFit(), [], NoFit().snapshot(), last=True)
    return folder / "refinement.npz"


def resume_fit(path: Path) -> None:
    fit_of(path.parent).load(NoFit())


def network(folder: Path) -> Path:
    return save_model(build_model(ModelConfig(N=16, stages=2, width=2), make_probe(16)), folder / "model.keras")


CASE: Any = SimpleNamespace(folder=".", labels={}, hash="abc")
KINDS = {name: Kind(make) for name, make in VALID.items()} | {
    "result": Kind(result, (Reconstruction.load, lambda path: read_product(path, options=TOLD))),
    "settings": Kind(text("run.toml", TOML), (RunConfig.from_toml,), ValueError),
    "settings of a run": Kind(
        text("config.json", json.dumps(dict(reading=dict(energy_ev=8e3), refine=dict(epochs=3)))),
        (lambda path: recorded(path.parent),),
    ),
    "row of a study": Kind(
        text("row.json", json.dumps(dict(hash="abc", snr=3.0))), (lambda path: finished(CASE, path.parent),)
    ),
    "history of a training": Kind(history, (resume_training,), ValueError, in_folder=True),
    "settings of a training": Kind(second(history, "training.json"), (resume_training,), ValueError, in_folder=True),
    "weights of a training": Kind(second(history, "epoch-1.weights.h5"), (resume_training,), in_folder=True),
    "checkpoint of a fit": Kind(fit, (resume_fit,), ValueError),
    "network": Kind(network, (load_model,), fraction=0.3),
}


@st.composite
def damage(draw: Any) -> Callable[[bytes], bytes]:
    """A file cut short, or with some of its bytes changed, or a word of a text replaced.

    Of an archive as often as not a member is damaged, and packed again: its checksum is right then.
    """
    seed, kind = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from(["cut", "bytes", "bytes", "bytes", "word"]))
    changes, packed = draw(st.sampled_from([1, 1, 2, 4, 8, 30])), draw(st.booleans())
    rng = random.Random(seed)

    def mutated(content: bytes) -> bytes:
        if packed and content[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(BytesIO(content)) as archive:
                members = {name: archive.read(name) for name in archive.namelist()}
            name = rng.choice(sorted(members))
            with zipfile.ZipFile(written := BytesIO(), "w") as archive:
                for member, data in members.items():
                    archive.writestr(member, changed(data) if member == name else data)
            return written.getvalue()
        return changed(content)

    def changed(content: bytes) -> bytes:
        if kind == "cut":
            return content[: rng.randrange(len(content))]
        words = list(WORD.finditer(content)) if kind == "word" and len(content) < 10**5 else []
        if words:
            word = rng.choice(words)
            return content[: word.start()] + rng.choice(ODD) + content[word.end() :]
        array = bytearray(content)
        for _ in range(changes):
            # As often as not among the first 3000, where headers are.
            place = rng.randrange(len(array) if rng.random() < 0.5 else min(len(array), 3000))
            array[place] = rng.choice([0, 1, 128, 255, rng.randrange(256)])
        return bytes(array)

    return mutated


def keep(name: str, path: Path, content: bytes) -> None:
    """Put what failed beside the others of the corpus."""
    CORPUS.mkdir(exist_ok=True)
    digest = hashlib.sha256(content).hexdigest()[:8]
    (CORPUS / f"{name.replace(' ', '_')}.{digest}{path.suffix}").write_bytes(content)


@pytest.mark.parametrize("name", KINDS)
def test_fuzz(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever is changed in a valid file, it is read, or refused by an error of one line that names it."""
    kind, folder = KINDS[name], tmp_path_factory.mktemp("fuzz")
    path = kind.make(folder)
    content, cases = path.read_bytes(), int(kind.fraction * CASES)
    assert kind.read(path)
    refused = 0

    @settings(
        max_examples=cases, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(damage())
    def never_anything_else(mutated: Callable[[bytes], bytes]) -> None:
        nonlocal refused
        path.write_bytes(damaged := mutated(content))
        try:
            refused += kind.read(path) < len(kind.reads)
        except BaseException:
            keep(name, path, damaged)
            raise

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    never_anything_else()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < GB
    assert refused > cases / 8


@pytest.mark.parametrize("kept", sorted(CORPUS.iterdir()), ids=lambda kept: kept.name)
def test_what_failed_once(kept: Path, tmp_path: Path) -> None:
    """Each within the time, and in 1 GB."""
    kind = KINDS[kept.name.partition(".")[0].replace("_", " ")]
    path = kind.make(tmp_path)
    path.write_bytes(kept.read_bytes())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kind.read(path)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < GB


@st.composite
def structure(draw: Any) -> tuple[int, Any]:
    """A data set by its number, and what takes its place: another shape, dtype or value, or nothing."""
    values = st.sampled_from(
        [
            None,
            np.zeros(0),
            np.zeros((0, 16, 16)),
            np.zeros((15, 2)),
            np.ones((2, 2, 2)),
            np.full((15, 16, 16), np.nan),
            np.full((15, 16, 16), -1.0),
            np.float64("inf"),
            -1e300,
            2**63 - 1,
            0,
            np.bytes_(b"\xff"),
            "text",
            np.array(["a", "b"], h5py.string_dtype()),
            np.ones(3, "c16"),
            np.zeros(2, [("x", "f4"), ("y", "i2")]),
            h5py.Empty("f4"),
            h5py.SoftLink("/"),
            h5py.SoftLink("/nowhere"),
            h5py.ExternalLink("nowhere.h5", "/"),
        ]
    )
    return draw(st.integers(0, 30)), draw(values)


HDF5 = [name for name in VALID if name.split()[0] in ("hdf5", "cxi", "nexus", "ptyd", "ptylab", "hxn", "emd")]
HDF5 += ["ptychodus written", "fold_slice", "ptychoshelves", "MATLAB 7.3", "result"]


@pytest.mark.parametrize("name", HDF5)
def test_fuzz_of_values(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As `test_fuzz`, with HDF5 that is sound and holds other things than expected."""
    kind = KINDS[name]
    path = kind.make(tmp_path_factory.mktemp("fuzz"))
    content, refused = path.read_bytes(), 0

    @settings(
        max_examples=CASES // 2, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(structure())
    def never_anything_else(change: tuple[int, Any]) -> None:
        nonlocal refused
        path.write_bytes(content)
        with h5py.File(path, "r+") as file:
            keys: list[str] = []
            file.visititems(lambda key, item: keys.append(key) if isinstance(item, h5py.Dataset) else None)
            key = keys[change[0] % len(keys)]
            del file[key]
            if change[1] is not None:
                file[key] = change[1]
        try:
            refused += kind.read(path) < len(kind.reads)
        except BaseException:
            keep(name, path, path.read_bytes())
            raise

    never_anything_else()
    assert refused > CASES / 8
