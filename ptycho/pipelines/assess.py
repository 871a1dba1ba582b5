"""How good a result is: against the true object, by held-out frames, by its residuals, and by the look of it."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from keras import ops

from ptycho.config import lattice_constants
from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.deprecation import renamed_attribute
from ptycho.diagnostics.checks import Check
from ptycho.diagnostics.statistics import evenly_spread
from ptycho.evaluation import (
    Judgement,
    ResidualSummary,
    Scores,
    TooSmall,
    Verdict,
    compare_objects,
    frame_residuals,
    is_dark,
    judge,
    summarise,
    verdict,
    warnings_about,
)
from ptycho.evaluation.aberrations import Lens, fit_lens
from ptycho.evaluation.crystal import Cell, Crystal, fit_crystal, scanned_pixels
from ptycho.evaluation.half_sets import HalfSets
from ptycho.evaluation.lattice import lattice_share
from ptycho.evaluation.uncertainty import illuminated_pixels
from ptycho.network.build import PtychoNetwork
from ptycho.pipelines.provenance import Record
from ptycho.refinement.checkpoint import FitEpoch
from ptycho.refinement.held_out_photons import PhotonTrial
from ptycho.refinement.refine import Refinement, with_own_weights


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
    mean_frame_error: float | None = None
    """What predicting the mean of the other frames leaves of it."""
    judgement: Judgement | None = None
    """By frames that the image was made without, wherever there are any."""
    verdict: Verdict | None = None
    """What to think of it; None where no frame can judge."""
    trust: ResidualSummary | None = None
    """How well the frames that the object is made of agree with it."""
    lens: Lens | None = None
    """What the probe that was found tells of an electron lens."""
    crystal: Crystal | None = None
    """The lattice that the image shows."""
    half_sets: HalfSets | None = None
    """How fine it is, by two images of half the data."""
    notes: tuple[str, ...] = ()
    """What was chosen on the way, in sentences."""
    warnings: tuple[str, ...] = ()
    """What is wrong with the scan or the result by the look of it."""
    before: "Outcome | None" = None
    """What the refinement started from, assessed alike; None where nothing was refined, or from vacuum."""
    fit: list[FitEpoch] | None = None
    """The epochs of the refinement, see `Refinement`."""
    smoothing: tuple[PhotonTrial, ...] = ()
    """Weights of total variation that were tried by held-out photons."""

    withheld_error = renamed_attribute("withheld_error", "held_out_error")

    def to_dict(self) -> Record:
        """The numbers, ready for JSON."""
        record: Record = dict(frames_used=self.result.used, frames_dropped=self.result.dropped)
        if self.trust is not None:
            record |= dict(trust=self.trust.to_dict(), warnings=list(self.warnings), notes=list(self.notes))
        if self.lens is not None:
            record["lens"] = self.lens.to_dict()
        if self.crystal is not None:
            record["crystal"] = self.crystal.to_dict()
        if self.half_sets is not None:
            record["half_sets"] = self.half_sets.to_dict()
        if self.scores is not None:
            record["object"] = self.scores.to_dict()
        if self.verdict is not None:
            record["verdict"] = self.verdict.to_dict()
        if self.judgement is not None:
            record["judgement"] = self.judgement.to_dict()
        if self.held_out_error is not None:
            record |= dict(held_out_error=self.held_out_error, shot_noise_error=self.shot_noise)
            record["mean_frame_error"] = self.mean_frame_error
            record |= dict(withheld_error=self.held_out_error)  # the old name, for one release
        if self.before is not None:
            record["before_refinement"] = self.before.to_dict()
        if self.fit:
            record["refinement"] = self.fit
        if self.smoothing:
            record["total_variation"] = [trial._asdict() for trial in self.smoothing]
        return record

    def sentences(self) -> list[str]:
        """What a reader should know of the result, beside its scores."""
        sentences = [warning for warning in self.warnings if self.verdict is None or warning != self.verdict.sentence]
        sentences += self.notes
        sentences += [each.sentence() for each in (self.half_sets, self.lens, self.crystal) if each is not None]
        if self.trust is not None:
            sentences.append(self.trust.sentence())
        if self.held_out_error is not None:
            sentences.append(
                f"held-out frames: error {self.held_out_error:.4f}, shot noise alone {self.shot_noise:.4f}, the mean "
                f"of the other frames {self.mean_frame_error:.4f}"
            )
        return sentences if self.verdict is None else [self.verdict.sentence, *sentences]

    @property
    def is_image(self) -> bool:
        """Whether there is an image, as far as frames can judge."""
        return self.verdict is None or self.verdict.is_image


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
    judgement = judge(with_own_weights(scan, result, frames), scan.counts, frames, np.flatnonzero(~held_out), scan.mask)
    if judgement is None:
        return Outcome(result=result, scores=scores)
    return Outcome(
        result=result,
        scores=scores,
        judgement=judgement,
        held_out_error=judgement.amplitude.error,
        shot_noise=judgement.amplitude.shot_noise,
        mean_frame_error=judgement.amplitude.mean_frame,
    )


def assess_fully(
    result: Reconstruction,
    scan: Scan,
    held_out: np.ndarray,
    checks: Sequence[Check],
    findings: Sequence[str],
    fit: Refinement | None = None,
) -> Outcome:
    """`assess`, with a verdict, the residuals of the frames, and warnings: ``findings``, of a detector that saturates,
    and the verdict where the image is not at the noise.

    Without held-out frames those judge that told the ``fit`` when to stop; without these, the frames that the image is
    made of.
    """
    result, trust = with_residuals(result, scan)
    saturation = [check.finding for check in checks if check.name == "saturation" and check.verdict != "pass"]
    outcome = assess(result, scan, held_out)
    judgement = outcome.judgement or judgement_of(result, scan, held_out, fit)
    decision = None if judgement is None else verdict(judgement, trust.median_ratio)
    warned = () if decision is None or decision.kind == "at the noise" else (decision.sentence,)
    is_image = decision is None or decision.is_image
    crystal = crystal_of(result, scan) if is_image else None
    if is_image and crystal is None and lattice_told(scan) is not None:
        findings = (*findings, "no lattice stands out in the image: the pixel size could not be checked by it")
    return replace(
        outcome,
        judgement=judgement,
        verdict=decision,
        trust=trust,
        lens=lens_of(result, scan) if is_image else None,
        crystal=crystal,
        warnings=(*warned, *saturation, *findings),
    )


def lens_of(result: Reconstruction, scan: Scan) -> Lens | None:
    """The lens of an electron microscope, by the probe that a fit has found; None of other scans, and where the probe
    is the one that was told."""
    if not scan.is_4dstem:
        return None
    fitted = result.provenance.get("refine", {}).get("probe_from") is not None
    if scan.pixel_size_m is None or scan.probe_known or not fitted:
        return None
    assert scan.beam is not None
    return fit_lens(result.probe[0], scan.pixel_size_m, scan.beam.wavelength_m)


def crystal_of(result: Reconstruction, scan: Scan) -> Crystal | None:
    """The lattice in the image of an electron microscope, or of any sample whose lattice is told."""
    known = lattice_told(scan)
    if known is None and not scan.is_4dstem:
        return None
    pixel_size_a = None if scan.pixel_size_m is None else 1e10 * scan.pixel_size_m
    # Beyond the outermost positions the tails of the probe alone tell the scale, and less well.
    inside = illuminated_pixels(result.coverage) & scanned_pixels(result.positions_px, result.object.shape)
    return fit_crystal(result.object, inside, pixel_size_a, known, raster=result.positions_px)


def lattice_told(scan: Scan) -> Cell | None:
    """The cell of the sample, where the user told one."""
    text = None if scan.reading is None else scan.reading.lattice
    return None if text is None else Cell(*lattice_constants(text))


def judgement_of(
    result: Reconstruction, scan: Scan, held_out: np.ndarray, fit: Refinement | None = None
) -> Judgement | None:
    """A result judged by the frames that told its fit when to stop; without any, by those that it is made of."""
    if fit is not None and fit.without_unseen is not None:
        others = np.setdiff1d(np.flatnonzero(~held_out), fit.unseen)
        judgement = judge(fit.without_unseen, scan.counts, fit.unseen, others, scan.mask)
        if judgement is not None:
            return judgement
    frames = fitted_frames(result, scan)
    return judge(result, scan.counts, frames, frames, scan.mask, unseen=False)


def verdict_of(scan: Scan, fit: Refinement, held_out: np.ndarray) -> Verdict | None:
    """The verdict on a fit; None where no frame can judge."""
    judgement = judgement_of(fit.result, scan, held_out, fit)
    return None if judgement is None else verdict(judgement, with_residuals(fit.result, scan)[1].median_ratio)


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
    result: Reconstruction,
    scan: Scan,
    *,
    patches: np.ndarray | None = None,
    amplitude_bound: float | None = None,
) -> tuple[str, ...]:
    """Warnings about a result of a scan, see `warnings_about` and `lattice_share`."""
    share = lattice_share(result.object, result.coverage, result.positions_px)
    raster = (
        f"{100 * share:.0f} % of the variance of the phase is at the lattice of the scan: a raster leaves its pattern "
        "in object and probe; fit the positions, or scan on a jittered grid or a spiral"
    )
    return ((raster,) if share > RASTER_SHARE else ()) + tuple(
        warnings_about(
            result.object,
            result.coverage,
            result.probe,
            counts=fitted_counts(result, scan),
            patches=patches,
            amplitude_bound=amplitude_bound,
        )
    )


RASTER_SHARE = 0.25
"""Of the variance of the phase that is at the lattice of the scan, from which on it is the raster's artefact."""


def shows_raster(image: Reconstruction) -> bool:
    """Whether the raster of the scan stands out in an image, see `lattice_share`."""
    return lattice_share(image.object, image.coverage, image.positions_px) > RASTER_SHARE


def transmits_too_little(result: Reconstruction, scan: Scan) -> bool:
    """Whether an image lets through much less than was counted, see `is_dark`."""
    return is_dark(result.object, result.coverage, result.probe, fitted_counts(result, scan))


def fitted_counts(result: Reconstruction, scan: Scan) -> float:
    """Photons in the frames that a result is made of."""
    return float(scan.frame_counts[fitted_frames(result, scan)].sum())


def fitted_frames(result: Reconstruction, scan: Scan) -> np.ndarray:
    """Indices of the frames that a result is made of."""
    return np.arange(len(scan)) if result.used_frames is None else np.flatnonzero(result.used_frames)
