"""A bad day: commands hit at random moments must lose nothing, write nothing half, and come to the same end.

    python benchmarks/faults.py run -o faults.jsonl --moments 200   # one line each as it ends; goes on where it was
    python benchmarks/faults.py run -o faults.jsonl --again         # those that went wrong once more, when mended
    python benchmarks/faults.py table faults.jsonl                  # docs/results.md

Each command first runs undisturbed. Then it is hit, at a moment drawn over the time that this took:

- ``kill``: SIGKILL; ``term``: SIGTERM, as a batch system sends it.
- ``full``: no file may become larger than a size drawn up to the largest result.
- ``read-only``: the folder of the results lets nobody write, and the user is not root.
- ``torn``: SIGKILL, and one of the files that it left cut at a place drawn.
- ``torn input``: the scan cut at a place drawn.
- ``worker``: a process of the command's own is killed; ``stall``: one stands still for three seconds.

What is asked after it: no traceback, one line where it failed; nothing partial but after SIGKILL; every file can be
read; and the command run again, with ``--resume`` where it has one, ends with the numbers of the undisturbed run, bit
for bit.
"""

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Annotated, NamedTuple

import h5py
import numpy as np
import typer

app = typer.Typer(add_completion=False)
NETWORK = "--set model.stages=1 --set model.width=4 --set model.gridsize=2"
SMALL = "--N 24 --positions 64 --set simulation.step_px=4.0"
NOT_ROOT = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
"""Root may write anywhere, but for what follows these words."""


class Command(NamedTuple):
    """Words with the names {scan}, {model}, {run} and {out}; and those that go on where a run was hit."""

    words: str
    resume: str = ""
    workers: bool = False


COMMANDS = {
    "simulate": Command(f"simulate {{out}}/scan.h5 {SMALL}"),
    "convert": Command("convert {scan} {out}/scan.cxi"),
    "export": Command("export {run} -o {out}/files"),
    "train": Command(f"train {{scan}} -o {{out}}/run --epochs 4 {NETWORK}", "--resume"),
    "refine": Command("refine {scan} -o {out}/run --epochs 12 --hold-out-every 10", "--resume"),
    "reconstruct": Command(
        f"reconstruct {{scan}} -o {{out}}/run --epochs 3 --set refine.epochs=8 --hold-out-every 10 {NETWORK}",
        "--resume",
    ),
    "pretrain": Command(
        f"pretrain -o {{out}}/run --set pretraining.scans=2 --set pretraining.frames=36 --set training.epochs=3 "
        f"--set model.N=24 {NETWORK}",
        "--resume",
    ),
    "study": Command(
        "study dose-response -o {out}/study --quick --doses 1e4 --losses nll --seeds 1 --N 24 --n-train 64 --n-test 36 "
        f"--nepochs 2 {NETWORK}"
    ),
    "predict on workers": Command(
        "reconstruct {scan} -o {out}/run --model {model} --no-refine --force --workers 2 --tile-frames 9", workers=True
    ),
}
FAULTS = ("kill", "term", "full", "read-only", "torn", "torn input", "worker", "stall")


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    said: str
    """On standard error."""
    seconds: float


def start(
    command: str, folder: Path, prepare: Callable[[], None] | None = None, bound: Sequence[str] = ()
) -> subprocess.Popen:
    """The command in a group of its own."""
    words = [*bound, sys.executable, "-c", "from ptycho.cli.app import main; main()", *command.split()]
    environment = os.environ | dict(
        TF_CPP_MIN_LOG_LEVEL="3", HOME=str(folder), COLUMNS="200", PYTHONDONTWRITEBYTECODE="1"
    )
    with open(folder / "stdout", "w") as out, open(folder / "stderr", "w") as err:
        return subprocess.Popen(
            words, stdout=out, stderr=err, env=environment, start_new_session=True, preexec_fn=prepare
        )


