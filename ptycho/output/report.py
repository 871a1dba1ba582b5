"""The report of a run, ``report.html``, and of a comparison: pages that open from disk without a network."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ptycho.arrays import Complex
from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.diagnostics.checks import Check, examine
from ptycho.diagnostics.describe import describe
from ptycho.diagnostics.direct import direct_pictures
from ptycho.evaluation import Judgement, Scores, Verdict
from ptycho.evaluation.aberrations import HAIDER, Lens
from ptycho.evaluation.half_sets import HalfSets
from ptycho.evaluation.judgement import VerdictKind
from ptycho.evaluation.through_focus import through_focus
from ptycho.images import illuminated_region, length_text, length_unit
from ptycho.output.page import (
    Beside,
    Bullets,
    Facts,
    Gauge,
    Headline,
    Leaf,
    Plots,
    Provenance,
    Section,
    Table,
    Tone,
    save_page,
)
from ptycho.output.panels import (
    History,
    Ranges,
    complex_mode_images,
    curve_panel,
    epoch_curves,
    focus_panels,
    frame_panels,
    object_images,
    object_panels,
    opr_images,
    pixel_unit,
    slice_images,
    small_image,
    small_panels,
)
from ptycho.refinement.held_out_photons import PhotonTrial


def save_report(
    path: str | os.PathLike,
    scan: Scan,
    result: Reconstruction | None = None,
    *,
    scores: Scores | None = None,
    verdict: Verdict | None = None,
    judgement: Judgement | None = None,
    lens: Lens | None = None,
    half_sets: HalfSets | None = None,
    findings: Sequence[str] = (),
    training: History = (),
    fit: History = (),
    smoothing: Sequence[PhotonTrial] = (),
    settings: Mapping[str, object] | None = None,
    checks: Sequence[Check] | None = None,
    object_side_px: int = 704,
    patterns_bytes: int = 4_000_000,
) -> Path:
    """Write a scan and its reconstruction as one HTML file (15 MB at most).

    Args:
        path: the file, which is replaced only once the page is complete.
        scan: P frames; some are shown beside their predictions.
        result: object and probe; None shows the scan alone.
        scores: those of the object against the true one, beside those of a flat object.
        verdict: what to think of the result, in a sentence: the headline.
        judgement: by what frames, and how it stands beside shot noise and beside the mean of the other frames.
        lens: of an electron microscope, as the probe tells it.
        half_sets: how far two images of half the data agree.
        findings: sentences about scan and result.
        training, fit: histories of the network's training and of the refinement, as `train` and `refine` return them.
        smoothing: weights of total variation, as `try_total_variation` returns them.
        settings: configuration and versions, shown as JSON.
        checks: the checks of the scan; None runs `examine`, which looks for the orientation of frames only without a
            result.
        object_side_px: pixels along the longest side of amplitude and phase; larger objects are binned. The default is
            2.6 MB for the two.
        patterns_bytes: size of the patterns and predictions; larger scans show every k-th frame.
    """
    probe = scan.probe if result is None else result.probe
    checks = examine(scan, orientation=result is None) if checks is None else checks
    first: list[Section] = []
    if verdict is not None:
        first.append(Headline(verdict.sentence, TONES[verdict.kind]))
    if result is not None:
        images = object_panels(object_images(scan, result, object_side_px), pixel_unit(scan))
        tone = "fair" if verdict is None else TONES[verdict.kind]
        side: list[Leaf] = [] if judgement is None else [_gauge(judgement, tone)]
        side += [_facts(scan, result, half_sets), Bullets("Findings", findings)]
        first.append(Beside([Plots("Object", images), *side], "first"))
    details: list[Leaf] = [] if result is not None else [Bullets("Findings", findings)]
    if scores is not None:
        details += [_scores_table(scores), _correlation({"correlation": scores})]
    details += [] if half_sets is None else [_half_set_curves(half_sets)]
    details.append(Plots("Probe: brightness is amplitude, colour phase", small_panels(complex_mode_images(probe))))
    details += _focus(scan, probe)
    details += [] if lens is None else [_lens_table(lens)]
    details += _first_pictures(scan, result is not None)
    if result is not None:
        details += _further_unknowns(result)
    details += _curves(training, fit, smoothing)
    wide = Plots("Frames on the scan", frame_panels(scan, result, patterns_bytes))
    last = Beside([*_scan_tables(scan, checks), Provenance(settings)], "details")
    return save_page(path, str(scan.source or Path(path).stem), [*first, Beside(details, "details"), wide, last])


TONES: dict[VerdictKind, Tone] = {"at the noise": "good", "disagrees": "fair", "undecided": "fair", "no image": "bad"}


def _gauge(judgement: Judgement, tone: Tone) -> Gauge:
    error, noise, mean_frame = judgement.deciding
    measure = "Poisson deviance" if judgement.sparse else "error"
    whose = "frames that the fit has not seen" if judgement.unseen else "the frames that it is made of"
    ends = ("shot noise", noise), ("mean frame", mean_frame)
    return Gauge(f"{measure[0].upper()}{measure[1:]} of {whose}", ("this image", error), ends, tone)


def _facts(scan: Scan, result: Reconstruction, half_sets: HalfSets | None) -> Facts:
    """What a reader asks first of an image, with the digits that it deserves."""
    rows_px, columns_px = illuminated_region(result.coverage)
    height, width = rows_px.stop - rows_px.start, columns_px.stop - columns_px.start
    length, unit = pixel_unit(scan)
    covered = float((result.coverage > COVERED_PART).sum())
    rows = [("field", f"{width * length:.3g} x {height * length:.3g} {unit}")]
    if scan.pixel_size_m:
        rows.append(("pixel", length_text(scan.pixel_size_m)))
    if half_sets is not None:
        rows.append(("resolution", half_sets.resolution()))
    rows += [
        ("frames", f"{result.used} of {len(scan)}"),
        ("counts per frame", f"{scan.mean_counts:.3g}"),
        ("counts per object pixel", f"{scan.mean_counts * result.used / max(covered, 1):.3g}"),
        *_electron_dose(scan),
        *_potential(scan),
        ("probe modes", f"{len(result.probe)}" + ("" if scan.probe_known else ", found")),
    ]
    if result.uncertainty is not None:
        sure = result.uncertainty[np.isfinite(result.uncertainty) & (result.coverage > COVERED_PART)]
        if len(sure):
            rows.append(("uncertainty (median)", f"{np.median(sure):.2g}"))
    return Facts("At a glance", rows)


def _electron_dose(scan: Scan) -> list[tuple[str, str]]:
    """Electrons counted on an A^2 of the scanned area: the unit in which microscopists give a dose."""
    if not scan.is_4dstem or not scan.pixel_size_m or is_line(scan):
        return []
    from scipy.spatial import ConvexHull

    # Half a step around the hull, whose "area" is its length in two dimensions: a b s^2 of a raster of a x b frames.
    hull = ConvexHull(scan.positions)
    area_px = hull.volume + hull.area * scan.step_px / 2 + scan.step_px**2
    dose = scan.frame_counts.sum() / (area_px * (scan.pixel_size_m * 1e10) ** 2)
    return [("dose, as counted", f"{dose:.3g} e/A^2")]


def _potential(scan: Scan) -> list[tuple[str, str]]:
    """What the phase of an electron microscope's image is in units of the projected potential."""
    sigma = None if scan.beam is None else scan.beam.interaction_rad_per_v_a
    return [] if sigma is None else [("projected potential", f"1 rad is {1 / sigma:.4g} V A")]


