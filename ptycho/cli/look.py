"""Commands that look at scans and results: what is in them, how good they are."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptycho.cli.options import Existing, PixelSize, ScanFile, configured, reading_of
from ptycho.cli.outputs import writable_file, writable_folder
from ptycho.cli.printing import log, print_held_out_error, print_scores, print_table
from ptycho.cli.surroundings import framework
from ptycho.config import ReadConfig, RunConfig

if TYPE_CHECKING:  # heavy, and here only for its type
    from ptycho.data.scan import Scan

commands = typer.Typer()


def read_as_told(path: Path, reading: ReadConfig) -> "Scan":
    """The scan of a file, with what the user knows of it."""
    from ptycho.formats import ReadOptions, read_scan

    return read_scan(path, options=ReadOptions.of(reading))


@commands.command(name="info")
@configured("reading")
def info_command(
    run: RunConfig,
    scan: ScanFile,
    shared: Annotated[
        Path | None,
        typer.Option(
            "--share",
            help="Write all but the frames to a small zip, for a report of a problem: no names of files, no texts.",
            callback=writable_file,
        ),
    ] = None,
) -> None:
    """Say what is in a scan file, and what looks wrong with it."""
    from ptycho.diagnostics.describe import describe

    if shared is not None:
        if shared.resolve() == scan.resolve():
            raise ValueError(f"--share {shared} would replace the scan: give another name")
        with framework():
            from ptycho.pipelines.share import write_shared

        write_shared(scan, shared, reading_of(run))
        log(f"{shared}: all but the frames; look at about.json in it before you send it")
    data = read_as_told(scan, reading_of(run))
    print_table(["", str(scan)], describe(data))
    for note in data.notes:
        log(f"note: {note}")


@commands.command(name="doctor")
@configured("reading")
def doctor_command(
    run: RunConfig,
    scan: ScanFile,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
) -> None:
    """Check a scan file: what passes, warns or fails, and what to do; exit code 1 if anything fails."""
    import json

    from ptycho.diagnostics.checks import examine

    data = read_as_told(scan, reading_of(run))
    checks = examine(data)
    if as_json:
        record = dict(file=str(scan), notes=data.notes, checks=[check.to_json() for check in checks])
        print(json.dumps(record, indent=1, ensure_ascii=False))
    else:
        print_table(["check", "", "found", "what to do"], checks)
        for note in data.notes:
            log(f"note: {note}")
    if any(check.verdict == "fail" for check in checks):
        raise typer.Exit(1)


@commands.command(name="evaluate")
@configured("reading")
def evaluate_command(
    run: RunConfig,
    reconstruction: Annotated[Path, Existing],
    against: Annotated[Path, typer.Argument(exists=True, help="The scan, or a file with the truth.")],
    margin: Annotated[float, typer.Option(help="Part of the true object left out on every side.")] = 0.16,
    every: Annotated[int | None, typer.Option(help="Judge by frames 0, k, 2k, ... of the scan.")] = None,
) -> None:
    """Score a reconstruction against the true object of a scan, or by frames held out from it."""
    with framework():
        from ptycho.data.reconstruction import Reconstruction
        from ptycho.diagnostics.repair import prepared, set_right, was_set_right
        from ptycho.evaluation import compare_objects
        from ptycho.pipelines.assess import assess

    result = Reconstruction.load(reconstruction)
    # Read as the run that made the result read it.
    remembered = ReadConfig.from_dict(result.provenance.get("reading", {}))
    reading = run.make(ReadConfig) if run.reading else remembered
    data = prepared(read_as_told(against, reading), gain_told=reading.gain is not None)
    if was_set_right(result.provenance.get("notes", ())):
        data, _ = set_right(data)
    every = every or int(result.provenance.get("hold_out_every", 0)) or None
    if data.object is None and every is None:
        raise ValueError(f"{against} has no true object, and no frames were held out: use --every to name some")
    if data.object is not None:
        print_scores(compare_objects(result.object, data.object, margin))
    if every is not None:
        print_held_out_error(assess(result, replace(data, object=None), data.held_out_mask(every)), every)


@commands.command(name="view")
@configured("reading")
def view_command(
    run: RunConfig,
    path: Annotated[Path, typer.Argument(exists=True, help="A run folder, or a scan file.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Page of a scan file; by default beside it, as .html.")
    ] = None,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
) -> None:
    """Open the report of a run, or make one of a bare scan: its frames, positions and probe."""
    import webbrowser

    is_run = path.is_dir() and path.suffix.lower() != ".zspy"
    page = path / "report.html" if is_run else output or path.with_suffix(".html")
    if not is_run:
        with framework():
            from ptycho.output.report import save_report
            from ptycho.pipelines.provenance import software

        data = read_as_told(path, reading_of(run))
        save_report(page, data, findings=data.notes, settings=software())
    elif not page.exists():
        raise ValueError(f"there is no report in {path}; every run leaves one, but `ptycho stream` and `pretrain`")
    log(str(page))
    if show and not webbrowser.open(page.resolve().as_uri()):
        log("no browser was found: open the file yourself, or leave it with --no-open")


@commands.command(name="export")
def export_command(
    source: Annotated[
        Path,
        typer.Argument(
            help="A run folder, or a reconstruction of any program; with --network also 'pretrained'.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="Folder for the files.", show_default=False, callback=writable_folder),
    ],
    formats: Annotated[
        str,
        typer.Option(
            help="Which: tiff and png (amplitude, phase), hdf5, cxi, emd (HyperSpy), figure (PDF and PNG for a paper)."
        ),
    ] = "tiff,png,hdf5,cxi,emd,figure",
    pixel_size_nm: PixelSize = None,
    network: Annotated[
        bool,
        typer.Option("--network", help="Write the network of the run instead, as network.onnx, for frames of --N."),
    ] = False,
    N: Annotated[int | None, typer.Option("--N", min=2, help="With --network: side of the frames, pixels.")] = None,
    frames: Annotated[int, typer.Option(min=1, help="With --network: frames that it takes at once.")] = 64,
    canvas: Annotated[
        int | None, typer.Option(min=2, help="With --network: side of the object, pixels; by default twice a frame.")
    ] = None,
) -> None:
    """Write a reconstruction as images, HDF5, CXI, and a figure for a paper; or, with --network, a network as ONNX."""
    if not network and (N, frames, canvas) != (None, 64, None):
        raise ValueError("--N, --frames and --canvas have no effect without --network")
    if network:
        log(str(_exported_network(source, output, N, frames, canvas)))
        return
    from ptycho.output.export import export

    if not source.exists():
        raise ValueError(f"there is no {source}")
    size = None if pixel_size_nm is None else pixel_size_nm * 1e-9
    for file in export(source, output, [name.strip() for name in formats.split(",") if name.strip()], size):
        log(str(file))


def _exported_network(source: Path, output: Path, N: int | None, frames: int, canvas: int | None) -> Path:
    if N is None:
        raise ValueError("--network needs --N, the side of the frames in pixels: ONNX has fixed sizes")
    with framework():
        from ptycho.network.files import PACKAGED
        from ptycho.output.onnx_network import export_network

    output.mkdir(parents=True, exist_ok=True)
    model = str(source) if str(source) in PACKAGED else source / "model.keras"
    return export_network(model, output / "network.onnx", N, frames=frames, canvas=canvas)
