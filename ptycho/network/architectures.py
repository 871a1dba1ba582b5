"""What the networks see and do, as functions of U-Nets and the physics.

The descent of the data fit is computed frame by frame and added up on a canvas, over the light that fell there: that is
what an iterative engine has as well. A U-Net on the canvas turns it, with what it remembers of the stages before, into
the next step (a learned gradient scheme: Adler & Oktem, Inverse Problems 33, 124007 (2017)). A canvas pixel is lit by
many frames, so the U-Nets cost little beside the Fourier transforms.
"""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from ptycho.arrays import Array
from ptycho.physics.diffraction import descent, first_descent, illumination
from ptycho.physics.fourier import fftshift, ifftshift, intensity, make_complex, polar, times_real
from ptycho.physics.patches import gather, scatter

PRIOR = 1e-3
"""Weight, in units of the brightest probe pixel, of an empty object in a merge: decides where no light fell."""

DIM = 0.02
"""Light, in the same units, below which a pixel of the canvas is not worth dividing by."""

SOFT = 0.05
"""Intensity of an object below which its phase and logarithm are not worth dividing by."""

FIRST_CHANNELS, LATER_CHANNELS = 4, 9
"""Channels that the first and the later stages see, without what they remember."""


class Frames(NamedTuple):
    """A batch of patterns, and where they lie on a batch of canvases."""

    roots: Array
    """``(B, P, n, n)`` float32: square roots of the counts, zero frequency at pixel (0, 0)."""
    mask: Array
    """``(B, 1, n, n)``, likewise: 1 where a pixel is used, else 0."""
    probe: Array
    """``(B, P, M, n, n)`` or anything that broadcasts to it: the probe moved by sub-pixel parts of positions."""
    weight: Array
    """``(B, P, n, n)`` (or broadcasting to it): light on each patch pixel, over the brightest of the probe."""
    places: Array | None
    """``(B, P, n, n)``: `patch_index` of the patches; None where each canvas is one patch (P is 1)."""
    shape: tuple[int, int]
    """H, W of the canvases."""


def frames_of(counts, mask, probe, brightest, index, shape) -> Frames:
    """`Frames` from centred counts and mask; ``brightest`` is the light of the brightest probe pixel."""
    return Frames(ops.sqrt(ifftshift(counts)), ifftshift(mask), probe, illumination(probe) / brightest, index, shape)


def read(canvas, frames: Frames):
    """Patches of the canvases under the frames ``(B, P, n, n)``."""
    return ops.expand_dims(canvas, 1) if frames.places is None else gather(canvas, frames.places)


def add(patches, frames: Frames):
    """Sum of the patches on canvases ``(B, H, W)``."""
    return patches[:, 0] if frames.places is None else scatter(patches, frames.places, frames.shape)


def everywhere(weight, frames: Frames):
    """Weights for every frame, where they are the same for all: ``(B, P, n, n)``."""
    return ops.multiply(weight, ops.ones_like(frames.roots))


def merge(patches, frames: Frames):
    """``(sum w o + e) / (sum w + e)``: patches ``(B, P, n, n)`` averaged on canvases ``(B, H, W)``.

    ``e`` is `PRIOR`: the canvas is 1, an empty object, where no patch has light.
    """
    weight = everywhere(frames.weight, frames)
    total, light = add(times_real(patches, weight), frames), add(weight, frames)
    norm = 1.0 / (light + PRIOR)
    return make_complex((ops.real(total) + PRIOR) * norm, ops.imag(total) * norm)


