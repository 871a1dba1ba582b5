"""What a file says of its detector: dark, flat field and gain, which are applied to the frames, and said.

Counts are ``(raw - dark) / (flat gain)``: dark in the units of the frames, flat without one, gain in units per photon.
"""

from typing import NamedTuple

import numpy as np

from ptycho.data.frames import Counts, mapped
from ptycho.diagnostics.values import sound
from ptycho.formats._container import ReadOptions
from ptycho.formats._hdf5 import Hdf5
from ptycho.io import BadFile

Array = np.ndarray

DARKS = ("data_dark", "dark", "dark_frame", "dark_frames", "dark_field", "darkfield", "dark_image", "pedestal")
FLATS = ("flatfield", "flat_field", "flat", "whitefield", "white_field", "data_white", "qe_mask")
GAINS = ("gain", "adu_per_photon", "counts_per_photon", "photon_gain")
MASKS = ("mask", "pixel_mask", "bad_pixel_mask")


class Corrections(NamedTuple):
    """Images (N, N), or None; the gain is a number or an image."""

    dark: Array | None = None
    flat: Array | None = None
    gain: Array | None = None
    notes: tuple[str, ...] = ()


NO_CORRECTIONS = Corrections()


def corrections(file: Hdf5, group: str, shape: tuple[int, ...]) -> Corrections:
    """Those of a detector's group for frames of a shape; several dark or flat frames are averaged."""
    notes: list[str] = []
    dark = _image(file, group, DARKS, shape, notes)
    flat = _image(file, group, FLATS, shape, notes)
    gain = _image(file, group, GAINS, shape, notes)
    if flat is not None:
        good = np.isfinite(flat) & (flat > 0)
        # A flat field in counts has no scale: its mean is 1 then.
        level = float(np.median(flat[good])) if good.any() else 1.0
        flat = np.where(good, flat / level if not 0.1 < level < 10 else flat, np.nan)
    if gain is not None and not (np.isfinite(gain).all() and (gain > 0).all()):
        notes.append("The gain of the detector is not above 0 everywhere: left out.")
        gain = None
    return Corrections(dark, flat, gain, tuple(notes))


def _image(file: Hdf5, group: str, names: tuple[str, ...], shape: tuple[int, ...], notes: list[str]) -> Array | None:
    """The first of the images that is there and was not applied already."""
    for name in names:
        key = f"{group}/{name}"
        if not file.has(key) or file.text(key) is not None:
            continue
        applied = next((flag for flag in (f"{key}_applied", f"{key}_correction_applied") if file.has(flag)), None)
        if applied is not None and file.text(applied) is None and (file.number(applied) or 0) != 0:
            notes.append(f"'{name}' of the detector was applied when the file was written.")
            continue
        values = file.get(key)
        if values is None or not values.size:
            continue
        values = np.asarray(values, np.float64)
        if values.size == 1:
            values = np.full(shape, values.ravel()[0])
        elif values.shape[-2:] == shape:
            values = values.reshape(-1, *shape).mean(axis=0)
        else:
            raise BadFile(f"{file.path} has {key!r} of shape {values.shape}; expected that of a frame, {shape}")
        return values
    return None


def corrected(
    counts: Counts, mask: Array | None, detector: Corrections, options: ReadOptions
) -> tuple[Counts, Array | None, tuple[str, ...]]:
    """``(counts, mask, notes)``: sound counts, without dark, flat field and gain.

    Marks of bad pixels are looked for before the dark is subtracted, and negative values after it.
    """
    misshapen = mask is not None and (mask.dtype != bool or mask.shape != counts.shape[1:])
    if 0 in counts.shape or counts.ndim != 3 or counts.dtype.kind not in "uif" or misshapen:
        return counts, mask, ()  # `Scan` says what is wrong
    if options.given.gain is not None:
        detector = detector._replace(gain=None)  # the user's is applied to the scan
    dark = detector.dark
    if options.given.pedestal is not None:
        dark = np.full(counts.shape[1:], float(options.given.pedestal))
    if dark is None and detector.flat is None and detector.gain is None:
        result = sound(counts, mask)
        return result.counts, result.mask, (*detector.notes, *result.notes)
    raw = sound(counts, mask)
    dark = np.zeros(counts.shape[1:]) if dark is None else dark
    scale = np.ones(counts.shape[1:])
    for factor in (detector.flat, detector.gain):
        scale = scale if factor is None else scale * factor
    usable = np.isfinite(dark) & np.isfinite(scale) & (scale > 0)
    good = raw.mask & usable
    dark, scale = np.where(usable, dark, 0.0), np.where(usable, scale, 1.0)
    said = [
        f"{what} {text}"
        for what, text, there in (
            ("A dark of", f"{np.median(dark[good]):.4g} (median) was subtracted.", bool(dark.any())),
            ("The frames were divided by the flat field", "of the detector.", detector.flat is not None),
            ("The frames were divided by a gain of", f"{_median(detector.gain):.4g}.", detector.gain is not None),
        )
        if there
    ]
    lowered = mapped(raw.counts, _corrected, dark.astype(np.float32).tobytes(), scale.astype(np.float32).tobytes())
    clean = sound(lowered, good)
    return clean.counts, clean.mask, (*detector.notes, *raw.notes, *said, *clean.notes)


def _median(values: Array | None) -> float:
    return 0.0 if values is None else float(np.median(values))


def _corrected(frames: Array, dark: bytes, scale: bytes) -> Array:
    """``(raw - dark) / scale`` in float32."""
    shape = frames.shape[1:]
    subtracted = frames.astype(np.float32) - np.frombuffer(dark, np.float32).reshape(shape)
    return subtracted / np.frombuffer(scale, np.float32).reshape(shape)
