"""Commands that compute an image: by a network, by refinement, by other programs."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ptycho.cli.options import (
    Folder,
    From,
    HoldOutEvery,
    Live,
    LiveAddress,
    Modes,
    PresetName,
    ProbeUse,
    Resume,
    ScanFile,
    Scheduler,
    TensorBoard,
    TileFrames,
    Workers,
    configured,
    network_settings,
    reading_of,
    recorded,
    start_of,
    with_probe,
)
from ptycho.cli.printing import finish, log, print_outcome, print_table
from ptycho.cli.surroundings import framework, watched
from ptycho.config import DEFERRED, RunConfig
from ptycho.progress import Progress

if TYPE_CHECKING:  # heavy, and here only for its type
    from ptycho.data.scan import Scan
    from ptycho.pipelines.assess import Outcome

commands = typer.Typer()

Network = Annotated[
    str | None,
    typer.Option(
        help="Run folder of a trained network, 'pretrained' for the package's own, or 'new' to train one on the scan; "
        "by default 'pretrained', and 'new' where settings of a network or of its training are given.",
        show_default=False,
    ),
]
PRETRAINED, NEW = "pretrained", "new"
Symmetries = Annotated[
    int | None,
    typer.Option(
        "--symmetries",
        "--views",
        min=1,
        max=16,
        help="Average so many mirrored predictions, by default 8 where photons are scarce, else 1; their disagreement "
        "becomes the uncertainty.",
        show_default=False,
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Go on whatever `ptycho doctor` says of the scan, and write the image whatever the verdict."
    ),
]

Auto = Annotated[
    bool,
    typer.Option(
        "--auto/--no-auto",
        help="Where the fit ends above the shot noise, try what the scan may need besides (probe modes, positions, "
        "background, varying probe, blur), for up to 75 s, and slices of a thick sample under electrons; what held-out "
        "frames like is kept.",
    ),
]

HalfSets = Annotated[
    bool | None,
    typer.Option(
        "--half-sets/--no-half-sets",
        help="Find the resolution by the FRC of two images of half the data; by default where it takes less than 20 s.",
        show_default=False,
    ),
]

Thickness = Annotated[
    float | None,
    typer.Option(
        "--thickness-nm",
        min=0.01,
        help="Thickness of the sample: it is fitted as slices, and no thickness sought. Electrons get three probe "
        "modes unless --modes says otherwise.",
        show_default=False,
    ),
]
SliceNumber = Annotated[
    int | None,
    typer.Option("--slices", min=2, max=256, help="Slices of --thickness-nm, by default 4.", show_default=False),
]

ErrorBars = Annotated[
    bool | None,
    typer.Option(
        "--uncertainty/--no-uncertainty",
        help="Find the error to expect of each pixel by fits to replicas of the scan; by default where it takes less "
        "than 30 s.",
        show_default=False,
    ),
]

PREDICTION_ONLY = (
    "--scheduler and --workers split the work of a trained network, not its training nor the refinement: give "
    "--model and --no-refine (`ptycho refine --start` goes on from the image, in one process)"
)
BY_OTHER_OPTIONS = ("N", "probe_modes", "probe_trainable")
"""Fields of a network that the scan, ``--modes`` and ``--probe`` set."""


def network_of(folder: Path, resume: bool, trains: bool) -> str:
    """The network of a run that names none: of a run that is resumed the same; else the package's own, or a new one."""
    if resume and (record := recorded(folder)):
        without = PRETRAINED if "refine" in record and "training" not in record else NEW  # of a run without a network
        return str(record.get("model_from") or without)
    return NEW if trains else PRETRAINED


def sliced_as_told(
    scan: "Scan", run: RunConfig, thickness_nm: float | None, slices: int | None, modes: int | None
) -> tuple["Scan", RunConfig, int | None]:
    """Scan, settings and number of probe modes for a sample as thick as the user says, if the user says it."""
    from ptycho.pipelines.thickness import SLICES, with_told_thickness

    if thickness_nm is None:
        if slices is not None:
            raise ValueError("--slices says into how many slices --thickness-nm is cut; give both")
        return scan, run, modes
    return with_told_thickness(scan, run, thickness_nm, slices or SLICES, modes)


def completed(
    compute: Callable[..., "Outcome"], watching: AbstractContextManager[Progress], folder: Path, force: bool
) -> "Outcome":
    """What a run came to, watched while it computes; its verdict is printed, and decides the exit code."""
    with watching as progress:
        outcome = compute(progress=progress)
    finish(outcome, folder, force)
    return outcome


