"""Raster scans as microscopes save them: frames row by row, and as much about the geometry as the file states.

What the user gives (`ptycho.config.ReadConfig`) wins over the file. What neither states is asked for, in one line that
names the option.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ptycho.arrays import Array, Bool, Float, Int, Real, Shaped
from ptycho.config import STEP_UNITS
from ptycho.data.beam import Beam, aperture_probe, object_pixel_m
from ptycho.data.frames import Counts, chunks, mapped, picked
from ptycho.data.scan import Scan
from ptycho.diagnostics.orientation import NAMES, turned
from ptycho.diagnostics.repair import moved
from ptycho.diagnostics.statistics import compact, quantum, sampled
from ptycho.diagnostics.values import divided_by_gain, sound, without_pedestal
from ptycho.formats._container import ReadOptions
from ptycho.formats._metres import assembled, beam_of
from ptycho.io import BadFile


@dataclass(frozen=True, kw_only=True)
class RasterFacts:
    """What a file states about a raster scan; None: nothing."""

    shape: tuple[int, int] | None = None
    """Rows and columns."""
    step_m: tuple[float, float] | None = None
    """From row to row, and from column to column."""
    positions_m: Float[Array, "P 2"] | None = None
    """(y, x) of every frame, instead of a raster."""
    detector_pixel: tuple[float, str] | None = None
    """As in `ptycho.config.ReadConfig`."""
    beam: Beam | None = None
    rotation_deg: float | None = None
    """By which positions (y, x) are turned to lie as the frames do, after these were transposed."""
    transposed: bool = False
    """The frames are, against the scan."""
    origin_px: tuple[float, float] | None = None
    """(y, x) of the zero frequency in a frame; None: the middle, or found by its signal."""
    aperture_px: float | None = None
    """Radius of the aperture on the detector."""
    semiangle_mrad: float | None = None
    defocus_m: float | None = None
    """Positive in underfocus."""
    gain: float | None = None
    """Detector units per electron."""
    mask: Bool[Array, "h w"] | None = None
    """True where a detector pixel is used."""
    notes: tuple[str, ...] = ()


def raster_scan(path: Path, frames: Counts, facts: RasterFacts, options: ReadOptions) -> Scan:
    """The scan of frames (P, h, w), which need be neither square nor complete rows."""
    given, notes = options.given, list(facts.notes)
    frames = picked(frames, np.arange(len(frames))[given.chosen_frames])
    shape = given.scan_shape or facts.shape
    if facts.positions_m is None:
        index, shape = _raster(path, len(frames), shape, given.flyback or 0, notes)
        frames = picked(frames, index)
    frames, facts = _sound(frames, facts, given.pedestal, notes)
    frames = _in_counts(frames, given.gain or facts.gain, notes)
    frames, mask = _oriented(frames, facts, given.orientation, notes)
    N = frames.shape[-1]
    beam = options.beam(facts.beam)
    detector_pixel = given.detector_pixel or facts.detector_pixel
    pixel = options.pixel_size_m or (object_pixel_m(N, detector_pixel, beam) if detector_pixel else None)
    positions = _positions(path, facts, shape, pixel, detector_pixel, beam, options)
    angle = given.scan_rotation_deg if given.scan_rotation_deg is not None else facts.rotation_deg
    if angle:
        positions = rotated(positions, angle)
        notes.append(f"The positions were turned by {angle:.4g} degrees, as stated, to lie as the frames do.")
    elif angle is None:
        notes.append("The scan was taken to be along rows and columns of the frames: a rotation is not stated.")
    probe = _aperture(facts, options, N, beam, pixel, notes)
    return assembled(path, frames, positions, probe=probe, mask=mask, notes=notes, beam=beam, pixel_size_m=pixel)


def _sound(frames: Counts, facts: RasterFacts, pedestal: float | None, notes: list[str]) -> tuple[Counts, RasterFacts]:
    """Frames of counts, and the mask without pixels that do not count."""
    clean = sound(frames, facts.mask)
    notes += clean.notes
    frames = clean.counts if pedestal is None else without_pedestal(clean.counts, pedestal)
    return frames, facts if clean.mask.all() else replace(facts, mask=clean.mask)


def electron_beam(path: Path, voltage: float | None, least_V: float = 2000.0) -> tuple[Beam | None, tuple[str, ...]]:
    """``(beam, notes)`` of a voltage in V; below ``least_V``, which no microscope has, it is taken for kV."""
    if voltage is not None and 0 < voltage < least_V:
        note = f"The voltage of {voltage:g} was taken for kV: no microscope has so few volts."
        return beam_of(path, voltage * 1e3, particle="electron"), (note,)
    return beam_of(path, voltage, particle="electron"), ()


def rotated(positions: Float[Array, "P 2"], degrees: float) -> Float[Array, "P 2"]:
    """Positions (y, x) turned about the origin: ``y' = y cos a - x sin a``, ``x' = y sin a + x cos a``."""
    a = np.deg2rad(degrees)
    # Positions are rows: p R^T
    return positions @ np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]).T


def with_given(scan: Scan, options: ReadOptions, pairs: bool = False) -> Scan:
    """A scan whose file lists its positions, with what the user gives; ValueError for what has no effect on it.

    Where its reader ``pairs`` frames and positions, it has chosen the frames.
    """
    given, notes = options.given, list(scan.notes)
    for name in ("scan_shape", "scan_step", "flyback", "dataset"):
        if getattr(given, name) is not None:
            raise ValueError(f"the file lists its positions: --{name.replace('_', '-')} has no effect; leave it out")
    if given.frames is not None and not pairs:
        scan = scan.subset(given.chosen_frames)
    if given.pedestal is not None and not pairs:
        scan = replace(scan, counts=without_pedestal(scan.counts, given.pedestal))
    for name in () if pairs else ("drop_unplaced", "position_unit"):
        if getattr(given, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} has no effect on files of this format; leave it out")
    if given.gain is not None or given.orientation is not None:
        counts = _in_counts(scan.counts, given.gain, notes)
        code = given.orientation or 0
        scan = replace(scan, counts=mapped(counts, turned, code), mask=turned(scan.mask, code))
    if given.scan_rotation_deg is not None:
        scan = replace(scan, positions=rotated(scan.positions, given.scan_rotation_deg), object=None)
    scan = replace(scan, beam=options.beam(scan.beam), pixel_size_m=options.pixel_size_m or scan.pixel_size_m)
    probe = _aperture(RasterFacts(), options, scan.N, scan.beam, scan.pixel_size_m, notes)
    return replace(scan if probe is None else scan.with_probe(probe, known=False), notes=tuple(notes))


def _raster(
    path: Path, count: int, shape: tuple[int, int] | None, flyback: int, notes: list[str]
) -> tuple[Int[Array, " K"], tuple[int, int]]:
    """``(index, shape)``: which of ``count`` frames belong to complete rows, and the shape of these."""
    if shape is None:
        raise BadFile(
            f"{path} has {count} frames, but no positions and no shape of the scan: give --scan-shape ROWS COLUMNS"
        )
    rows, columns = shape
    per_row = columns + flyback
    extra = count - rows * per_row
    if extra > 0:
        each_row = f", --flyback {extra // rows} those after each row" if extra % rows == 0 else ""
        raise BadFile(
            f"{path} has {count} frames for a scan of {rows} x {columns}: --frames 0:{rows * per_row} leaves out the "
            f"last {extra}, --frames {extra}: the first{each_row}"
        )
    complete = count // per_row
    if complete < 1:
        raise BadFile(f"{path} has {count} frames, less than a row of {columns}: give --scan-shape ROWS COLUMNS")
    if complete < rows:
        notes.append(
            f"The scan was cut short: {count} of {rows * per_row} frames; its {complete} complete rows are read."
        )
    if complete == 1 or columns == 1:
        notes.append("The scan is a single line of positions: across it the image is as wide as the probe.")
    index = np.arange(complete * per_row).reshape(complete, per_row)[:, :columns].ravel()
    return index, (complete, columns)


def _positions(
    path: Path,
    facts: RasterFacts,
    shape: tuple[int, int] | None,
    pixel: float | None,
    detector_pixel: tuple[float, str] | None,
    beam: Beam | None,
    options: ReadOptions,
) -> Float[Array, "P 2"]:
    """In object pixels, or BadFile that asks for what is needed."""
    given = options.given
    if facts.positions_m is None:
        assert shape is not None
        grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, 2).astype(float)
        if given.scan_step is not None and given.scan_step[1] == "px":
            return grid * given.scan_step[0]
        step = (given.scan_step[0] * STEP_UNITS[given.scan_step[1]],) * 2 if given.scan_step else facts.step_m
        metres = None if step is None else grid * step
    else:
        metres = facts.positions_m[np.arange(len(facts.positions_m))[given.chosen_frames]]
    missing = [] if metres is not None else ["--scan-step (such as 0.4 A, or in object pixels 6 px)"]
    if pixel is None and (metres is not None or given.scan_step is None):
        missing += _missing_of_pixel(detector_pixel, beam)
    if metres is None or pixel is None:
        raise BadFile(f"{path} does not state all of its geometry: give {' and '.join(missing)}")
    return metres / pixel


def _missing_of_pixel(detector_pixel: tuple[float, str] | None, beam: Beam | None) -> list[str]:
    """What the size of an object pixel lacks."""
    if detector_pixel is None:
        return ["--detector-pixel (such as 0.05 1/A, or 0.9 mrad beside --voltage-kv; or else --pixel-size-nm)"]
    energy = ["--voltage-kv of electrons or --energy-ev of photons"] if beam is None else []
    if detector_pixel[1] in ("rad", "mrad"):
        return energy
    return [*energy, *(["--distance-m"] if beam is None or beam.distance_m is None else [])]


def _oriented(
    frames: Counts, facts: RasterFacts, code: int | None, notes: list[str]
) -> tuple[Counts, Shaped[Array, "N N"] | None]:
    """``(frames, mask)``, frames square, their zero frequency in the middle, turned as the scan lies."""
    height, width = frames.shape[1:]
    N = max(height, width)
    mask = facts.mask
    if mask is not None:  # masked pixels hold anything, mostly the largest value of the dtype
        frames = mapped(frames, _without, tuple(np.flatnonzero(~mask).tolist()))
    y, x = (0, 0)
    if height != width:
        mask = padded((np.ones((height, width), bool) if mask is None else mask)[None], N)[0]
        frames = mapped(frames, padded, N)
        notes.append(f"The frames of {height} x {width} were padded to {N} x {N}; the pixels added are masked.")
    if facts.origin_px is not None:
        # In the padded frame the middle of a side n is at N // 2 - n // 2 + n // 2.
        y, x = (round(side // 2 - origin) for side, origin in zip((height, width), facts.origin_px, strict=True))
    if (y, x) != (0, 0):
        mask = moved((np.ones((N, N), bool) if mask is None else mask)[None], y, x)[0]
        frames = mapped(frames, moved, y, x)
        notes.append(f"The frames were moved by ({y}, {x}) pixels (y, x): the file states their zero frequency.")
    code = (4 if facts.transposed else 0) if code is None else code
    if code:
        mask = None if mask is None else turned(mask, code)
        frames = mapped(frames, turned, code)
        notes.append(f"The frames were {NAMES[code]}, as stated.")
    return frames, mask


def _without(frames: Real[Array, "B h w"], bad: tuple[int, ...]) -> Real[Array, "B h w"]:
    """Frames that are 0 in some pixels, given by their flat indices."""
    frames = frames.copy()
    frames.reshape(len(frames), -1)[:, list(bad)] = 0
    return frames


def padded(frames: Shaped[Array, "B h w"], N: int) -> Shaped[Array, "B N N"]:
    """Frames in the middle of squares of zeros (False): pixel ``n // 2`` of a side comes to ``N // 2``."""
    result = np.zeros((len(frames), N, N), frames.dtype)
    y, x = (N // 2 - side // 2 for side in frames.shape[1:])
    result[:, y : y + frames.shape[1], x : x + frames.shape[2]] = frames
    return result


def _in_counts(frames: Counts, gain: float | None, notes: list[str]) -> Counts:
    """Frames in counts, none below 0: divided by the gain, or by the step of values that are multiples of one."""
    if gain is None and (step := quantum(sampled(frames))) is not None:
        notes.append(f"The frames are counts times {step:.4g}: they were divided by it.")
        return compact(mapped(frames, _divided_whole, step))
    if gain is not None:
        frames = divided_by_gain(frames, gain)
    if frames.dtype.kind != "u" and any(chunk.min() < 0 for chunk in chunks(frames)):
        frames = mapped(frames, np.maximum, 0)
        notes.append("Counts below 0, of the electronics, were set to 0.")
    return frames


def _divided_whole(frames: Real[Array, "B h w"], gain: float) -> Float[Array, "B h w"]:
    return np.rint(frames / gain)


def _aperture(
    facts: RasterFacts, options: ReadOptions, N: int, beam: Beam | None, pixel: float | None, notes: list[str]
) -> Shaped[Array, "1 N N"] | None:
    """The probe of a round aperture, where one is stated; None else."""
    given = options.given
    semiangle = given.semiangle_mrad or facts.semiangle_mrad
    radius = None if given.semiangle_mrad else facts.aperture_px
    defocus = given.defocus_a * 1e-10 if given.defocus_a is not None else facts.defocus_m or 0.0
    if radius is None and semiangle is not None and beam is not None and pixel is not None:
        # A detector pixel covers wavelength / (N dx).
        radius = semiangle * 1e-3 * N * pixel / beam.wavelength_m
    if radius is None or (defocus and (beam is None or pixel is None)):
        if given.semiangle_mrad is not None or given.defocus_a is not None:
            raise ValueError(
                "--semiangle-mrad and --defocus-a need each other, the energy, and the size of an object pixel: give "
                "--voltage-kv or --energy-ev, and --detector-pixel or --pixel-size-nm"
            )
        return None
    wavelength = 0.0 if beam is None else beam.wavelength_m
    if not 1 < radius < N / 2:
        notes.append(f"The stated aperture of {radius:.3g} detector pixels does not fit: it is left out.")
        return None
    notes.append(
        f"The probe starts as that of a round aperture of {radius:.3g} detector pixels in radius, "
        f"{defocus * 1e10:.4g} A underfocused."
    )
    return aperture_probe(N, radius, defocus, wavelength, pixel or 1.0)
