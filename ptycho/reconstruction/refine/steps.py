"""Ways to change the unknowns for the counts: stochastic steps on batches, and a step of all frames at once."""

from typing import Any

from keras import ops

from ptycho.physics.diffraction import exit_waves, illumination
from ptycho.physics.fourier import intensity, times_real
from ptycho.reconstruction.refine.model import Batch, Frames, Optics, State


def inner(a, b):
    """Real inner product of two arrays, complex or real."""
    return (
        ops.sum(ops.real(a) * ops.real(b) + ops.imag(a) * ops.imag(b)) if "complex" in ops.dtype(a) else ops.sum(a * b)
    )


def lsqml(state: State, batch: Batch, *, optics: Optics, unknowns: tuple[str, ...], damping: float) -> dict[str, Any]:
    """Object and probe after a step of the least-squares maximum-likelihood engine for a batch, and its misfit.

    The descent of each over the light on it, and the lengths of both together that bring the exit waves nearest to
    those that the counts ask for (Odstrcil, Menzel, Guizar-Sicairos, Opt. Express 26, 3108 (2018), eqs. 19-24, with one
    pair of lengths for the batch).
    """
    frames = Frames(state, batch, optics)
    missing = frames.missing()
    lines, waves = _directions(frames, missing, unknowns, damping, 0.0)
    if not waves:
        return dict(misfit=frames.misfit())
    wanted = ops.stack([inner(wave, missing) for wave in waves])
    gram = ops.stack([ops.stack([inner(a, b) for b in waves]) for a in waves])
    lengths = solved(gram, wanted)
    found: dict[str, Any] = dict(misfit=frames.misfit())
    for k, (name, line) in enumerate(lines.items()):
        found[name] = state[name] + times_real(line, lengths[k])
    return found


def rpie(state: State, batch: Batch, *, optics: Optics, unknowns: tuple[str, ...], alpha: float) -> dict[str, Any]:
    """Object and probe after a step of rPIE for a batch at once, and its misfit.

    Maiden, Johnson, Li, Optica 4, 736 (2017), eqs. 19 and 20, numerators and denominators summed over the batch.
    """
    frames = Frames(state, batch, optics)
    lines, _ = _directions(frames, frames.missing(), unknowns, alpha, alpha, waves=False)
    return dict(misfit=frames.misfit()) | {name: state[name] + line for name, line in lines.items()}


def _directions(frames: Frames, missing, unknowns, damping: float, mixed: float, waves: bool = True):
    """Steps of object and probe, ``descent / ((1 - mixed) light + damping max(light))``, and what exit waves gain."""
    present = frames.batch["present"][:, None, None]
    over = lambda asked, light: times_real(asked, 1 / ((1 - mixed) * light + damping * ops.max(light) + 1e-12))
    lines, gained = {}, []
    if "object" in unknowns:
        asked = frames.paste(ops.sum(ops.conj(frames.probes) * missing, axis=1))
        lines["object"] = over(asked, frames.paste(illumination(frames.probes) * present))
        if waves:
            gained.append(exit_waves(frames.cut(lines["object"]), frames.probes))
    if "probe" in unknowns:
        asked = frames.fetched(missing * ops.conj(ops.expand_dims(frames.patches, 1)))
        lines["probe"] = over(asked, ops.sum(intensity(frames.patches) * present, axis=0))
        if waves:
            gained.append(exit_waves(frames.patches, frames.placed(lines["probe"])))
    return lines, [times_real(wave, present[:, None]) for wave in gained]


RIDGE = 1e-4
"""Added to the diagonal of a curvature in units of itself: lines that are nearly the same share a step."""


def solved(curvature, descent):
    """Lengths ``(K,)`` of steps along K lines: least squares, each line in its own unit."""
    unit = 1 / ops.sqrt(ops.diagonal(curvature) + 1e-30)
    scaled = curvature * unit[:, None] * unit + RIDGE * ops.eye(unit.shape[0])
    return unit * ops.solve(scaled, ops.expand_dims(descent * unit, -1))[:, 0]
