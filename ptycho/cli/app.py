"""The command line: parse, make a config, call one function of the library, print what it found."""

import os
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

app = typer.Typer(
    help="Ptychography by physics-informed neural networks: a scan in, a sharp complex image out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Existing = typer.Argument(exists=True, dir_okay=False, show_default=False)
ScanFile = Annotated[Path, Existing]
Folder = Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.", show_default=False)]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", exists=True, dir_okay=False, help="TOML file: [model] [training] [simulation] [refine]."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any setting, as section.name=value, e.g. --set model.stages=6."),
]
Epochs = Annotated[int | None, typer.Option(help="Passes over the data; by default as many as it takes.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the weights and of the order of the data.")]
ProbeUse = Annotated[
    Literal["auto", "fixed", "learn"] | None,
    typer.Option(
        "--probe", help="auto: a guessed probe is sought along with the object, a known one is not; learn: and trained."
    ),
]
Modes = Annotated[int | None, typer.Option(min=1, max=64, help="Incoherent probe modes; those added are sought.")]
WithholdEvery = Annotated[
    int | None,
    typer.Option(
        "--hold-out-every",
        "--withhold-every",
        min=2,
        help="Keep frames 0, k, 2k, ... from every fit and judge by them.",
    ),
]
Precision = Annotated[
    Literal["float32", "mixed_bfloat16", "auto"] | None, typer.Option(help="Arithmetic of the convolutions.")
]
From = Annotated[
    str | None, typer.Option("--from", help="Start from a trained network: a run folder, or 'pretrained'.")
]
Preset = Annotated[
    Literal["best", "fast"] | None, typer.Option(help="fast: each frame on its own, for streams of frames.")
]
TensorBoard = Annotated[
    Path | None, typer.Option("--tensorboard", help="Folder for logs that TensorBoard shows while the run goes on.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the interrupted training in the folder.")]
TileFrames = Annotated[
    int | None, typer.Option(min=1, help="Frames reconstructed at once; fewer take less memory, and come sooner.")
]

Live = Annotated[bool, typer.Option("--live", help="Serve a page that shows object, probe and losses as they improve.")]
LiveAddress = Annotated[
    str | None,
    typer.Option(help="Where to serve it, HOST or HOST:PORT; by default 127.0.0.1, on any free port. No password."),
]


@app.command(name="simulate")
def simulate_command(
    output: Annotated[Path, typer.Argument(help="Scan file to write: .h5 or .npz.", show_default=False)],
    config: ConfigFile = None,
    settings: Settings = None,
    N: Annotated[int | None, typer.Option("--N", help="Side of the frames, pixels.")] = None,
    positions: Annotated[int | None, typer.Option(help="Number of scan positions.")] = None,
    photons: Annotated[float | None, typer.Option(help="Photons in the probe per frame.")] = None,
    object_kind: Annotated[str | None, typer.Option("--object", help="cells, siemens, lines, gold_balls.")] = None,
    seed: Seed = None,
) -> None:
    """Simulate a scan with known truth."""
    options = dict(N=N, positions=positions, photons=photons, object_kind=object_kind, seed=seed)
    run = _settings(config, settings).updated("simulation", options)
    with _framework():
        from ptycho.config import SimulationConfig
        from ptycho.formats import write_scan
        from ptycho.simulation.simulate import simulate

    scan = simulate(SimulationConfig.from_dict(run.simulation))
    write_scan(scan, output)
    _say(f"{output}: {len(scan)} frames of {scan.N} x {scan.N}, {scan.mean_counts:.3g} counts each on average")


