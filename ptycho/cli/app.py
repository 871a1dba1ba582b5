"""The command line: parse, make a config, call one function of the library, print its result."""

import os
import signal
import sys

import typer

from ptycho.cli import compute, look, start, study
from ptycho.cli.printing import one_line

app = typer.Typer(
    help="Ptychography by physics-informed neural networks: a scan in, a sharp complex image out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for group in (start, compute, look, study):
    app.add_typer(group.commands)


def main() -> None:
    """Run the command line; what a user can mend is one line on standard error, and exit code 1, of a bad file 2."""
    from ptycho.io import BadFile

    # As Ctrl-C: what is open is closed, and a run can be resumed. Batch systems send it before they kill.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        app()
    except BadFile as error:
        if os.environ.get("PTYCHO_TRACEBACK"):
            raise
        print(f"ptycho: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except (ValueError, OSError) as error:
        if os.environ.get("PTYCHO_TRACEBACK"):
            raise
        sys.exit(f"ptycho: {one_line(error)}")


if __name__ == "__main__":
    main()
