"""Options of the commands: those that several share, and one for each field of the settings that a command takes.

`configured` makes the latter from the fields: name, type, and help (the first sentence under the field). A new field is
an option of each command that takes its section.
"""

import ast
import inspect
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, fields
from functools import cache, wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

import typer

from ptycho.cli.outputs import output_folder
from ptycho.config import DEFERRED, PRESETS, SECTIONS, Preset, ReadConfig, RunConfig, Section, Value
from ptycho.io import BadFile, read_json
from ptycho.typed import Config, field_types

Existing = typer.Argument(exists=True, dir_okay=False, show_default=False)
ScanFile = Annotated[Path, typer.Argument(exists=True, show_default=False)]
"""A Zarr store is a folder."""
Folder = Annotated[
    Path,
    typer.Option("-o", "--output", help="Folder for the results.", show_default=False, callback=output_folder),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", exists=True, dir_okay=False, help=f"TOML file with the sections {', '.join(SECTIONS)}."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any setting, as section.name=value, e.g. --set model.stages=6."),
]
ProbeUse = Annotated[
    Literal["auto", "fixed", "learn"] | None,
    typer.Option(
        "--probe",
        help="auto: a guessed probe is fitted along with the object, a known one is not; learn: and trained.",
    ),
]
Modes = Annotated[int | None, typer.Option(min=1, max=64, help="Incoherent probe modes; those added are fitted.")]
HoldOutEvery = Annotated[
    int | None,
    typer.Option(
        "--hold-out-every",
        "--withhold-every",
        min=2,
        help="Keep frames 0, k, 2k, ... from every fit and judge by them.",
    ),
]
PixelSize = Annotated[
    float | None, typer.Option(min=0, help="Side of an object pixel in nm, where the file does not tell.")
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        help="Start from a trained network: a run folder, 'pretrained', or 'new' for none. By default a new one, but "
        "with --preset fast 'pretrained-fast'.",
        show_default=False,
    ),
]
PresetName = Annotated[Preset | None, typer.Option(help="fast: each frame on its own, for streams of frames.")]
TensorBoard = Annotated[
    Path | None, typer.Option("--tensorboard", help="Folder for logs that TensorBoard shows while the run goes on.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the interrupted run in the folder.")]
TileFrames = Annotated[
    int | None, typer.Option(min=1, help="Frames reconstructed at once; fewer take less memory, and come sooner.")
]
Live = Annotated[bool, typer.Option("--live", help="Serve a page that shows object, probe and losses as they improve.")]
LiveAddress = Annotated[
    str | None,
    typer.Option(help="Where to serve it, HOST or HOST:PORT; by default 127.0.0.1, on any free port. No password."),
]
Scheduler = Annotated[
    str | None, typer.Option(help="Address of a Dask scheduler: its workers compute (docs/howto/machines.md).")
]
Workers = Annotated[int, typer.Option(min=0, help="Processes on this machine that compute.")]

FURTHER_NAMES = dict(object_kind="--object", opr_modes="--variations")
"""Second names of options that are made from fields."""

Command = Callable[..., None]


def configured(*names: str, but: Sequence[str] = (), by_scan: Sequence[str] = ()) -> Callable[[Command], Command]:
    """Give a command ``--config``, ``--set`` and an option a field, and call it with what they make: ``run``.

    A file is set over the defaults, ``--set`` over the file, and the options of fields over both. A field ``x_from``
    becomes the flag ``--x``: fit that unknown, from the epoch in `DEFERRED` on.

    Args:
        names: sections, ``refine``, or single fields, ``refine.seed``; one option sets all fields of its name.
        but: fields without an option; those that the command has a parameter of the name for have none either.
        by_scan: fields whose default depends on the scan, so that none is shown.
    """

    def decorate(command: Command) -> Command:
        declared = inspect.signature(command).parameters
        parameters = [p for name, p in declared.items() if name != "run"]
        parameters += [_parameter("config", ConfigFile), _parameter("settings", Settings)]
        targets: dict[str, list[tuple[Section, str]]] = {}
        for section, field in _chosen(names):
            name = field.removesuffix("_from") if field in DEFERRED else field
            if field in but or name in declared:
                continue
            if name not in targets and (option := field_option(section, field, shown=field not in by_scan)):
                parameters.append(_parameter(name, option))
            targets.setdefault(name, []).append((section, field))

        @wraps(command)
        def parsed(config: Path | None = None, settings: list[str] | None = None, **values: Any) -> None:
            run = run_config(config, settings)
            for name, fields_set in targets.items():
                value = values.pop(name, None)
                for section, field in fields_set:
                    run = run.updated(section, {field: DEFERRED[field] if value and field in DEFERRED else value})
            command(run=run, **values)

        parsed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        parsed.__annotations__ = {p.name: p.annotation for p in parameters}
        return parsed

    return decorate


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _chosen(names: Sequence[str]) -> Iterator[tuple[Section, str]]:
    for name in names:
        section, _, field = name.partition(".")
        for each in [field] if field else field_types(SECTIONS[cast(Section, section)]):
            yield cast(Section, section), each