@app.command(name="train")
def train_command(
    scan: ScanFile,
    output: Folder,
    config: ConfigFile = None,
    settings: Settings = None,
    epochs: Epochs = None,
    seed: Seed = None,
    probe: ProbeUse = None,
    precision: Precision = None,
    preset: Preset = None,
    start: From = None,
    modes: Modes = None,
    resume: Resume = False,
    tensorboard: TensorBoard = None,
    live: Live = False,
    live_address: LiveAddress = None,
) -> None:
    """Train a network on a scan, without ground truth; it is left in OUTPUT/model.keras."""
    run = _training_settings(config, settings, epochs, seed, probe, precision, preset)
    with _framework():
        from ptycho.pipelines.runs import open_scan, train_run

    data = open_scan(scan, _say, modes)
    with _watched(data, live, live_address, tensorboard) as progress:
        _, history = train_run(data, output, run, start=start, resume=resume, progress=progress)
    _say(f"{len(history)} epochs, loss {history[-1]['loss']:.4f}; the network is in {output / 'model.keras'}")


@app.command(name="pretrain")
def pretrain_command(
    output: Folder,
    config: ConfigFile = None,
    settings: Settings = None,
    seed: Seed = None,
    resume: Resume = False,
) -> None:
    """Train a network on simulated scans of all kinds, to start from: about half an hour on two cores."""
    run = _settings(config, settings).updated("training", dict(seed=seed)).updated("pretraining", dict(seed=seed))
    with _framework():
        from ptycho.output.progress_bars import progress_bar
        from ptycho.pipelines.runs import pretrain_run

    with progress_bar() as progress:
        history = pretrain_run(output, run.updated("model", dict(seed=seed)), resume=resume, progress=progress)
    _say(f"{len(history)} epochs, loss {history[-1]['loss']:.4f}; the network is in {output / 'model.keras'}")


@app.command(name="reconstruct")
def reconstruct_command(
    scan: ScanFile,
    output: Folder,
    model: Annotated[
        str | None,
        typer.Option(help="Run folder of a trained network, or 'pretrained'; without it one is trained here."),
    ] = None,
    hold_out_every: WithholdEvery = None,
    views: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=16,
            help="Average so many mirrored views, by default 8 where photons are scarce, else 1; their disagreement "
            "becomes the uncertainty.",
            show_default=False,
        ),
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    epochs: Epochs = None,
    seed: Seed = None,
    probe: ProbeUse = None,
    precision: Precision = None,
    preset: Preset = None,
    start: From = None,
    modes: Modes = None,
    refine: Annotated[
        bool, typer.Option("--refine/--no-refine", help="Fit the image to the counts at the end.")
    ] = True,
    resume: Resume = False,
    tensorboard: TensorBoard = None,
    live: Live = False,
    live_address: LiveAddress = None,
    tile_frames: TileFrames = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Address of a Dask scheduler: its workers compute the network's image (docs/howto/machines.md)."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="So many processes on this machine compute it.")] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Go on whatever `ptycho doctor` says of the scan; it is not asked.")
    ] = False,
) -> None:
    """Reconstruct the object of a scan: OUTPUT/reconstruction.h5, object.png, figure.png.

    The checks of `ptycho doctor` come first (2 to 3 s): where one fails the image would be wrong, and there is none.
    """
    run = _training_settings(config, settings, epochs, seed, probe, precision, preset)
    if model is not None and (run.model or run.training or resume or start):
        raise ValueError("settings of the model or of its training have no effect with --model; leave them out")
    split = bool(scheduler or workers)
    if split and (model is None or refine):
        raise ValueError(
            "--scheduler and --workers split the work of a trained network, not its training nor the refinement: give "
            "--model and --no-refine (`ptycho refine --start` goes on from the image, in one process)"
        )
    with _framework():
        from ptycho.diagnostics.checks import require_sound, sentences
        from ptycho.pipelines.runs import open_scan, reconstruct_run

    data = open_scan(scan, _say, modes, in_file=split)
    checks = None if force else require_sound(data)
    for warning in sentences(checks or (), "warn"):
        _say(f"warning: {warning}")
    with _watched(data, live, live_address, tensorboard) as progress:
        outcome = reconstruct_run(
            data,
            output,
            run,
            model_folder=model,
            start=start,
            hold_out_every=hold_out_every,
            views=views,
            tile_frames=tile_frames,
            refined=refine,
            resume=resume,
            checks=checks,
            scheduler=scheduler,
            workers=workers,
            progress=progress,
        )
    _tell(outcome, output)
    if refine and "uncertainty_calibration" in outcome.result.provenance:
        _say(f"the uncertainty is that of the network's image: {output / 'network.h5'}")


