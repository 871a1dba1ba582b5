"""Stream runs: a scan is played to a trained network as a detector would."""

import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from ptycho.data.scan import Scan
from ptycho.pipelines.assess import Outcome, assess
from ptycho.pipelines.open import model_for
from ptycho.pipelines.provenance import provenance
from ptycho.pipelines.write import write_image, write_json
from ptycho.progress import Progress
from ptycho.reconstruction import as_grown
from ptycho.reconstruction.predict import open_stream
from ptycho.reconstruction.replay import Order, ReplayReport, replay


def stream_run(
    scan: Scan,
    folder: str | os.PathLike,
    model_folder: str | os.PathLike,
    *,
    rate: float | None = None,
    order: Order = "scan",
    tile_frames: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Outcome, ReplayReport]:
    """Play a scan to a trained network frame by frame, as a detector would, and leave the image in the folder.

    Writes ``reconstruction.h5``, ``object.png``, ``scores.json``, ``config.json`` and ``stream.json``, the report.

    Args:
        scan, folder: what is played; where the results go.
        model_folder: run folder of the network, or a name of `PACKAGED`.
        rate, order, seed: see `replay`.
        tile_frames: see `Stream`; None: `Architecture.streamed_frames`.
        progress: told of the progress.

    Raises:
        ValueError: the network is a ``cnn``, or for frames of another size.
    """
    folder = Path(folder)
    model, scan = model_for(model_folder, scan)
    if not model.architecture.common_phase:
        raise ValueError(
            f"the patches of a {model.settings.architecture} have each a phase of their own, which takes the complete "
            "scan to tell: use `ptycho reconstruct`"
        )
    size = tile_frames or model.architecture.streamed_frames
    stream = open_stream(model, scan, np.arange(len(scan)), size)
    folder.mkdir(parents=True, exist_ok=True)
    settings = provenance(scan) | dict(model=model.settings.to_dict(), model_from=str(model_folder))
    write_json(folder / "config.json", settings)
    report = replay(stream, enumerate(scan.counts), rate=rate, order=order, seed=seed, progress=progress)
    origin = provenance(scan) | dict(hold_out_every=0, model=model.settings.to_dict())
    outcome = assess(replace(as_grown(stream, scan), provenance=origin), scan, np.zeros(len(scan), bool))
    write_image(folder, outcome)
    write_json(folder / "stream.json", dict(order=order, seed=seed, tile_frames=size) | asdict(report))
    return outcome, report
