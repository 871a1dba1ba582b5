"""How thick a sample is, by the frames: slices of it, as far apart as lets held-out frames be predicted best.

Electrons of a wide cone pass a crystal of some nanometres at many heights, and no projection of it explains their
frames, while a few slices do. Their distance is told sharply: the frames of 15.6 nm of SrTiO3 have an error of 0.058
there, and of 0.064 and 0.060 at 10 and 22 nm.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np

from ptycho.config import Multislice, RefineConfig, RunConfig
from ptycho.data.scan import Scan
from ptycho.physics.grid import nearest_the_middle
from ptycho.pipelines.assess import judgement_of
from ptycho.pipelines.needs import with_shared_power
from ptycho.progress import Progress
from ptycho.refinement.refine import AT_LIMIT, Refinement, refine

SLICES, MODES = 4, 3
"""Of a sample and its probe unless the user says otherwise: the source of electrons is never a point."""

MOST_NM = 160.0
"""The largest thickness that is tried."""


class Sliced(NamedTuple):
    """A fit with the slices that the sample asks for."""

    fit: Refinement
    config: RefineConfig
    notes: tuple[str, ...]
    """What was found; nothing where nothing was tried."""


def with_thickness(
    scan: Scan,
    config: RefineConfig,
    fit: Refinement,
    held_out: np.ndarray,
    *,
    decided: frozenset[str] = frozenset(),
    far_from_noise: float = 1.3,
    slices: int = SLICES,
    modes: int = MODES,
    epochs: int = 12,
    least_gain: float = 0.1,
    progress: Progress | None = None,
) -> Sliced:
    """A fit of slices, where that of a thin sample under electrons is far from the noise and slices explain the frames.

    Args:
        scan: what was fitted.
        config: of the fit; other methods than ``cg``, and fits of slices, come back as they are.
        fit: of the scan.
        held_out: ``(P,)`` bool: frames that no fit sees.
        decided: fields of the config that the user has set, and ``modes``.
        far_from_noise: error over shot noise from which on a thickness is looked for.
        slices: of the sample.
        modes: that the probe gets, unless it has more, or the user has decided.
        epochs: of the fit to all frames, from vacuum.
        least_gain: part by which held-out frames must be predicted better in the trials.
        progress: told of the progress.
    """
    nothing = Sliced(fit, config, ())
    fits = config.method == "cg" and config.multislice is None and "multislice" not in decided
    if not (fits and scan.is_4dstem) or scan.pixel_size_m is None or fit.without_unseen is None:
        return nothing
    judgement = judgement_of(fit.result, scan, held_out, fit)
    if judgement is None or judgement.amplitude.error < far_from_noise * judgement.amplitude.shot_noise:
        return nothing
    assert scan.beam is not None
    pixel_m, wavelength_m = scan.pixel_size_m, scan.beam.wavelength_m
    stack = lambda nm: sliced(nm, slices, pixel_m, wavelength_m)
    config = replace(config, red_weight=0.0)  # that network has learned from thin samples
    # From the probe that the fit began with: the one that it came to makes up for the thickness.
    as_thick = trials_of(scan, config, held_out, stack, progress)
    nm = best_thickness(as_thick)
    thin, thick = as_thick(0.0), as_thick(nm)
    if not thick < (1 - least_gain) * thin:
        return nothing
    needing = replace(config, multislice=stack(nm))
    guess, trial = scan, needing if "epochs" in decided else replace(needing, epochs=epochs)
    if "modes" not in decided and scan.modes < modes:
        guess = scan.with_probe(with_shared_power(scan.probe, modes), known=False)
        needing, trial = (replace(each, probe_from=config.probe_from or 1) for each in (needing, trial))
    sliced_fit = refine(guess, trial, held_out=held_out, progress=progress)
    if not sliced_fit.criterion < fit.criterion:
        return nothing
    most = " or more" if nm >= MOST_NM / 1.01 else ""
    sentence = (
        f"The sample is thick: {nm:.1f} nm{most} in {slices} slices predict held-out frames best (error {thick:.3g}, "
        f"{thin:.3g} as a thin one)."
    )
    # That the fit ended after the passes that it was given says nothing.
    notes = tuple(note for note in sliced_fit.notes if not note.startswith(AT_LIMIT))
    return Sliced(sliced_fit._replace(notes=notes), needing, (sentence,))


def sliced(thickness_nm: float, slices: int, pixel_size_m: float, wavelength_m: float) -> Multislice:
    """Slices that stand for a sample of this thickness.

    S planes a distance d apart have the mean square depth ``d^2 (S^2 - 1) / 12`` about the middle, a slab ``t^2 / 12``.
    """
    spacing = thickness_nm * 1e-9 / np.sqrt(slices**2 - 1)
    return Multislice(
        slices=slices, spacing_px=float(spacing / pixel_size_m), wavelength_px=float(wavelength_m / pixel_size_m)
    )


def with_told_thickness(
    scan: Scan, run: RunConfig, thickness_nm: float, slices: int, modes: int | None
) -> tuple[Scan, RunConfig, int | None]:
    """A scan, its settings and the number of its probe modes (None: as they come) for a sample of known thickness.

    Electrons get `MODES` unless the user has decided on ``modes``.

    Raises ValueError where the object pixel or the wavelength is not known, or the settings have slices already.
    """
    if run.refine.get("multislice") is not None:
        raise ValueError("--thickness-nm and refine.multislice both say how thick the sample is; leave one out")
    if scan.pixel_size_m is None or scan.beam is None:
        raise ValueError(
            "--thickness-nm needs the object pixel and the wavelength: say --voltage-kv or --energy-ev, and "
            "--detector-pixel or --pixel-size-nm"
        )
    stack = sliced(thickness_nm, slices, scan.pixel_size_m, scan.beam.wavelength_m)
    run = run.updated("refine", dict(multislice=stack))
    if modes is None and scan.is_4dstem and scan.modes < MODES:
        modes, scan = MODES, scan.with_probe(with_shared_power(scan.probe, MODES), known=False)
    return scan, run, modes


def trials_of(
    scan: Scan,
    config: RefineConfig,
    held_out: np.ndarray,
    stack: Callable[[float], Multislice],
    progress: Progress | None,
    frames: int = 256,
    epochs: int = 8,
) -> Callable[[float], float]:
    """The criterion of short fits to the frames nearest the middle of a scan, by thickness in nm; 0 is a thin sample.

    Of so few frames a tenth judges, the same for all.
    """
    used = np.flatnonzero(~held_out)
    middle = scan.subset(np.sort(used[nearest_the_middle(scan.positions[used], frames)]))

    @cache
    def criterion(nm: float) -> float:
        trial = replace(config, epochs=epochs, held_out=0.1, multislice=stack(nm) if nm else None)
        with warnings.catch_warnings():
            # Of a window too narrow for a thickness the user need not know where that is only tried.
            warnings.filterwarnings("ignore", "the near field is undersampled")
            return refine(middle, trial, progress=progress).criterion

    return criterion


def best_thickness(
    criterion: Callable[[float], float], first_nm: float = 10.0, factor: float = 2.0, most_nm: float = MOST_NM
) -> float:
    """The thickness of the lowest criterion: by factors of two while it falls, then halfway to either side.

    A parabola in the logarithm through what was tried within a factor of two of the best ends it: its vertex is told
    better than the best of the trials.
    """
    step, at = np.log(factor), np.log(first_nm)
    values = {x: criterion(float(np.exp(x))) for x in (at - step, at, at + step)}
    while (best := min(values, key=lambda x: values[x])) in (min(values), max(values)) and 0 < best < np.log(most_nm):
        further = best + (step if best == max(values) else -step)
        values[further] = criterion(float(np.exp(further)))
    values |= {x: criterion(float(np.exp(x))) for x in (best - step / 2, best + step / 2)}
    best = min(values, key=lambda x: values[x])
    near = [x for x in values if abs(x - best) <= 1.01 * step]
    a, b, _ = np.polyfit(near, [values[x] for x in near], 2)
    # a x^2 + b x + c is lowest at x = -b / (2 a)
    return float(np.exp(np.clip(-b / (2 * a), min(near), max(near)) if a > 0 else best))
