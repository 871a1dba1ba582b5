"""Scans in the near field, of files that are read as of the far field, by what the user tells of the light.

Light of wavelength l from a focus ``z1`` before the sample, on a detector ``z2`` behind it, magnifies by ``M = (z1 +
z2) / z1``. It is equivalent to parallel light on a detector of pixels ``d / M`` at ``z2 / M`` (the Fresnel scaling
theorem: Paganin, Coherent X-Ray Optics, 2006, 1.4.5), which is what the model computes; the phase of the sphere is left
out of the probe. A sample before the focus has a negative M: the shadow is turned by 180 degrees.
"""

from dataclasses import replace

import numpy as np

from ptycho.arrays import Array, Complex
from ptycho.config import NearField
from ptycho.data.frames import chunks
from ptycho.data.scan import Scan
from ptycho.formats._container import ReadOptions


def in_near_field(scan: Scan, options: ReadOptions) -> Scan:
    """The scan as it is in the near field, where the user says so; positions were in object pixels of the far field.

    Raises ValueError for what the distance in pixels needs and neither the file nor the user tells.
    """
    given, beam, pixel = options.given, scan.beam, scan.pixel_size_m
    if not given.near:
        return scan
    detector_pixel = None if beam is None or pixel is None else beam.detector_pixel_m(scan.N, pixel)
    if beam is None or beam.distance_m is None or pixel is None or detector_pixel is None:
        raise ValueError(
            "the near field needs the wavelength, the distance from the sample to the detector, and the pixel: give "
            "--energy-ev, --distance-m and --detector-pixel or --pixel-size-nm (on the sample)"
        )
    z2 = beam.distance_m
    magnification = 1.0 if given.focus_m is None else (given.focus_m + z2) / given.focus_m
    # What the user tells is on the sample.
    side = detector_pixel / abs(magnification) if options.pixel_size_m is None else pixel
    distance = (z2 if given.near_field_m is None else given.near_field_m) / magnification
    near = NearField(distance_px=distance / side, wavelength_px=beam.wavelength_m / side, kind="fresnel")
    positions = scan.positions * (np.sign(magnification) * pixel / side)
    note = (
        f"Near field, as told: magnified {magnification:.4g} times, a pixel is {1e9 * side:.4g} nm on the sample, and "
        f"the equivalent parallel beam has {1e3 * distance:.4g} mm to the detector."
    )
    scan = replace(
        scan, positions=positions, pixel_size_m=side, beam=beam, near_field=near, notes=(*scan.notes, note), object=None
    )
    return scan if scan.probe_known else scan.with_probe(_guess(scan), known=False)


def _guess(scan: Scan) -> Complex[Array, "1 N N"]:
    """The probe with the mean amplitude of the frames on the detector, and no phase there, brought back to the sample.

    The file's own guess, if it has one, is of the far field.
    """
    from ptycho.physics.propagation import near_field_adjoint

    total = sum(np.sqrt(np.maximum(chunk.astype(np.float64), 0)).sum(axis=0) for chunk in chunks(scan.counts))
    amplitude = total / len(scan)
    amplitude = np.where(scan.mask, amplitude, np.median(amplitude[scan.mask]))
    return np.asarray(near_field_adjoint(amplitude.astype(np.complex64), scan.transfer))[None]