def field_option(section: Section, field: str, shown: bool = True) -> Any:
    """The option of a field, as an annotation; None where the command line has no way to write its values."""
    config = SECTIONS[section]
    kind = _option_type(field_types(config)[field])
    if kind is None:
        return None
    option = "--" + field.replace("_", "-")
    text = field_help(config)[field]
    panel = f"Settings: {section} (--set {section}.name=value)"
    if field in DEFERRED:
        text = f"Fit {text[0].lower()}{text[1:]}"
        return Annotated[bool | None, typer.Option(option.removesuffix("-from"), help=text, rich_help_panel=panel)]
    default = next(f.default for f in fields(config) if f.name == field)
    declarations = [option, *([FURTHER_NAMES[field]] if field in FURTHER_NAMES else [])]
    if kind is bool:
        declarations = [f"{option}/--no-{option[2:]}"]
    return Annotated[
        kind | None,
        typer.Option(
            *declarations,
            help=text,
            rich_help_panel=panel,
            show_default=str(default) if shown and default is not None and default is not MISSING else False,
        ),
    ]


def _option_type(kind: Any) -> Any:
    """What a field's values are, None left out; None where they are no numbers, words, or few of them."""
    if get_origin(kind) in (Union, UnionType):
        kinds = [_option_type(k) for k in get_args(kind) if k is not NoneType]
        return kinds[0] if len(kinds) == 1 else None
    if get_origin(kind) is tuple and Ellipsis not in get_args(kind):
        return kind
    return kind if kind in (bool, int, float, str) or get_origin(kind) is Literal else None


def field_help(config: type[Config]) -> dict[str, str]:
    """The first sentence under each field of a config, for the command line."""
    bodies = {
        node.name: node.body
        for node in _syntax(cast(str, inspect.getsourcefile(config))).body
        if isinstance(node, ast.ClassDef)
    }
    sentences = {}
    for field, text in zip(bodies[config.__name__], bodies[config.__name__][1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            words = " ".join(str(cast(ast.Constant, text.value).value).replace("`", "").split())
            sentences[ast.unparse(field.target)] = re.split(r"(?<=\.) ", words, maxsplit=1)[0]
    return sentences


@cache
def _syntax(file: str) -> ast.Module:
    return ast.parse(Path(file).read_text(encoding="utf-8"))


def run_config(config: Path | None, settings: Sequence[str] | None) -> RunConfig:
    """The settings of a run: the file, and over it what ``--set`` says."""
    run = RunConfig.from_toml(config) if config else RunConfig()
    for setting in settings or ():
        name, equals, text = setting.partition("=")
        section, _, field = name.partition(".")
        if section not in SECTIONS or not equals:
            raise ValueError(f"--set {setting}: write section.name=value, section one of {', '.join(SECTIONS)}")
        run = run.updated(cast(Section, section), {field.strip(): toml_value(text)})
    return run


def toml_value(text: str) -> Value:
    """A value as TOML reads it; what is no TOML is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # no TOML; an integer of thousands of digits; thousands of brackets
        return text.strip()


def reading_of(run: RunConfig, *folders: str | Path | None) -> ReadConfig:
    """What the user says of the scan file; if nothing, what the run in the first of some folders was told."""
    if run.reading:
        return run.make(ReadConfig)
    records = (recorded(folder) for folder in folders if folder is not None)
    return ReadConfig.from_dict(next(filter(None, records), {}).get("reading", {}))


def recorded(folder: str | Path) -> dict[str, Any]:
    """The settings that a run left in its folder; empty where there are none."""
    record = Path(folder) / "config.json"
    settings = read_json(record) if record.exists() else {}
    if not isinstance(settings, dict):
        raise BadFile(f"{record} holds no settings of a run")
    return settings


def network_settings(run: RunConfig, preset: Preset | None, probe: str | None) -> RunConfig:
    """The settings of a run with a network: a preset under all others, and what becomes of the probe."""
    return with_probe(run if preset is None else run.over("model", PRESETS[preset]), probe)


def start_of(run: RunConfig, preset: Preset | None, start: str | None) -> str | None:
    """The network that a training starts from, None for a new one.

    One for frames by themselves starts from that of the package where it has the same stages: trained on 400 frames of
    256 px it then comes to a phase SSIM of 0.69, from nothing to 0.30.
    """
    others = {"architecture", "stages", "width"} & run.model.keys()
    if start is None and preset == "fast" and not others:
        return "pretrained-fast"
    return None if start == "new" else start


def with_probe(run: RunConfig, probe: str | None) -> RunConfig:
    """The settings of a run with what ``--probe`` says."""
    return run.updated("model", dict(probe_trainable=None if probe in (None, "auto") else probe == "learn"))