def is_line(scan: Scan) -> bool:
    """Whether the positions lie on a line, or nearly so: they span no area."""
    off = scan.positions - scan.positions.mean(axis=0)
    # Two lines a step apart have a standard deviation of half a step.
    return len(scan) < 4 or bool(np.linalg.svd(off, compute_uv=False)[-1] < 0.4 * scan.step_px * np.sqrt(len(scan)))


COVERED_PART = 0.05
"""Illumination, over that of the brightest pixel of one probe, from which on a pixel counts as part of the image."""


def _first_pictures(scan: Scan, set_right: bool) -> list[Leaf]:
    """What the frames of an electron microscope show without any fit, where they lie side by side.

    The phase only where the positions were ``set_right``: a bare file may be transposed or turned.
    """
    if not scan.is_4dstem or is_line(scan):
        return []
    images = [
        small_image(name, image, (float(image.min()), float(image.max()) or 1.0))
        for name, image in direct_pictures(scan).items()
        if set_right or "phase" not in name
    ]
    return [Plots("First pictures, without a fit", small_panels(images))]


def _focus(scan: Scan, probe: Complex[np.ndarray, "M N N"]) -> list[Leaf]:
    """The probe along the beam, where the scan tells lengths; at a near detector it has none in its frame."""
    if scan.beam is None or not scan.pixel_size_m or scan.near_field is not None:
        return []
    focus = through_focus(probe, scan.pixel_size_m, scan.beam.wavelength_m)
    if focus.at_an_end:
        heading = "Probe through focus, which lies beyond what its frame holds"
    else:
        factor, unit = length_unit(abs(focus.focus_m))
        where = f"{abs(focus.focus_m) * factor:.3g} {unit} {'behind' if focus.focus_m > 0 else 'before'} the sample"
        factor, unit = length_unit(min(focus.width_m))
        size = " x ".join(f"{width * factor:.3g}" for width in focus.width_m)
        heading = f"Probe through focus: smallest {where}, {size} {unit} (y x, FWHM)"
    return [Plots(heading, focus_panels(focus))]


