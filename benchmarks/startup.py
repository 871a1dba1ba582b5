"""Time from the shell to the first answer: `python benchmarks/startup.py` prints medians in seconds.

`import ptycho` should stay under 0.15 s and `ptycho --help` under 0.3 s, beside the bare interpreter.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import ptycho": [sys.executable, "-c", "import ptycho"],
    "ptycho --help": [str(Path(sys.executable).with_name("ptycho")), "--help"],
}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    for name, command in COMMANDS.items():
        print(f"{name:<16} {statistics.median(seconds(command) for _ in range(9)):.3f} s")
