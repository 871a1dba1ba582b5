"""Prior knowledge of the object: it is smooth, or near an image. In units of the illumination on it.

    R(O) = n (tv sum |grad O| + l2 / 2 sum |O - I|^2 + h1 / 2 sum |grad(O - I)|^2 + red / 2 sum |O - D|^2
              + flat / 2 sum |O - <O>|^2)

n is the photons on a pixel; |grad O| is ``sqrt(|d_y O|^2 + |d_x O|^2 + TINY^2)``, isotropic, of forward differences.
The L2 prior holds the object near the image I; the H1 prior holds details and lets slow changes pass. D is what a
network makes of the object as it is, without its noise: regularisation by denoising (Romano, Elad & Milanfar, SIAM J.
Imaging Sci. 10, 1804 (2017)), where D is renewed as the object changes. So is the mean <O>, weighted by the light: the
last prior takes out the slow phase that few photons leave open, which costs total variation next to nothing. Each slice
of a thick sample is treated alone.
"""

from typing import NamedTuple

import numpy as np

TINY = 1e-3
"""Difference of neighbouring pixels below which total variation is a parabola: transmission has no units."""

NOISE = 0.5
"""Noise left in an object that follows the counts and its prior, over that which the prior leaves: measured, see
docs/decisions/016-a-denoiser-as-prior.md."""

RAMP_NOISE = 1.0
"""The same while the prior comes in: coarse first, then fine."""


class Priors(NamedTuple):
    """Weights of the formula above; objects are ``(S, H, W)`` or ``(H, W)``."""

    illumination: float
    """n: photons on a pixel."""
    tv: float = 0.0
    l2: float = 0.0
    h1: float = 0.0
    image: np.ndarray | None = None
    """I: complex, of the object's shape."""
    red: float = 0.0
    denoised: np.ndarray | None = None
    """D: of the same shape."""
    flat: float = 0.0
    level: np.ndarray | None = None
    """<O>: ``(S, 1, 1)``."""
    noise: float = NOISE
    """That the network is told of, in units of what the prior leaves."""

    @property
    def active(self) -> bool:
        """Whether there is any."""
        return bool(self.tv or (self.h1 and self.image is not None) or self.pulls)

    @property
    def pulls(self) -> list[tuple[float, np.ndarray]]:
        """Images that the object is held near to, pixel by pixel, with their weights."""
        all_of_them = ((self.l2, self.image), (self.red, self.denoised), (self.flat, self.level))
        return [(weight, image) for weight, image in all_of_them if weight and image is not None]

    @property
    def sigma(self) -> float:
        """Noise that the network is told of, of real and imaginary part each."""
        # The objective is a quarter of -log(likelihood). exp(-4 R) is a normal distribution of O about D with the
        # variance 1 / (4 n red) of each part; an object that also follows the counts has less noise than that.
        return self.noise / float(np.sqrt(4 * self.illumination * self.red))

    def coming_in(self, red: float, fraction: float) -> "Priors":
        """With so much of a weight of the network's image."""
        return self._replace(red=fraction * red, noise=NOISE if fraction == 1 else RAMP_NOISE)

    def value(self, object: np.ndarray) -> float:
        """R(O)."""
        total = 0.0
        if self.tv:
            # sum |grad O|
            total += self.tv * float((1 / _inverse_gradient(object)).sum(dtype=float))
        if self.h1 and self.image is not None:
            rises = _differences(object - self.image)
            total += self.h1 / 2 * sum(float((np.abs(rise) ** 2).sum(dtype=float)) for rise in rises)
        for weight, image in self.pulls:
            total += weight / 2 * float((np.abs(object - image) ** 2).sum(dtype=float))
        return self.illumination * total

    def gradient(self, object: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``-dR/dO``, and about the diagonal of the curvature, a float32 for each pixel."""
        gradient, curvature = np.zeros_like(object), np.zeros(object.shape, "float32")
        if self.tv:  # lagged diffusivity: d |grad O| = grad O . d grad O / |grad O|
            stiffness = self.illumination * self.tv * _inverse_gradient(object)
            for axis, rise in zip((-2, -1), _differences(object), strict=True):
                flux = stiffness * rise
                # Divergence of the flux. It wraps around, but the flux across the border is 0.
                gradient += flux - np.roll(flux, 1, axis)
                curvature += 2 * stiffness  # of both neighbours, about
        for weight, image in self.pulls:
            gradient += self.illumination * weight * (image - object)
            curvature += self.illumination * weight
        if self.h1 and self.image is not None:
            for axis, rise in zip((-2, -1), _differences(self.image - object), strict=True):
                gradient -= self.illumination * self.h1 * (rise - np.roll(rise, 1, axis))
            # h1 div grad(O - I); minus the discrete Laplacian has the diagonal 2 for each axis.
            curvature += 4 * self.illumination * self.h1
        return gradient, curvature

    def curvature(self, object: np.ndarray, directions: list[np.ndarray]) -> np.ndarray:
        """``(K, K)`` along K directions of the object (total variation with the gradient that it has now)."""
        gram = np.zeros((len(directions),) * 2)
        inner = lambda a, b, weight: float(np.sum(weight * (a.real * b.real + a.imag * b.imag)))
        # <d_i, R'' d_j> = n (sum (tv / |grad O| + h1) grad d_i . grad d_j + (l2 + red + flat) sum d_i d_j)
        stiffness = self.tv * _inverse_gradient(object) if self.tv else 0.0
        stiffness = stiffness + (self.h1 if self.image is not None else 0.0)
        differences = [_differences(direction) for direction in directions] if np.any(stiffness) else []
        for i in range(len(directions)):
            for j in range(len(directions)):
                if differences:
                    gram[i, j] += sum(
                        inner(a, b, stiffness) for a, b in zip(differences[i], differences[j], strict=True)
                    )
                for weight, _ in self.pulls:
                    gram[i, j] += weight * inner(directions[i], directions[j], 1.0)
        return self.illumination * gram


def _differences(image: np.ndarray) -> list[np.ndarray]:
    """Differences to the next pixel along y, x; 0 at the last."""
    rises = [np.roll(image, -1, axis) - image for axis in (-2, -1)]
    rises[0][..., -1, :], rises[1][..., -1] = 0, 0
    return rises


def _inverse_gradient(image: np.ndarray) -> np.ndarray:
    """``1 / |grad O|`` (lagged diffusivity: Vogel & Oman, SIAM J. Sci. Comput. 17, 227 (1996))."""
    return 1 / np.sqrt(sum(np.abs(rise) ** 2 for rise in _differences(image)) + TINY**2)
