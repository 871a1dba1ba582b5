"""NPZ of PtychoPINN (github.com/hoidn/PtychoPINN): diffraction, xcoords, ycoords, probeGuess,
objectGuess.

The files differ in ways that only their history explains; each decision taken here is put into `Scan.notes`.

- ``diffraction`` or ``diff3d`` holds normalised amplitudes (legacy) or counts. ``measurement_domain`` or
  ``scale_contract_version`` says which, as keys or within a JSON ``_metadata``; where neither is, the
  statistics of the values decide, and amplitudes if those are unclear: that is what the format says.
- Its axes are (P, N, N), in old files (N, N, P).
- ``xcoords``, ``ycoords`` are object pixels, the global position of each frame. ``scan_index`` numbers scans.
- ``probeGuess`` is (N, N), (N, N, 1), (M, N, N) or (N, N, M), of no certain scale.
- ``objectGuess`` is somebody's reconstruction, or the truth of a simulation at an unstated offset: left out.
- ``_metadata`` may be a pickle, which is not opened.
- ``bad_pixels`` (N, N), of Ptychodus, are True where frames were filled, not measured.

`write` stores counts as ``count_intensity``, with further keys (``mask``, ``pixel_size_m``, ``probe_known``,
``object_is_truth``) that other readers ignore and this one honours.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ptycho.data.scan import Scan
from ptycho.diagnostics import statistics
from ptycho.formats._container import (
    COMPLEX,
    DEFAULT,
    REAL,
    ReadOptions,
    load_npz,
    npz_keys,
    number,
    optional,
    required,
)
from ptycho.formats._format import Access, Format
from ptycho.formats.npz import BEAM, as_bool, beam_from, beam_values
from ptycho.io import BadFile

Array = np.ndarray
Notes = tuple[str, ...]

COUNTS, AMPLITUDE = "count_intensity", "normalized_amplitude"
DOMAINS = {COUNTS: COUNTS, AMPLITUDE: AMPLITUDE, "ci_intensity_v2": COUNTS, "legacy_v1": AMPLITUDE}
STATED = ("measurement_domain", "scale_contract_version")
OURS = ("mask", "bad_pixels", "pixel_size_m", "probe_known", "object_is_truth", *BEAM)
KEYS = ("xcoords", "ycoords", "probeGuess", "scan_index", "_metadata", *STATED, *OURS)


def recognises_scan(path: Path) -> bool:
    """Patterns under one of their names, and both coordinates."""
    keys = set(npz_keys(path))
    return {"xcoords", "ycoords"} <= keys and not keys.isdisjoint(("diffraction", "diff3d"))


def read_scan(path: Path, options: ReadOptions = DEFAULT) -> Scan:
    """Read the file as counts; amplitudes are squared in float32. `Scan.notes` says what was decided."""
    keys = npz_keys(path)
    frames_key = "diffraction" if "diffraction" in keys else "diff3d"
    truth_key = "objectGuess" if "object_is_truth" in keys else ""
    arrays, refused = load_npz(path, (frames_key, truth_key, *KEYS), options)
    return scan_of(arrays, path, keys=keys, refused=refused)


def object_guess(path: Path) -> Array | None:
    """``objectGuess (H, W)`` of a file, the truth or not; None where there is none, or no image."""
    arrays, _ = load_npz(path, ("objectGuess",), DEFAULT) if "objectGuess" in npz_keys(path) else ({}, ())
    guess = arrays.get("objectGuess")
    return None if guess is None or guess.ndim != 2 or guess.dtype.kind not in COMPLEX else guess


def scan_of(arrays: dict[str, Array], path: Path, *, keys: Notes = (), refused: Notes = ()) -> Scan:
    """A scan of the arrays of a file, or such as a program has; ``keys`` and ``refused`` are for its notes."""
    frames_key = "diffraction" if "diffraction" in arrays else "diff3d"
    positions = _positions(arrays, path)
    frames, order_notes = _frames_first(required(arrays, frames_key, path, 3, REAL), len(positions), frames_key, path)
    probe, probe_notes = _modes_first(required(arrays, "probeGuess", path))
    known = bool(number(arrays, "probe_known", path) or 0)
    domain, domain_notes = _domain(arrays, frames)
    scan = Scan(
        counts=statistics.squared(frames) if domain == AMPLITUDE else frames,
        positions=positions,
        probe=probe,
        mask=_mask(arrays, path),
        object=arrays.get("objectGuess"),
        pixel_size_m=number(arrays, "pixel_size_m", path),
        beam=beam_from(path, arrays),
        probe_known=known,
        source=str(path),
        notes=(
            *order_notes,
            *domain_notes,
            *probe_notes,
            *_other_notes(keys, arrays, refused, known),
        ),
    )
    return statistics.centred_scan(scan)


def write_scan(scan: Scan, path: Path) -> None:
    """Write counts, stated to be counts. Without a true object, ``objectGuess`` is vacuum.

    Raises ValueError for a scan in the near field.
    """
    scan.require_far_field("files of PtychoPINN", "write HDF5 or NPZ")
    y, x = scan.positions.T
    truth = _vacuum(scan) if scan.object is None else scan.object
    arrays = {
        "diffraction": scan.counts,
        "xcoords": x,
        "ycoords": y,
        # (N, N) for one mode, the usual form
        "probeGuess": scan.probe[0] if scan.modes == 1 else scan.probe,
        "objectGuess": truth,
        "measurement_domain": np.array(COUNTS),
        "scale_contract_version": np.array("ci_intensity_v2"),
        "_metadata": np.array(json.dumps({"measurement_domain": COUNTS, "scale_contract_version": "ci_intensity_v2"})),
        "mask": scan.mask,
        "probe_known": np.array(scan.probe_known),
    }
    if scan.object is not None:
        arrays["object_is_truth"] = np.array(True)
    if scan.pixel_size_m is not None:
        arrays["pixel_size_m"] = np.array(scan.pixel_size_m)
    arrays |= {name: np.array(value) for name, value in beam_values(scan).items()}
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def _vacuum(scan: Scan) -> Array:
    """Ones, as large as the field of the scan."""
    height, width = (int(np.ceil(extent)) + scan.N for extent in np.ptp(scan.positions, axis=0))
    return np.ones((height, width), np.complex64)


def _mask(arrays: dict[str, Array], path: Path) -> Array | None:
    """True where a pixel is used: ours, or what is not among the pixels that Ptychodus filled (``bad_pixels``)."""
    mask, bad = (as_bool(optional(arrays, name, path, 2, REAL)) for name in ("mask", "bad_pixels"))
    return mask if bad is None else ~bad if mask is None else mask & ~bad


def _positions(arrays: dict[str, Array], path: Path) -> Array:
    """(P, 2) as (y, x)."""
    x, y = (required(arrays, name, path, (1, 2), REAL).ravel() for name in ("xcoords", "ycoords"))
    if len(x) != len(y):
        raise BadFile(f"{path} has {len(x)} xcoords and {len(y)} ycoords; every frame needs one of each")
    return np.stack([y, x], axis=1).astype(np.float64)


def _frames_first(frames: Array, positions: int, name: str, path: Path) -> tuple[Array, Notes]:
    """(P, N, N), from that or from the (N, N, P) of old files; the number of positions tells which."""
    shape = frames.shape
    first = frames.ndim == 3 and shape[0] == positions and shape[1] == shape[2]
    last = frames.ndim == 3 and shape[2] == positions and shape[0] == shape[1]
    if first and last:
        note = f"{name!r} of shape {shape} could be (P, N, N) or the old (N, N, P); it was taken as (P, N, N)."
        return frames, (note,)
    if first:
        return frames, ()
    if last:
        note = f"{name!r} has the old axis order (N, N, P): the frames were moved to the first axis."
        return np.ascontiguousarray(np.moveaxis(frames, 2, 0)), (note,)
    raise BadFile(
        f"{path} has {name!r} of shape {shape} and {positions} positions; expected ({positions}, N, N) or "
        f"(N, N, {positions}): give every frame a position, and square frames"
    )


def _modes_first(probe: Array) -> tuple[Array, Notes]:
    """(M, N, N), from that, (N, N) or modes on the last axis."""
    # (N, N, 1) and (1, N, N) are one mode.
    probe = probe.reshape([n for n in probe.shape if n != 1])
    if probe.ndim == 3 and probe.shape[0] == probe.shape[1] != probe.shape[2]:
        note = f"'probeGuess' of shape {probe.shape} was taken as (N, N, modes)."
        return np.moveaxis(probe, 2, 0), (note,)
    return probe, ()


def _domain(arrays: dict[str, Array], frames: Array) -> tuple[str, Notes]:
    """Counts or amplitudes, as stated, else by the statistics, and why."""
    stated = _metadata(arrays) | {name: str(arrays[name]) for name in STATED if name in arrays}
    for name in STATED:
        if stated.get(name) in DOMAINS:
            domain = DOMAINS[stated[name]]
            return domain, (
                f"The file says that its frames are {domain} ({name} = {stated[name]}).",
                *_dose(domain),
            )
    frame_statistics = statistics.looks_like_counts(frames)
    verdict = frame_statistics.verdict
    domain = COUNTS if verdict == "counts" else AMPLITUDE
    taken = "counts" if domain == COUNTS else "amplitudes, and squared"
    note = f"The file does not say what its frames are. {frame_statistics.sentence} They were taken as {taken}."
    doubt = verdict == "unclear" and frame_statistics.maximum >= 10
    doubtful = ("Values this large are not normalised amplitudes: if they are intensities, give them as NPZ counts.",)
    exact = domain == AMPLITUDE and verdict == "amplitude"
    return domain, (note, *(doubtful if doubt else ()), *(() if exact else _dose(domain)))


def _dose(domain: str) -> Notes:
    """Normalised amplitudes have lost their photons."""
    note = "Normalised amplitudes have an arbitrary dose: noise models and photon numbers mean nothing for them."
    return (note,) if domain == AMPLITUDE else ()


def _metadata(arrays: dict[str, Array]) -> dict[str, Any]:
    """Names and values of a JSON ``_metadata``; none if it is not JSON."""
    try:
        metadata = json.loads(str(arrays["_metadata"].item()))
    except (KeyError, ValueError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _other_notes(keys: tuple[str, ...], arrays: dict[str, Array], refused: Notes, known: bool) -> Notes:
    scans = np.unique(arrays.get("scan_index", np.zeros(1)))
    pairs = (
        (
            bool(refused),
            f"{', '.join(refused)} would have to be unpickled, which can run any program: left out.",
        ),
        (
            "objectGuess" in keys and "objectGuess" not in arrays,
            "'objectGuess' is not known to be true: left out.",
        ),
        (
            not known,
            "The scale of 'probeGuess' is arbitrary: it is rescaled to the counts and refined with the object.",
        ),
        (len(scans) > 1, f"'scan_index' tells {len(scans)} scans apart; they were read as one."),
    )
    return tuple(note for applies, note in pairs if applies)


FORMAT = Format(
    name="ptychopinn",
    suffixes=(".npz",),
    needs="NPZ: diffraction or diff3d, xcoords, ycoords, probeGuess",
    scans=Access(recognises_scan, read_scan, write_scan),
    lacks=("notes",),
)
