"""How measured counts scatter around the expected ones: likelihoods, and the error that shot noise alone leaves."""

from collections.abc import Callable

from keras import ops

from ptycho.arrays import Array, Float


def poisson_nll(
    counts: Float[Array, "..."], expected: Float[Array, "..."], floor: float | Float[Array, "..."] = 1e-2
) -> Float[Array, "..."]:
    """Poisson negative log-likelihood per pixel, ``expected - counts log(expected + floor)``.

    The term ``log(counts!)`` does not depend on the model and is left out. ``floor`` (photons, a dark rate) keeps
    the value and the gradient finite where a model expects nothing but a photon came; it biases expected counts that
    are not far above it.
    """
    return ops.subtract(expected, ops.multiply(counts, ops.log(expected + floor)))


def amplitude_error(
    counts: Float[Array, "..."], expected: Float[Array, "..."], floor: float = 1e-2
) -> Float[Array, "..."]:
    """``|sqrt(counts + floor) - sqrt(expected + floor)|`` per pixel, in sqrt(photons).

    The square root makes the noise of counts uniform (variance 1/4, Anscombe 1948); ``floor`` keeps the gradient
    finite at zero amplitude.
    """
    difference = ops.sqrt(counts + floor) - ops.sqrt(expected + floor)
    # |difference|, with the gradient 0 for perfect data: backends disagree on that of `abs` at zero.
    return difference * ops.stop_gradient(ops.sign(difference))


def expected_root(expected: Float[Array, "..."]) -> Float[Array, "..."]:
    """``E[sqrt(k)]`` of a Poisson count k with this mean, to `ROOT_ERROR` of it: less than the root of the mean.

    ``m / sqrt(m + 1/4 + 3 / (4 + 2.8 m))`` has the right limits: m for few photons, ``sqrt(m) - 1 / (8 sqrt(m))`` for
    many.
    """
    return ops.divide(expected, ops.sqrt(expected + 0.25 + 0.75 / (1.0 + 0.7 * expected)))


def amplitude_residual(
    amplitudes: Float[Array, "*counted n n"],
    expected: Float[Array, "*modelled n n"],
    mask: Float[Array, "*frames n n"],
    mean_amplitude: Callable[[Array], Array] = expected_root,
    dark: float = 0.1,
) -> Float[Array, "*residual n n"]:
    """Change of the expected counts that brings amplitudes nearer: ``u = mask (sqrt(k) - E sqrt(k)) / 2 sqrt(e + d)``.

    Its adjoint through the diffraction, ``J^T u = F^H[w (sqrt(k) - E sqrt(k)) / sqrt(e + d)]``, is the exit-wave
    residual of ePIE and rPIE for many photons (Maiden, Johnson, Li, Optica 4, 736 (2017)). Since the mean of the
    amplitudes is taken, not the amplitude of the mean, the truth asks for no change on average for few photons too.
    ``mean_amplitude`` is `expected_root`, without bias, or `ops.sqrt` for the least squares of amplitudes.

    Args:
        amplitudes: square roots of the counts k.
        expected: e, of the same pixels.
        mask: 1 where a pixel is used, else 0.
        mean_amplitude: ``E sqrt(k)`` as a function of e.
        dark: d, photons below which a pixel says little about its wave.
    """
    excess = ops.multiply(mask, ops.subtract(amplitudes, mean_amplitude(expected)))
    return 0.5 * excess / ops.sqrt(expected + dark)


def root_scatter(expected: Float[Array, "..."]) -> Float[Array, "..."]:
    """``E[(sqrt(k) - sqrt(m))^2]`` of a Poisson count k with mean m: what shot noise alone leaves of a misfit.

    2 m for few photons, 1/4 for many; between them a ratio of polynomials, fitted to the sum over the distribution from
    1e-3 to 1e3 photons, right to `SCATTER_ERROR` of it. (`expected_root` is not accurate enough: this is
    its distance from the root, a hundredth of it.)
    """
    m = ops.minimum(expected, 1e4)  # where it is 1/4 to 1e-5, and powers are far from overflow
    # The ratio tends to 1 for m -> 0, and to 11.121 / (8 * 11.121 m) for many photons, so that the result is 1/4.
    above = 1.0 + m * (89.125 + 11.121 * m * m)
    below = 1.0 + m * (107.972 + m * (247.984 + 8 * 11.121 * m * m))
    return 2.0 * m * above / below


SCATTER_ERROR = 0.016
"""Part by which `root_scatter` is off at most."""

ROOT_ERROR = 0.017
"""Part by which `expected_root` is off at most (near 2.5 photons)."""
