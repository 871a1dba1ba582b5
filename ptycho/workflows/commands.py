"""Command lines by the names that users of PtychoPINN type: ``ptycho_train``, ``ptycho_inference`` and others.

Their options are the fields of `ptycho.config.config`, as they are called there; ``--config run.yaml`` holds the same,
and what is typed wins over it. New scripts take ``ptycho train``, ``ptycho reconstruct`` and ``ptycho simulate``.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import numpy as np

from ptycho.cli.printing import log
from ptycho.cli.surroundings import errors_in_one_line, framework
from ptycho.config.config import InferenceConfig, ModelConfig, TrainingConfig

Words = Sequence[str] | None


def train_command(words: Words = None) -> None:
    """Train on ``--train_data_file``; the network, and the image of ``--test_data_file``, go to ``--output_dir``."""
    with errors_in_one_line():
        given = _parsed("ptycho_train", train_command.__doc__, (TrainingConfig, ModelConfig), words, n_images=int)
        data, test, limit = _named(given, "train_data_file"), given.get("test_data_file"), given.pop("n_images", None)
        with framework():
            from ptycho import model_manager
            from ptycho.raw_data import RawData
            from ptycho.workflows.components import run_cdi_example, save_outputs
        scan = RawData.from_file(data).first(limit)
        of_the_file = dict(N=scan.diff3d.shape[-1])
        model = ModelConfig(**(of_the_file | _fields_of(ModelConfig, given)))
        if of_the_file["N"] != model.N:
            raise ValueError(f"--N {model.N}: the frames of {data} have {of_the_file['N']} x {of_the_file['N']} pixels")
        config = TrainingConfig(model, **_fields_of(TrainingConfig, given))
        folder = Path(config.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        trial = None if test is None else RawData.from_file(test)
        amplitude, phase, results = run_cdi_example(scan, trial, config)
        model_manager.save(folder)
        save_outputs(amplitude, phase, results, folder)
        log(f"the network is {folder / model_manager.ARCHIVE}")


def inference_command(words: Words = None) -> None:
    """Reconstruct ``--test_data`` by the network in the folder ``--model_path``; images go to ``--output_dir``."""
    with errors_in_one_line():
        given = _parsed("ptycho_inference", inference_command.__doc__, (InferenceConfig,), words, test_data=str)
        source, network = given.get("test_data") or _named(given, "test_data_file"), _named(given, "model_path")
        with framework():
            from ptycho.model_manager import load
            from ptycho.output.images import save_png
            from ptycho.raw_data import RawData
            from ptycho.reconstruction import reconstruct
            from ptycho.workflows.components import on_its_grid, save_outputs
        data = RawData.from_file(source)
        result = reconstruct(load(network), data.scan())
        folder = Path(given.get("output_dir", InferenceConfig.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        image = on_its_grid(result, data)
        save_outputs(np.abs(image), np.angle(image), {}, folder)
        save_png(result, folder / "object.png")
        result.save(folder / "reconstruction.h5")
        log(f"{folder}: reconstruction.h5, object.png, recon_amp.npy and recon_phase.npy")


def simulate_command(words: Words = None) -> None:
    """Simulate the frames that the object and the probe of ``--input-file`` give at its positions."""
    with errors_in_one_line():
        given = _parsed(
            "ptycho_simulate",
            simulate_command.__doc__,
            (),
            words,
            **{"input-file": str, "output-file": str, "n-images": int, "n-photons": float, "seed": int},
        )
        source, target = _named(given, "input-file"), _named(given, "output-file")
        with framework():
            from ptycho.formats import write_scan
            from ptycho.raw_data import RawData
            from ptycho.workflows.components import simulated
        scan = simulated(RawData.from_file(source), given.get("n-images"), given.get("n-photons"), given.get("seed", 0))
        write_scan(scan, target, format="ptychopinn" if Path(target).suffix == ".npz" else None)
        log(f"{target}: {len(scan)} frames of {scan.N} x {scan.N}, {scan.mean_counts:.3g} counts each on average")


def _parsed(
    name: str, about: str | None, configs: tuple[type, ...], words: Words, **others: Callable
) -> dict[str, Any]:
    """What was typed, and below it what ``--config`` holds; nothing where neither says anything."""
    parser = argparse.ArgumentParser(name, description=about)
    parser.add_argument("--config", type=Path, help="YAML with the same names")
    kinds = {field.name: _kind(field.type) for config in configs for field in fields(config) if field.name != "model"}
    for option, kind in (kinds | others).items():
        parser.add_argument(f"--{option}", dest=option, type=kind)
    typed = {option: value for option, value in vars(parser.parse_args(words)).items() if value is not None}
    file = typed.pop("config", None)
    return typed if file is None else _from_yaml(file, kinds | others) | typed


def _from_yaml(path: Path, kinds: dict[str, Callable]) -> dict[str, Any]:
    """The settings in a file; ValueError for one that is not known. ``model:`` may hold those of the network."""
    try:
        import yaml
    except ImportError as error:
        raise ValueError(f"--config {path}: reading YAML takes `pip install pyyaml`") from error
    try:
        values = yaml.safe_load(path.read_text()) or {}
        values |= values.pop("model", {})
    except (yaml.YAMLError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {path} is not YAML with one setting a line") from error
    if strange := sorted(map(str, set(values) - set(kinds))):
        raise ValueError(f"--config {path}: there is no setting {', '.join(strange)}")
    return {name: _value(path, name, kinds[name], value) for name, value in values.items() if value is not None}


def _value(path: Path, name: str, kind: Callable, value: Any) -> Any:
    is_whole = isinstance(value, float) and value.is_integer() and kind is int
    try:
        return kind(str(int(value) if is_whole else value))
    except ValueError as error:
        raise ValueError(f"--config {path}: {name} is {value!r} ({error})") from error


def _kind(declared: Any) -> Callable[[str], Any]:
    """What makes a value of a field of a text."""
    kind = next((each for each in get_args(declared) if each is not type(None)), declared)
    return _truth if kind is bool else kind


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise ValueError(f"{text!r}: true or false")
    return text.lower() in ("true", "1")


def _fields_of(config: type, given: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(config)} - {"model"}
    return {name: value for name, value in given.items() if name in names}


def _named(given: dict[str, Any], option: str) -> Any:
    if option not in given:
        raise ValueError(f"--{option} is needed")
    return given[option]