@app.command(name="stream")
def stream_command(
    scan: ScanFile,
    output: Folder,
    model: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Run folder of a trained network.", show_default=False)
    ],
    rate: Annotated[float | None, typer.Option(help="Frames per second; by default as fast as they are taken.")] = None,
    order: Annotated[Literal["scan", "random"], typer.Option(help="Order in which the frames come.")] = "scan",
    tile_frames: TileFrames = None,
    seed: Annotated[int, typer.Option(help="Seed of the random order.")] = 0,
) -> None:
    """Play a scan to a trained network frame by frame, as a detector would, and say how well it keeps pace."""
    with _framework():
        from ptycho.output.progress_bars import progress_bar
        from ptycho.pipelines.runs import open_scan, stream_run

    data = open_scan(scan, _say)
    with progress_bar() as progress:
        outcome, played = stream_run(
            data, output, model, rate=rate, order=order, tile_frames=tile_frames, seed=seed, progress=progress
        )
    _table(["stream", ""], played.rows())
    _tell(outcome, output)


@app.command(name="refine")
def refine_command(
    scan: ScanFile,
    output: Folder,
    start: Annotated[
        str | None, typer.Option(help="Reconstruction, or run folder with one, to start from; else empty space.")
    ] = None,
    method: Annotated[
        Literal["cg", "lsqml", "rpie", "adam"] | None, typer.Option(help="How; cg fits everything at once.")
    ] = None,
    noise: Annotated[
        Literal["amplitude", "poisson"] | None, typer.Option(help="Least squares of amplitudes, or the likelihood.")
    ] = None,
    modes: Modes = None,
    probe: ProbeUse = None,
    positions: Annotated[bool, typer.Option("--positions", help="Fit the position of each frame.")] = False,
    affine: Annotated[bool, typer.Option("--affine", help="Fit scale, rotation and shear of the positions.")] = False,
    background: Annotated[bool, typer.Option("--background", help="Fit counts that do not come from the sample.")] = (
        False
    ),
    opr_modes: Annotated[
        int | None,
        typer.Option("--opr-modes", "--variations", min=1, max=3, help="Let the probe vary from frame to frame (OPR)."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the frames at most.")] = None,
    hold_out_every: WithholdEvery = None,
    config: ConfigFile = None,
    settings: Settings = None,
    seed: Seed = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the interrupted fit in the folder.")] = False,
    live: Live = False,
    live_address: LiveAddress = None,
) -> None:
    """Fit object, probe, positions and more to the counts, until frames that the fit does not see say it is best."""
    run = _settings(config, settings)
    run = run.updated("model", dict(probe_trainable=None if probe in (None, "auto") else probe == "learn"))
    # Positions and what else fine structure tells are fitted once there is some.
    options = dict(positions_from=positions, affine_from=affine, background_from=background, opr_from=opr_modes)
    begin = {name: LATER if wanted else None for name, wanted in options.items()}
    more = dict(method=method, noise=noise, opr_modes=opr_modes, epochs=epochs, seed=seed)
    run = run.updated("refine", begin | more)
    with _framework():
        from ptycho.pipelines.runs import open_scan, refine_run

    data = open_scan(scan, _say, modes)
    with _watched(data, live, live_address) as progress:
        outcome = refine_run(
            data, output, run, start=start, hold_out_every=hold_out_every, resume=resume, progress=progress
        )
    _tell(outcome, output)


LATER = 8
"""Epoch from which `refine` fits what its options add to object and probe."""


@app.command(name="compare")
def compare_command(
    scan: ScanFile,
    output: Folder,
    engines: Annotated[
        str, typer.Option(help="Engines of pty-chi beside the package's own refinement: lsqml, rpie, epie.")
    ] = "lsqml,rpie",
    modes: Modes = None,
    hold_out_every: WithholdEvery = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the data; by default as many as it takes, pty-chi 30.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Frames in a batch of pty-chi; by default a sixteenth of all, 32 at most.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the order of the frames.")] = 0,
) -> None:
    """Refine a scan, run iterative engines of pty-chi on it, and judge all by the same measures."""
    with _framework():
        from ptycho.output.progress_bars import progress_bar
        from ptycho.pipelines.compare import compare_run, table
        from ptycho.pipelines.runs import open_scan

    data = open_scan(scan, _say, modes)
    with progress_bar() as progress:
        comparison = compare_run(
            data,
            output,
            engines=[name.strip() for name in engines.split(",") if name.strip()],
            hold_out_every=hold_out_every,
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )
    _table(*table(comparison.entries))
    for note in comparison.notes:
        _say(note)
    _say(f"results in {output}")


@app.command(name="evaluate")
def evaluate_command(
    reconstruction: Annotated[Path, Existing],
    against: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The scan, or a file with the truth.")],
    margin: Annotated[float, typer.Option(help="Part of the true object left out on every side.")] = 0.16,
    every: Annotated[int | None, typer.Option(help="Judge by frames 0, k, 2k, ... of the scan.")] = None,
) -> None:
    """Score a reconstruction against the true object of a scan, or by frames held out from it."""
    with _framework():
        from ptycho.evaluation import compare_objects
        from ptycho.formats import read_scan
        from ptycho.pipelines.runs import judge
        from ptycho.reconstruction import Reconstruction

    result, data = Reconstruction.load(reconstruction), read_scan(against)
    every = every or int(result.provenance.get("hold_out_every", 0)) or None
    if data.object is None and every is None:
        raise ValueError(f"{against} has no true object, and no frames were held out: use --every to name some")
    if data.object is not None:
        _score_table(compare_objects(result.object, data.object, margin))
    if every is not None:
        frames = data.held_out_mask(every)
        found = judge(result, _without_truth(data), frames)
        _frame_error(found, every)


@app.command(name="convert")
def convert_command(
    source: ScanFile,
    target: Annotated[Path, typer.Argument(help="File to write; its name tells the format.", show_default=False)],
    format: Annotated[str | None, typer.Option(help="Format to write, where the name does not tell.")] = None,
    pixel_size_nm: Annotated[
        float | None, typer.Option(min=0, help="Side of an object pixel, where the file does not tell.")
    ] = None,
    trusted: Annotated[
        bool, typer.Option("--trusted", help="Follow links out of the file's folder, and unpack any size.")
    ] = False,
    mend: Annotated[
        bool,
        typer.Option("--mend", help="Set right what `ptycho doctor` finds, as far as it can be; say what was done."),
    ] = False,
    crop: Annotated[
        int | None,
        typer.Option(min=2, help="Keep so many pixels around the zero frequency; object pixels grow to match."),
    ] = None,
    bin: Annotated[
        int, typer.Option(min=1, help="Then add up k x k pixels; the probe keeps the middle k-th of its window.")
    ] = 1,
) -> None:
    """Write a scan, or the result of another program, in another format; say what that cannot hold."""
    from ptycho.formats import ReadOptions, convert

    size = None if pixel_size_nm is None else pixel_size_nm * 1e-9
    for sentence in convert(
        source, target, format, ReadOptions(pixel_size_m=size, trusted=trusted), crop=crop, bin=bin, mend=mend
    ):
        _say(sentence)
    _say(f"{source} -> {target}")


@app.command(name="info")
def info_command(scan: ScanFile) -> None:
    """Say what is in a scan file, and what looks wrong with it."""
    from ptycho.diagnostics.describe import describe
    from ptycho.formats import read_scan

    data = read_scan(scan)
    _table(["", str(scan)], describe(data))
    for note in data.notes:
        _say(f"note: {note}")


@app.command(name="view")
def view_command(
    path: Annotated[Path, typer.Argument(exists=True, help="A run folder, or a scan file.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Page of a scan file; by default beside it, as .html.")
    ] = None,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
) -> None:
    """Open the report of a run, or make one of a bare scan: its frames, positions and probe."""
    import webbrowser

    page = path / "report.html" if path.is_dir() else output or path.with_suffix(".html")
    if not path.is_dir():
        with _framework():
            from ptycho.formats import read_scan
            from ptycho.output.report import save_report
            from ptycho.pipelines.runs import software

        data = read_scan(path)
        save_report(page, data, findings=data.notes, settings=software())
    elif not page.exists():
        raise ValueError(f"there is no report in {path}; every run leaves one, but `ptycho stream` and `pretrain`")
    _say(str(page))
    if show and not webbrowser.open(page.resolve().as_uri()):
        _say("no browser was found: open the file yourself, or leave it with --no-open")


@app.command(name="export")
def export_command(
    source: Annotated[
        Path, typer.Argument(exists=True, help="A run folder, or a reconstruction of any program.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the files.", show_default=False)],
    formats: Annotated[
        str, typer.Option(help="Which: tiff and png (amplitude, phase), hdf5, cxi, figure (PDF and PNG for a paper).")
    ] = "tiff,png,hdf5,cxi,figure",
    pixel_size_nm: Annotated[
        float | None, typer.Option(min=0, help="Side of an object pixel, where the result does not tell.")
    ] = None,
) -> None:
    """Write a reconstruction as images, HDF5, CXI, and a figure with scale bar and colour bars."""
    from ptycho.output.export import export

    size = None if pixel_size_nm is None else pixel_size_nm * 1e-9
    for file in export(source, output, [name.strip() for name in formats.split(",") if name.strip()], size):
        _say(str(file))


@app.command(name="doctor")
def doctor_command(
    scan: ScanFile,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
) -> None:
    """Check a scan file: what passes, warns or fails, and what to do; exit code 1 if anything fails."""
    import json

    from ptycho.diagnostics.checks import examine
    from ptycho.formats import read_scan

    data = read_scan(scan)
    checks = examine(data)
    if as_json:
        said = dict(file=str(scan), notes=data.notes, checks=[check.to_json() for check in checks])
        print(json.dumps(said, indent=1, ensure_ascii=False))
    else:
        _table(["check", "", "found", "what to do"], checks)
        for note in data.notes:
            _say(f"note: {note}")
    if any(check.verdict == "fail" for check in checks):
        raise typer.Exit(1)


@app.command(name="demo")
def demo_command(
    output: Folder = Path("demo"),
    config: ConfigFile = None,
    settings: Settings = None,
    seed: Seed = None,
) -> None:
    """Simulate a scan, train on it, reconstruct and score it: about a minute and a half on two cores."""
    run = _settings(config, settings).updated("simulation", dict(seed=seed))
    run = run.updated("training", dict(total_frames=6000) | run.training)
    with _framework():
        from ptycho.output.progress_bars import progress_bar
        from ptycho.pipelines.runs import demo_run

    with progress_bar() as progress:
        outcome = demo_run(output, run, progress=progress, say=_say)
    _tell(outcome, output)


study_app = typer.Typer(help="Studies: many reconstructions that differ in a few settings.", no_args_is_help=True)
app.add_typer(study_app, name="study")

StudyFolder = Annotated[
    Path, typer.Option("-o", "--output-dir", help="Folder for the results; a study in it goes on.", show_default=False)
]
Quick = Annotated[bool, typer.Option("--quick", help="Few arms, few frames, a small network: some minutes an arm.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, say what it will take, and run nothing.")]
SkipTraining = Annotated[
    bool, typer.Option("--skip-training", help="Run no arm; write tables and figures of those that are done.")
]
Scheduler = Annotated[
    str | None, typer.Option(help="Address of a Dask scheduler: its workers run the arms (docs/howto/machines.md).")
]
Workers = Annotated[int, typer.Option(min=0, help="Run the arms in so many processes on this machine.")]
StudyEpochs = Annotated[int | None, typer.Option("--nepochs", min=1, help="Passes over the frames in training.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show tracebacks of arms that fail.")]
StudySettings = Annotated[
    list[str] | None, typer.Option("--set", help="A setting of model, training or refine, e.g. --set model.stages=6.")
]


@study_app.command(name="dose-response")
def dose_response_command(
    output_dir: StudyFolder,
    doses: Annotated[
        str | None, typer.Option(help="Photons per frame, 1e3,1e4,...; with --scan the parts that are kept, 1,0.1,...")
    ] = None,
    losses: Annotated[str | None, typer.Option(help="nll (Poisson likelihood), mae (amplitudes), or both.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of seeds: 3, with --quick or --scan 1.")] = None,
    N: Annotated[str | None, typer.Option("--N", help="Sides of the frames, pixels: 64 or 64,128.")] = None,
    gridsize: Annotated[int | None, typer.Option(min=1, max=8, help="Frames in a group of training: g x g.")] = None,
    n_train: Annotated[int | None, typer.Option(min=9, help="Simulated frames to train on.")] = None,
    n_test: Annotated[int | None, typer.Option(min=4, help="Frames of another object to be judged by.")] = None,
    nepochs: StudyEpochs = None,
    scan: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A measured scan, thinned out.")
    ] = None,
    settings: StudySettings = None,
    quick: Quick = False,
    dry_run: DryRun = False,
    skip_training: SkipTraining = False,
    scheduler: Scheduler = None,
    workers: Workers = 0,
    verbose: Verbose = False,
) -> None:
    """How good the image is for a given dose, and whether the Poisson likelihood beats an amplitude loss."""
    from ptycho.studies.dose_response import MEASURED, QUICK, DoseResponse

    values: dict[str, Any] = (QUICK if quick else {}) | (MEASURED if scan else {})
    values |= dict(file=str(scan.resolve())) if scan else {}
    said = dict(
        doses=doses and [float(dose) for dose in doses.split(",")],
        losses=losses and losses.split(","),
        seeds=seeds,
        N=N and [int(side) for side in N.split(",")],
        gridsize=gridsize,
        train_frames=n_train,
        test_frames=n_test,
    )
    values |= {name: value for name, value in said.items() if value is not None}
    run = _settings(None, settings).updated("training", dict(epochs=nepochs))
    for section in ("model", "training", "refine"):
        values[section] = values.get(section, {}) | getattr(run, section)
    study = DoseResponse.from_dict(values).study()
    _run_study(study, output_dir, dry_run, skip_training, scheduler, workers, verbose)


FURTHER_STUDIES = {
    "overlap": "How far apart frames may be, and whether larger groups help then.",
    "training-size": "In how few frames a network learns, and how it does on another object.",
    "probe-error": "How wrong the probe may be: defocus, blur, noise; sought along, or believed.",
    "supervised": "The same network taught by the truth and by the counts.",
}


def _further_study(name: str) -> None:
    @study_app.command(name=name, help=FURTHER_STUDIES[name])
    def command(
        output_dir: StudyFolder,
        seeds: Annotated[int | None, typer.Option(min=1, help="Number of seeds: 2, with --quick 1.")] = None,
        nepochs: StudyEpochs = None,
        settings: StudySettings = None,
        quick: Quick = False,
        dry_run: DryRun = False,
        skip_training: SkipTraining = False,
        scheduler: Scheduler = None,
        workers: Workers = 0,
        verbose: Verbose = False,
    ) -> None:
        from ptycho.studies.more import QUICK, STUDIES, Size

        size = QUICK if quick else Size()
        run = _settings(None, settings).updated("training", dict(epochs=nepochs))
        said = {section: size.settings.get(section, {}) | getattr(run, section) for section in ("model", "training")}
        study = STUDIES[name](size._replace(seeds=seeds or size.seeds, settings=said))
        _run_study(study, output_dir, dry_run, skip_training, scheduler, workers, verbose)


for _name in FURTHER_STUDIES:
    _further_study(_name)


@app.command(name="plan")
def plan_command(
    target_frc: Annotated[
        float, typer.Option(help="Frequency, over Nyquist, down to which the image shall be true (FRC 0.5).")
    ],
    step: Annotated[str, typer.Option(help="Distances of neighbouring positions, object pixels: 4,8,16.")],
    probe: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Scan or reconstruction with the probe.")
    ] = None,
    N: Annotated[int, typer.Option("--N", help="Side of the frames, where the probe is a simulated one.")] = 64,
    object_kind: Annotated[str, typer.Option("--object", help="cells, siemens, lines, gold_balls.")] = "cells",
    seed: Annotated[int, typer.Option(help="Seed of the simulated sample.")] = 0,
) -> None:
    """How many photons a resolution takes at least, and with which overlap, before the beam time."""
    with _framework():
        from ptycho.studies.planning import needs, probe_of

    steps = [float(value) for value in step.split(",")]
    found = needs(probe_of(probe, N), steps, target_frc, kind=cast(Any, object_kind), seed=seed)
    titles = ["step (px)", "overlap", "photons a frame", "photons an object pixel"]
    shown = lambda value: "out of reach" if value == float("inf") else f"{value:.2g}"
    _table(
        titles,
        [[f"{n.step_px:g}", f"{100 * n.overlap:.0f} %", shown(n.photons), shown(n.per_pixel)] for n in found],
    )
    best = min(found, key=lambda need: need.per_pixel)
    if best.photons < float("inf"):
        _say(
            f"fewest photons on the sample with a step of {best.step_px:g} px. This is the shot-noise bound with a "
            "known probe: plan for several times as many (docs/studies/dose-response.md)."
        )