def learned_descent(nets, frames: Frames, brightest, inputs):
    """The stages of the consensus network: canvases ``(B, H, W)`` complex64.

    Each net sees the descent of its canvases' data fit, where there is light, and what the last net left to remember;
    it changes log-amplitude and phase. All act in the view that ``inputs`` give (`View.arrays`), if they give one.
    """
    view = View(inputs)
    # Frames that are canvases of their own, with one probe, have one light for all.
    light = frames.weight[:, 0] if frames.places is None else add(everywhere(frames.weight, frames), frames)
    inverse = 1.0 / ((light + DIM) * brightest)
    seen = ops.sqrt(ops.minimum(light, 1.0))
    canvas = None
    lit = view.inwards(channels(seen, ops.log1p(light)))
    if frames.places is None:
        lit = ops.broadcast_to(lit, (ops.shape(frames.roots)[0], *lit.shape[1:]))
    memory = first = None
    state: Any = None  # log-amplitude and phase in one array: apart they would be put together again
    for k, net in enumerate(nets):
        if canvas is None:  # an empty object
            change = first_descent(frames.roots, frames.probe, frames.mask)
            change = times_real(add(change, frames), inverse * seen / (1 + SOFT))
        else:
            change = add(descent(read(canvas, frames), frames.roots, frames.probe, frames.mask), frames)
            change = times_real(change * ops.conj(canvas), inverse * seen / (intensity(canvas) + SOFT))
        change = view.inwards(channels(ops.real(change), ops.imag(change)), [1, -1])
        if k == 0:
            first = change
            h = net(ops.concatenate([change, lit], axis=-1))
            state = h[..., :2]
        else:
            phase = state[..., 1]
            now = channels(state[..., 0], ops.sin(phase), 1 - ops.cos(phase))
            h = net(ops.concatenate([4.0 * change, first, now, lit, memory], axis=-1))
            state = state + h[..., :2]
        memory = h[..., 2:]
        out = view.outwards(state, [1, -1])
        canvas = polar(out[..., 0], out[..., 1])
    return canvas


def cnn_patch(net, frames: Frames, amplitude_activation: str):
    """The classic network: amplitudes of single frames straight to patches ``(B, n, n)``; the phase within +-pi."""
    light = illumination(frames.probe)[:, 0]
    level = ops.sqrt(ops.mean(light, axis=(-2, -1), keepdims=True))
    root = fftshift(frames.roots * frames.mask)[:, 0] / level
    h = net(channels(root))
    amplitude = {
        "sigmoid": lambda x: ops.sigmoid(x + 3.0),
        "softplus": lambda x: ops.softplus(x + 0.5413),
        "exp": ops.exp,
    }[amplitude_activation](h[..., 0])
    phase = ops.tanh(h[..., 1]) * 3.1415927
    return make_complex(amplitude * ops.cos(phase), amplitude * ops.sin(phase))


def channels(*parts):
    """Stack real images ``(B, H, W)`` as the channels of one ``(B, H, W, c)``."""
    return ops.stack(parts, axis=-1)


class View:
    """One of the sixteen views of a canvas under which diffraction looks the same: flips, transposition, conjugation.

    The physics is invariant under them when the probe goes along; a U-Net is not. Showing it each canvas in a random
    view is augmentation that leaves frames and probe alone; showing it several is an ensemble.
    """

    COUNT = 16

    def __init__(self, inputs):
        self.inputs = inputs if "view" in inputs else None

    @staticmethod
    def arrays(number: int, side: int) -> dict[str, np.ndarray]:
        """Input arrays of view ``number`` (0 is the identity) of square canvases of ``side`` pixels."""
        index = np.arange(side * side, dtype="int32").reshape(side, side)
        index = index[::-1] if number & 1 else index
        index = index[:, ::-1] if number & 2 else index
        index = index.T if number & 4 else index
        back = np.empty(side * side, "int32")
        back[index.ravel()] = np.arange(side * side, dtype="int32")
        sign = np.float32(-1 if number & 8 else 1)
        return dict(view=index.reshape(1, -1), view_back=back[None], view_sign=sign.reshape(1))

    def inwards(self, images, parity=None):
        """Images ``(B, H, W, c)`` as seen in this view; a parity of -1 marks channels that conjugation turns round."""
        return self._look(images, "view", parity)

    def outwards(self, images, parity=None):
        """Inverse of `inwards`."""
        return self._look(images, "view_back", parity)

    def _look(self, images, index, parity):
        if self.inputs is None:
            return images
        shape = ops.shape(images)
        rows = ops.reshape(images, (shape[0], shape[1] * shape[2], images.shape[-1]))
        seen = ops.reshape(ops.take(rows, self.inputs[index][0], axis=1), shape)
        if parity is None:
            return seen
        sign = self.inputs["view_sign"][0]
        return seen * ops.stack([sign if p < 0 else ops.ones_like(sign) for p in parity])
