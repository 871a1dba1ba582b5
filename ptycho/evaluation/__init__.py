"""How good a reconstruction is: arrays in, numbers out. Knows no file.

Against a known object: `compare_objects` (after `register` has removed what ptychography cannot know:
shift, complex scale and linear phase ramp). Without one: `frame_error` on frames held out from the
reconstruction, beside `shot_noise_error`, the least it can be; `judge` and `verdict`, whether it is an image at all;
`frame_residuals` of any frames in units of shot
noise; `warnings_about` what cannot be right; `uncertainty` of every pixel; and `fourier_ring_correlation` of two
independent half data sets.
"""

from ptycho.deprecation import moved_names
from ptycho.evaluation.align import Gauge, Registration, TooSmall, register
from ptycho.evaluation.frc import (
    fourier_ring_correlation,
    frc_resolution,
    half_bit_threshold,
    resolutions,
)
from ptycho.evaluation.judgement import Errors, Judgement, Verdict, judge, verdict
from ptycho.evaluation.metrics import Metrics, Scores, compare_objects
from ptycho.evaluation.plausibility import is_dark, transmitted_fraction, warnings_about
from ptycho.evaluation.residuals import (
    FrameResiduals,
    ResidualSummary,
    frame_error,
    frame_residuals,
    shot_noise_error,
    summarise,
)
from ptycho.evaluation.uncertainty import band_coverage, illuminated_pixels, noise_level, uncertainty

__all__ = [
    "Errors",
    "FrameResiduals",
    "Gauge",
    "Judgement",
    "Metrics",
    "Registration",
    "ResidualSummary",
    "Scores",
    "TooSmall",
    "Verdict",
    "band_coverage",
    "compare_objects",
    "fourier_ring_correlation",
    "frame_error",
    "frame_residuals",
    "frc_resolution",
    "half_bit_threshold",
    "illuminated_pixels",
    "is_dark",
    "judge",
    "noise_level",
    "register",
    "resolutions",
    "shot_noise_error",
    "summarise",
    "transmitted_fraction",
    "uncertainty",
    "verdict",
    "warnings_about",
]

__getattr__ = moved_names(__name__)
