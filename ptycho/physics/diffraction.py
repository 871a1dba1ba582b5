"""The forward model: what the detector is expected to count. Simulation, training and refinement all call this."""

from keras import ops

from ptycho.arrays import Array, Complex, Float
from ptycho.physics.fourier import far_field, intensity, inverse_far_field, times_real


def exit_waves(
    patches: Complex[Array, "*batch n n"], probe: Complex[Array, "*lead M n n"]
) -> Complex[Array, "*batch M n n"]:
    """Probe times object patch, for each mode (thin sample)."""
    return ops.multiply(probe, ops.expand_dims(patches, -3))


def mode_intensities_sum(waves: Complex[Array, "*batch M n n"]) -> Float[Array, "*batch n n"]:
    """Incoherent sum over probe modes (Thibault & Menzel, Nature 494, 68 (2013))."""
    return ops.sum(intensity(waves), axis=-3)


def expected_counts(
    patches: Complex[Array, "*batch n n"], probe: Complex[Array, "*lead M n n"]
) -> Float[Array, "*batch n n"]:
    """``sum_m |F(P_m O)|^2``: expected photons in each detector pixel, zero frequency at ``n // 2``."""
    return mode_intensities_sum(far_field(exit_waves(patches, probe)))


def illumination(probe: Complex[Array, "*batch M n n"]) -> Float[Array, "*batch n n"]:
    """``sum_m |P_m|^2``: photons that fall on each object pixel."""
    return mode_intensities_sum(probe)


def regularised_division(probe: Complex[Array, "*batch M n n"], epsilon: float) -> Complex[Array, "*batch M n n"]:
    """``conj(P_m) / (sum |P|^2 + epsilon max sum |P|^2)``: takes exit waves to the object where there is light."""
    light = illumination(probe)
    floor = epsilon * ops.max(light, axis=(-2, -1), keepdims=True)
    return times_real(ops.conj(probe), ops.expand_dims(1.0 / (light + floor), -3))


def lift(
    counts: Float[Array, "*batch n n"],
    probe: Complex[Array, "*lead M n n"],
    mask: Float[Array, "*seen n n"] | None = None,
    epsilon: float = 0.02,
) -> Complex[Array, "*batch n n"]:
    """Object patch that a pattern suggests when each mode has the far-field phase of an empty sample.

    ``o = sum_m conj(P_m) F^-1[sqrt(I) F P_m / sqrt(sum |F P|^2)] / (sum |P|^2 + epsilon max)``. An empty sample
    gives 1 wherever the probe is bright. Pixels where ``mask`` is 0 are taken as those of an empty sample.
    """
    empty = far_field(probe)
    level = mode_intensities_sum(empty)
    tiny = 1e-6 * ops.max(level, axis=(-2, -1), keepdims=True) + 1e-30
    scale = ops.sqrt(counts) / ops.sqrt(level + tiny)
    if mask is not None:
        scale = ops.add(ops.multiply(scale, mask), 1.0 - mask)
    back = inverse_far_field(times_real(empty, ops.expand_dims(scale, -3)))
    return ops.sum(regularised_division(probe, epsilon) * back, axis=-3)


def data_residual(
    patches: Complex[Array, "*batch n n"],
    counts: Float[Array, "*batch n n"],
    probe: Complex[Array, "*lead M n n"],
    mask: Float[Array, "*seen n n"] | None = None,
    epsilon: float = 0.02,
) -> Complex[Array, "*batch n n"]:
    """Change of the patch that would bring its far-field amplitude to the measured one (to first order).

    ``sum_m conj(P_m) F^-1[(sqrt(I / expected) - 1) F(P_m O)] / (sum |P|^2 + epsilon max)``: the step of rPIE
    (Maiden, Johnson, Li, Optica 4, 736 (2017)), without moving the patch. Pixels where ``mask`` is 0 ask for no
    change. At 1e-3 photons a pixel is dark and asks for little.
    """
    waves = far_field(exit_waves(patches, probe))
    excess = ops.sqrt(counts) / ops.sqrt(mode_intensities_sum(waves) + 1e-3) - 1.0
    if mask is not None:
        excess = ops.multiply(excess, mask)
    back = inverse_far_field(times_real(waves, ops.expand_dims(excess, -3)))
    return ops.sum(regularised_division(probe, epsilon) * back, axis=-3)
