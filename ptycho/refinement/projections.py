"""A way out of wrong minima: exit waves of all frames that are reflected between the counts and one object.

A fit down the gradient ends in the nearest minimum of the likelihood. Under a probe of flat phase, and where frames
hardly overlap, that is another image: the phases that the detector lost are free within a frame. Reflections pass
through such minima, as what they change is the exit wave of each frame by itself, which need not be that of any object
before the end (docs/decisions/018-reflected-projections.md).
"""

from functools import partial

import numpy as np
from keras import ops

from ptycho.arrays import Array, Complex
from ptycho.backend import compiled
from ptycho.physics.forward import Diffraction, frame_probes
from ptycho.physics.fourier import times_real
from ptycho.physics.patches import accumulate_at, extract_at, patch_index
from ptycho.refinement.solver import Solver


def can_project(solver: Solver, most_pixels: int = 2**23) -> bool:
    """Whether the exit waves of all frames of a thin sample are few enough: 2^23 pixels are six arrays of 64 MB, and
    200 steps take a minute on two cores."""
    known = not {"opr", "blur"} & set(solver.state)
    return known and solver.slices == 1 and len(solver.frames) * solver.state["probe"].size <= most_pixels


def project(solver: Solver, iterations: int = 200, beta: float = 0.75, ridge: float = 1e-3) -> None:
    """Bring the object from vacuum to where relaxed averaged alternating reflections leave it.

    RAAR (Luke, Inverse Problems 21, 37 (2005)) of the exit waves psi of all frames, with the projections ``F`` onto the
    measured amplitudes and ``O`` onto the exit waves of one object, ``R = 2 F psi - psi``:

        psi <- beta (O R + psi) + (1 - 2 beta) F psi.

    Args:
        solver: probe and positions are as they are; only its own frames take part.
        iterations: 100 were 1 dB worse than 200 where frames overlap by a fifth, 400 no better.
        beta: near 1 they wander further.
        ridge: of the largest illumination, which holds the object at vacuum where no light falls.
    """
    frames, n, shape = solver.frames, solver.scan.N, solver.grid.shape
    origin, subpixel = solver.grid.frames(solver.state["positions"][frames])
    index = patch_index(ops.convert_to_tensor((origin + n // 2)[None]), (n, n), shape)
    mask = solver.scan.mask.astype("float32")
    measured = np.sqrt(np.maximum(np.asarray(solver.scan.counts[frames], "float32"), 0)) * mask
    transfer = None if solver.scan.transfer is None else ops.convert_to_tensor(solver.scan.transfer)
    moved = ops.convert_to_tensor(subpixel.astype("float32")) if subpixel.any() else None
    probes, transfer = frame_probes(ops.convert_to_tensor(solver.state["probe"]), moved, transfer)
    probes = ops.broadcast_to(probes, (len(frames), *probes.shape[-3:]))
    illumination = accumulate_at(ops.sum(ops.square(ops.abs(probes)), axis=1)[None], index, shape)
    held = ridge * ops.max(illumination)
    arrays = dict(probes=probes, measured=ops.convert_to_tensor(measured), used=ops.convert_to_tensor(mask))
    arrays |= dict(index=index, illumination=illumination, held=held)
    arrays |= {} if transfer is None else dict(transfer=transfer)
    arrays |= {name: ops.convert_to_tensor(solver.state[name]) for name in ("background",) if name in solver.state}
    step = compiled(partial(_reflected, shape=shape, beta=beta), fused=False)
    psi = probes  # of vacuum
    for _ in range(iterations):
        psi = step(psi, arrays)
    image = _object_of(_measured(psi, arrays), arrays, shape)
    solver.state["object"] = solver.bounded("object", ops.convert_to_numpy(image))
    solver.forget_last_step()


def _reflected(
    psi: Complex[Array, "P M N N"], arrays: dict[str, Array], *, shape: tuple[int, int], beta: float
) -> Complex[Array, "P M N N"]:
    measured = _measured(psi, arrays)
    of_object = _of_object(_object_of(2 * measured - psi, arrays, shape), arrays)
    return beta * (of_object + psi) + (1 - 2 * beta) * measured


def _measured(psi: Complex[Array, "P M N N"], arrays: dict[str, Array]) -> Complex[Array, "P M N N"]:
    """``F psi``: exit waves with the measured amplitudes on the detector, and their own phases."""
    model = Diffraction((), psi, arrays.get("transfer"), background=arrays.get("background"))
    # J^T u = 2 F^H[w u] with u = 1 - sqrt(n / e): half of it taken away leaves F^H[w sqrt(n / e)].
    misfit = (1 - arrays["measured"] / ops.sqrt(ops.maximum(model.expected, 1e-12))) * arrays["used"]
    return psi - model.adjoint(misfit) / 2


def _object_of(
    psi: Complex[Array, "P M N N"], arrays: dict[str, Array], shape: tuple[int, int]
) -> Complex[Array, "1 H W"]:
    """``O = (sum_j conj(P_j) psi_j + r) / (sum_j |P_j|^2 + r)``: that of least squares, 1 without light."""
    of_frames = ops.sum(ops.conj(arrays["probes"]) * psi, axis=1)
    held = arrays["held"]
    total = accumulate_at(of_frames[None], arrays["index"], shape) + ops.cast(held, "complex64")
    return times_real(total, 1 / (arrays["illumination"] + held))


def _of_object(image: Complex[Array, "1 H W"], arrays: dict[str, Array]) -> Complex[Array, "P M N N"]:
    return ops.expand_dims(extract_at(image, arrays["index"])[0], 1) * arrays["probes"]
