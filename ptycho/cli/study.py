"""Commands that plan and study: many reconstructions that differ in a few settings, and the bound of all."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptycho.cli.options import Scheduler, Workers, run_config
from ptycho.cli.outputs import writable_folder
from ptycho.cli.printing import log, print_table
from ptycho.cli.surroundings import framework
from ptycho.config import ObjectKind

if TYPE_CHECKING:
    from ptycho.studies.cases import Study

commands = typer.Typer()
study_app = typer.Typer(help="Studies: many reconstructions that differ in a few settings.", no_args_is_help=True)
commands.add_typer(study_app, name="study")

StudyFolder = Annotated[
    Path,
    typer.Option(
        "-o",
        "--output-dir",
        help="Folder for the results; a study in it goes on.",
        show_default=False,
        callback=writable_folder,
    ),
]
Quick = Annotated[bool, typer.Option("--quick", help="Few arms, few frames, a small network: some minutes an arm.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, say what it will take, and run nothing.")]
SkipTraining = Annotated[
    bool, typer.Option("--skip-training", help="Run no arm; write tables and figures of those that are done.")
]
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

    given = dict(
        file=scan and str(scan.resolve()),
        doses=doses and [float(dose) for dose in doses.split(",")],
        losses=losses and losses.split(","),
        seeds=seeds,
        N=N and [int(side) for side in N.split(",")],
        gridsize=gridsize,
        train_frames=n_train,
        test_frames=n_test,
    )
    values = (QUICK if quick else {}) | (MEASURED if scan else {})
    values |= {name: value for name, value in given.items() if value is not None}
    run = run_config(None, settings).updated("training", dict(epochs=nepochs))
    for section in ("model", "training", "refine"):
        values[section] = values.get(section, {}) | getattr(run, section)
    _run_study(DoseResponse.from_dict(values).study(), output_dir, dry_run, skip_training, scheduler, workers, verbose)


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
        from ptycho.studies.sensitivity import QUICK, STUDIES, Size

        size = QUICK if quick else Size()
        run = run_config(None, settings).updated("training", dict(epochs=nepochs))
        values = {section: size.settings.get(section, {}) | getattr(run, section) for section in ("model", "training")}
        study = STUDIES[name](size._replace(seeds=seeds or size.seeds, settings=values))
        _run_study(study, output_dir, dry_run, skip_training, scheduler, workers, verbose)


for _name in FURTHER_STUDIES:
    _further_study(_name)


@commands.command(name="plan")
def plan_command(
    target_frc: Annotated[
        float, typer.Option(help="Frequency, over Nyquist, down to which the image shall be true (FRC 0.5).")
    ],
    step: Annotated[str, typer.Option(help="Distances of neighbouring positions, object pixels: 4,8,16.")],
    probe: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Scan or reconstruction with the probe.")
    ] = None,
    N: Annotated[int, typer.Option("--N", help="Side of the frames, where the probe is a simulated one.")] = 64,
    object_kind: Annotated[ObjectKind, typer.Option("--object", help="The simulated sample.")] = "cells",
    seed: Annotated[int, typer.Option(help="Seed of the simulated sample.")] = 0,
) -> None:
    """How many photons a resolution takes at least, and with which overlap, before the beam time."""
    with framework():
        from ptycho.studies.planning import needs, probe_of

    steps = [float(value) for value in step.split(",")]
    plans = needs(probe_of(probe, N), steps, target_frc, kind=object_kind, seed=seed)
    shown = lambda photons: "out of reach" if photons == float("inf") else f"{photons:.2g}"
    print_table(
        ["step (px)", "overlap", "photons a frame", "photons an object pixel"],
        [[f"{p.step_px:g}", f"{100 * p.overlap:.0f} %", shown(p.photons), shown(p.per_pixel)] for p in plans],
    )
    best = min(plans, key=lambda plan: plan.per_pixel)
    if best.photons < float("inf"):
        log(
            f"fewest photons on the sample with a step of {best.step_px:g} px. This is the shot-noise bound with a "
            "known probe, which `ptycho refine` reaches; a guessed probe takes more where photons are few "
            "(docs/studies/dose-response.md)."
        )


def _run_study(
    study: "Study",
    folder: Path,
    dry_run: bool,
    skip_training: bool,
    scheduler: str | None,
    workers: int,
    verbose: bool,
) -> None:
    from ptycho.formats import read_scan
    from ptycho.studies.cost import plan

    if dry_run:
        files = {case.file for case in study.cases if case.file}
        shapes = {file: (len(scan := read_scan(file)), scan.N) for file in files}
        print_table(*plan(study, shapes))
        return
    with framework():
        from ptycho.output.progress_bars import progress_bar
        from ptycho.studies.runner import run_study
        from ptycho.studies.tables import table

    with progress_bar() as progress:
        results = run_study(
            study,
            folder,
            scheduler=scheduler,
            workers=workers,
            only_finished=skip_training,
            progress=progress,
            say=log,
        )
    print_table(*table(results.rows))
    log(f"table, figures and {folder / 'report.html'}")
    for failure in results.failures:
        log(f"FAILED {failure.name}: {failure.error}")
        if verbose:
            log(failure.traceback)
    if results.failures:
        first, arms = results.failures[0], len(results.rows) + len(results.failures)
        raise ValueError(
            f"{len(results.failures)} of {arms} arms failed ({first.name}: {first.error}); the same command runs them "
            "again"
        )
