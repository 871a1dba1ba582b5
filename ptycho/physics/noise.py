"""How measured counts scatter around the expected ones: likelihoods, and the error that shot noise alone leaves."""

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


def root_scatter(expected: Float[Array, "..."]) -> Float[Array, "..."]:
    """``E[(sqrt(k) - sqrt(m))^2]`` of a Poisson count k with mean m: what shot noise alone leaves of a misfit.

    2 m for few photons, 1/4 for many; between them a ratio of polynomials, fitted to the sum over the distribution from
    1e-3 to 1e3 photons, right to `SCATTER_ERROR` of it. (`expected_root` is not: what is asked for is its distance from
    the root, a hundredth of it.)
    """
    m = ops.minimum(expected, 1e4)  # where it is 1/4 to 1e-5, and powers are far from overflow
    above = 1.0 + m * (89.125 + 11.121 * m * m)
    below = 1.0 + m * (107.972 + m * (247.984 + 8 * 11.121 * m * m))
    return 2.0 * m * above / below


SCATTER_ERROR = 0.016
"""Part by which `root_scatter` is off at most."""

ROOT_ERROR = 0.017
"""Part by which `expected_root` is off at most (near 2.5 photons)."""