@commands.command(name="train")
@configured("model", "training", "reading", but=BY_OTHER_OPTIONS)
def train_command(
    run: RunConfig,
    scan: ScanFile,
    output: Folder,
    probe: ProbeUse = None,
    preset: PresetName = None,
    start: From = None,
    modes: Modes = None,
    resume: Resume = False,
    tensorboard: TensorBoard = None,
    live: Live = False,
    live_address: LiveAddress = None,
    force: Force = False,
) -> None:
    """Train a network on a scan, without ground truth; it is left in OUTPUT/model.keras."""
    start, run = start_of(run, preset, start), network_settings(run, preset, probe)
    with framework():
        from ptycho.pipelines.open import examined_scan
        from ptycho.pipelines.train import train_run

    reading = reading_of(run, output if resume else None)
    data, _ = examined_scan(scan, log, modes, reading=reading, force=force)
    with watched(data, live, live_address, tensorboard) as progress:
        history = train_run(data, output, run, start=start, resume=resume, progress=progress).history
    log(f"{len(history)} epochs, loss {history[-1].loss:.4f}; the network is in {output / 'model.keras'}")


@commands.command(name="pretrain")
@configured("pretraining", "training.seed", "model.seed")
def pretrain_command(run: RunConfig, output: Folder, resume: Resume = False) -> None:
    """Train a network on simulated scans of all kinds, to start from: about half an hour on two cores."""
    with framework():
        from ptycho.output.progress_bars import progress_bar
        from ptycho.pipelines.train import pretrain_run

    with progress_bar() as progress:
        history = pretrain_run(output, run, resume=resume, progress=progress)
    log(f"{len(history)} epochs, loss {history[-1].loss:.4f}; the network is in {output / 'model.keras'}")


@commands.command(name="reconstruct")
@configured("model", "training", "reading", but=BY_OTHER_OPTIONS)
def reconstruct_command(
    run: RunConfig,
    scan: ScanFile,
    output: Folder,
    model: Network = None,
    hold_out_every: HoldOutEvery = None,
    symmetries: Symmetries = None,
    probe: ProbeUse = None,
    preset: PresetName = None,
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
    scheduler: Scheduler = None,
    workers: Workers = 0,
    auto: Auto = True,
    half_sets: HalfSets = None,
    uncertainty: ErrorBars = None,
    thickness_nm: Thickness = None,
    slices: SliceNumber = None,
    force: Force = False,
) -> None:
    """Reconstruct the object of a scan: OUTPUT/reconstruction.h5, object.png, figure.png.

    The checks of `ptycho doctor` come first (2 to 3 s): where one fails the image would be wrong, and there is none.
    """
    start, run = start_of(run, preset, start), network_settings(run, preset, probe)
    trains = bool(run.model or run.training or start)
    if model not in (None, NEW) and (trains or resume):
        raise ValueError("settings of the model or of its training have no effect with --model; leave them out")
    chosen = network_of(output, resume, trains) if model is None else model
    distributed = bool(scheduler or workers)
    if distributed and (model is None or refine):
        raise ValueError(PREDICTION_ONLY)
    with framework():
        from ptycho.pipelines.open import examined_scan
        from ptycho.pipelines.precision import Precision
        from ptycho.pipelines.reconstruct import reconstruct_run
        from ptycho.pipelines.refine import refine_run

    reading = reading_of(run, output if resume else None)
    data, checks = examined_scan(scan, log, modes, in_file=distributed, reading=reading, auto=auto, force=force)
    data, run, modes = sliced_as_told(data, run, thickness_nm, slices, modes)
    if model is None and chosen == PRETRAINED and data.near_field is not None and refine:
        log("The package's network is for the far field: the scan is refined without one (--model new trains one).")
        compute = partial(refine_run, data, output, run, hold_out_every=hold_out_every, resume=resume, checks=checks)
        compute = partial(compute, auto=auto, modes=modes, force=force, precision=Precision(half_sets, uncertainty))
        completed(compute, watched(data, live, live_address), output, force)
        return
    compute = partial(reconstruct_run, data, output, run, start=start, hold_out_every=hold_out_every, resume=resume)
    compute = partial(compute, checks=checks, auto=auto, modes=modes, force=force, refined=refine)
    compute = partial(compute, precision=Precision(half_sets, uncertainty))
    compute = partial(
        compute,
        model_folder=None if chosen == NEW else chosen,
        symmetries=symmetries,
        tile_frames=tile_frames,
        network_optional=auto and model is None and chosen == PRETRAINED and symmetries is None,
        scheduler=scheduler,
        workers=workers,
    )
    outcome = completed(compute, watched(data, live, live_address, tensorboard), output, force)
    if refine and outcome.result.uncertainty is None and "uncertainty_calibration" in outcome.result.provenance:
        log(f"the uncertainty is that of the network's image: {output / 'network.h5'}")


