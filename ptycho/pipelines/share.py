"""What a report of a problem needs of a scan file: all but the frames, and nothing personal."""

import io
import json
import re
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


def write_shared(path: Path, target: Path, reading: ReadConfig) -> None:
    """Write ``about.json`` and arrays of a scan into a zip; of a file that cannot be read, why, and what it holds.

    The arrays are positions (P, 2), counts of each frame (P,), probe (M, N, N), mask and mean frame (N, N). The JSON
    has versions, what `ptycho info` and the doctor say, notes of the reader, options given, and name, shape and type of
    each array in the file: neither values of text, nor names of files or folders.
    """
    about: Record = dict(software=software(), options=reading.stated(), suffix=_suffix(path))
    arrays: dict[str, Any] = {}
    try:
        about["arrays"] = [f"{name}: {shape} {dtype}" for name, shape, dtype in datasets(path)]
        scan = read_scan(path, options=ReadOptions.of(reading))
    except BadFile as refused:
        about["error"] = _without_names(str(refused), path)
    else:
        about |= _description(scan, path)
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


def _suffix(path: Path) -> str:
    """How the name ends: of what is packed, what it was before too."""
    packed = path.suffix.lower() in (".bz2", ".gz", ".xz")
    return f"{path.with_suffix('').suffix}{path.suffix}" if packed else path.suffix


def _description(scan: Scan, path: Path) -> Record:
    return dict(
        info=dict(describe(scan)),
        checks=[_without_names(" | ".join(map(str, check)), path) for check in examine(scan)],
        notes=[_without_names(note, path) for note in scan.notes],
        pixel_size_m=scan.pixel_size_m,
        beam=None if scan.beam is None else str(scan.beam),
        near_field=None if scan.near_field is None else scan.near_field.to_dict(),
    )


SUFFIXES = (
    "h5|hdf5|hdf|nxs|cxi|npz|npy|mat|tiff?|csv|txt|json|xml|toml|raw|mib|hdr|emd|de5|dm3|dm4|hspy|zspy|blo|tvips|prz|"
    "mrc|ser|emi|app5|ptyd|ptyr|bz2|gz|xz"
)
"""How names of files end, in any case."""


def _without_names(text: str, path: Path) -> str:
    """A sentence without names of files and folders: this file's, others', and whoever's home that is.

    Errors have their spaces collapsed, and so have names here. Paths inside a file stand in quotes, and stay.
    """
    collapsed = lambda name: " ".join(str(name).split())
    names = [path.resolve(), path, path.name, path.resolve().parent, Path.home()]
    for name in sorted(map(collapsed, names), key=len, reverse=True):
        if len(name) > 1:
            text = text.replace(name, "PATH")
    # A path from the root, with spaces up to a known suffix; then whatever else ends as files do.
    text = re.sub(rf"(?<![\w'\"])/[^'\"]*?\.(?:{SUFFIXES})\b", "PATH", text, flags=re.IGNORECASE)
    text = re.sub(r"(?<![\w'\"/])/[^\s,;:'\"()]+", "PATH", text)
    return re.sub(rf"[^\s'\"(),;:]+\.(?:{SUFFIXES})\b", "PATH", text, flags=re.IGNORECASE)
