"""What a run begins with: the scan, the frames held out of it, and a network."""

import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ptycho.config import ModelConfig, ReadConfig, RunConfig
from ptycho.data.scan import Scan
from ptycho.diagnostics.checks import Check, examine, require_sound, sentences
from ptycho.diagnostics.repair import prepared, set_right
from ptycho.diagnostics.statistics import rescale_probe
from ptycho.formats import ReadOptions, read_scan
from ptycho.network.build import PtychoNetwork
from ptycho.network.domain import far_from_training
from ptycho.network.files import PACKAGED, load_model, load_pretrained
from ptycho.physics.grid import ObjectGrid
from ptycho.progress import Progress
from ptycho.reconstruction import find_probe
from ptycho.simulation.probes import with_modes

Log = Callable[[str], None]
"""Called with a sentence for the user."""


def open_scan(
    path: str | os.PathLike,
    log: Log,
    modes: int | None = None,
    *,
    in_file: bool = False,
    reading: ReadConfig | None = None,
) -> Scan:
    """Read a scan, leave out what no fit should see (`prepared`), log the notes, and bring a guessed probe to the scale
    of the counts: `examined_scan` without its checks.

    With ``modes`` the probe gets so many; those added are guesses, so that the probe is one. With ``in_file`` the
    frames stay in the file, however few there are (`StoredFrames`), where the format lets them. ``reading`` is what
    the user knows of the file.
    """
    return _scaled(_announced(_read(path, in_file, reading), path, log), log, modes)


def examined_scan(
    path: str | os.PathLike,
    log: Log,
    modes: int | None = None,
    *,
    in_file: bool = False,
    reading: ReadConfig | None = None,
    auto: bool = True,
    force: bool = False,
) -> tuple[Scan, list[Check]]:
    """As `open_scan`, and the checks of `ptycho doctor`, whose warnings, and failures with ``force``, are logged.

    With ``auto`` frames off the centre, and positions that lie otherwise than the frames, are `set_right`. Raises
    ValueError where a check fails, unless ``force``, and where the object would not fit into memory.
    """
    scan = _read(path, in_file, reading)
    scan, checks = set_right(scan) if auto else (scan, examine(scan))
    scan = _announced(scan, path, log)
    if not force:
        require_sound(checks)
    ObjectGrid.around(scan.positions, scan.N)  # which asks for the memory
    for warning in sentences(checks, "fail") + sentences(checks, "warn") + sentences(checks, "undecided"):
        log(f"warning: {warning}")
    return _scaled(scan, log, modes), checks


def _read(path: str | os.PathLike, in_file: bool, reading: ReadConfig | None) -> Scan:
    """The scan of a file, `prepared`."""
    permissions = dict(in_memory_bytes=0) if in_file else {}
    reading = reading or ReadConfig()
    scan = read_scan(Path(path), options=ReadOptions.of(reading, **permissions))
    return prepared(scan, gain_told=reading.gain is not None)


def _announced(scan: Scan, path: str | os.PathLike, log: Log) -> Scan:
    """The scan, of which the user is told."""
    log(f"{path}: {len(scan)} frames of {scan.N} x {scan.N}, {scan.mean_counts:.3g} counts each on average")
    for note in scan.notes:
        log(note)
    return scan


def _scaled(scan: Scan, log: Log, modes: int | None) -> Scan:
    """The scan with so many modes of its probe, a guess brought to the scale of the counts."""
    if modes is not None and modes != scan.modes:
        scan = replace(scan, probe=with_modes(scan.probe, modes), probe_known=False)
    dose = scan.check_dose()
    if dose:
        log(f"warning: {dose}")
    if not scan.probe_known:
        scan, factor = rescale_probe(scan)
        log(f"the probe is a guess: rescaled by {factor:.4g} to the measured counts, and sought along with the object")
    return scan


def held_out_frames(scan: Scan, every: int | None) -> np.ndarray:
    """``(P,)`` bool: frames 0, k, 2 k, ..., which no fit sees; none without ``every``."""
    return scan.held_out_mask(every) if every else np.zeros(len(scan), bool)


def fits_probe(scan: Scan, run: RunConfig) -> bool:
    """Whether the probe is fitted along with the object: where it is a guess, unless the run says otherwise."""
    return bool(run.model.get("probe_trainable", not scan.probe_known))


def model_config(run: RunConfig, scan: Scan) -> ModelConfig:
    """Settings of a network for a scan."""
    return run.make(ModelConfig, N=scan.N, probe_modes=scan.modes)


def open_model(name: str | os.PathLike) -> PtychoNetwork:
    """The network in a run folder, or one of the package by its name (`PACKAGED`)."""
    own = PACKAGED.get(str(name))
    return load_pretrained(own) if own else load_model(Path(name) / "model.keras")


def model_for(
    name: str | os.PathLike,
    scan: Scan,
    *,
    held_out: np.ndarray | None = None,
    probe_found: bool = False,
    progress: Progress | None = None,
) -> tuple[PtychoNetwork, Scan]:
    """A trained network (see `open_model`), and the scan with the probe that it takes; warns where the scan is far from
    what the network was trained for.

    A network with a probe of its own, as those of run folders, brings it where it fits the frames. Else it is the
    scan's; where that is a guess, it is retrieved (`find_probe`) from the frames that are not held out, unless it was
    ``probe_found`` by a fit before.
    """
    model = open_model(name)
    if model.probe is not None and model.settings.N != scan.N:
        model = model.without_probe()
    if model.probe is None and not (scan.probe_known or probe_found) and model.architecture.sees_probe:
        scan = replace(scan, probe=find_probe(model, scan, held_out=held_out, progress=progress).probe)
    for sentence in far_from_training(model, scan):
        warnings.warn(sentence, UserWarning, stacklevel=2)
    return model, scan
