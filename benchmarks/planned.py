"""What `ptycho plan` promises, beside what `ptycho refine` then reaches: twelve designs, three objects for each.

    python benchmarks/planned.py run -o planned.jsonl     what is recorded already is not run again
    python benchmarks/planned.py table planned.jsonl

A design is a resolution, a distance of the frames, and whether the probe is known, or a guess that is out of focus by a
fifth. Scans are simulated with the photons that the plan asks for, of other objects of the kind than it has looked at;
the command gets the file, without the object. Achieved is the frequency at which the FRC with the truth, in the mean
over the objects, falls below 0.5, inside the field.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ptycho.config import SimulationConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.evaluation import compare_objects
from ptycho.evaluation.frc import frc_resolution
from ptycho.formats import write_scan
from ptycho.simulation.probes import make_probe
from ptycho.simulation.simulate import simulate
from ptycho.studies.planning import mean_correlation, needs

app = typer.Typer(add_completion=False)

N = 64
TARGETS, STEPS_PX, OBJECTS = (0.5, 0.7), (4.0, 8.0, 16.0), (11, 12, 13)
WAVES = 2.0
"""Defocus of the probe; that of the guess is a fifth more."""


@app.command()
def run(output: Annotated[Path, typer.Option("-o")]) -> None:
    """Plan, simulate, refine; a line of JSON for each scan."""
    done = set()
    if output.exists():
        records = map(json.loads, output.read_text().splitlines())
        done = {(each["target"], each["step"], each["known"], each["seed"]) for each in records}
    for target, step in product(TARGETS, STEPS_PX):
        (plan,) = needs(make_probe(N, defocus=WAVES), [step], target)
        for known, seed in product((True, False), OBJECTS):
            if (target, step, known, seed) not in done:
                record = dict(target=target, step=step, known=known, seed=seed, photons=plan.photons)
                record |= achieved(step, plan.photons, known, seed)
                with output.open("a") as file:
                    file.write(json.dumps(record) + "\n")


def achieved(step: float, photons: float, known: bool, seed: int) -> dict[str, Any]:
    """What the command makes of a scan with the photons of a plan."""
    config = SimulationConfig(
        N=N,
        positions=max(196, round(112 / step) ** 2),
        step_px=step,
        jitter_px=step / 4,
        object_kind="cells",
        photons=photons,
        seed=seed,
    )
    scan = simulate(config, probe=make_probe(N, photons, defocus=WAVES))
    blind = replace(scan, object=None)
    if not known:
        blind = blind.with_probe(make_probe(N, photons, defocus=1.2 * WAVES), known=False)
    with tempfile.TemporaryDirectory() as folder:
        write_scan(blind, Path(folder) / "scan.h5")
        words = [sys.executable, "-m", "ptycho.cli", "refine", f"{folder}/scan.h5", "-o", f"{folder}/run"]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            return dict(code=done.returncode, said=done.stderr.strip().splitlines()[-1][:300])
        image = Reconstruction.load(Path(folder) / "run/reconstruction.h5").object
        verdict = json.loads((Path(folder) / "run/scores.json").read_text())["verdict"]["kind"]
    scores = compare_objects(image, scan.object)
    curve = [np.round(each, 4).tolist() for each in scores.correlation[:2]]
    snr_db, flat_db = round(scores.snr_db, 1), round(scores.flat.snr_db, 1)
    return dict(code=0, verdict=verdict, snr_db=snr_db, flat_db=flat_db, correlation=curve)


@app.command()
def table(path: Path) -> None:
    """One row for each design."""
    records = [json.loads(text) for text in path.read_text().splitlines()]
    print("| step (px) | photons a frame | probe | planned | achieved | over the plan | SNR, dB | flat | verdicts |")
    print("|---|---|---|---|---|---|---|---|---|")
    for target, step, known in product(TARGETS, STEPS_PX, (True, False)):
        rows = [each for each in records if (each["target"], each["step"], each["known"]) == (target, step, known)]
        images = [each for each in rows if not each["code"]]
        if images:
            curves = [
                (np.array(frequency), np.array(values)) for frequency, values in (e["correlation"] for e in images)
            ]
            frc = frc_resolution(*mean_correlation(curves), 0.5)
            columns = [f"{step:g}", f"{rows[0]['photons']:.2g}", "known" if known else "a guess", f"{target:g}"]
            columns += [f"{frc:.2f}", f"{frc / target:.2f}"]
            columns += [", ".join(str(each[name]) for each in images) for name in ("snr_db", "flat_db", "verdict")]
            print(f"| {' | '.join(columns)} |")
        for each in rows:
            if each["code"]:
                print(f"refused ({each['code']}): {each['said']}")


if __name__ == "__main__":
    app()
