"""Ways to change object and probe for the counts of a batch of frames: pure functions of arrays, compiled by the caller.

Each takes what the penalties ask of the object (``pull (H, W)`` and ``pull_bend (H, W)``) in its batch.
"""

from collections.abc import Callable
from typing import Any

from keras import ops

from ptycho.backend import value_and_gradient
from ptycho.physics.diffraction import exit_waves, illumination
from ptycho.physics.fourier import intensity, make_complex, times_real
from ptycho.reconstruction.refine.model import Batch, Frames, Optics, State, product

Loss = Callable[[Any, Any], Any]
"""Of counts and expected counts ``(B, N, N)``, pixel by pixel."""


def lsqml(state: State, batch: Batch, *, optics: Optics, unknowns: tuple[str, ...], damping: float) -> dict[str, Any]:
    """Object and probe after a step of the least-squares maximum-likelihood engine for a batch, and its misfit.

    The descent of each over the light on it, and for each frame the lengths of both that bring its exit waves nearest
    to those that its counts ask for; the batch takes the mean of the lengths, weighted with what each frame knows of
    them (Odstrcil, Menzel, Guizar-Sicairos, Opt. Express 26, 3108 (2018), section 2.2 and eqs. 19-24).
    """
    frames = Frames(state, batch, optics)
    missing = frames.missing()
    lines, waves = _directions(frames, missing, unknowns, damping, 0.0)
    found: dict[str, Any] = dict(misfit=frames.misfit(), noise=frames.noise())
    if not lines:
        return found
    present = batch["present"]
    wanted = ops.stack([product(wave, missing) * present for wave in waves], axis=-1)
    gram = ops.stack([ops.stack([product(a, b) * present for b in waves], axis=-1) for a in waves], axis=-2)
    # Frame by frame the equations of the two lengths; their weighted mean solves the sum of the equations.
    lengths = solved(ops.sum(gram, axis=0), ops.sum(wanted, axis=0))
    for k, (name, line) in enumerate(lines.items()):
        found[name] = state[name] + times_real(line, lengths[k])
    return found


def rpie(state: State, batch: Batch, *, optics: Optics, unknowns: tuple[str, ...], damping: float) -> dict[str, Any]:
    """Object and probe after a step of rPIE for a batch at once, and its misfit; ``damping`` is its alpha.

    Maiden, Johnson, Li, Optica 4, 736 (2017), eqs. 19 and 20, numerators and denominators summed over the batch.
    """
    frames = Frames(state, batch, optics)
    lines, _ = _directions(frames, frames.missing(), unknowns, damping, damping, waves=False)
    found: dict[str, Any] = dict(misfit=frames.misfit(), noise=frames.noise())
    return found | {name: state[name] + line for name, line in lines.items()}


def _directions(frames: Frames, missing, unknowns, damping: float, mixed: float, waves: bool = True):
    """Steps of object and probe, ``descent / ((1 - mixed) light + damping max(light))``, and what exit waves gain."""
    batch = frames.batch
    present = batch["present"][:, None, None]
    over = lambda asked, light, most: times_real(asked, 1 / ((1 - mixed) * light + damping * most + 1e-12))
    lines, gained = {}, []
    if "object" in unknowns:
        asked = frames.paste(ops.sum(ops.conj(frames.probes) * missing, axis=1)) + batch["pull"]
        light = frames.paste(frames.all(illumination(frames.probes)[:, None])[:, 0] * present)
        lines["object"] = over(asked, light + batch["pull_bend"], ops.max(light))
        if waves:
            gained.append(exit_waves(frames.cut(lines["object"]), frames.probes))
    if "probe" in unknowns:
        asked = frames.fetched(missing * ops.conj(ops.expand_dims(frames.patches, 1)))
        light = ops.sum(intensity(frames.patches) * present, axis=0)
        lines["probe"] = over(asked, light, ops.max(light))
        if waves:
            gained.append(exit_waves(frames.patches, frames.all(frames.placed(lines["probe"]))))
    return lines, gained


RIDGE = 1e-4
"""Added to the diagonal of a curvature in units of itself: lines that are nearly the same share a step."""


def solved(curvature, descent):
    """Lengths ``(K,)`` of steps along K lines: least squares, each line in its own unit."""
    unit = 1 / ops.sqrt(ops.diagonal(curvature) + 1e-30)
    scaled = curvature * unit[:, None] * unit + RIDGE * ops.eye(unit.shape[0])
    return unit * ops.solve(scaled, ops.expand_dims(descent * unit, -1))[:, 0]


DECAYS = (0.9, 0.999)
"""Of the two moments of Adam."""


def adam(
    state: State,
    batch: Batch,
    moments: dict[str, Any],
    rates: dict[str, Any],
    *,
    optics: Optics,
    unknowns: tuple[str, ...],
    loss: Loss,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Object and probe after a step of Adam (Kingma & Ba, ICLR 2015) down the gradient of any loss, and the moments.

    Args:
        state, batch, optics, unknowns: as in `lsqml`.
        moments: for each unknown ``(4, ...)``: means of the real and imaginary gradient, and of their squares; and
            ``step``, how many there have been.
        rates: step size of each unknown, in its own unit.
        loss: of counts and expected counts; its mean over the used pixels is gone down. The unknowns are real and
            imaginary parts, since backends disagree on gradients by complex numbers.
    """
    parts = {name: ops.stack([ops.real(state[name]), ops.imag(state[name])]) for name in unknowns}

    def total(parts):
        own = {name: make_complex(part[0], part[1]) for name, part in parts.items()}
        frames = Frames(dict(state) | own, batch, optics)
        counts = ops.cast(batch["counts"], "float32")
        lost = ops.sum(frames.used * loss(counts, frames.expected)) / ops.sum(frames.used)
        return lost, (frames.misfit(), frames.noise())

    (_, (misfit, noise)), slopes = value_and_gradient(total, parts)
    step = moments["step"] + 1.0
    found, after = dict(misfit=misfit, noise=noise), dict(step=step)
    for name, slope in slopes.items():
        if name == "object":
            pixels = ops.sum(batch["mask"]) * ops.sum(batch["present"])
            pull = ops.stack([ops.real(batch["pull"]), ops.imag(batch["pull"])])
            slope = slope - pull / pixels  # on the scale of the misfit's mean
        mean = DECAYS[0] * moments[name][:2] + (1 - DECAYS[0]) * slope
        square = DECAYS[1] * moments[name][2:] + (1 - DECAYS[1]) * slope**2
        after[name] = ops.concatenate([mean, square])
        way = mean / (1 - DECAYS[0] ** step) / (ops.sqrt(square / (1 - DECAYS[1] ** step)) + 1e-12)
        moved = parts[name] - rates[name] * way
        found[name] = make_complex(moved[0], moved[1])
    return found, after
