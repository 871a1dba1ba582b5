"""How good a reconstruction is: arrays in, numbers out. Knows no model and no file.

Against a known object: `compare_objects` (after `register` has removed what ptychography cannot know:
shift, complex scale and linear phase ramp). Without one: `frame_error` on frames withheld from the
reconstruction, beside `shot_noise_error`, the least it can be; and `fourier_ring_correlation` of two
independent half data sets.
"""

from ptycho.evaluation.align import Gauge, Registration, register
from ptycho.evaluation.frames import expected_counts, frame_error, shot_noise_error
from ptycho.evaluation.frc import (
    fourier_ring_correlation,
    frc_resolution,
    half_bit_threshold,
    resolutions,
)
from ptycho.evaluation.metrics import Metrics, Scores, compare_objects

__all__ = [
    "Gauge",
    "Metrics",
    "Registration",
    "Scores",
    "compare_objects",
    "expected_counts",
    "fourier_ring_correlation",
    "frame_error",
    "frc_resolution",
    "half_bit_threshold",
    "register",
    "resolutions",
    "shot_noise_error",
]
