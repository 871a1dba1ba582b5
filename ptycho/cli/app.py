"""The command line: parse, make a config, call one function of the library, print its result."""

import signal
import sys
from typing import Annotated

import typer

import ptycho
from ptycho.cli import compute, look, start, study
from ptycho.cli.surroundings import errors_in_one_line

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
EXAMPLES = {
    start: "ptycho demo -o demo",
    look: "ptycho doctor scan.h5",
    compute: "ptycho reconstruct scan.h5 -o image",
    study: "ptycho plan --target-frc 0.7",
}
"""Of each group of commands one that can be typed; its module's name is the group's."""
for group, example in EXAMPLES.items():
    for command in group.commands.registered_commands:
        command.rich_help_panel = f"{group.__name__.rpartition('.')[2].capitalize()}, for example: {example}"
    for family in group.commands.registered_groups:
        family.rich_help_panel = group.commands.registered_commands[0].rich_help_panel
    app.add_typer(group.commands)


def _print_version(flag: bool) -> None:
    if flag:
        typer.echo(f"ptycho {ptycho.__version__}")
        raise typer.Exit


@app.callback()
def command_line(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Ptychography by physics-informed neural networks: a scan in, a sharp complex image out."""


def main() -> None:
    """Run the command line; what a user can mend is one line on standard error, and exit code 1, of a bad file 2."""
    # As Ctrl-C: what is open is closed, and a run can be resumed. Batch systems send it before they kill.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with errors_in_one_line():
        app()


if __name__ == "__main__":
    main()
