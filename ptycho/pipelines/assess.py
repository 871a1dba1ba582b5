"""How good a result is: against the true object, by held-out frames, by its residuals, and by the look of it."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from keras import ops

from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.deprecation import renamed_attribute
from ptycho.diagnostics.checks import Check
from ptycho.diagnostics.statistics import evenly_spread
from ptycho.evaluation import (
    ResidualSummary,
    Scores,
    TooSmall,
    compare_objects,
    frame_error,
    frame_residuals,
    is_dark,
    shot_noise_error,
    summarise,
    warnings_about,
)
from ptycho.network.build import PtychoNetwork
from ptycho.pipelines.provenance import Record
from ptycho.refinement.checkpoint import FitEpoch
from ptycho.refinement.refine import with_own_weights


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A result, and how good it is."""

    result: Reconstruction
    scores: Scores | None = None
    """Against the true object, where the scan carries one."""
    held_out_error: float | None = None
    """Frame error on held-out frames, where there are any."""
    shot_noise: float | None = None
    """What the shot noise of the held-out frames alone would leave of it."""
    trust: ResidualSummary | None = None
    """How well the frames that the object is made of agree with it."""
    warnings: tuple[str, ...] = ()
    """What is wrong with the scan or the result by the look of it."""
    before: "Outcome | None" = None
    """What the refinement started from, assessed alike; None where nothing was refined, or from vacuum."""
    fit: list[FitEpoch] | None = None
    """The epochs of the refinement, see `Refinement`."""

    withheld_error = renamed_attribute("withheld_error", "held_out_error")

    def to_dict(self) -> Record:
        """The numbers, ready for JSON."""
        record: Record = dict(frames_used=self.result.used, frames_dropped=self.result.dropped)
        if self.trust is not None:
            record |= dict(trust=self.trust.to_dict(), warnings=list(self.warnings))
        if self.scores is not None:
            record["object"] = self.scores.to_dict()
        if self.held_out_error is not None:
            record |= dict(held_out_error=self.held_out_error, shot_noise_error=self.shot_noise)
            record |= dict(withheld_error=self.held_out_error)  # the old name, for one release
        if self.before is not None:
            record["before_refinement"] = self.before.to_dict()
        if self.fit:
            record["refinement"] = self.fit
        return record

    def sentences(self) -> list[str]:
        """What a reader should know of the result, beside its scores."""
        sentences = list(self.warnings)
        if self.trust is not None:
            sentences.append(self.trust.sentence())
        if self.held_out_error is not None:
            sentences.append(
                f"held-out frames: error {self.held_out_error:.4f}, shot noise alone {self.shot_noise:.4f}"
            )
        return sentences


def assess(result: Reconstruction, scan: Scan, held_out: np.ndarray) -> Outcome:
    """Compare a result with what is known: the true object, and the held-out frames.

    A result of a few frames may hold too little of the true object to be compared; a warning says so.
    """
    scores = None
    if scan.object is not None:
        try:
            scores = compare_objects(result.object, scan.object)
        except TooSmall as problem:
            warnings.warn(f"not scored against the true object: {problem}", UserWarning, stacklevel=2)
    frames = np.flatnonzero(held_out)
    if not len(frames):
        return Outcome(result=result, scores=scores)
    result = with_own_weights(scan, result, frames)
    error = frame_error(result, scan.counts, frames, scan.mask)
    noise = shot_noise_error(result.expected_counts(frames)[:, scan.mask])
    return Outcome(result=result, scores=scores, held_out_error=error, shot_noise=noise)


def assess_fully(
    result: Reconstruction, scan: Scan, held_out: np.ndarray, checks: Sequence[Check], findings: Sequence[str]
) -> Outcome:
    """`assess`, with the residuals of the frames, and warnings: ``findings``, and of a detector that saturates."""
    result, trust = with_residuals(result, scan)
    saturation = [check.finding for check in checks if check.name == "saturation" and check.verdict != "pass"]
    return replace(assess(result, scan, held_out), trust=trust, warnings=(*saturation, *findings))


def with_residuals(result: Reconstruction, scan: Scan) -> tuple[Reconstruction, ResidualSummary]:
    """The result with the residuals of the frames that it is made of, and their summary."""
    frames = fitted_frames(result, scan)
    residuals = frame_residuals(result, scan.counts, frames, scan.mask)
    ratio = np.full(len(scan), np.nan, "float32")
    ratio[frames] = residuals.ratio
    return replace(result, frame_residual=ratio), summarise(residuals)


def network_warnings(model: PtychoNetwork, result: Reconstruction, scan: Scan) -> tuple[str, ...]:
    """Warnings about a network's result; of the bounded architecture ``cnn`` the network's own output is looked at,
    in a sample of frames: stitching turns the phases of patches."""
    patches = bound = None
    if not model.architecture.common_phase:
        frames = evenly_spread(len(scan))
        inputs = dict(
            counts=scan.counts[frames][None].astype("float32"),
            mask=scan.mask[None].astype("float32"),
            probe=result.probe[None],
        )
        if scan.transfer is not None:
            inputs["transfer"] = scan.transfer[None]
        patches = ops.convert_to_numpy(model.single_frame_patches(inputs, model.illumination(inputs)))[0]
        bound = model.architecture.amplitude_bound(model.settings)
    return image_warnings(result, scan, patches=patches, amplitude_bound=bound)


def image_warnings(
    result: Reconstruction, scan: Scan, *, patches: np.ndarray | None = None, amplitude_bound: float | None = None
) -> tuple[str, ...]:
    """Warnings about a result of a scan, see `warnings_about`."""
    return tuple(
        warnings_about(
            result.object,
            result.coverage,
            result.probe,
            counts=fitted_counts(result, scan),
            patches=patches,
            amplitude_bound=amplitude_bound,
        )
    )


def transmits_too_little(result: Reconstruction, scan: Scan) -> bool:
    """Whether an image lets through much less than was counted, see `is_dark`."""
    return is_dark(result.object, result.coverage, result.probe, fitted_counts(result, scan))


def fitted_counts(result: Reconstruction, scan: Scan) -> float:
    """Photons in the frames that a result is made of."""
    return float(scan.frame_counts[fitted_frames(result, scan)].sum())


def fitted_frames(result: Reconstruction, scan: Scan) -> np.ndarray:
    """Indices of the frames that a result is made of."""
    return np.arange(len(scan)) if result.used_frames is None else np.flatnonzero(result.used_frames)
