"""The command line: thin, and honest about its options. What README and docs say of it is run by test_docs.py."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

import ptycho
from ptycho.cli import app as cli
from ptycho.cli import options
from ptycho.cli.app import app
from ptycho.cli.compute import network_of
from ptycho.cli.options import configured, field_help, start_of
from ptycho.cli.printing import one_line
from ptycho.config import DEFERRED, PRESETS, SECTIONS, RefineConfig, RunConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.diagnostics import checks
from ptycho.pipelines import needs
from ptycho.typed import field_types

TINY = {
    "simulate": "--N 24 --positions 64 --set simulation.step_px=4.0",
    "train": "--epochs 2 --set model.stages=1 --set model.width=4 --set model.gridsize=2",
    "compare": "--epochs 2",
    "refine": "--epochs 4",
    "study": "--dry-run",
    "plan": "--N 24",
    "demo": "--set simulation.N=24 --set simulation.positions=64 --set simulation.step_px=4.0"
    " --set model.stages=1 --set model.width=4 --set model.gridsize=2 --set training.epochs=2",
}


def run(command: str) -> str:
    result = CliRunner().invoke(app, shlex.split(command), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_importing_the_package_loads_no_framework():
    code = "import sys, ptycho; print([m for m in ('numpy', 'keras', 'tensorflow', 'h5py') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_commands_stand_in_groups_with_an_example_that_exists():
    said = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "160"}).output
    titles = re.findall(r"─ (Start|Look|Compute|Study), for example: ptycho (\S+)", said)
    assert [group for group, _ in titles] == ["Start", "Look", "Compute", "Study"]
    assert {command for _, command in titles} <= set(get_command(app).commands)
    assert "─ Commands" not in said  # none is left out of the groups


def test_the_version_is_that_of_the_package():
    assert run("--version").strip() == f"ptycho {ptycho.__version__}"


def test_help_loads_no_framework():
    code = (
        "import sys; sys.argv = ['ptycho', '--help']\n"
        "import ptycho.cli.app\n"
        "try: ptycho.cli.app.main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('numpy', 'keras', 'tensorflow', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "reconstruct" in out
    assert out.strip().endswith("[]")


SETTINGS = "--config --set"
RUN = f"{SETTINGS} -o --output --resume --seed"
LIVE = "--live --live-address"
NETWORK = f"{RUN} --epochs --precision --probe --preset --from --modes --tensorboard {LIVE}"
HELD_OUT = "--hold-out-every --withhold-every"
STUDY = "-o --output-dir --seeds --nepochs --set --quick --dry-run --skip-training --scheduler --workers --verbose"
OPTIONS = {
    "simulate": f"{SETTINGS} --N --positions --photons --object --seed",
    "train": f"{NETWORK} --force",
    "pretrain": RUN,
    "reconstruct": f"{NETWORK} {HELD_OUT} --model --symmetries --views --refine --auto --half-sets --uncertainty"
    " --thickness-nm --slices --force --tile-frames --scheduler --workers",
    "refine": f"{RUN} {LIVE} {HELD_OUT} --start --method --noise --modes --probe --positions --affine --background"
    " --opr-modes --variations --epochs --auto --half-sets --uncertainty --thickness-nm --slices --force",
    "stream": f"{SETTINGS} --model --rate --order --tile-frames --seed -o --output",
    "compare": f"{SETTINGS} --engines --modes {HELD_OUT} --epochs --batch-size --seed --environments --install-engines"
    " -o --output",
    "evaluate": f"{SETTINGS} --every --margin",
    "convert": f"{SETTINGS} --format --pixel-size-nm --trusted --mend --crop --bin",
    "doctor": f"{SETTINGS} --json",
    "info": f"{SETTINGS} --share",
    "view": f"{SETTINGS} --open --output -o",
    "export": "--formats --pixel-size-nm -o --output --network --N --frames --canvas",
    "demo": f"{SETTINGS} --seed -o --output",
    "plan": "--target-frc --step --probe --N --object --seed",
    "study": "",
    "study dose-response": f"{STUDY} --doses --losses --N --gridsize --n-train --n-test --scan",
    **{f"study {name}": STUDY for name in ("overlap", "training-size", "probe-error", "supervised")},
}
"""Options that are not just fields of settings, or were there before each field had one."""

NETWORK_SECTIONS = ["model", "training", "reading"]
SECTIONS_OF = dict(
    simulate=["simulation"],
    train=NETWORK_SECTIONS,
    pretrain=["pretraining"],
    reconstruct=NETWORK_SECTIONS,
    refine=["refine", "reading"],
    **{name: ["reading"] for name in ("info", "doctor", "convert", "evaluate", "view", "stream", "compare")},
)


def test_option_names_are_frozen():
    """Scripts rely on these; a change here is a change for users. Whatever else there is, is a field of a config."""
    commands = dict(get_command(app).commands)
    commands |= {f"study {name}": command for name, command in commands["study"].commands.items()}
    assert commands.keys() == OPTIONS.keys()
    for name, command in commands.items():
        there = {o for p in command.params for o in p.opts if o.startswith("-")}
        fields = {field for section in SECTIONS_OF.get(name, ()) for field in field_types(SECTIONS[section])}
        from_fields = {"--" + field.replace("_", "-") for field in fields}
        from_fields |= {option.removesuffix("-from") for option in from_fields}
        assert set(OPTIONS[name].split()) <= there, name
        assert there - set(OPTIONS[name].split()) <= from_fields, name


@pytest.mark.parametrize(("command", "sections"), SECTIONS_OF.items())
def test_each_field_of_a_section_is_an_option(command, sections):
    """But for those that the scan sets, and those that are written in a file only."""
    there = {o for p in get_command(app).commands[command].params for o in p.opts}
    fields = {field for section in sections for field in field_types(SECTIONS[section])}
    without = {"N", "probe_modes", "probe_trainable"} if "training" in sections else {"near_field", "multislice"}
    for field in fields - without:
        option = "--" + field.replace("_", "-")
        assert {option, option.removesuffix("-from")} & there, field


def test_a_training_for_single_frames_starts_from_the_network_of_the_package():
    """But not one with other stages, and not where a new one is asked for."""
    plain, wider = RunConfig(), RunConfig(model=dict(width=12))
    assert start_of(plain, "fast", None) == "pretrained-fast"
    assert start_of(plain, "fast", "run") == "run"
    assert start_of(plain, None, None) is start_of(plain, "best", None) is None
    assert start_of(wider, "fast", None) is start_of(plain, "fast", "new") is None


def test_options_are_the_type_of_their_field_and_say_its_first_sentence():
    option = {p.name: p for p in get_command(app).commands["refine"].params}
    assert option["epochs"].help == "Passes over the frames at most."
    assert option["positions"].help == "Fit the position of each frame (cg)."
    assert option["focus"].secondary_opts == ["--no-focus"]
    for name, help in field_help(RefineConfig).items():
        assert help.endswith(".") and name in field_types(RefineConfig)


@pytest.mark.parametrize("words", ["--epochs 3.5", "--method sgd", "--tv-weight much", "--nonsense 3"])
def test_options_of_another_type_are_refused(words):
    single = typer.Typer()
    single.command()(configured("refine")(lambda run: None))
    assert CliRunner().invoke(single, shlex.split(words)).exit_code == 2


def made(words: str, *names: str, **keywords):
    """The settings that a command with options for some fields is called with."""
    found = []
    single = typer.Typer()
    single.command()(configured(*names, **keywords)(lambda run: found.append(run)))
    result = CliRunner().invoke(single, shlex.split(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return found[0]


def test_options_beat_the_file_beats_the_defaults(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("[training]\nepochs = 7\nseed = 5\n[model]\nwidth = 16\nprecision = 'mixed_bfloat16'\n")
    run = made(f"--config {file} --set model.width=4 --epochs 3", "model", "training")
    assert run.training == {"epochs": 3, "seed": 5}
    assert run.model == {"width": 4, "precision": "mixed_bfloat16"}
    fixed = options.with_probe(made("--seed 2", "model", "training"), "fixed")
    assert fixed.model == {"seed": 2, "probe_trainable": False} and fixed.training == {"seed": 2}
    assert options.with_probe(RunConfig(), "auto").model == {}
    fast = options.network_settings(RunConfig(model=dict(width=4)), "fast", None)
    assert fast.model == PRESETS["fast"] | {"width": 4}


def test_flags_fit_an_unknown_once_there_is_fine_structure():
    assert made("--positions --no-focus", "refine").refine == {"positions_from": 8, "focus": False}
    assert made("--step 0.1 0.2 --scans 3", "pretraining").pretraining == {"step": (0.1, 0.2), "scans": 3}


@pytest.mark.parametrize(
    ("text", "value"), [("3", 3), ("1e-3", 1e-3), ("false", False), ("cnn", "cnn"), ("'6'", "6"), ("[1, 2]", [1, 2])]
)
def test_values_are_read_as_toml(text, value):
    assert options.toml_value(text) == value


def test_an_error_is_a_line_that_a_terminal_can_show():
    """What a file holds may be long, and may hold the codes that move a terminal's cursor."""
    line = one_line(ValueError("\x1b[2J" + "first\n" + "x" * 10**5 + " last"))
    assert line.startswith("?[2Jfirst xxx")
    assert line.endswith("xxx last")
    assert len(line) < 1300


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "{scan}", "-o", "{out}", "--set", "model.stagges=3"], "ModelConfig has no setting 'stagges'"),
        (["train", "{scan}", "-o", "{out}", "--set", "stages=3"], "write section.name=value"),
        (["refine", "{scan}", "-o", "{out}", "--set", "refine.epochs=abc"], "epochs is 'abc'; expected an integer"),
        (["refine", "{scan}", "-o", "{out}", "--set", "refine.epochs=" + "[" * 5000], "expected an integer"),
        (["refine", "{scan}", "-o", "{out}", "--set", "refine.epochs=" + "9" * 5000], "expected an integer"),
        (["demo", "-o", "{out}", "--set", "simulation.photons=true"], "photons is True; expected a number"),
        (["reconstruct", "{scan}", "-o", "{out}", "--model", "{here}"], "no model at"),
        (["reconstruct", "{scan}", "-o", "{out}", "--model", "{here}", "--epochs", "3"], "have no effect with --model"),
        (["reconstruct", "{scan}", "-o", "{out}", "--workers", "2", "--no-refine"], "split the work of a trained"),
        (["reconstruct", "{scan}", "-o", "{out}", "--workers", "2", "--model", "pretrained"], "--no-refine"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_1(arguments, said, tmp_path, small_scan, monkeypatch, capsys):
    from ptycho.formats import write_scan

    write_scan(small_scan, tmp_path / "scan.h5")
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    names = dict(bad=tmp_path / "bad.npz", scan=tmp_path / "scan.h5", out=tmp_path / "out", here=tmp_path)
    monkeypatch.setattr(sys, "argv", ["ptycho", *(a.format(**names) for a in arguments)])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    assert said in str(exit.value.code)
    assert "\n" not in str(exit.value.code).strip()


@pytest.mark.slow
def test_a_run_folder_holds_everything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(f"simulate scan.npz {TINY['simulate']}")
    asked = []
    values = checks._values
    monkeypatch.setattr(checks, "_values", lambda scan: asked.append(scan) or values(scan))
    said = run(f"reconstruct scan.npz -o run --no-auto --hold-out-every 10 {TINY['train']}")
    assert len(asked) == 1  # the doctor, for command and report
    assert "flat object" in said
    assert "error on frames 0, 10, 20" in said
    names = {p.name for p in Path("run").iterdir()}
    assert names >= {"reconstruction.h5", "object.png", "figure.png", "config.json", "history.json", "model.keras"}
    page = Path("run/report.html").read_text(encoding="utf-8")
    for words in ("orientation of frames", "How it was made", "total_frames", "keras", "Fourier ring correlation"):
        assert words in page
    config = json.loads(Path("run/config.json").read_text())
    assert config["model"]["stages"] == 1
    assert config["training"]["epochs"] == 2
    assert config["versions"]["keras"]
    with np.load("scan.npz") as scan, h5py.File("run/reconstruction.h5") as file:
        assert file["positions_px"].shape == scan["positions_px"].shape
        assert file["object"].dtype == np.complex64
        assert file["coverage"].shape == file["object"].shape
        assert file["probe"].shape == scan["probe"].shape
        assert file.attrs["hold_out_every"] == 10
        # The recorded dose is measured: of the frames that were given.
        assert file.attrs["counts_per_frame"] == pytest.approx(scan["counts"].sum((1, 2)).mean(), rel=1e-6)
        steps = np.diff(file["positions_px"][()], axis=0) - np.diff(scan["positions_px"], axis=0)
    assert np.abs(steps).max() < 1e-9


@pytest.mark.slow
def test_without_settings_of_a_training_the_network_is_the_package_s_own(tmp_path, monkeypatch):
    """A run whose positions are those of another camera is set right, and judged as it was read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(needs, "NEEDS", ())  # they have tests of their own
    run(f"simulate scan.h5 {TINY['simulate']} --photons 1e6")
    with h5py.File("scan.h5", "r+") as file:
        file["positions_px"][...] = file["positions_px"][()][:, ::-1]
        del file["object"]
    said = " ".join(run("reconstruct scan.h5 -o run --hold-out-every 5 --force").split())
    assert "Set right:" in said
    config = json.loads(Path("run/config.json").read_text())
    assert config["model_from"] == "pretrained" and not Path("run/model.keras").exists()
    scores = json.loads(Path("run/scores.json").read_text())
    judged = " ".join(run("evaluate run/reconstruction.h5 scan.h5").split())
    assert f"{scores['held_out_error']:.4f}" in judged
    assert network_of(Path("run"), resume=True, trains=False) == "pretrained"
    assert network_of(Path("run"), resume=False, trains=True) == "new"


@pytest.mark.slow
def test_the_demo_writes_its_files_and_scores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = run(f"demo -o demo {TINY['demo']}")
    assert "SNR (dB)" in said
    assert "flat object" in said
    assert {p.name for p in Path("demo").iterdir()} >= {"reconstruction.h5", "object.png", "figure.png", "scores.json"}


@pytest.mark.slow
def test_refine_fits_judges_and_goes_on_from_an_image(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(f"simulate scan.npz {TINY['simulate']}")
    said = run("refine scan.npz -o fit --no-auto --epochs 6 --hold-out-every 10")
    assert "refined in" in said
    assert {p.name for p in Path("fit").iterdir()} >= {"reconstruction.h5", "object.png", "figure.png", "history.json"}
    scores = json.loads(Path("fit/scores.json").read_text())
    assert scores["object"]["snr_db"] > scores["object"]["floor_flat_object"]["snr_db"] + 3
    assert "before_refinement" not in scores
    assert not Reconstruction.load("fit/reconstruction.h5").used_frames[::10].any()

    said = run(
        "refine scan.npz -o more --no-auto --start fit --epochs 10 --modes 2 --probe learn --positions"
        " --hold-out-every 10"
    )
    assert "power of the probe modes" in said
    assert "before the refinement" in said
    again = json.loads(Path("more/scores.json").read_text())
    assert again["before_refinement"]["held_out_error"] == pytest.approx(scores["held_out_error"], rel=1e-6)
    assert len(again["refinement"]) >= 2
    assert json.loads(Path("more/config.json").read_text())["refine"]["positions_from"] == DEFERRED["positions_from"]


@pytest.mark.slow
def test_a_network_alone_is_not_refined(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(f"simulate scan.npz {TINY['simulate']}")
    run(f"train scan.npz -o network {TINY['train']}")
    page = Path("network/report.html").read_text(encoding="utf-8")
    assert "<h2>Object" in page and "<h2>Training" in page and "How it was made" in page
    run("reconstruct scan.npz -o alone --model network --no-refine --force")
    said = run("reconstruct scan.npz -o both --model network --no-auto --set refine.epochs=5")
    assert "before" in said
    alone, before = (Reconstruction.load(name) for name in ("alone/reconstruction.h5", "both/network.h5"))
    np.testing.assert_array_equal(alone.object, before.object)
    assert not Path("alone/network.h5").exists()
    scores = [json.loads(Path(f"{name}/scores.json").read_text()) for name in ("alone", "both")]
    assert "before_refinement" not in scores[0]
    assert scores[1]["object"]["snr_db"] > scores[1]["before_refinement"]["object"]["snr_db"]


def failure(command: str, monkeypatch, capsys) -> tuple[int, str]:
    """Exit code and what is said on standard error."""
    monkeypatch.setattr(sys, "argv", ["ptycho", *shlex.split(command)])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    return exit.value.code, capsys.readouterr().err


def test_what_is_no_result_is_a_bad_file(tmp_path, small_scan, monkeypatch, capsys):
    from ptycho.formats import write_scan

    write_scan(small_scan, tmp_path / "scan.h5")
    code, said = failure(f"evaluate {tmp_path / 'scan.h5'} {tmp_path / 'scan.h5'}", monkeypatch, capsys)
    assert code == 2
    assert "not a reconstruction" in said


@pytest.mark.parametrize("command", ["info {bad}", "convert {bad} {out}", "reconstruct {bad} -o {out}"])
def test_bad_files_are_one_line_and_exit_code_2(command, tmp_path, monkeypatch, capsys):
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    names = dict(bad=tmp_path / "bad.npz", out=tmp_path / "out.h5")
    code, said = failure(command.format(**names), monkeypatch, capsys)
    assert code == 2
    assert said.count("\n") == 1 and "no format recognises" in said and "bad.npz" in said
    assert [path.name for path in tmp_path.iterdir()] == ["bad.npz"]


def test_reconstruct_refuses_what_the_doctor_fails_unless_it_is_forced(tmp_path, small_scan, monkeypatch, capsys):
    from ptycho.formats import write_scan

    write_scan(replace(small_scan, positions=small_scan.positions * 1e-3, object=None), tmp_path / "scan.h5")
    command = f"reconstruct {tmp_path / 'scan.h5'} -o {tmp_path / 'run'} --no-refine {TINY['train']}"
    code, _ = failure(command, monkeypatch, capsys)
    assert "would give a wrong image" in code and "divide metres by the pixel size" in code and "--force" in code
    assert not (tmp_path / "run").exists()
    said = run(f"{command} --force")
    assert "would give a wrong image" not in said and "warning: overlap" in said
    assert (tmp_path / "run" / "reconstruction.h5").exists()


def test_convert_says_what_is_lost_and_made_up(tmp_path, small_scan, monkeypatch, capsys):
    from ptycho.formats import read_scan, write_scan

    write_scan(small_scan, tmp_path / "scan.h5")
    said = " ".join(run(f"convert {tmp_path / 'scan.h5'} {tmp_path / 'scan.cxi'}").split())
    assert (
        "no place for the true object" in said and "made up: energy 10000 eV, distance 1 m, pixel size 1e-09 m" in said
    )
    run(f"convert {tmp_path / 'scan.cxi'} {tmp_path / 'other.dat'} --format npz")
    again = read_scan(tmp_path / "other.dat")
    np.testing.assert_array_equal(again.counts, small_scan.counts)
    np.testing.assert_allclose(again.positions, small_scan.positions, rtol=0, atol=1e-10)
    np.testing.assert_array_equal(again.object, small_scan.object)
    assert again.beam is None and again.pixel_size_m is None and again.probe_known
    code, _ = failure(f"convert {tmp_path / 'scan.h5'} {tmp_path / 'scan.doc'}", monkeypatch, capsys)
    assert "no format is written to files named like 'scan.doc'" in code


def test_slices_need_a_thickness(tmp_path, small_scan, monkeypatch, capsys):
    from ptycho.formats import write_scan

    write_scan(small_scan, tmp_path / "scan.h5")
    code, _ = failure(f"refine {tmp_path / 'scan.h5'} -o {tmp_path / 'out'} --slices 4", monkeypatch, capsys)
    assert "--thickness-nm" in code
