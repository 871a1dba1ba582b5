"""Ways to change object and probe for the counts of a batch: pure functions of arrays, compiled by the caller.

Each takes what the penalties ask of the object (``pull (H, W)`` and ``pull_bend (H, W)``) in its batch.
"""

from collections.abc import Callable
from typing import Any

from keras import ops

from ptycho.backend import value_and_gradient
from ptycho.physics.diffraction import exit_waves, illumination
from ptycho.physics.fourier import intensity, make_complex, times_real
from ptycho.refinement.model import Batch, Frames, Optics, State, tensors

Loss = Callable[[Any, Any], Any]
"""Of counts and expected counts ``(B, N, N)``, pixel by pixel."""


SAMPLE = 4
"""One frame in so many tells the curvature of a stochastic step, which only sets its lengths ..."""

SAMPLE_LEAST = 8
"""... but so many at least: one dim frame at the border would make a step of any length."""


def lsqml(state: State, batch: Batch, *, optics: Optics, unknowns: tuple[str, ...], damping: float) -> dict[str, Any]:
    """Object and probe after a step of the least-squares maximum-likelihood engine for a batch, and its misfit.

    The descent of each over the light on it, and the two lengths that bring the exit waves of the batch nearest to
    those that the counts ask for (Odstrcil, Menzel, Guizar-Sicairos, Opt. Express 26, 3108 (2018), eqs. 19-24; there
    each frame has lengths of its own, and their mean is taken).
    """
    frames = Frames(state, batch, optics)
    asked, lines = _directions(frames, unknowns, damping, 0.0)
    found = dict(misfit=frames.misfit())
    if not lines:
        return found
    # A line times what its unknown asks for is what its exit waves have in common with the missing ones.
    wanted = [inner(lines[name], asked[name]) for name in lines]
    waves, part = _gains(frames, lines)
    gram = [[inner(a, b) / part for b in waves] for a in waves]
    if "object" in lines:  # it comes first
        gram[0][0] = gram[0][0] + ops.sum(frames.batch["pull_bend"] * intensity(lines["object"]))
    lengths = solution(gram, wanted)
    return found | {
        name: frames.state[name] + times_real(line, length) for (name, line), length in zip(lines.items(), lengths)
    }


def solution(gram: list[list], wanted: list) -> list:
    """Solution of one equation, or of two."""
    if len(wanted) == 1:
        return [wanted[0] / (gram[0][0] + 1e-30)]
    ((a, b), (_, c)), (u, v) = gram, wanted
    a, c = a * (1 + RIDGE), c * (1 + RIDGE)
    norm = 1 / (a * c - b * b + 1e-30)
    return [norm * (c * u - b * v), norm * (a * v - b * u)]


def _gains(frames: Frames, lines: dict[str, Any]):
    """What some frames' exit waves gain along lines, and the part of the batch that they are."""
    present = frames.batch["present"]
    step = max(1, min(SAMPLE, present.shape[0] // SAMPLE_LEAST))
    few = present[::step, None, None, None]
    some = lambda z: z[::step] if z.shape[0] > 1 else z
    gain = dict(
        object=lambda line: exit_waves(frames.cut(line, step), some(frames.probes)),
        probe=lambda line: exit_waves(frames.patches[::step], frames.placed(line, step)),
    )
    return [times_real(gain[name](line), few) for name, line in lines.items()], ops.sum(few) / ops.sum(present)


def rpie(state: State, batch: Batch, *, optics: Optics, unknowns: tuple[str, ...], damping: float) -> dict[str, Any]:
    """Object and probe after a step of rPIE for a batch at once, and its misfit; ``damping`` is its alpha.

    Maiden, Johnson, Li, Optica 4, 736 (2017), eqs. 19 and 20, numerators and denominators summed over the batch.
    """
    frames = Frames(state, batch, optics)
    _, lines = _directions(frames, unknowns, damping, damping)
    return dict(misfit=frames.misfit()) | {name: frames.state[name] + line for name, line in lines.items()}


def _directions(frames: Frames, unknowns: tuple[str, ...], damping: float, mixed: float):
    """What object and probe are asked for, and that ``/ ((1 - mixed) light + damping max(light))``."""
    batch, asked, lines = frames.batch, {}, {}
    present = batch["present"][:, None, None]
    over = lambda asked, light, most: times_real(asked, 1 / ((1 - mixed) * light + damping * most + 1e-12))
    missing = frames.missing()
    if "object" in unknowns:
        asked["object"] = frames.paste(ops.sum(ops.conj(frames.probes) * missing, axis=1)) + batch["pull"]
        light = frames.paste(illumination(frames.probes) * present)
        lines["object"] = over(asked["object"], light + batch["pull_bend"], ops.max(light))
    if "probe" in unknowns:
        asked["probe"] = frames.fetched(missing * ops.conj(ops.expand_dims(frames.patches, 1)))
        light = ops.sum(intensity(frames.patches) * present, axis=0)
        lines["probe"] = over(asked["probe"], light, ops.max(light))
    return asked, lines


def inner(a, b):
    """Real inner product of two complex arrays."""
    return ops.sum(ops.real(a) * ops.real(b) + ops.imag(a) * ops.imag(b))


RIDGE = 1e-4
"""Added to the diagonal of a curvature in units of itself: lines that are nearly the same share a step."""


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
    state, batch, moments, rates = (tensors(given) for given in (state, batch, moments, rates))
    parts = {name: ops.stack([ops.real(state[name]), ops.imag(state[name])]) for name in unknowns}

    def total(parts):
        own = {name: make_complex(part[0], part[1]) for name, part in parts.items()}
        frames = Frames(dict(state) | own, batch, optics)
        counts = ops.cast(frames.batch["counts"], "float32")
        lost = ops.sum(frames.used * loss(counts, frames.expected)) / ops.sum(frames.used)
        return lost, dict(misfit=ops.stop_gradient(frames.misfit()))

    (_, found), slopes = value_and_gradient(total, parts)
    found, step = dict(found), moments["step"] + 1.0
    after = dict(step=step)
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
