"""The sixteen symmetries of a diffraction experiment: augmentation in training, and an ensemble in prediction."""

from collections.abc import Mapping, Sequence

import numpy as np
from keras import ops

from ptycho.arrays import Array, Float


class Symmetry:
    """One of sixteen ways to see a canvas in which diffraction looks the same: flips, transposition, conjugation.

    The physics is invariant under them when the probe goes along; a U-Net is not. Showing it each canvas in a random
    one is augmentation that leaves frames and probe untouched; averaging its answers in several is an ensemble
    (test-time augmentation).
    """

    COUNT = 16

    def __init__(self, inputs: Mapping[str, Array]):
        self.inputs = inputs if "symmetry" in inputs else None

    @staticmethod
    def arrays(number: int, side: int) -> dict[str, np.ndarray]:
        """Input arrays of symmetry ``number`` (0 is the identity) of square canvases of ``side`` pixels."""
        index = np.arange(side * side, dtype="int32").reshape(side, side)
        # The bits of the number: flip along y, flip along x, transpose, conjugate.
        index = index[::-1] if number & 1 else index
        index = index[:, ::-1] if number & 2 else index
        index = index.T if number & 4 else index
        inverse = np.empty(side * side, "int32")
        # out[k] = in[index[k]] is undone by in[index[k]] = out[k].
        inverse[index.ravel()] = np.arange(side * side, dtype="int32")
        sign = np.float32(-1 if number & 8 else 1)
        return dict(symmetry=index.reshape(1, -1), symmetry_inverse=inverse[None], symmetry_sign=sign.reshape(1))

    def apply(self, images: Float[Array, "B H W c"], parity: Sequence[int] | None = None) -> Float[Array, "B H W c"]:
        """Images ``(B, H, W, c)`` as this symmetry shows them; conjugation negates channels with a parity of -1."""
        return self._permuted(images, "symmetry", parity)

    def undo(self, images: Float[Array, "B H W c"], parity: Sequence[int] | None = None) -> Float[Array, "B H W c"]:
        """Inverse of `apply`."""
        return self._permuted(images, "symmetry_inverse", parity)

    def _permuted(self, images: Array, index: str, parity: Sequence[int] | None) -> Array:
        if self.inputs is None:
            return images
        shape = ops.shape(images)
        pixels = ops.reshape(images, (shape[0], shape[1] * shape[2], images.shape[-1]))
        permuted = ops.reshape(ops.take(pixels, self.inputs[index][0], axis=1), shape)
        if parity is None:
            return permuted
        sign = self.inputs["symmetry_sign"][0]
        return permuted * ops.stack([sign if p < 0 else ops.ones_like(sign) for p in parity])
