"""What the sample does to the wave: a thin one multiplies it, a thick one is a stack of thin ones with vacuum between.

Multislice (Cowley & Moodie, Acta Cryst. 10, 609 (1957); for ptychography Maiden, Humphry, Rodenburg, JOSA A 29, 1606
(2012)): slice s turns the wave on it, ``psi_s``, into ``psi_s O_s``, and vacuum of the slice spacing carries that to
the next one,

    psi_0 = P,   psi_{s+1} = F^-1[T F(psi_s O_s)],   exit wave = psi_{S-1} O_{S-1}.

A thin sample is the case S = 1. The pair `exit_wave_change` (linearisation) and `exit_wave_adjoint` takes the waves
that `incident_waves` gives. ``slices`` is a sequence of S patches ``(*batch, n, n)``; ``spacing`` is the transfer
function ``T`` of the vacuum between two slices (`ptycho.physics.propagation.transfer_function`), None for S = 1.
"""

from collections.abc import Sequence

from keras import ops

from ptycho.arrays import Array, Complex
from ptycho.physics.propagation import near_field, near_field_adjoint

Slices = Sequence[Array]
"""S patches ``(*batch, n, n)`` complex, in the order in which the wave meets them."""


def transmitted(
    patches: Complex[Array, "*batch n n"], waves: Complex[Array, "*lead M n n"]
) -> Complex[Array, "*exit M n n"]:
    """``psi_m O``: each mode of the wave behind one thin slice."""
    return ops.multiply(waves, ops.expand_dims(patches, -3))


def incident_waves(slices: Slices, probe: Complex[Array, "*lead M n n"], spacing: Array | None = None) -> list[Array]:
    """The waves ``psi_s`` on each slice, the probe first."""
    waves = [probe]
    for patches in slices[:-1]:
        waves.append(near_field(transmitted(patches, waves[-1]), spacing))
    return waves


def exit_wave_change(
    slices: Slices,
    incident: Sequence[Array],
    spacing: Array | None = None,
    *,
    slice_changes: Slices | None = None,
    probe_change: Array | None = None,
) -> Complex[Array, "*batch M n n"]:
    """Change of the exit wave with the slices and the probe, to first order.

    ``d psi_{s+1} = F^-1[T F(d psi_s O_s + psi_s d O_s)]``, from ``d psi_0 = d P``. One change at least is given.
    """
    change = probe_change
    for number, (patches, waves) in enumerate(zip(slices, incident, strict=True)):
        # d psi_s O_s
        change = None if change is None else transmitted(patches, change)
        if slice_changes is not None:
            # psi_s d O_s
            scattered = transmitted(slice_changes[number], waves)
            change = scattered if change is None else change + scattered
        if number < len(slices) - 1:
            # d psi_{s+1} = F^-1[T F(.)]
            change = near_field(change, spacing)
    return change


def exit_wave_adjoint(
    slices: Slices, incident: Sequence[Array], chi: Complex[Array, "*batch M n n"], spacing: Array | None = None
) -> tuple[list[Array], Array]:
    """Adjoint of `exit_wave_change` at exit waves ``chi``: for each slice ``(*batch, n, n)``, and for the probe.

    ``d O_s = sum_m conj(psi_s) chi_s``, ``chi_{s-1} = F^-1[conj(T) F(conj(O_s) chi_s)]``, ``d P = conj(O_0) chi_0``.
    """
    gradients: list[Array] = []
    for number in reversed(range(len(slices))):
        # d O_s = sum_m conj(psi_s) chi_s, then chi_s is carried back through slice s and the vacuum before it.
        gradients.append(ops.sum(ops.multiply(ops.conj(incident[number]), chi), axis=-3))
        chi = transmitted(ops.conj(slices[number]), chi)
        if number > 0:
            chi = near_field_adjoint(chi, spacing)
    return gradients[::-1], chi
