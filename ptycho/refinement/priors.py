"""What is asked of the object beside the counts: to be smooth, to stay near an image. In units of the light on it."""

from typing import NamedTuple

import numpy as np

TINY = 1e-3
"""Difference of neighbouring pixels below which total variation is a parabola: transmission has no units."""


class Penalties(NamedTuple):
    """``light (tv sum |grad O| + anchor / 2 sum |O - image|^2 + drift / 2 sum |grad (O - image)|^2)``.

    ``light`` is the photons on a pixel. ``drift`` holds details near the image and lets slow changes pass.
    """

    light: float
    tv: float = 0.0
    anchor: float = 0.0
    drift: float = 0.0
    image: np.ndarray | None = None
    """``(H, W)`` complex: what to stay near to."""

    def descent(self, object: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What they ask of an object ``(H, W)``, and their own curvature of each pixel."""
        asked, bend = np.zeros_like(object), np.zeros(object.shape, "float32")
        if self.tv:
            for axis, (rise, weight) in enumerate(zip(_rises(object), _stiffness(object), strict=True)):
                pull = self.light * self.tv * weight * rise
                asked += pull - np.roll(pull, 1, axis)
                bend += 2 * self.light * self.tv * weight  # of both neighbours, about
        if self.anchor and self.image is not None:
            asked += self.light * self.anchor * (self.image - object)
            bend += self.light * self.anchor
        if self.drift and self.image is not None:
            for axis, rise in enumerate(_rises(self.image - object)):
                asked -= self.light * self.drift * (rise - np.roll(rise, 1, axis))
            bend += 4 * self.light * self.drift
        return asked, bend

    def curvature(self, object: np.ndarray, lines: list[np.ndarray]) -> np.ndarray:
        """``(K, K)`` along K lines ``(H, W)`` through the object (total variation as of its present gradient)."""
        gram = np.zeros((len(lines), len(lines)))
        inner = lambda a, b, weight: float(np.sum(weight * (a.real * b.real + a.imag * b.imag)))
        stiff = _stiffness(object) if self.tv else ()
        rises = [_rises(line) for line in lines] if self.tv or self.drift else []
        for i in range(len(lines)):
            for j in range(len(lines)):
                if self.tv:
                    parts = (inner(rises[i][axis], rises[j][axis], stiff[axis]) for axis in (0, 1))
                    gram[i, j] += self.light * self.tv * sum(parts)
                if self.drift and self.image is not None:
                    parts = (inner(rises[i][axis], rises[j][axis], 1.0) for axis in (0, 1))
                    gram[i, j] += self.light * self.drift * sum(parts)
                if self.anchor and self.image is not None:
                    gram[i, j] += self.light * self.anchor * inner(lines[i], lines[j], 1.0)
        return gram


def _rises(image: np.ndarray) -> list[np.ndarray]:
    """Differences to the next pixel along y, x; 0 at the last."""
    rises = [np.roll(image, -1, axis) - image for axis in (0, 1)]
    rises[0][-1], rises[1][:, -1] = 0, 0
    return rises


def _stiffness(image: np.ndarray) -> list[np.ndarray]:
    """One over the size of the gradient, for each axis (lagged diffusivity: Vogel & Oman, SIAM J. Sci. Comput. 17, 227
    (1996))."""
    rises = _rises(image)
    size = np.sqrt(sum(np.abs(rise) ** 2 for rise in rises) + TINY**2)
    return [1 / size, 1 / size]
