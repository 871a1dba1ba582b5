"""Training and reconstruction by the names that scripts for PtychoPINN, and Ptychodus, use; the core does the work.

A whole scan is reconstructed at once, whatever the groups: patches that `InferenceModel.predict` returns are parts of
that one object, and `reassemble_position` gives it back.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ptycho import model_manager, params
from ptycho.config import RunConfig, SimulationConfig, Values
from ptycho.config.config import TrainingConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.data.scan import Scan
from ptycho.io import replace_text, replaced
from ptycho.network.build import PtychoNetwork
from ptycho.pipelines.train import train_network
from ptycho.raw_data import FromScan, RawData, from_scan, warn_of
from ptycho.reconstruction import reconstruct
from ptycho.simulation.simulate import simulate

Results = dict[str, Any]


def run_cdi_example(
    train_data: RawData, test_data: RawData | None, config: TrainingConfig, **others: Any
) -> tuple[np.ndarray | None, np.ndarray | None, Results]:
    """Train a network; ``(amplitude, phase, results)`` of the test data, None for the first two without.

    Of the config count ``nepochs``, the weights of the losses, ``probe_trainable`` and the width of the network.
    """
    warn_of("run_cdi_example", others)
    scan, run = train_data.scan(), run_config(config)
    if config.model.model_type == "supervised":
        if train_data.objectGuess is None:
            raise ValueError("a supervised training needs the object (objectGuess) of its data")
        scan = replace(scan, object=np.asarray(train_data.objectGuess, "complex64"))
    with tempfile.TemporaryDirectory() as folder:
        trained = train_network(scan, folder, run)
    model_manager.remember(trained.model)
    results: Results = dict(
        history=dict(loss=[epoch.loss for epoch in trained.history]), model=trained.model, settings=trained.settings
    )
    if test_data is None:
        return None, None, results
    image = on_its_grid(reconstruct(trained.model, test_data.scan()), test_data)
    return np.abs(image), np.angle(image), results | dict(reconstructed_obj=image)


def run_config(config: TrainingConfig) -> RunConfig:
    """What a config of PtychoPINN sets of ours; a supervised network learns the object alone."""
    supervised = config.model.model_type == "supervised"
    training: Values = dict(
        epochs=config.nepochs,
        mae_weight=float(config.mae_weight),
        nll_weight=0.0 if supervised else float(config.nll_weight),
        realspace_weight=1.0 if supervised else float(config.realspace_weight + config.realspace_mae_weight),
    )
    model: Values = dict(width=4 * int(config.model.n_filters_scale), probe_trainable=bool(config.probe_trainable))
    return RunConfig(training=training, model=model)


def save_outputs(amplitude: Any, phase: Any, results: Results, output_prefix: str | Path) -> None:
    """Write ``recon_amp.npy`` and ``recon_phase.npy`` to a folder, and ``history.json`` of a training."""
    import json

    folder = Path(output_prefix)
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in (("recon_amp.npy", amplitude), ("recon_phase.npy", phase)):
        if values is not None:
            with replaced(folder / name) as partial:
                np.save(partial, np.asarray(values), allow_pickle=False)
    if "history" in results:
        replace_text(folder / "history.json", json.dumps(results["history"], indent=1))


@dataclass
class InferenceModel:
    """A trained network that takes what `ptycho.loader.load` made."""

    network: PtychoNetwork

    def predict(self, inputs: list[Any]) -> FromScan:
        """``(B, N, N, 1)`` complex64: of each group what lies around its middle, to the nearest pixel.

        ``inputs`` are amplitudes and relative positions of a container: the scan that they were made of is
        reconstructed as a whole. ValueError for arrays that are of no scan.
        """
        raw = getattr(inputs[0], "raw", None)
        if raw is None:
            raise ValueError("predict takes the X and local_offsets of ptycho.loader.load, or X times a number")
        scan = raw.scan()
        result = reconstruct(self.network, scan)
        N, (height, width) = scan.N, result.object.shape
        centres = np.floor(_group_middles(inputs, raw) - _origin(result) + 0.5).astype(int)
        padded = np.pad(result.object, N)
        corners = np.clip(centres - N // 2, (-N, -N), (height, width)) + N
        patches = np.stack([padded[y : y + N, x : x + N] for y, x in corners])
        known = from_scan(patches[..., None], raw)
        known.mosaic = on_its_grid(result, raw)
        return known


def _group_middles(inputs: list[Any], raw: RawData) -> np.ndarray:
    """(y, x) of the mean position of each group: that of its first frame, from which the relative ones lead there."""
    relative = np.asarray(inputs[1], float)  # (B, 1, 2, C): middle - point, as (x, y)
    groups = getattr(inputs[0], "rows", None)
    if groups is None or len(groups) != len(relative):
        raise ValueError("predict: which groups of the scan these are is not known; take X and local_offsets alike")
    first = raw.scan().positions[groups]
    return first + relative[:, 0, ::-1, 0]


def _origin(result: Reconstruction) -> np.ndarray:
    """(y, x) of the first pixel of the object in pixels of the scan."""
    if result.origin_px is None:
        raise ValueError("the reconstruction does not tell where it lies")
    return np.asarray(result.origin_px)


def on_its_grid(result: Reconstruction, raw: RawData) -> np.ndarray:
    """The object on the pixels of ``objectGuess``, where there is one: vacuum outside what was covered."""
    if raw.objectGuess is None:
        return result.object
    most_rows, most_columns = raw.objectGuess.shape[-2:]
    image = np.ones((most_rows, most_columns), "complex64")
    y, x = map(int, _origin(result))
    length, width = result.object.shape
    rows = slice(max(0, y), max(0, min(most_rows, y + length)))
    columns = slice(max(0, x), max(0, min(most_columns, x + width)))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return image
    overlap = (slice(rows.start - y, rows.stop - y), slice(columns.start - x, columns.stop - x))
    covered = result.coverage[overlap] > 0
    image[rows, columns][covered] = result.object[overlap][covered]
    return image


def load_inference_bundle(folder: str | Path) -> tuple[InferenceModel, dict[str, Any]]:
    """The network in ``wts.h5.zip`` of a folder, and ``cfg`` with its size; amplitudes are in sqrt(photons)."""
    network = model_manager.load(folder)
    params.cfg.update(N=network.settings.N, gridsize=network.settings.gridsize, intensity_scale=1.0)
    return InferenceModel(network), params.params()


def simulated(data: RawData, frames: int | None = None, photons: float | None = None, seed: int = 0) -> Scan:
    """Frames of the object and the probe of a scan: at its positions, or at so many drawn anew inside the object.

    ``photons`` are those of the probe; as in the scan without. ValueError where the data have no object.
    """
    scan = data.scan()
    if data.objectGuess is None:
        raise ValueError("a simulation needs the object (objectGuess) in the file")
    sample = np.asarray(data.objectGuess, "complex64")
    probe, positions = scan.probe, scan.positions
    if photons is not None:
        probe = probe * np.float32(np.sqrt(photons / np.sum(np.abs(probe) ** 2)))
    if frames is not None:
        corners = np.asarray(sample.shape) - scan.N - 1
        if (corners < 1).any():
            raise ValueError("frames cannot be drawn inside an object that is hardly larger than they are")
        positions = scan.N / 2 + np.random.default_rng(seed).uniform(0, corners, (frames, 2))
    return simulate(SimulationConfig(N=scan.N, seed=seed), sample, probe, positions)
