"""Patches of a whole scan from a trained network, batch by batch."""

from collections.abc import Iterator

import keras
import numpy as np

from ptycho.backend import free_trace_with, jit_compile
from ptycho.data.scan import Scan
from ptycho.network.build import PRIOR, PtychoNetwork
from ptycho.physics.patches import split_positions
from ptycho.reconstruction.stitch import add_patches, read_patches
from ptycho.training import Report


def predict(
    model: PtychoNetwork, scan: Scan, *, batch: int = 64, report: Report | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Object patches of every frame, and where they lie.

    The canvas on which the stages of the network agree is the whole scan. Patches lie on the pixel grid of the
    object; the sub-pixel part of a position moves the probe instead.

    Args:
        model: a network for the scan's N.
        scan: P frames, whose probe is not used: the model has its own.
        batch: frames at a time.
        report: told of the progress.

    Returns:
        Patches ``(P, N, N)`` complex64, and their whole positions ``(P, 2)`` int32 (y, x): the object pixel under
        patch pixel ``(N // 2, N // 2)``.

    Raises:
        ValueError: the scan's N is not the model's.
    """
    if scan.N != model.settings.N:
        raise ValueError(f"the scan's frames have N {scan.N}, the model N {model.settings.N}")
    positions, fractions = split_positions(scan.positions)
    corners = positions - positions.min(axis=0)
    shape = tuple(corners.max(axis=0) + scan.N)
    patches = np.empty((len(scan), scan.N, scan.N), "complex64")
    canvas = None
    for k in range(model.settings.stages):
        step = _Stage(model, k)
        total, weights = np.zeros(shape, "complex64"), np.zeros(shape, "float32")
        for index in _batches(len(scan), batch):
            inputs = dict(
                counts=scan.counts[index].astype("float32"),
                mask=np.repeat(scan.mask[None].astype("float32"), batch, 0),
                fractions=fractions[index],
            )
            if canvas is not None:
                inputs["merged"] = read_patches(canvas, corners[index], scan.N)
            out, weight = step.predict_on_batch(inputs)
            new = _first_time(index)
            patches[index[:new]] = out[:new]
            add_patches(total, out[:new] * weight[:new], corners[index[:new]])
            add_patches(weights, weight[:new], corners[index[:new]])
            if report:
                done = k * len(scan) + index[new - 1] + 1
                report("predicting", done, model.settings.stages * len(scan), f"stage {k + 1}")
        canvas = (total + PRIOR) / (weights + PRIOR)
    return patches, positions


class _Stage(keras.Model):
    """One stage of a network as a function of a batch, compiled by Keras on the backend in use."""

    def __init__(self, network: PtychoNetwork, k: int):
        super().__init__(name=f"predict_stage_{k}")
        self.network, self.k = network, k
        self.built = True
        self.compile(jit_compile=jit_compile(False))

    def call(self, inputs):
        free_trace_with(self)
        frames = self.network.frames(inputs["counts"], inputs["mask"], inputs["fractions"])
        return self.network.stage(self.k, frames, inputs.get("merged")), self.network.weight(frames)


def _batches(count: int, batch: int) -> Iterator[np.ndarray]:
    """Indices in batches of one size (so that one trace serves all): the last is filled up with its last frame."""
    for start in range(0, count, batch):
        yield np.minimum(np.arange(start, start + batch), count - 1)


def _first_time(index: np.ndarray) -> int:
    """How many of a batch's frames are not filling."""
    return int(index[-1] - index[0]) + 1
