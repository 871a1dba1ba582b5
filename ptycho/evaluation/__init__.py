"""How good a reconstruction is: arrays in, numbers out. Knows no model and no file.

Against a known object: `compare_objects` (after `register` has removed what ptychography cannot know:
shift, complex scale and linear phase ramp). Without one: `frame_error` on frames held out from the
reconstruction, beside `shot_noise_error`, the least it can be; `frame_residuals` of any frames in units of shot
noise; `uncertainty` of every pixel; and `fourier_ring_correlation` of two independent half data sets.
"""

from ptycho.evaluation.align import Gauge, Registration, TooSmall, register
from ptycho.evaluation.frames import expected_counts, frame_error, shot_noise_error
from ptycho.evaluation.frc import (
    fourier_ring_correlation,
    frc_resolution,
    half_bit_threshold,
    resolutions,
)
from ptycho.evaluation.metrics import Metrics, Scores, compare_objects
from ptycho.evaluation.trust import (
    FrameResiduals,
    Trust,
    band_coverage,
    frame_residuals,
    light_let_through,
    noise_level,
    summarise,
    uncertainty,
    warnings_about,
)

__all__ = [
    "FrameResiduals",
    "Gauge",
    "Metrics",
    "Registration",
    "Scores",
    "TooSmall",
    "Trust",
    "band_coverage",
    "compare_objects",
    "expected_counts",
    "fourier_ring_correlation",
    "frame_error",
    "frame_residuals",
    "frc_resolution",
    "half_bit_threshold",
    "light_let_through",
    "noise_level",
    "register",
    "resolutions",
    "shot_noise_error",
    "summarise",
    "uncertainty",
    "warnings_about",
]
