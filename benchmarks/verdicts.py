"""Verdicts on right and wrong geometry, at many and few photons, of simulated and measured scans.

    PTYCHO_DATA=../shared/data python benchmarks/verdicts.py

Each row is a fit from vacuum of 40 epochs, judged by the frames that told it when to stop.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ptycho.config import RunConfig
from ptycho.data.scan import Scan
from ptycho.evaluation import verdict
from ptycho.formats._raster import rotated
from ptycho.pipelines.assess import judgement_of, with_residuals
from ptycho.pipelines.open import open_scan
from ptycho.pipelines.refine import refine_config
from ptycho.refinement.refine import refine


def data(name: str, modes: int | None = None) -> Scan:
    scan = open_scan(Path(os.environ["PTYCHO_DATA"]) / name, lambda sentence: None, modes)
    return replace(scan, object=None)


def thinned(scan: Scan, fraction: float) -> Scan:
    counts = np.random.default_rng(0).binomial(np.asarray(scan.counts), fraction).astype("uint16")
    return replace(scan, counts=counts, probe=scan.probe * fraction**0.5)


def turned(scan: Scan, degrees: float) -> Scan:
    return replace(scan, positions=rotated(scan.positions, degrees))


def exchanged(scan: Scan) -> Scan:
    return replace(scan, positions=scan.positions[:, ::-1].copy())


def scans() -> Iterator[tuple[str, Scan]]:
    whole = data("sim64_test.npz")
    sim = whole.subset(np.arange(800))
    yield "sim64_test, 800 frames", sim
    yield "a tenth of the photons", thinned(sim, 0.1)
    yield "a hundredth", thinned(sim, 0.01)
    yield "0.3 %", thinned(sim, 0.003)
    yield "x and y exchanged", exchanged(sim)
    yield "x and y exchanged, a hundredth of the photons", exchanged(thinned(sim, 0.01))
    yield "turned by 5 degrees", turned(sim, 5)
    yield "turned by 15 degrees", turned(sim, 15)
    yield "positions times 1.2", replace(sim, positions=1.2 * sim.positions)
    yield "positions shuffled", replace(sim, positions=np.random.default_rng(0).permutation(sim.positions))
    rows = np.arange(1681).reshape(41, 41)
    yield "every third position", whole.subset(rows[::3, ::3].ravel())
    yield "every fourth position", whole.subset(rows[::4, ::4].ravel())
    for modes in (1, 3):
        yield f"siemens-star-small, modes: {modes}", data("siemens-star-small.npz.bz2", modes)
    yield "siemens-star-small, x and y exchanged", exchanged(data("siemens-star-small.npz.bz2"))
    yield "cryo_rotavirus_A", data("cryo_rotavirus_A_48x48_bin2.npz")


def main() -> None:
    print("| scan | frames | error | shot noise | mean frame | explained | verdict |\n|---|---|---|---|---|---|---|")
    for name, scan in scans():
        nothing = np.zeros(len(scan), bool)
        fit = refine(scan, refine_config(RunConfig(refine=dict(epochs=40)), scan))
        judgement = judgement_of(fit.result, scan, nothing, fit)
        assert judgement is not None
        decision = verdict(judgement, with_residuals(fit.result, scan)[1].median_ratio)
        error, noise, mean = judgement.deciding
        frames = f"{judgement.frames}{'' if judgement.unseen else ', seen'}"
        row = f"{error:.4f} | {noise:.4f} | {mean:.4f} | {judgement.deciding.explained:.2f}"
        print(f"| {name} | {frames} | {row} | {decision.kind} |", flush=True)


if __name__ == "__main__":
    main()
