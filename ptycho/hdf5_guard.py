"""Damaged tables of an HDF5 file cost another process its memory and time, not this one.

HDF5 follows the tables of a file before any size can be checked: one wrong pointer of 2 kB can take 23 GB, another
never ends, a third crashes. So a file is first walked through by a child process with limits (`ptycho.hdf5_walk`). It
is started once, takes 0.2 s to start beside what its parent does, and milliseconds a file.
"""

import atexit
import json
import os
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from threading import Lock

from ptycho.io import BadFile

SECONDS = 5
"""Of computing, for the tables of any file; and one more for each 10 MB."""
BYTES = 2**29
"""Of memory, for the tables of any file; and as many more as the file has."""

READY, ENDED = "ready\n", "true\n"
"""Lines of the child."""
KILLED = (-9, -15)
"""Exit codes of a child that others ended (SIGKILL, SIGTERM): it is asked once more."""


def require_bounded_tables(path: Path) -> None:
    """Raise BadFile where HDF5 needs too much memory or time for the tables of the file, or crashes on them.

    What is damaged elsewhere passes: its reader meets and names it. A file that was walked through is not again, until
    it changes.
    """
    stat = path.stat()
    problem = _problem(str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    if problem:
        raise BadFile(f"{path} has damaged tables: {problem}; copy it again")


@lru_cache(maxsize=1024)
def _problem(path: str, size: int, modified_ns: int) -> str | None:
    seconds, most = SECONDS + size // 10**7, BYTES + size
    return _walker().problem(path, seconds, most)


def start_walker() -> None:
    """Start the child process, without waiting for it."""
    _walker()


class _Walker:
    """The child process: started when it is first asked, and again after a file that ended it."""

    def __init__(self) -> None:
        self._lock, self._process = Lock(), self._started()

    def _started(self) -> subprocess.Popen[str]:
        program = Path(__file__).with_name("hdf5_walk.py")
        # One thread: those of linear algebra would each reserve memory, and none is used.
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-I", str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C is for its parent, which closes it
        )

    def problem(self, path: str, seconds: int, most_bytes: int) -> str | None:
        with self._lock:
            for _ in range(2):
                answer = self._answer(json.dumps(dict(path=path, seconds=seconds, bytes=most_bytes)))
                if answer == ENDED:
                    return None
                if answer or self._process.wait() not in KILLED:
                    break
        return f"HDF5 needs more than {seconds} s or {most_bytes / 1e6:.0f} MB for them, or loses its way"

    def _answer(self, request: str) -> str:
        """The line that the child writes; empty where it ended before."""
        if self._process.poll() is not None:
            self.close()
            self._process = self._started()
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        return self._process.stdout.readline() if line == READY else line

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # what it has not read before it ended
                    pipe.close()
        self._process.wait()


_walkers: dict[int, _Walker] = {}


def _walker() -> _Walker:
    """That of this process: a forked one must not talk to the child of its parent."""
    if os.getpid() not in _walkers:
        _walkers.clear()
        _walkers[os.getpid()] = _Walker()
        atexit.register(_walkers[os.getpid()].close)
    return _walkers[os.getpid()]