def _lens_table(lens: Lens) -> Table:
    """Aberrations in both notations, with their errors."""
    rows = []
    for each in lens.aberrations:
        name, factor = HAIDER[each.n, each.m]
        haider = each._replace(value_a=factor * each.value_a, error_a=factor * each.error_a)
        values = [f"{title}: {one.rounded()}" for title, one in ((each.name, each), (name, haider))]
        rows.append((*values, f"{each.angle_deg:.0f} degrees" if each.m else ""))
    heading = f"Lens: semi-angle {lens.semiangle_mrad:.1f} mrad, aberrations by the probe that was found"
    return Table(heading, ("Krivanek", "Haider", "phi_nm"), rows)


def _curves(training: History, fit: History, smoothing: Sequence[PhotonTrial]) -> list[Leaf]:
    curves: list[Leaf] = []
    for heading, label, history, titles in (
        ("Training", "loss", training, dict(loss="training", validation_loss="held-out frames")),
        ("Refinement", "error", fit, dict(error="fitted frames", held_out_error="held-out frames")),
    ):
        if history:
            panel = curve_panel("epoch", label, epoch_curves(history, titles), logarithmic=True)
            curves.append(Plots(heading, panel))
    if smoothing:
        points = [trial.weight for trial in smoothing], [trial.deviance for trial in smoothing]
        panel = curve_panel("weight", "deviance a photon", {"held-out photons": points}, logarithmic=False)
        curves.append(Plots("Total variation", panel))
    return curves


def save_comparison(
    path: str | os.PathLike,
    scan: Scan,
    results: Mapping[str, Reconstruction],
    *,
    scores: Mapping[str, Scores],
    rows: tuple[Sequence[str], Sequence[Sequence[str]]],
    histories: Mapping[str, History],
    notes: Sequence[str] = (),
    settings: Mapping[str, object] | None = None,
    object_side_px: int = 704,
) -> Path:
    """Write the results of several methods on one scan: objects on common axes, and curves of each.

    Args:
        path, scan, settings: see `save_report`.
        results: by the names of the methods; frames and predictions are those of the first.
        scores: those of the methods that are compared with a true object.
        rows: titles and rows of the table of scores.
        histories: epochs of each method, with ``error`` or ``loss``.
        notes: sentences about methods that failed.
        object_side_px: as in `save_report`; all objects together have as many pixels as one there.
    """
    from bokeh.layouts import column

    names, unit = list(results), pixel_unit(scan)
    images = {
        name: object_images(
            scan, result, int(object_side_px / len(results) ** 0.5), (scan.positions - result.positions_px).mean(axis=0)
        )
        for name, result in results.items()
    }
    ranges = Ranges.of(images[names[0]].extent)
    objects = [Plots(f"Object: {name}", object_panels(images[name], unit, ranges)) for name in names]
    titles = {"error": "fitted frames", "held_out_error": "held-out frames", "loss": "loss"}
    curves = [
        curve_panel("epoch", "error", epoch_curves(history, titles), logarithmic=True, title=name)
        for name, history in histories.items()
    ]
    sections: list[Section] = [
        Table("Scores", *rows),
        Bullets("Notes", notes),
        *objects,
        Plots(f"Probe: {names[0]}", small_panels(complex_mode_images(results[names[0]].probe))),
        Plots(f"Frames on the scan: {names[0]}", frame_panels(scan, results[names[0]])),
        Plots("Epochs", column(*curves)),
        *([_correlation(scores)] if scores else []),
        *_scan_tables(scan, examine(scan, orientation=False)),
        Provenance(settings),
    ]
    return save_page(path, f"{scan.source or Path(path).stem}: {', '.join(names)}", sections)


