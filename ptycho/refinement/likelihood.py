"""How far expected counts are from the measured ones: the objective of a fit, and its gradient.

Least squares of amplitudes, or the Poisson likelihood on the same scale, so that both share curvature and units:

    L = sum (sqrt(k) - sqrt(e))^2 / 2,    or    L = sum (e - k + k log(k / e)) / 4

over the used pixels, k counted and e expected. Gauss-Newton takes the curvature of either from the change of the
amplitudes, ``d sqrt(e) = de / (2 sqrt(e))``.
"""

from typing import NamedTuple

from keras import ops

from ptycho.arrays import Array, Float
from ptycho.physics.noise import root_scatter

FAINT = 1e-6
"""Photons added to an expected count at the least before something is divided by its root."""

LEAST_RATIO = 2.0**-23
"""Of counts to expected ones, which a deviance tells from 0: the spacing of float32 at 1."""


class Likelihood(NamedTuple):
    """The objective. Functions are compiled for each value of it."""

    poisson: bool
    """Poisson likelihood of the counts instead of the least squares of amplitudes."""
    dark: float = FAINT
    """Photons added to an expected count: where a model expects nothing, one photon must not outweigh all others."""


AMPLITUDES = Likelihood(poisson=False)
"""For steps from vacuum: where it lets no light fall, one photon asks a step of the Poisson likelihood for ``k / e``
times the amplitude, and the first steps of dim frames overshoot to where the fit never returns from."""


class Residuals:
    """The measured counts of a batch beside the expected ones.

    Args:
        counts: measured ``(B, N, N)``, of any dtype.
        expected: of the forward model, ``(B, N, N)``.
        used: ``(B, N, N)``, 1 where a pixel of a frame counts, else 0.
        likelihood: what is minimised.
    """

    def __init__(self, counts: Array, expected: Array, used: Array, likelihood: Likelihood):
        self.counts, self.expected, self.used = ops.cast(counts, "float32"), expected, used
        self.likelihood = likelihood
        self.amplitudes = ops.sqrt(expected + likelihood.dark)
        measured = ops.sqrt(self.counts)
        difference = measured - self.amplitudes
        if likelihood.poisson:  # (k - e) / (2 sqrt(e))
            difference = difference * (measured + self.amplitudes) / (2 * self.amplitudes)
        self.difference = used * difference
        """``-dL / d sqrt(e)``: the amplitudes that are lacking."""
        self._measured = measured

    def gradient(self) -> Float[Array, "B N N"]:
        """``-dL/de``: what goes to the adjoint of the forward model."""
        return self.difference / (2 * self.amplitudes)

    def amplitude_change(self, change: Float[Array, "*changes N N"]) -> Float[Array, "*frames N N"]:
        """Change of the amplitudes of the used pixels with one of the expected counts, ``de / (2 sqrt(e))``.

        ``change`` broadcasts to ``(..., B, N, N)``.
        """
        return self.used * change / (2 * self.amplitudes)

    def misfit(self) -> Float[Array, ""]:
        """``sum (sqrt(k) - sqrt(e))^2``."""
        return ops.sum(self.used * (self._measured - ops.sqrt(self.expected)) ** 2)

    def deviance(self) -> Float[Array, ""]:
        """A quarter of the Poisson deviance, ``sum (e - k + k log(k / e)) / 2``: on the scale of the misfit."""
        expected = self.expected + self.likelihood.dark
        excess = self.counts - expected
        # k log(k / e) - (k - e), with k / e = 1 + (k - e) / e
        # By `log1p`: of a million counts, rounding would leave more than their noise. A simulated count of 1e-9, no
        # photon at all, must not round to log(0).
        ratio = ops.maximum(excess / expected, LEAST_RATIO - 1)
        logarithms = self.counts * ops.log1p(ops.where(self.counts > 0, ratio, 0.0))
        return 0.5 * ops.sum(self.used * (logarithms - excess))

    def shot_noise(self) -> Float[Array, ""]:
        """What shot noise alone would leave of the misfit, were the expected counts the true ones."""
        return ops.sum(self.used * root_scatter(self.expected))

    def objective(self) -> Float[Array, ""]:
        """``2 L``: the misfit, or the deviance."""
        return self.deviance() if self.likelihood.poisson else self.misfit()