def _run_study(study, folder, dry_run, skip_training, scheduler, workers, verbose) -> None:
    from ptycho.formats import read_scan
    from ptycho.studies.arms import plan

    if dry_run:
        files = {arm.file for arm in study.arms if arm.file}
        shapes = {file: (len(scan := read_scan(file)), scan.N) for file in files}
        _table(*plan(study, shapes))
        return
    with _framework():
        from ptycho.output.progress_bars import progress_bar
        from ptycho.studies.runner import run_study, table

    with progress_bar() as progress:
        results = run_study(
            study,
            folder,
            scheduler=scheduler,
            workers=workers,
            only_finished=skip_training,
            progress=progress,
            say=_say,
        )
    _table(*table(results.rows))
    _say(f"table, figures and {folder / 'report.html'}")
    for failure in results.failures:
        _say(f"FAILED {failure.name}: {failure.error}")
        if verbose:
            _say(failure.traceback)
    if results.failures:
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; what a user can mend is one line on standard error, and exit code 1, of a bad file 2."""
    from ptycho.io import BadFile

    try:
        app()
    except BadFile as error:
        if os.environ.get("PTYCHO_TRACEBACK"):
            raise
        print(f"ptycho: {error}", file=sys.stderr)
        sys.exit(2)
    except (ValueError, FileNotFoundError, tomllib.TOMLDecodeError) as error:
        if os.environ.get("PTYCHO_TRACEBACK"):
            raise
        sys.exit(f"ptycho: {error}")


def _settings(config: Path | None, settings: list[str] | None):
    """The settings of a run: the file, then what ``--set`` says."""
    from ptycho.config import SECTIONS, RunConfig, Section

    run = RunConfig.from_toml(config) if config else RunConfig()
    for setting in settings or ():
        section, _, rest = setting.partition(".")
        name, equals, text = rest.partition("=")
        if section not in SECTIONS or not equals:
            raise ValueError(f"--set {setting}: write section.name=value, section one of {', '.join(SECTIONS)}")
        run = run.updated(cast(Section, section), {name.strip(): _value(text)})
    return run


def _value(text: str) -> Any:
    """A value as TOML reads it; what is no TOML is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def _training_settings(config, settings, epochs, seed, probe, precision, preset):
    from ptycho.config import PRESETS

    run = _settings(config, settings).updated("training", dict(epochs=epochs, seed=seed))
    learn = None if probe in (None, "auto") else probe == "learn"
    if preset is not None:
        run = replace(run, model=PRESETS[preset] | run.model)
    return run.updated("model", dict(seed=seed, probe_trainable=learn, precision=precision))