def _further_unknowns(result: Reconstruction) -> list[Leaf]:
    """What an estimate has beside object, probe and positions: OPR modes, slices, background, blur, affine map."""
    plots = {"OPR modes": opr_images(result), "Slices": slice_images(result)}
    rows = []
    if result.background is not None:
        plots["Background"] = [small_image("background (counts)", result.background)]
        rows.append(
            ("background", f"{result.background.mean():.3g} counts a pixel, {result.background.max():.3g} at most")
        )
    if result.blur_px:
        rows.append(("detector blur", f"{result.blur_px:.3g} pixels (standard deviation)"))
    if result.uncertainty is not None:
        known = np.where(result.coverage > COVERED_PART, result.uncertainty, 0)
        # The dim rim is far less certain: it is shown, and does not set the range.
        limits = 0.0, 3 * float(np.median(known[known > 0]))
        plots["Uncertainty of the transmission"] = [small_image("rms error", known, limits)]
    if result.multislice is not None:
        spacing = result.multislice.spacing_px
        rows.append(("slices", f"{result.multislice.slices}, {spacing:.4g} object pixels apart"))
    if result.affine is not None:
        rows.append(("affine map of the positions", "; ".join(f"{a:.5f}, {b:.5f}" for a, b in result.affine)))
    panels = [Plots(heading, small_panels(images)) for heading, images in plots.items() if images]
    return [*panels, Table("Further unknowns", (), rows)]


def _scores_table(scores: Scores) -> Table:
    digits = lambda label: 1 if "dB" in label else 3 if "rad" in label else 2
    rows = [(label, *(f"{value:.{digits(label)}f}" for value in values)) for label, *values in scores.rows()]
    return Table("Scores against the true object", ("score", "object", "flat object"), rows)


def _correlation(scores: Mapping[str, Scores]) -> Plots:
    """The FRC of each object with the true one, and the usual thresholds."""
    frequency, _, half_bit = next(iter(scores.values())).correlation
    curves: dict[str, Any] = {name: score.correlation[:2] for name, score in scores.items()}
    for name, level in (("0.5", 0.5), ("1/7", 1 / 7)):
        curves[name] = (frequency, np.full(len(frequency), level))
    curves["half bit"] = (frequency, half_bit)
    panel = curve_panel("spatial frequency (of Nyquist)", "correlation", curves, logarithmic=False)
    return Plots("Fourier ring correlation with the true object", panel)


def _half_set_curves(half_sets: HalfSets) -> Plots:
    """The FRC of two images of half the data each."""
    frequency, correlation, half_bit = half_sets.correlation
    curves = {f"two halves of the {half_sets.halves}": (frequency, correlation), "half bit": (frequency, half_bit)}
    panel = curve_panel("spatial frequency (of Nyquist)", "correlation", curves, logarithmic=False)
    return Plots("Half-set Fourier ring correlation", panel)


def _scan_tables(scan: Scan, checks: Sequence[Check]) -> tuple[Table, Table]:
    passed = all(check.verdict == "pass" for check in checks)
    return (
        Table("Scan", (), describe(scan, checked=True)),
        Table(
            "Checks of the scan",
            ("check", "verdict", "found", "what to do"),
            checks,
            folded=f"all {len(checks)} pass" if passed else "",
        ),
    )