def ended(process: subprocess.Popen, folder: Path, begin: float, limit_s: float = 300.0) -> Ended:
    """Wait for it; what it left running is killed."""
    try:
        code = process.wait(timeout=limit_s)
    except subprocess.TimeoutExpired:
        code = -999
    kill_group(process)
    return Ended(code, (folder / "stderr").read_text("utf-8", "replace"), time.monotonic() - begin)


def kill_group(process: subprocess.Popen) -> None:
    """Kill the process and all that it started."""
    with suppress(ProcessLookupError):  # all have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def datasets(content: bytes) -> Iterator[tuple[str, bytes]]:
    """What an HDF5 file holds in numbers."""
    with h5py.File(BytesIO(content)) as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        for name in names:
            value = np.asarray(file[name][()])
            yield name, value.tobytes() if value.dtype.kind != "O" else b""


def arrays(path: Path) -> Iterator[tuple[str, bytes]]:
    """What a file holds in numbers; an exception where it cannot be read."""
    content = path.read_bytes()
    if path.suffix in (".h5", ".cxi", ".hdf5"):
        yield from datasets(content)
    elif path.suffix == ".npz":
        with np.load(BytesIO(content)) as file:
            yield from ((name, file[name].tobytes()) for name in file.files)
    elif path.suffix == ".keras":
        with zipfile.ZipFile(BytesIO(content)) as archive:
            if archive.testzip() is not None:
                raise ValueError(f"{path} is torn")
            yield from datasets(archive.read("model.weights.h5"))
    elif path.suffix == ".json":
        json.loads(content)
    elif path.suffix in (".tiff", ".tif"):
        yield "", content


COMPARED = ("*.h5", "*.cxi", "*.keras", "*.tiff", "*.tif")


