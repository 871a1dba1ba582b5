"""The forward model: what the detector is expected to count. Simulation, training and refinement all call this."""

from collections.abc import Callable

from keras import ops

from ptycho.arrays import Array, Complex, Float
from ptycho.physics.fourier import dft, fftshift, intensity, inverse_dft, times_real
from ptycho.physics.noise import expected_root
from ptycho.physics.propagation import near_field


def exit_waves(
    patches: Complex[Array, "*batch n n"], probe: Complex[Array, "*lead M n n"]
) -> Complex[Array, "*batch M n n"]:
    """Probe times object patch, for each mode (thin sample)."""
    return ops.multiply(probe, ops.expand_dims(patches, -3))


def mode_intensities_sum(waves: Complex[Array, "*batch M n n"]) -> Float[Array, "*batch n n"]:
    """Incoherent sum over probe modes (Thibault & Menzel, Nature 494, 68 (2013))."""
    return ops.sum(intensity(waves), axis=-3)


def expected_counts(
    patches: Complex[Array, "*batch n n"],
    probe: Complex[Array, "*lead M n n"],
    transfer: Complex[Array, "*seen n n"] | None = None,
) -> Float[Array, "*batch n n"]:
    """Expected photons in each detector pixel: ``sum_m |F(P_m O)|^2``, zero frequency at ``n // 2``.

    With a transfer function (`ptycho.physics.propagation`) those of the near field, ``sum_m |near_field(P_m O)|^2``,
    each detector pixel straight behind that of the patch. Where a position has a fraction by which the probe was moved,
    it is `moved_back`.
    """
    waves = exit_waves(patches, probe)
    if transfer is not None:
        return mode_intensities_sum(near_field(waves, transfer))
    return fftshift(mode_intensities_sum(dft(waves)))


def illumination(probe: Complex[Array, "*batch M n n"]) -> Float[Array, "*batch n n"]:
    """``sum_m |P_m|^2``: photons that fall on each object pixel."""
    return mode_intensities_sum(probe)


def descent(
    patches: Complex[Array, "*batch n n"],
    roots: Float[Array, "*batch n n"],
    probe: Complex[Array, "*lead M n n"],
    mask: Float[Array, "*seen n n"],
) -> Complex[Array, "*batch n n"]:
    """Which way the object has to change for its patterns to come nearer to the counts, times the light on it.

    ``sum_m conj(P_m) F^-1[(sqrt(I) - E sqrt(k)) / sqrt(expected + d) F(P_m O)]``, k a Poisson count of the expected
    mean and d = `DARK`. For many photons this is the step of ePIE and rPIE (Maiden, Johnson, Li, Optica 4, 736
    (2017)); since the mean of the roots is taken, not the root of the mean, the true object asks for no change on
    average for few photons too. Over the light of all frames, ``sum |P|^2``, it is a change of the object.

    ``roots``, the square roots of the counts, and ``mask`` (1 where a pixel is used) have the zero frequency at pixel
    (0, 0), as `dft` gives it: inside a network nothing needs to be centred.
    """
    missing = _missing_waves(exit_waves(patches, probe), roots, mask, expected_root)
    return ops.sum(ops.multiply(ops.conj(probe), missing), axis=-3)


def first_descent(
    roots: Float[Array, "*batch n n"], probe: Complex[Array, "*lead M n n"], mask: Float[Array, "*seen n n"]
) -> Complex[Array, "*batch n n"]:
    """The `descent` of an empty object, 1 everywhere: the exit waves are the probe's own, often one for all frames."""
    missing = _missing_waves(probe, roots, mask, expected_root)
    return ops.sum(ops.multiply(ops.conj(probe), missing), axis=-3)


def probe_descent(
    patches: Complex[Array, "*batch n n"],
    roots: Float[Array, "*batch n n"],
    probe: Complex[Array, "*lead M n n"],
    mask: Float[Array, "*seen n n"],
    mean_root: Callable[[Array], Array] = expected_root,
) -> Complex[Array, "*batch M n n"]:
    """Which way the probe has to change for each pattern to come nearer to the counts, times the object's intensity.

    As `descent`, with the roles of probe and object exchanged: ``conj(O) F^-1[...]``, for each mode. Over the
    intensity of the objects of all frames, ``sum |O|^2``, its sum is a change of the probe.

    ``mean_root`` gives the root that is expected of a count: `expected_root` without bias, `ops.sqrt` for the least
    squares of amplitudes.
    """
    missing = _missing_waves(exit_waves(patches, probe), roots, mask, mean_root)
    return ops.multiply(ops.conj(ops.expand_dims(patches, -3)), missing)


def _missing_waves(exits, roots, mask, mean_root):
    """What exit waves ``(*batch, M, n, n)`` lack to give the counts."""
    waves = dft(exits)
    expected = mode_intensities_sum(waves)
    excess = ops.multiply(mask, ops.subtract(roots, mean_root(expected))) / ops.sqrt(expected + DARK)
    return inverse_dft(times_real(waves, ops.expand_dims(excess, -3)))


DARK = 0.1
"""Photons below which a pixel says little about its wave."""
