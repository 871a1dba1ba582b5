"""What surrounds a command: the framework imported in silence, progress shown, errors in one line."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ptycho.cli.printing import log, one_line
from ptycho.progress import Progress

if TYPE_CHECKING:
    from ptycho.data.scan import Scan


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """End the process where a user can mend the error: a line on standard error, and exit code 1, of a bad file 2.

    With PTYCHO_TRACEBACK in the environment the traceback is shown instead.
    """
    from ptycho.io import BadFile

    try:
        yield
    except (ValueError, OSError) as error:
        if os.environ.get("PTYCHO_TRACEBACK"):
            raise
        text = f"ptycho: {one_line(error)}"
        if not isinstance(error, BadFile):
            sys.exit(text)
        print(text, file=sys.stderr)
        sys.exit(2)


@contextmanager
def framework() -> Iterator[None]:
    """Import the framework without the messages its C++ libraries print; show them if the import fails."""
    import logging
    import tempfile

    # Not its errors either: a failure raises, and "oneDNN supports DT_INT32 only with AVX-512" is none.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Advice on retracing: each stage of a network is a trace of its own, made once.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as hidden:
        os.dup2(hidden.fileno(), 2)
        try:
            yield
            import keras

            keras.ops.zeros(1)  # the first operation looks for devices, and prints what it thinks of them
        except BaseException:
            hidden.seek(0)
            os.write(stderr, hidden.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


@contextmanager
def watched(scan: "Scan", live: bool, address: str | None, tensorboard: Path | None = None) -> Iterator[Progress]:
    """Progress in the terminal, and with ``live`` on a page."""
    from ptycho.output.progress_bars import progress_bar

    if not live:
        if address is not None:
            raise ValueError("--live-address has no effect without --live")
        with progress_bar(tensorboard) as progress:
            yield progress
        return
    from ptycho.output.live import live_page

    with progress_bar(tensorboard) as bar, live_page(scan, bar, address, log) as progress:
        yield progress