@commands.command(name="stream")
@configured("reading")
def stream_command(
    run: RunConfig,
    scan: ScanFile,
    output: Folder,
    model: Annotated[
        str,
        typer.Option(help="Run folder of a trained network, or one of the package: 'pretrained-fast', 'pretrained'."),
    ] = "pretrained-fast",
    rate: Annotated[float | None, typer.Option(help="Frames per second; by default as fast as they are taken.")] = None,
    order: Annotated[Literal["scan", "random"], typer.Option(help="Order in which the frames come.")] = "scan",
    tile_frames: TileFrames = None,
    seed: Annotated[int, typer.Option(help="Seed of the random order.")] = 0,
) -> None:
    """Play a scan to a trained network frame by frame, as a detector would, and say how well it keeps pace."""
    with framework():
        from ptycho.output.progress_bars import progress_bar
        from ptycho.pipelines.open import examined_scan
        from ptycho.pipelines.stream import stream_run

    data, _ = examined_scan(scan, log, reading=reading_of(run), force=True)
    with progress_bar() as progress:
        outcome, report = stream_run(
            data, output, model, rate=rate, order=order, tile_frames=tile_frames, seed=seed, progress=progress
        )
    print_table(["stream", ""], report.rows())
    print_outcome(outcome, output)


@commands.command(name="refine")
@configured("refine", "reading", by_scan=("noise",))
def refine_command(
    run: RunConfig,
    scan: ScanFile,
    output: Folder,
    start: Annotated[
        str | None, typer.Option(help="Reconstruction, or run folder with one, to start from; else vacuum.")
    ] = None,
    modes: Modes = None,
    probe: ProbeUse = None,
    hold_out_every: HoldOutEvery = None,
    resume: Resume = False,
    live: Live = False,
    live_address: LiveAddress = None,
    auto: Auto = True,
    half_sets: HalfSets = None,
    uncertainty: ErrorBars = None,
    thickness_nm: Thickness = None,
    slices: SliceNumber = None,
    force: Force = False,
) -> None:
    """Fit object, probe, positions and more to the counts, for as long as frames that the fit does not see improve."""
    run = with_probe(run, probe)
    if "opr_modes" in run.refine:
        run = run.over("refine", dict(opr_from=DEFERRED["opr_from"]))
    with framework():
        from ptycho.pipelines.open import examined_scan
        from ptycho.pipelines.precision import Precision
        from ptycho.pipelines.refine import refine_run

    reading = reading_of(run, output if resume else None, start)
    data, checks = examined_scan(scan, log, modes, reading=reading, auto=auto, force=force)
    data, run, modes = sliced_as_told(data, run, thickness_nm, slices, modes)
    compute = partial(refine_run, data, output, run, start=start, hold_out_every=hold_out_every, resume=resume)
    compute = partial(compute, checks=checks, auto=auto, modes=modes, force=force)
    compute = partial(compute, precision=Precision(half_sets, uncertainty))
    completed(compute, watched(data, live, live_address), output, force)


@commands.command(name="compare")
@configured("reading")
def compare_command(
    run: RunConfig,
    scan: ScanFile,
    output: Folder,
    engines: Annotated[
        str,
        typer.Option(
            help="Engines beside the package's own refinement: lsqml, rpie, epie of pty-chi; "
            "phaser, ptyrad, py4dstem, ptylab, each in an environment of its own."
        ),
    ] = "lsqml,rpie",
    modes: Modes = None,
    hold_out_every: HoldOutEvery = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the data; by default as many as it takes, the others 30.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Frames in a batch of pty-chi; by default a sixteenth of all, 32 at most.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the order of the frames.")] = 0,
    environments: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the programs' environments; by default PTYCHO_PROGRAMS, or ~/.cache/ptycho/programs."
        ),
    ] = None,
    install_engines: Annotated[
        bool, typer.Option("--install-engines", help="Install the programs that are missing there, by pip.")
    ] = False,
) -> None:
    """Refine a scan, run iterative engines of other programs on it, and judge all by the same measures."""
    with framework():
        from ptycho.output.progress_bars import progress_bar
        from ptycho.pipelines.compare import compare_run, table
        from ptycho.pipelines.open import examined_scan

    data, _ = examined_scan(scan, log, modes, reading=reading_of(run), force=True)
    with progress_bar() as progress:
        comparison = compare_run(
            data,
            output,
            engines=[name.strip() for name in engines.split(",") if name.strip()],
            hold_out_every=hold_out_every,
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            environments=environments,
            installs=install_engines,
            progress=progress,
        )
    print_table(*table(comparison.entries))
    for note in comparison.notes:
        log(note)
    log(f"results in {output}")