def digest(folder: Path) -> dict[str, str]:
    """Of each file with results what its numbers come to; every other file is read."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        numbers = hashlib.sha256()
        for name, data in arrays(path):
            numbers.update(name.encode() + data)
        if "checkpoint" not in path.parts and any(path.match(kind) for kind in COMPARED):
            found[str(path.relative_to(folder))] = numbers.hexdigest()
    return found


def partial(folder: Path) -> list[str]:
    """What was left half-written, and locks."""
    return [str(path) for path in folder.rglob("*") if path.name.endswith((".partial", ".lock"))]


def one_line(said: str) -> str | None:
    """What is wrong with the words of a command that failed; those of libraries and warnings are not its own."""
    if "Traceback" in said:
        return "a traceback"
    lines = [line for line in said.splitlines() if line.startswith(("ptycho:", "│"))]
    return None if lines else "no line says why"


class Place(NamedTuple):
    """A folder for one attempt, and where the inputs are."""

    folder: Path
    names: dict[str, str]

    @property
    def out(self) -> Path:
        return self.folder / "out"


def place_of(inputs: Path) -> Place:
    folder = Path(tempfile.mkdtemp(prefix="faults"))
    folder.chmod(0o755)
    (folder / "out").mkdir()
    names = dict(scan=inputs / "scan.h5", model=inputs / "network", run=inputs / "run", out=folder / "out")
    return Place(folder, {name: str(path) for name, path in names.items()})


def run_whole(command: str, place: Place) -> Ended:
    begin = time.monotonic()
    return ended(start(command.format(**place.names), place.folder), place.folder, begin)


def hit(command: Command, fault: str, place: Place, seconds: float, largest: int, rng: random.Random) -> str | None:
    """Run a command into a fault; what was wrong, or None."""
    words, begin = command.words.format(**place.names), time.monotonic()
    if fault == "full":
        limit = int(largest * rng.random())

        def prepare() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead, as that to a full disk does
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        outcome = ended(start(words, place.folder, prepare), place.folder, begin)
        # Logs of libraries go to a file too, in this benchmark: a limit below them is met by those.
        return None if outcome.code == 0 else failed_well(outcome, place, (1, 2))
    if fault == "read-only":
        place.out.chmod(0o555)
        outcome = ended(start(words, place.folder, bound=NOT_ROOT), place.folder, begin)
        place.out.chmod(0o755)
        return failed_well(outcome, place, (1, 2))
    if fault == "torn input":
        whole = Path(place.names["scan"]).read_bytes()
        torn = place.folder / "scan.h5"
        torn.write_bytes(whole[: rng.randrange(len(whole))])
        outcome = run_whole(command.words.replace("{scan}", str(torn)), place)
        return failed_well(outcome, place, (1, 2))
    process = start(words, place.folder)
    time.sleep(seconds * rng.random())
    if fault in ("worker", "stall"):
        children = subprocess.run(["pgrep", "-s", str(process.pid)], capture_output=True, text=True).stdout.split()
        chosen = int(rng.choice([child for child in children if int(child) != process.pid] or ["0"]))
        if chosen:
            signals = [signal.SIGKILL] if fault == "worker" else [signal.SIGSTOP, signal.SIGCONT]
            for number in signals:
                try:
                    os.kill(chosen, number)
                except ProcessLookupError:
                    break  # it has ended by itself
                time.sleep(3.0 * (number == signal.SIGSTOP))
        outcome = ended(process, place.folder, begin)
        return None if outcome.code == 0 else f"exit code {outcome.code}: {outcome.said[-300:]}"
    if process.poll() is not None:
        return None  # it had ended
    if fault == "term":
        process.send_signal(signal.SIGTERM)
        outcome = ended(process, place.folder, begin, limit_s=60.0)
        if outcome.code == 0:
            return None
        if outcome.code not in (128 + signal.SIGTERM, -signal.SIGTERM):
            return f"exit code {outcome.code}"
        if "Traceback" in outcome.said:
            return "a traceback"
        return f"left {partial(place.out)}" if partial(place.out) else None
    kill_group(process)
    if fault == "torn":
        files = sorted(path for path in place.out.rglob("*") if path.is_file() and path.stat().st_size > 1)
        if files:
            path = rng.choice(files)
            path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])
            return None  # what is torn is not to be read
    digest(place.out)
    return None


def failed_well(outcome: Ended, place: Place, codes: tuple[int, ...]) -> str | None:
    if outcome.code not in codes:
        return f"exit code {outcome.code}"
    if partial(place.out):
        return f"left {partial(place.out)}"
    digest(place.out)
    return one_line(outcome.said)


def again(command: Command, fault: str, place: Place, expected: dict[str, str]) -> str | None:
    """Run it once more, as a user would; what is wrong with its end, or None."""
    outcome = run_whole(f"{command.words} {command.resume}".strip(), place)
    if outcome.code != 0 and fault == "torn":
        said = one_line(outcome.said)
        if said is not None:
            return f"resumed: {said}"
        outcome = run_whole(command.words, place)  # as the line says
    if outcome.code != 0:
        return f"run again: exit code {outcome.code}: {outcome.said[-300:]}"
    if partial(place.out):
        return f"run again: left {partial(place.out)}"
    found = digest(place.out)
    if found != expected:
        return f"run again: other numbers in {sorted(n for n in found | expected if found.get(n) != expected.get(n))}"
    return None


def attempt(name: str, fault: str, inputs: Path, before: dict, rng: random.Random) -> str | None:
    command, place = COMMANDS[name], place_of(inputs)
    try:
        wrong = hit(command, fault, place, before["seconds"], before["largest"], rng)
        return wrong or again(command, fault, place, before["digest"])
    except (ValueError, OSError, KeyError) as error:
        return f"a file that cannot be read: {type(error).__name__}: {error}"
    finally:
        shutil.rmtree(place.folder)


def faults_of(name: str) -> tuple[str, ...]:
    """Those that a command can meet."""
    command = COMMANDS[name]
    without = set() if command.workers else {"worker", "stall"}
    if "{scan}" not in command.words:
        without.add("torn input")
    if command.workers:
        without |= {"full", "read-only", "torn"}  # as without workers
    return tuple(fault for fault in FAULTS if fault not in without)


def make_inputs(folder: Path) -> None:
    """A scan, a network of it and a run with it."""
    for words in (
        f"simulate {folder}/scan.h5 {SMALL}",
        f"train {folder}/scan.h5 -o {folder}/network --epochs 2 {NETWORK}",
        f"reconstruct {folder}/scan.h5 -o {folder}/run --model {folder}/network --no-refine --force",
    ):
        begin = time.monotonic()
        outcome = ended(start(words, folder), folder, begin)
        if outcome.code:
            raise RuntimeError(outcome.said)


def last(records: Path) -> dict[int, dict]:
    """The last record of each moment."""
    lines = records.read_text().splitlines() if records.exists() else []
    return {row["number"]: row for row in map(json.loads, lines)}


def commit() -> str:
    """Of this clone."""
    words = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


@app.command()
def run(
    output: Annotated[Path, typer.Option("-o", "--output")],
    moments: Annotated[int, typer.Option(help="Over all commands and faults, in turn.")] = 200,
    only: Annotated[str, typer.Option(help="A command.")] = "",
    again: Annotated[bool, typer.Option(help="Also those moments that went wrong.")] = False,
    seed: int = 0,
) -> None:
    """Hit the commands in turn; a line of JSON for each."""
    done = {number for number, row in last(output).items() if row["wrong"] is None or not again}
    pairs = [(name, fault) for name in COMMANDS for fault in faults_of(name) if only in name]
    random.Random(seed).shuffle(pairs)
    inputs = Path(tempfile.mkdtemp(prefix="faults-in"))
    make_inputs(inputs)
    undisturbed: dict[str, dict] = {}
    for number in (number for number in range(moments) if number not in done):
        name, fault = pairs[number % len(pairs)]
        if name not in undisturbed:
            place = place_of(inputs)
            outcome = run_whole(COMMANDS[name].words, place)
            if outcome.code:
                raise RuntimeError(f"{name}: {outcome.said}")
            largest = max(path.stat().st_size for path in place.out.rglob("*") if path.is_file())
            undisturbed[name] = dict(seconds=outcome.seconds, largest=largest, digest=digest(place.out))
            shutil.rmtree(place.folder)
        begin = time.monotonic()
        wrong = attempt(name, fault, inputs, undisturbed[name], random.Random(f"{seed} {number}"))
        record = dict(number=number, command=name, fault=fault, wrong=wrong, commit=commit())
        record["seconds"] = round(time.monotonic() - begin, 1)
        with output.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(name, fault, wrong or "ok", flush=True)
    shutil.rmtree(inputs)


@app.command()
def table(records: Path) -> None:
    """How many moments each command met of each fault, and after how many all was as asked."""
    rows = list(last(records).values())
    met = Counter((row["command"], row["fault"]) for row in rows)
    good = Counter((row["command"], row["fault"]) for row in rows if row["wrong"] is None)
    faults = [fault for fault in FAULTS if any(row["fault"] == fault for row in rows)]
    print("| command | " + " | ".join(faults) + " |")
    print("|---" * (len(faults) + 1) + "|")
    for name in dict.fromkeys(row["command"] for row in rows):
        cells = [f"{good[name, f]} of {met[name, f]}" if met[name, f] else "" for f in faults]
        print(f"| `{name}` | " + " | ".join(cells) + " |")
    commits = ", ".join(f"{count} at {name}" for name, count in Counter(row["commit"] for row in rows).items())
    print(f"\n{sum(good.values())} of {len(rows)} moments; {commits}.")
    for row in rows:
        if row["wrong"]:
            print(f"- {row['command']}, {row['fault']}: {row['wrong']}")


if __name__ == "__main__":
    app()
