"""Commands to start with: the demo, a simulated scan, a scan in another format."""

from pathlib import Path
from typing import Annotated

import typer

from ptycho.cli.options import Folder, ScanFile, configured, reading_of
from ptycho.cli.outputs import writable_file
from ptycho.cli.printing import finish, log
from ptycho.cli.surroundings import framework
from ptycho.config import RunConfig

commands = typer.Typer()


@commands.command(name="demo")
@configured("simulation.seed")
def demo_command(run: RunConfig, output: Folder = Path("demo")) -> None:
    """Simulate a scan, train on it, reconstruct and score it: about a minute and a half on two cores."""
    with framework():
        from ptycho.output.progress_bars import progress_bar
        from ptycho.pipelines.demo import demo_run

    with progress_bar() as progress:
        outcome = demo_run(output, run, progress=progress, log=log)
    finish(outcome, output, force=False)


@commands.command(name="simulate")
@configured("simulation")
def simulate_command(
    run: RunConfig,
    output: Annotated[
        Path, typer.Argument(help="Scan file to write: .h5 or .npz.", show_default=False, callback=writable_file)
    ],
) -> None:
    """Simulate a scan with known truth."""
    with framework():
        from ptycho.config import SimulationConfig
        from ptycho.formats import write_scan
        from ptycho.simulation.simulate import simulate

    scan = simulate(run.make(SimulationConfig))
    write_scan(scan, output)
    log(f"{output}: {len(scan)} frames of {scan.N} x {scan.N}, {scan.mean_counts:.3g} counts each on average")


@commands.command(name="convert")
@configured("reading")
def convert_command(
    run: RunConfig,
    source: ScanFile,
    target: Annotated[
        Path,
        typer.Argument(help="File to write; its name tells the format.", show_default=False, callback=writable_file),
    ],
    format: Annotated[str | None, typer.Option(help="Format to write, where the name does not tell.")] = None,
    trusted: Annotated[
        bool, typer.Option("--trusted", help="Follow links out of the file's folder, and unpack any size.")
    ] = False,
    mend: Annotated[
        bool,
        typer.Option("--mend", help="Repair what `ptycho doctor` finds, as far as possible; say what was done."),
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

    options = ReadOptions.of(reading_of(run), trusted=trusted)
    for sentence in convert(source, target, format, options, crop=crop, bin=bin, mend=mend):
        log(sentence)
    log(f"{source} -> {target}")
