"""Files as strangers bring them: the scripts of `shared/cases`, and every file that they write through `reconstruct`.

    PTYCHO_DATA=../shared/data python benchmarks/cases.py write /tmp/cases          runs the scripts
    python benchmarks/cases.py run /tmp/cases -o cases.jsonl --every 2 --offset 0   every other file
    python benchmarks/cases.py table cases.jsonl                                    the outcomes by script

No options are given: what a user would type first. An outcome is the command's own verdict; which files are sound, the
README beside the scripts tells.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from strangers import ran, times

SCRIPTS = ("bad_pixels", "bare", "edge_gaps", "emd", "empad", "focus", "geometry", "nexus", "values", "virtual")
STEM = ("stem_emd", "stem_others")
SUFFIXES = {".h5", ".hdf5", ".nxs", ".cxi", ".npz", ".npy", ".mat", ".raw", ".xml", ".json", ".mib", ".emd", ".tif"}

app = typer.Typer(add_completion=False)


@app.callback()
def main() -> None:
    """The head of this file says what there is."""


@app.command()
def write(folder: Path, scripts: Path = Path("../shared/cases")) -> None:
    """Runs every script in a folder of its own; says which could not run (py4DSTEM or SciPy missing)."""
    data = Path(os.environ["PTYCHO_DATA"]).resolve()
    here = str(Path(sys.executable).parent)
    environment = os.environ | dict(
        PYTHONPATH=str(scripts.resolve()), PTYCHO_DATA=str(data), PATH=f"{here}:{os.environ['PATH']}"
    )
    for name, words in [(name, []) for name in SCRIPTS] + [
        (name, [kind]) for name in STEM for kind in ("thin", "thick")
    ]:
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        script = str((scripts / f"{name}.py").resolve())
        done = subprocess.run(
            [sys.executable, script, *words], cwd=place, env=environment, capture_output=True, text=True
        )
        print(name, *words, "written" if done.returncode == 0 else f"failed: {done.stderr[-300:]}", flush=True)


def files(folder: Path) -> list[Path]:
    """What a user would give to the command: not the sound scan that the scripts start from, nor parts of a master."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix in SUFFIXES]
    return [path for path in found if path.name != "base.h5" and "_data_0" not in path.name]


@app.command()
def run(
    folder: Path,
    output: Annotated[Path, typer.Option("--output", "-o")] = Path("cases.jsonl"),
    every: int = 1,
    offset: int = 0,
    only: str = "",
) -> None:
    """Every so-many-th file; a line of JSON for each."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for path in files(folder)[offset::every]:
        name = str(path.relative_to(folder))
        if only not in name:
            continue
        with tempfile.TemporaryDirectory() as made:
            begin = time.monotonic()
            code, scores, text = ran("reconstruct", path, Path(made) / "run", [])
            row = dict(file=name, code=code, seconds=round(time.monotonic() - begin, 1), said=text[-900:])
        if "judgement" in scores:
            row |= dict(ratio=round(times(scores), 3), verdict=scores["verdict"]["kind"], notes=scores.get("notes", []))
        with output.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(name, code, row.get("ratio"), row.get("verdict"), row["seconds"], row["said"][-160:], flush=True)


def outcome_of(row: dict) -> str:
    """In one word what became of a file."""
    crash = row["said"].partition("CRASH ")[2]
    # The command itself makes one line of these, see `ptycho.cli.surroundings`.
    if crash and not crash.startswith(("BadFile", "BadScan", "ValueError", "FileNotFoundError")):
        return "traceback"
    return row.get("verdict", "refused" if row["code"] else "unjudged")


@app.command()
def table(record: Path) -> None:
    """How many files of each script ended how."""
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    outcomes = sorted({outcome_of(row) for row in rows})
    print(f"| script | files | {' | '.join(outcomes)} |\n|{'---|' * (len(outcomes) + 2)}")
    for name in (*SCRIPTS, *STEM, ""):
        counts = Counter(outcome_of(row) for row in rows if row["file"].startswith(name))
        print(f"| {name or 'all'} | {counts.total()} | {' | '.join(str(counts[word]) for word in outcomes)} |")


if __name__ == "__main__":
    app()
