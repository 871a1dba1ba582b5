"""What a report of a problem needs of a scan file: all but the frames, and nothing personal."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ptycho.config import ReadConfig
from ptycho.data.scan import Scan
from ptycho.diagnostics.checks import examine
from ptycho.diagnostics.describe import describe
from ptycho.formats import ReadOptions, datasets, read_scan
from ptycho.io import BadFile, replaced
from ptycho.pipelines.provenance import Record, software


def share(path: Path, target: Path, reading: ReadConfig) -> None:
    """Write ``about.json`` and arrays of a scan into a zip; of a file that cannot be read, why, and what it holds.

    The arrays are positions (P, 2), counts of each frame (P,), probe (M, N, N), mask and mean frame (N, N). The JSON
    has versions, what `ptycho info` and the doctor say, notes of the reader, options given, and name, shape and type of
    each array in the file: neither values of text, nor the name of the file or of its folder.
    """
    about: Record = dict(software=software(), options=reading.stated(), suffix="".join(path.suffixes))
    arrays: dict[str, Any] = {}
    try:
        about["arrays"] = [f"{name}: {shape} {dtype}" for name, shape, dtype in datasets(path)]
        scan = read_scan(path, options=ReadOptions.of(reading))
    except BadFile as refused:
        about["error"] = _without_names(str(refused), path)
    else:
        about |= _said(scan, path)
        arrays = dict(
            positions=scan.positions,
            frame_counts=scan.frame_counts,
            probe=scan.probe,
            mask=scan.mask,
            mean_pattern=scan.mean_pattern.astype("float32"),
        )
    with replaced(target) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("about.json", json.dumps(about, indent=1, ensure_ascii=False, default=str))
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, np.asarray(array), allow_pickle=False)
            archive.writestr(f"{name}.npy", member.getvalue())


def _said(scan: Scan, path: Path) -> Record:
    return dict(
        info=dict(describe(scan)),
        checks=[_without_names(" | ".join(map(str, check)), path) for check in examine(scan)],
        notes=[_without_names(note, path) for note in scan.notes],
        pixel_size_m=scan.pixel_size_m,
        beam=None if scan.beam is None else str(scan.beam),
        near_field=None if scan.near_field is None else scan.near_field.to_dict(),
    )


def _without_names(text: str, path: Path) -> str:
    """A sentence without the name of the file, of its folder, and of whoever's home that is."""
    home = str(Path.home())
    for name, instead in (
        (str(path.resolve()), "FILE"),
        (str(path), "FILE"),
        (path.name, "FILE"),
        (path.stem, "FILE"),
        (str(path.resolve().parent), "FOLDER"),
        *([(home, "HOME")] if len(home) > 1 else []),
    ):
        text = text.replace(name, instead)
    return text
