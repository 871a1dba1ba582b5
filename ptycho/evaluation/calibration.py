"""How much larger errors are than the uncertainty says: found on a simulated scan like the measured one."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ptycho.arrays import Array, Bool, Complex, Float
from ptycho.config import SimulationConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.deprecation import renamed_keywords
from ptycho.evaluation import register, uncertainty
from ptycho.evaluation.uncertainty import WITHIN_1, illuminated_pixels
from ptycho.network.build import PtychoNetwork
from ptycho.physics.patches import placed
from ptycho.reconstruction import reconstruct
from ptycho.reconstruction.stream import probe_of
from ptycho.simulation.objects import make_object
from ptycho.simulation.simulate import MARGIN_PX, simulate


class Bootstrap(NamedTuple):
    """A reconstruction of a simulated scan beside its truth, in one gauge (`register`)."""

    object: Complex[Array, "h w"]
    truth: Complex[Array, "h w"]
    uncertainty: Float[Array, "h w"]
    """With a calibration of 1."""
    where: Bool[Array, "h w"]
    """The well illuminated pixels."""

    @property
    def factor(self) -> float:
        """What the uncertainty has to be multiplied with to hold the errors of 63.2 % of the pixels."""
        relative = np.abs(self.object - self.truth)[self.where] / self.uncertainty[self.where]
        return float(np.quantile(relative, WITHIN_1))


@renamed_keywords
def calibration(
    model: PtychoNetwork,
    scan: Scan,
    result: Reconstruction | None = None,
    *,
    symmetries: int = 1,
    seed: int = 0,
    most_frames: int = 1024,
) -> float:
    """Factor that makes the `uncertainty` of a network's reconstruction right on a simulated scan.

    The simulated scan has the positions and mask of ``scan`` and the model's probe, so its dose. Its frames are those
    nearest to the middle of ``scan``, at most ``most_frames``: 1024 show tens of thousands of pixels, in seconds. The
    factor brings the fraction of errors within one sigma to 0.632, that of complex Gaussian errors.

    With ``result``, the reconstruction of ``scan``, it is the geometric mean of two: that of a sample of the kind
    `cells` with the contrast of the result, which tends to be too hard, and that of the result itself (a parametric
    bootstrap), which is too easy: it holds only what the network can show. Without one it is that of `cells`.

    Raises ValueError as `bootstrap` does.
    """
    factors = [
        bootstrap(model, scan, result, again=again, symmetries=symmetries, seed=seed, most_frames=most_frames).factor
        for again in ((False,) if result is None else (False, True))
    ]
    return float(np.prod(factors) ** (1 / len(factors)))


def bootstrap(
    model: PtychoNetwork,
    scan: Scan,
    result: Reconstruction | None = None,
    *,
    again: bool = False,
    symmetries: int = 1,
    seed: int = 0,
    most_frames: int = 1024,
) -> Bootstrap:
    """Simulate a scan like ``scan``, reconstruct it by ``symmetries`` symmetries, and lay it onto its truth.

    The truth is a sample of the kind `cells`, with the contrast of ``result`` if that is given, or, with ``again``, the
    result itself.

    Raises ValueError where the scan's N is not the model's, and where no well illuminated pixel can be compared.
    """
    simulated = _like(scan, result, again, probe_of(model, scan.probe), seed, most_frames)
    simulated_result = reconstruct(model, simulated, symmetries=symmetries)
    truth = simulated.object
    assert truth is not None  # a simulated scan carries it
    # The positions are exact, so that the result is on the truth's pixels even where nothing can be registered.
    origin = np.rint((simulated.positions - simulated_result.positions_px)[0]).astype(int)
    sigma = uncertainty(simulated_result.spread, simulated_result.coverage, simulated_result.probe)
    maps = (simulated_result.object, sigma, simulated_result.coverage)
    recon, sigma, coverage = (placed(image, origin, np.zeros(truth.shape, image.dtype)) for image in maps)
    fit = register(recon, truth)
    # The gauge moves by whole pixels at most here and there; sigma and coverage are smooth on that scale.
    low = np.array(fit.origin_px) - np.rint(fit.gauge.shift_px).astype(int)
    rows, columns = (np.clip(low[k] + np.arange(fit.truth.shape[k]), 0, truth.shape[k] - 1) for k in (0, 1))
    where = illuminated_pixels(coverage)[np.ix_(rows, columns)]
    if not where.any():
        raise ValueError("no well-lit pixel of the simulated scan is left to compare: the scan is too small")
    return Bootstrap(fit.aligned, fit.truth, abs(fit.gauge.scale) * sigma[np.ix_(rows, columns)], where)


def _like(
    scan: Scan,
    result: Reconstruction | None,
    again: bool,
    probe: Complex[Array, "M N N"],
    seed: int,
    most_frames: int,
) -> Scan:
    """A simulated scan with the probe ``(M, N, N)``, and positions, sample and mask of a compact block of ``scan``."""
    # A compact block: frames by the larger of the distances along y and x from the middle of the scan
    middle = (scan.positions.min(axis=0) + scan.positions.max(axis=0)) / 2
    near = np.sort(np.argsort(np.abs(scan.positions - middle).max(axis=1), kind="stable")[:most_frames])
    positions = scan.positions[near]
    origin = np.floor(positions.min(axis=0) + 0.5).astype(int) - scan.N // 2 - MARGIN_PX
    height, width = np.ceil(np.ptp(positions, axis=0)).astype(int) + scan.N + 2 * MARGIN_PX
    size = int(height), int(width)
    sample = make_object("cells", size, np.random.default_rng([seed, 1]))
    if result is not None and again:
        # The first pixel of the new canvas, in pixels of the result; what the result does not cover is vacuum.
        start = origin - np.rint((scan.positions - result.positions_px)[0]).astype(int)
        sample = placed(np.where(result.coverage > 0, result.object, 1), -start, np.ones(size, "complex64"))
    elif result is not None:
        measured, made = _contrast(result.object[illuminated_pixels(result.coverage)]), _contrast(sample.ravel())
        # log t -> strength log t: contrast is lowered to the measured one, never raised.
        strength = np.minimum(measured / made, 1)
        log_amplitude, phase = np.log(np.abs(sample)) * strength[0], np.angle(sample) * strength[1]
        sample = np.exp(log_amplitude + 1j * phase).astype("complex64")
    config = SimulationConfig(
        N=scan.N, positions=max(2, len(positions)), probe_modes=len(probe), near_field=scan.near_field, seed=seed
    )
    simulated = simulate(config, sample, probe=probe, positions=positions - origin)
    return replace(simulated, mask=scan.mask)


def _contrast(values: Complex[Array, " K"]) -> Float[Array, " 2"]:
    """Standard deviations of log-amplitude and phase of complex values, off their mean."""
    # The global phase is arbitrary: over the mean, phases lie around 0 and do not wrap.
    relative = values / values.mean()
    return np.array([np.log(np.abs(relative) + 1e-6).std(), np.angle(relative).std()])
