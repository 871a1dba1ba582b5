"""What the penalties ask for is the slope of the formula in their docstring; their curvature, its second difference."""

import numpy as np
import pytest

from ptycho.refinement.priors import TINY, Penalties
from tests.helpers import complex_normal, slope

SHAPE = (13, 10)
KINDS = [kind for kind in ("tv", "anchor", "drift") if kind in Penalties._fields]
KIND = pytest.mark.parametrize("kind", KINDS)


def gradient_size(image):
    """``|grad image|`` by forward differences, none across the border; below TINY a parabola."""
    y, x = np.zeros_like(image), np.zeros_like(image)
    y[:-1], x[:, :-1] = image[1:] - image[:-1], image[:, 1:] - image[:, :-1]
    return np.sqrt(np.abs(y) ** 2 + np.abs(x) ** 2 + TINY**2)


def value(penalties, image):
    off = np.zeros_like(image) if penalties.image is None else image - penalties.image
    total = penalties.tv * gradient_size(image).sum() + penalties.anchor / 2 * (np.abs(off) ** 2).sum()
    if "drift" in KINDS:
        total += penalties.drift / 2 * (gradient_size(off) ** 2 - TINY**2).sum()
    return penalties.light * total


def problem(kind):
    rng = np.random.default_rng(2)
    image = complex_normal(rng, *SHAPE).astype("complex128")
    lines = [complex_normal(rng, *SHAPE).astype("complex128") for _ in range(2)]
    return Penalties(7.0, image=complex_normal(rng, *SHAPE))._replace(**{kind: 0.3}), image, lines


@KIND
def test_descent_is_the_slope(kind):
    penalties, image, (line, _) = problem(kind)
    asked, _ = penalties.descent(image)
    along = slope(lambda h: value(penalties, image + h * line), np.array(0.0), np.array(1.0))
    assert -np.vdot(line, asked).real == pytest.approx(along, rel=1e-6)


@KIND
def test_curvature_is_the_second_difference(kind):
    """That of total variation is lagged: of the squares over twice the present gradient, which touch it from above."""
    penalties, image, lines = problem(kind)
    found = penalties.curvature(image, lines)
    now = gradient_size(image)

    def along(h, g):
        there = image + h * lines[0] + g * lines[1]
        if kind == "tv":
            return penalties.light * penalties.tv * (gradient_size(there) ** 2 / (2 * now)).sum()
        return value(penalties, there)

    step = 1e-3
    for i, (a, b) in enumerate([(step, 0), (0, step)]):
        second = (along(a, b) - 2 * along(0, 0) + along(-a, -b)) / step**2
        assert found[i, i] == pytest.approx(second, rel=1e-5)
    mixed = (along(step, step) - along(step, -step) - along(-step, step) + along(-step, -step)) / (4 * step**2)
    assert found[0, 1] == found[1, 0] == pytest.approx(mixed, rel=1e-5)


@KIND
def test_a_pixel_bends_no_more_than_said(kind):
    """``bend`` is the curvature by each pixel (of total variation about): a step of the descent over it falls."""
    penalties, image, _ = problem(kind)
    asked, bend = penalties.descent(image)
    assert bend.shape == SHAPE
    assert (bend >= 0).all()
    assert value(penalties, image + 0.5 * asked / bend) < value(penalties, image)


def test_nothing_is_asked_without_weights():
    image = complex_normal(np.random.default_rng(0), *SHAPE)
    asked, bend = Penalties(5.0, image=np.ones(SHAPE, "complex64")).descent(image)
    assert not asked.any()
    assert not bend.any()
    assert not Penalties(5.0).curvature(image, [image, image]).any()
