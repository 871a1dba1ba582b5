"""What `ptycho info` says of a scan, measured on the scan itself."""

import numpy as np

from ptycho.config import NearField
from ptycho.data.beam import Beam
from ptycho.data.frames import chunks
from ptycho.data.scan import Scan, illumination
from ptycho.diagnostics.pixels import bad_pixels, listed, saturation
from ptycho.diagnostics.statistics import looks_like_counts, zero_frequency
from ptycho.images import length_text

Rows = list[tuple[str, str]]


def describe(scan: Scan, checked: bool = False) -> Rows:
    """Rows (name, value) of everything worth knowing before a reconstruction.

    Without what the checks of a scan say (`ptycho.diagnostics.checks.examine`) where it is ``checked``.
    """
    detector = _detector(scan) + ([] if checked else _suspicions(scan))
    return [*_frames(scan, checked), *detector, *_positions(scan), *_probe(scan, checked)]


def _frames(scan: Scan, checked: bool) -> Rows:
    zeros = 1 - sum(np.count_nonzero(chunk) for chunk in chunks(scan.counts)) / scan.counts.size
    counts = scan.frame_counts
    return [
        ("frames", f"{len(scan)}"),
        ("frame size", f"{scan.N} x {scan.N} pixels, {scan.counts.dtype}, {scan.counts.nbytes / 1e6:.1f} MB"),
        ("counts per frame", f"{scan.mean_counts:.4g} (from {counts.min():.4g} to {counts.max():.4g})"),
        ("largest count", f"{max(float(chunk.max()) for chunk in chunks(scan.counts)):.6g}"),
        ("zeros", f"{100 * zeros:.1f} %"),
        *([] if checked else [("statistics", looks_like_counts(scan.counts).sentence)]),
    ]


def _detector(scan: Scan) -> Rows:
    return [
        ("propagation", _propagation(scan.near_field)),
        *([] if scan.beam is None else [("beam", _beam(scan.beam))]),
        ("masked pixels", f"{100 * (1 - scan.mask.mean()):.1f} %"),
    ]


def _suspicions(scan: Scan) -> Rows:
    """What looks wrong with the frames, or does not."""
    dead, hot = bad_pixels(scan)
    at_centre = zero_frequency(scan.counts, scan.mask) == "centre"
    zero = f"pixel {scan.N // 2}, the centre" if at_centre else "at the corner, to judge by the signal: shift it"
    return [
        *([] if scan.near_field else [("zero frequency", zero)]),
        ("dead pixels", listed(dead)),
        ("hot pixels", listed(hot)),
        ("saturation", saturation(scan) or "none"),
    ]


def _propagation(near: NearField | None) -> str:
    if near is None:
        return "far field"
    return f"near field ({near.kind}), {near.distance_px:g} pixels at a wavelength of {near.wavelength_px:g} pixels"


def _beam(beam: Beam) -> str:
    distance = "" if beam.distance_m is None else f", detector at {beam.distance_m:.4g} m"
    return f"{beam.particle}s of {beam.energy_eV / 1e3:.5g} keV, wavelength {beam.wavelength_m * 1e12:.4g} pm{distance}"


def _positions(scan: Scan) -> Rows:
    height, width = np.ptp(scan.positions, axis=0)
    size = "" if scan.pixel_size_m is None else f" of {length_text(scan.pixel_size_m)}"
    return [
        ("field of positions", f"{height:.1f} x {width:.1f} object pixels{size} (y, x)"),
        ("step", f"{scan.step_px:.2f} pixels"),
        ("overlap", f"{100 * scan.overlap:.0f} % of a probe {scan.probe_diameter_px:.1f} pixels wide"),
    ]


def _probe(scan: Scan, checked: bool) -> Rows:
    powers = [float(illumination(mode[None]).sum()) for mode in scan.probe]
    percent = "" if len(powers) == 1 else f" ({', '.join(f'{100 * p / sum(powers):.0f} %' for p in powers)})"
    known = f"known, {scan.photons:.4g} photons a frame"
    guess = f"a guess, sum |probe|^2 is {scan.photons:.4g} (rescaled to the counts before use)"
    consistent = "consistent" if scan.probe_known else "nothing to check"
    return [
        ("probe", known if scan.probe_known else guess),
        ("probe modes", f"{scan.modes}{percent}"),
        *([] if checked else [("dose check", scan.check_dose() or consistent)]),
        ("true object", "none" if scan.object is None else "{} x {} pixels".format(*scan.object.shape)),
    ]
