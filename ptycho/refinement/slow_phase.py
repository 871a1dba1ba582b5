"""The slow phase of an object, which a prior holds back and no pixel tells by itself.

A step of phase between two wide regions changes the frames at its edge only, and little: of seven thousand counts a
frame a right slow phase gains some sixty units of log-likelihood in the whole scan, where the noise of the details is
over a thousand. Total variation asks more than that for it, and the gradient pixel by pixel takes thousands of steps to
find it. So it is fitted by itself at the end: details stay as they are, no prior asks for anything, and the object
changes by the phase ``theta`` alone,

    O exp(i theta),  theta = G_s * (G_s * Im(conj(O) g) / (G_s * c + d max c)),

g the gradient, c the light on a pixel, and G_s a Gaussian whose standard deviation s is a quarter and half of the
window in turn.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from ptycho.refinement.unknowns import Object

WIDTHS = (0.25, 0.5)
"""s over the side of the window."""


@dataclass(frozen=True)
class SlowPhase(Object):
    """The object, by slow changes of its phase."""

    name = "slow_phase"

    damping: float = 0.03
    """d: of the brightest pixel's light."""

    def direction(self, solver, gradients, frames):
        (image,), (gradient,) = solver.state["object"], gradients["gradient"]
        illumination = solver.grid.spread(solver.beams()[0], solver.state["positions"][frames])
        width = WIDTHS[solver.epoch % len(WIDTHS)] * solver.scan.N
        smooth = lambda values: gaussian_filter(values, width, mode="constant")
        # <-dL, i O theta> = sum theta Im(conj(O) g)
        by_phase = smooth(np.imag(image.conj() * gradient))
        phase = smooth(by_phase / (smooth(illumination) + self.damping * illumination.max()))
        return (1j * image * phase)[None].astype("complex64")

    def apply(self, solver, change):
        # The amplitude stays, where no light tells it too.
        image = solver.state["object"]
        phase = np.imag(change * image.conj()) / np.maximum(np.abs(image) ** 2, 1e-12)
        return (image * np.exp(1j * phase)).astype("complex64")
