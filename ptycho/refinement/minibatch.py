"""Steps of object and probe by one batch of frames after another: pure functions of arrays, compiled by the caller.

Each takes the priors' part of the object's gradient (``prior_gradient`` and ``prior_curvature (S, H, W)``, or of one
pixel where there is none) in its batch.
"""

from collections.abc import Callable
from typing import Any

from keras import ops

from ptycho.arrays import Array
from ptycho.backend import value_and_gradient
from ptycho.physics.detection import mode_sum
from ptycho.physics.forward import Arrays, Specification, tensors
from ptycho.physics.fourier import intensity, make_complex, times_real
from ptycho.physics.interaction import exit_wave_change
from ptycho.refinement.likelihood import Likelihood, Residuals
from ptycho.refinement.unknowns import BatchFit

Loss = Callable[[Any, Any], Any]
"""Of counts and expected counts ``(B, N, N)``, pixel by pixel."""

RIDGE = 1e-4
"""Added to the diagonal of a curvature in units of itself: directions that are nearly the same share a step."""


def lsqml_step(
    estimate: Arrays,
    batch: Arrays,
    *,
    specification: Specification,
    likelihood: Likelihood,
    names: tuple[str, ...],
    damping: float,
    sample: int = 4,
    sample_least: int = 8,
) -> dict[str, Any]:
    """Object and probe (``names``) after a step of least-squares maximum likelihood, and the misfit before it.

    The preconditioned gradient d of each, and the lengths a that bring the exit waves nearest to those that the counts
    ask for: ``min sum |chi - a_O dpsi_O - a_P dpsi_P|^2`` (Odstrcil, Menzel, Guizar-Sicairos, Opt. Express 26, 3108
    (2018), eqs. 19-24; there each frame has lengths of its own, and their mean is taken). One frame in ``sample`` tells
    the curvature, which only sets the lengths, but ``sample_least`` at least: one dim frame at the border would make a
    step of any length.
    """
    fit = BatchFit(estimate, batch, specification, likelihood)
    slopes, directions = _directions(fit, names, damping, 0.0)
    misfit = dict(misfit=fit.residuals.misfit())
    if not directions:
        return misfit
    # Normal equations G a = b: b_i = <chi, dpsi_i> = <g_i, d_i> (the adjoint), G_ij = <dpsi_i, dpsi_j> of the sampled
    # frames, scaled up to all.
    b = [inner(directions[name], slopes[name]) for name in directions]
    step = max(1, min(sample, fit.present.shape[0] // sample_least))
    waves, sampled = _exit_wave_changes(fit, directions, step)
    gram = [[inner(one, other) / sampled for other in waves] for one in waves]
    if "object" in directions:  # it comes first
        # + <d_O, R'' d_O>, with the diagonal of the prior's curvature R''
        gram[0][0] = gram[0][0] + ops.sum(fit.batch["prior_curvature"] * intensity(directions["object"]))
    changes = zip(directions.items(), _solved(gram, b), strict=True)
    return misfit | {name: fit.estimate[name] + times_real(direction, length) for (name, direction), length in changes}


def rpie_step(
    estimate: Arrays,
    batch: Arrays,
    *,
    specification: Specification,
    likelihood: Likelihood,
    names: tuple[str, ...],
    damping: float,
) -> dict[str, Any]:
    """Object and probe after a step of rPIE for a batch at once, and the misfit before it; ``damping`` is its alpha.

    ``O += sum conj(P) chi / ((1 - alpha) sum |P|^2 + alpha max)`` and likewise for the probe: Maiden, Johnson, Li,
    Optica 4, 736 (2017), eqs. 19 and 20, numerators and denominators summed over the batch.
    """
    fit = BatchFit(estimate, batch, specification, likelihood)
    _, directions = _directions(fit, names, damping, damping)
    changed = {name: fit.estimate[name] + direction for name, direction in directions.items()}
    return dict(misfit=fit.residuals.misfit()) | changed


def adam_step(
    estimate: Arrays,
    batch: Arrays,
    moments: Arrays,
    rates: Arrays,
    *,
    specification: Specification,
    likelihood: Likelihood,
    names: tuple[str, ...],
    loss: Loss,
    decays: tuple[float, float] = (0.9, 0.999),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Object and probe after a step of Adam (Kingma & Ba, ICLR 2015) down the gradient of any loss, and the moments.

    Args:
        estimate, batch, specification, likelihood, names: as in `lsqml_step`.
        moments: for each name ``(2, 2, ...)``: mean of the real and imaginary gradient, and of their squares; and
            ``step``, how many there have been.
        rates: step size of each, in its own unit.
        loss: of counts and expected counts; its mean over the used pixels goes down. The unknowns are real and
            imaginary halves, since backends disagree on gradients by complex numbers.
        decays: of the two moments.
    """
    estimate, batch, moments, rates = (tensors(arrays) for arrays in (estimate, batch, moments, rates))
    halves = {name: ops.stack([ops.real(estimate[name]), ops.imag(estimate[name])]) for name in names}

    def total(halves):
        changed = {name: make_complex(half[0], half[1]) for name, half in halves.items()}
        residuals: Residuals = BatchFit(dict(estimate) | changed, batch, specification, likelihood).residuals
        mean = ops.sum(residuals.used * loss(residuals.counts, residuals.expected)) / ops.sum(residuals.used)
        return mean, dict(misfit=ops.stop_gradient(residuals.misfit()))

    (_, values), slopes = value_and_gradient(total, halves)
    values, step = dict(values), moments["step"] + 1.0
    after = dict(step=step)
    for name, slope in slopes.items():
        if name == "object":
            pixels = ops.sum(batch["mask"]) * ops.sum(batch["present"])
            prior = batch["prior_gradient"]
            slope = slope - ops.stack([ops.real(prior), ops.imag(prior)]) / pixels  # on the scale of the misfit's mean
        # m = beta_1 m + (1 - beta_1) g, v = beta_2 v + (1 - beta_2) g^2. Both start at 0: 1 - beta^t makes up for it.
        mean = decays[0] * moments[name][0] + (1 - decays[0]) * slope
        square = decays[1] * moments[name][1] + (1 - decays[1]) * slope**2
        after[name] = ops.stack([mean, square])
        direction = mean / (1 - decays[0] ** step) / (ops.sqrt(square / (1 - decays[1] ** step)) + 1e-12)
        moved = halves[name] - rates[name] * direction
        values[name] = make_complex(moved[0], moved[1])
    return values, after


def inner(a: Array, b: Array) -> Array:
    """Real inner product of two complex arrays."""
    return ops.sum(ops.real(a) * ops.real(b) + ops.imag(a) * ops.imag(b))


def _directions(fit: BatchFit, names: tuple[str, ...], damping: float, mixed: float):
    """Gradients of object and probe, and ``g / ((1 - mixed) c + damping max(c))``, c the illumination."""
    model, batch, present = fit.model, fit.batch, fit.present[:, None, None]
    slopes, directions = {}, {}

    def over(slope, curvature, largest):
        return times_real(slope, 1 / ((1 - mixed) * curvature + damping * largest + 1e-12))

    if "object" in names:
        slopes["object"] = model.object_gradient(fit.chi) + batch["prior_gradient"]
        # c = sum_j sum_m |psi_s,m|^2 on each slice, without the frames that only fill up
        beams = [mode_sum(waves) * present for waves in model.diffraction.incident]
        illumination = model.accumulate(beams)
        largest = ops.max(illumination, axis=(1, 2), keepdims=True)
        directions["object"] = over(slopes["object"], illumination + batch["prior_curvature"], largest)
    if "probe" in names:
        slopes["probe"] = model.probe_gradient(fit.chi)
        patches = model.diffraction.slices
        # c = sum_j prod_s |O_s|^2: the projection of a thick sample
        through = intensity(patches[0])
        for layer in patches[1:]:
            through = through * intensity(layer)
        curvature = ops.sum(through * present, axis=0)
        directions["probe"] = over(slopes["probe"], curvature, ops.max(curvature))
    return slopes, directions


def _exit_wave_changes(fit: BatchFit, directions: dict[str, Any], step: int) -> tuple[list[Array], Array]:
    """Changes of every ``step``-th frame's exit waves along directions, and the part of the batch that these are."""
    model, few = fit.model, fit.present[::step, None, None, None]
    # Where all frames have the same probe, its waves come once.
    sampled = lambda waves: waves[::step] if waves.shape[0] > 1 else waves
    slices = [patches[::step] for patches in model.diffraction.slices]
    incident = [sampled(waves) for waves in model.diffraction.incident]
    along = dict(
        object=lambda direction: dict(slice_changes=model.extract(direction, step)),
        probe=lambda direction: dict(probe_change=model.place_probe(direction, step)),
    )
    changes = [
        times_real(exit_wave_change(slices, incident, model.diffraction.spacing, **along[name](direction)), few)
        for name, direction in directions.items()
    ]
    return changes, ops.sum(few) / ops.sum(fit.present)


def _solved(gram: list[list], b: list) -> list:
    """Solution of one equation, or of two."""
    if len(b) == 1:
        return [b[0] / (gram[0][0] + 1e-30)]
    # Cramer's rule. The ridge multiplies the diagonal, so that the determinant is positive for parallel directions too.
    ((aa, ab), (_, bb)), (u, v) = gram, b
    aa, bb = aa * (1 + RIDGE), bb * (1 + RIDGE)
    norm = 1 / (aa * bb - ab * ab + 1e-30)
    return [norm * (bb * u - ab * v), norm * (aa * v - ab * u)]
