"""The numbers of docs/results.md, measured anew: its own commands, one after the other.

    python benchmarks/results.py list                  which were run, at which commit, and what has changed since
    python benchmarks/results.py run                   those that are stale; begins again where it was stopped
    python benchmarks/results.py run --only "photons"  those whose command has this in it

The commands are the indented blocks of the page, as a reader would type them; a block is one script, run in ``results``
so that a line can use what one before made. What it prints goes to ``<number>-<name>.log`` there, and a line to
``record.jsonl``. A block is stale if the package, or a benchmark that it names, has changed since it was run. The page
itself is written by hand, from the logs.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

ROOT = Path(__file__).parents[1]
PAGE, FOLDER = ROOT / "docs" / "results.md", ROOT / "results"
RECORD = FOLDER / "record.jsonl"

app = typer.Typer(add_completion=False)


class Block(NamedTuple):
    """Commands that belong together."""

    heading: str
    commands: tuple[str, ...]

    @property
    def name(self) -> str:
        """For files: the first command that is not about the folder."""
        words = re.sub(r"[A-Z_]+=\S+ |python |benchmarks/|-m benchmarks\.|\.py", "", self.commands[-1])
        return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:40]

    @property
    def sources(self) -> list[str]:
        """What its numbers depend on, beside the machine."""
        scripts = re.findall(r"benchmarks[/.](\w+)", " ".join(self.commands))
        return ["ptycho", *(f"benchmarks/{script}.py" for script in scripts)]


def blocks() -> list[Block]:
    """The commands of the page, block by block."""
    heading, lines, made = "", list[str](), list[Block]()
    for line in [*PAGE.read_text().splitlines(), ""]:
        if line.startswith("    "):
            lines.append(line.strip())
            continue
        if lines:
            made.append(Block(heading, tuple(lines)))
            lines = []
        if line.startswith("#"):
            heading = line.lstrip("# ")
    return [block for block in made if re.search(r"python |ptycho ", " ".join(block.commands))]


def recorded() -> dict[tuple[str, ...], dict[str, Any]]:
    """The last record of each block."""
    lines = RECORD.read_text().splitlines() if RECORD.exists() else []
    return {tuple(record["commands"]): record for record in map(json.loads, lines)}


def state(block: Block, record: dict[str, Any] | None) -> str:
    """``never run``, ``failed``, ``current``, or what has changed since."""
    if record is None:
        return "never run"
    if record["code"]:
        return f"failed ({record['code']})"
    changed = git("diff", "--name-only", record["commit"], "--", *block.sources).split()
    return f"stale: {len(changed)} files changed, {changed[0]} first" if changed else "current"


def forget_outputs(block: Block) -> None:
    """Remove what the commands of a block leave: some go on from it, and would measure nothing at a new commit."""
    for name in re.findall(r"(?:-o|--keep) (\S+)", " ".join(block.commands)):
        output = FOLDER / name
        if output.is_dir():
            shutil.rmtree(output)
        else:
            output.unlink(missing_ok=True)


def git(*words: str) -> str:
    """What git says."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


@app.command("list")
def listed() -> None:
    """One line for each block: state, commit, seconds, command."""
    records = recorded()
    for block in blocks():
        record = records.get(block.commands)
        where = "" if record is None else f"{record['commit'][:7]}, {record['seconds']:.0f} s"
        print(f"{state(block, record):<40} {where:<18} {block.heading}: {block.commands[-1]}")


@app.command()
def run(only: Annotated[str, typer.Option(help="Run blocks that have this in a command.")] = "") -> None:
    """Run what is stale. The work tree has to be committed: a number belongs to a commit."""
    if git("status", "--porcelain", "--", "ptycho", "benchmarks/*.py"):
        raise SystemExit("commit ptycho and benchmarks first: a number belongs to a commit")
    FOLDER.mkdir(exist_ok=True)
    if not (FOLDER / "benchmarks").exists():
        (FOLDER / "benchmarks").symlink_to(ROOT / "benchmarks")
    (FOLDER / "docs").mkdir(exist_ok=True)
    data = str(Path(os.environ.get("PTYCHO_DATA", ROOT.parent / "shared" / "data")).resolve())
    records = recorded()
    for number, block in enumerate(blocks()):
        if only not in " ".join(block.commands) or state(block, records.get(block.commands)) == "current":
            continue
        if block.commands in records:
            forget_outputs(block)
        commit, log = git("rev-parse", "HEAD"), FOLDER / f"{number:02}-{block.name}.log"
        print(f"{block.heading}: {'; '.join(block.commands)}", flush=True)
        script = "\n".join(
            [
                "set -eu",
                f"export DATA={shlex.quote(data)} PTYCHO_DATA={shlex.quote(data)} PYTHONPATH={ROOT}",
                *block.commands,
            ]
        )
        # Commands name measured scans without their folder.
        for name in ("siemens-star-small.npz.bz2", "cryo_rotavirus_A_48x48_bin2.npz"):
            script = re.sub(rf"(?<=\s){re.escape(name)}", f"$DATA/{name}", script)
        begin = time.time()
        with log.open("w") as file:
            done = subprocess.run(["bash", "-c", script], cwd=FOLDER, stdout=file, stderr=subprocess.STDOUT)
        record = dict(commands=block.commands, commit=commit, seconds=time.time() - begin, code=done.returncode)
        with RECORD.open("a") as file:
            file.write(json.dumps(record | dict(log=log.name)) + "\n")


if __name__ == "__main__":
    app()