@contextmanager
def _framework() -> Iterator[None]:
    """Import the framework without the messages its C++ libraries print; show them if the import fails."""
    import logging
    import tempfile

    # Not its errors either: a failure raises, and "oneDNN supports DT_INT32 only with AVX-512" is none.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Advice on retracing: each stage of a network is a trace of its own, made once.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as hidden:
        os.dup2(hidden.fileno(), 2)
        try:
            yield
            import keras

            keras.ops.zeros(1)  # the first operation looks for devices, and prints what it thinks of them
        except BaseException:
            hidden.seek(0)
            os.write(kept, hidden.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@contextmanager
def _watched(scan: Any, live: bool, address: str | None, tensorboard: Path | None = None) -> Iterator[Any]:
    """Progress in the terminal, and on a page where that is asked for."""
    from ptycho.output.progress_bars import progress_bar

    if not live:
        if address is not None:
            raise ValueError("--live-address has no effect without --live")
        with progress_bar(tensorboard) as progress:
            yield progress
        return
    from ptycho.output.live import live_page

    with progress_bar(tensorboard) as bar, live_page(scan, bar, address, _say) as progress:
        yield progress


def _say(text: str) -> None:
    from rich.console import Console

    Console().print(text, markup=False, highlight=False)


def _table(titles: list[str], rows: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*titles)
    for row in rows:
        table.add_row(*(value if isinstance(value, str) else f"{value:.3f}" for value in row))
    Console().print(table)


def _score_table(scores: Any, before: Any = None) -> None:
    rows = scores.rows()
    titles = ["score", "reconstruction", "flat object"]
    if before is not None:
        titles = ["score", "before", "refined", "flat object"]
        rows = [(name, old, new, flat) for (name, new, flat), (_, old, _) in zip(rows, before.rows(), strict=True)]
    _table(titles, rows)
    if not scores.gauge.registered:
        _say("warning: the reconstruction could not be registered with the truth; the centres were aligned")


def _frame_error(outcome: Any, every: int) -> None:
    before = "" if outcome.before is None else f", {outcome.before.held_out_error:.4f} before the refinement"
    _say(
        f"error on frames 0, {every}, {2 * every}, ...: {outcome.held_out_error:.4f}{before} "
        f"(about {outcome.shot_noise:.4f} from shot noise alone)"
    )


def _tell(outcome: Any, output: Path) -> None:
    if outcome.scores is not None:
        _score_table(outcome.scores, outcome.before and outcome.before.scores)
    if outcome.held_out_error is not None:
        _frame_error(outcome, outcome.result.provenance["hold_out_every"])
    if outcome.fit:
        powers = (abs(outcome.result.probe) ** 2).sum(axis=(1, 2))
        if len(powers) > 1:
            _say("power of the probe modes: " + ", ".join(f"{100 * part:.1f} %" for part in powers / powers.sum()))
        seconds = sum(entry["seconds"] for entry in outcome.fit)
        _say(f"refined in {len(outcome.fit) - 1} epochs, {seconds:.1f} s")
    if outcome.trust is not None:
        _say(outcome.trust.sentence())
    for warning in outcome.warnings:
        _say(f"warning: {warning}")
    _say(f"{outcome.result.used} frames used, {outcome.result.dropped} dropped; results in {output}")


def _without_truth(scan: Any) -> Any:
    return replace(scan, object=None)


if __name__ == "__main__":
    main()
