"""What a run tells while it goes on: bars in a terminal and in a notebook, scalars for TensorBoard."""

import sys

import pytest
from rich import console

from ptycho.config import TrainingConfig
from ptycho.formats import write_scan
from ptycho.output.progress_bars import progress_bar, tensorboard_log
from ptycho.training.train import train
from tests.cli.test_app import TINY, run
from tests.training.test_train import model_for


def scalars(folder) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads of a log."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in log.Scalars(tag)] for tag in log.Tags()["scalars"]}


def test_the_losses_of_a_training_are_those_of_its_history(small_scan, tmp_path):
    with tensorboard_log(tmp_path) as progress:
        history = train(model_for(small_scan), small_scan, TrainingConfig(epochs=2), progress=progress)
    found = scalars(tmp_path)
    names = {"training/loss": "loss", "training/validated": "validation_loss", "training/flat_object": "flat_loss"}
    assert set(found) == set(names)
    for tag, key in names.items():
        assert [step for step, _ in found[tag]] == [1, 2]
        assert [value for _, value in found[tag]] == pytest.approx([entry[key] for entry in history], rel=1e-6)


def test_what_begins_again_gets_a_name_of_its_own(tmp_path):
    with tensorboard_log(tmp_path) as progress:
        for errors in ([3.0, 2.0], [5.0, 4.0]):
            for epoch, error in enumerate(errors, 1):
                progress("refining", epoch - 0.5, 2, dict(error=99.0))  # not a whole epoch
                progress("refining", epoch, 2, dict(error=error))
    assert scalars(tmp_path) == {"refining/error": [(1, 3.0), (2, 2.0)], "refining_2/error": [(1, 5.0), (2, 4.0)]}


def test_without_the_writer_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ValueError, match=r"pip install 'ptycho\[tensorboard\]'"), progress_bar(tmp_path):
        pass


def drawn(jupyter: bool, monkeypatch, capsys) -> str:
    monkeypatch.setattr(console, "_is_jupyter", lambda: jupyter)
    monkeypatch.setenv("COLUMNS", "120")
    with progress_bar() as progress:
        progress("training", 0.5, 2, {})
        progress("training", 1, 2, {"loss": 0.12345, "validated": 0.5})
        progress("predicting", 7, 10, {})
    out = capsys.readouterr()
    return out.err if jupyter else out.out


@pytest.mark.parametrize("jupyter", [False, True])
def test_bars_show_parts_losses_and_the_time_left(jupyter, monkeypatch, capsys):
    said = drawn(jupyter, monkeypatch, capsys)
    for words in ("training", "50 %", "left", "loss 0.1235, validated 0.5", "predicting", "70 %"):
        assert words in said


@pytest.mark.slow
def test_commands_leave_logs(small_scan, tmp_path):
    write_scan(small_scan, tmp_path / "scan.h5")
    run(f"train {tmp_path}/scan.h5 -o {tmp_path}/network --tensorboard {tmp_path}/log {TINY['train']}")
    assert len(scalars(tmp_path / "log")["training/loss"]) == 2
    run(
        f"reconstruct {tmp_path}/scan.h5 -o {tmp_path}/run --model {tmp_path}/network --tensorboard {tmp_path}/log2"
        " --set refine.epochs=3"
    )
    assert "refining/error" in scalars(tmp_path / "log2")
