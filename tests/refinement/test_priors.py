"""What the priors ask for is the slope of the formula in their docstring; their curvature, its second difference."""

import numpy as np
import pytest

from ptycho.refinement.priors import TINY, Priors
from tests.helpers import complex_normal, slope

SHAPE = (13, 10)
KINDS = ("tv", "l2", "h1", "red", "flat")
KIND = pytest.mark.parametrize("kind", KINDS)


def gradient_size(image):
    """``|grad image|`` by forward differences, none across the border; below TINY a parabola."""
    y, x = np.zeros_like(image), np.zeros_like(image)
    y[:-1], x[:, :-1] = image[1:] - image[:-1], image[:, 1:] - image[:, :-1]
    return np.sqrt(np.abs(y) ** 2 + np.abs(x) ** 2 + TINY**2)


def value(priors, image):
    off = np.zeros_like(image) if priors.image is None else image - priors.image
    total = priors.tv * gradient_size(image).sum() + priors.l2 / 2 * (np.abs(off) ** 2).sum()
    if priors.denoised is not None:
        total += priors.red / 2 * (np.abs(image - priors.denoised) ** 2).sum()
    if priors.level is not None:
        total += priors.flat / 2 * (np.abs(image - priors.level) ** 2).sum()
    total += priors.h1 / 2 * (gradient_size(off) ** 2 - TINY**2).sum()
    return priors.illumination * total


def problem(kind):
    rng = np.random.default_rng(2)
    image = complex_normal(rng, *SHAPE).astype("complex128")
    directions = [complex_normal(rng, *SHAPE).astype("complex128") for _ in range(2)]
    near, free = complex_normal(rng, *SHAPE), complex_normal(rng, *SHAPE)
    level = np.full((1, 1), 0.8 - 0.3j, "complex64")
    return Priors(7.0, image=near, denoised=free, level=level)._replace(**{kind: 0.3}), image, directions


@KIND
def test_the_gradient_is_the_slope(kind):
    priors, image, (line, _) = problem(kind)
    gradient, _ = priors.gradient(image)
    along = slope(lambda h: value(priors, image + h * line), np.array(0.0), np.array(1.0))
    assert -np.vdot(line, gradient).real == pytest.approx(along, rel=1e-6)


@KIND
def test_curvature_is_the_second_difference(kind):
    """That of total variation is lagged: of the squares over twice the present gradient, which touch it from above."""
    priors, image, directions = problem(kind)
    found = priors.curvature(image, directions)
    now = gradient_size(image)

    def along(h, g):
        there = image + h * directions[0] + g * directions[1]
        if kind == "tv":
            return priors.illumination * priors.tv * (gradient_size(there) ** 2 / (2 * now)).sum()
        return value(priors, there)

    step = 1e-3
    for i, (a, b) in enumerate([(step, 0), (0, step)]):
        second = (along(a, b) - 2 * along(0, 0) + along(-a, -b)) / step**2
        assert found[i, i] == pytest.approx(second, rel=1e-5)
    mixed = (along(step, step) - along(step, -step) - along(-step, step) + along(-step, -step)) / (4 * step**2)
    assert found[0, 1] == found[1, 0] == pytest.approx(mixed, rel=1e-5)


@KIND
def test_a_pixel_curves_no_more_than_the_diagonal_says(kind):
    """The diagonal is the curvature by each pixel (of total variation about): a gradient step over it falls."""
    priors, image, _ = problem(kind)
    gradient, curvature_diagonal = priors.gradient(image)
    assert curvature_diagonal.shape == SHAPE
    assert (curvature_diagonal >= 0).all()
    assert value(priors, image + 0.5 * gradient / curvature_diagonal) < value(priors, image)


def test_without_weights_there_is_no_gradient():
    image = complex_normal(np.random.default_rng(0), *SHAPE)
    gradient, curvature_diagonal = Priors(5.0, image=np.ones(SHAPE, "complex64")).gradient(image)
    assert not gradient.any()
    assert not curvature_diagonal.any()
    assert not Priors(5.0).curvature(image, [image, image]).any()


@KIND
def test_the_value_is_that_of_the_formula(kind):
    priors, image, _ = problem(kind)
    assert priors.active
    assert priors.value(image) == pytest.approx(value(priors, image), rel=1e-6)


@KIND
def test_slices_are_treated_each_alone(kind):
    priors, image, _ = problem(kind)
    stack = np.stack([image, 2 * image[::-1]])
    both = priors._replace(image=np.stack([priors.image, priors.image[::-1]]))
    gradient, diagonal = both.gradient(stack)
    for number, flipped in enumerate((priors.image, priors.image[::-1])):
        own, own_diagonal = priors._replace(image=flipped).gradient(stack[number])
        np.testing.assert_allclose(gradient[number], own)
        np.testing.assert_allclose(diagonal[number], own_diagonal, rtol=1e-6)
