"""Where results go is looked at first: bad places are one line and exit code 2, and no two runs share a folder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from ptycho.cli.app import app
from ptycho.cli.outputs import LOCK
from ptycho.formats import write_scan
from ptycho.io import DEAD_AFTER_S, BadFile, replace_text, replaced

SIMULATE = ["simulate", "--N", "24", "--positions", "16", "--set", "simulation.step_px=4.0"]


def refused(words: list[str]) -> str:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2, (words, result.output, result.exception)
    return " ".join(result.output.replace("│", " ").split())


def test_a_place_that_cannot_be_written_is_named_before_anything_is_computed(small_scan, tmp_path, monkeypatch):
    scan, file = tmp_path / "scan.h5", tmp_path / "file"
    write_scan(small_scan, scan)
    file.touch()
    monkeypatch.setattr("ptycho.simulation.simulate.simulate", lambda *a: pytest.fail("it was computed"))
    long = tmp_path / ("n" * 300)
    assert "is a file" in refused(["refine", str(scan), "-o", str(file)])
    assert "too long" in refused(["refine", str(scan), "-o", str(long)])
    assert "Not a directory" in refused(["refine", str(scan), "-o", str(file / "below")])
    assert "is a file" in refused(["export", str(scan), "-o", str(file)])
    assert "is a file" in refused(["study", "dose-response", "--dry-run", "-o", str(file)])
    for words in (SIMULATE, ["convert", str(scan)]):
        assert "there is no folder" in refused([*words, str(tmp_path / "nowhere" / "scan.h5")])
        assert "no file that could be replaced" in refused([*words, str(tmp_path)])
        assert "too long" in refused([*words, str(long)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "scan.h5"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to_is_named(tmp_path):
    tmp_path.chmod(0o500)
    assert "cannot be written to" in refused([*SIMULATE, str(tmp_path / "scan.h5")])


def test_no_two_runs_share_a_folder(small_scan, tmp_path):
    scan, folder = tmp_path / "scan.h5", tmp_path / "run"
    write_scan(small_scan, scan)
    folder.mkdir()
    lock = FileLock(folder / LOCK)
    command = ["refine", str(scan), "-o", str(folder), "--epochs", "2", "--no-auto"]
    with lock:
        assert "another run is writing" in refused(command)
    left = folder / "checkpoint" / ".refinement.npz.abc.partial"
    left.mkdir(parents=True)
    assert CliRunner().invoke(app, command).exit_code == 0
    assert (folder / "scores.json").exists()
    assert not left.exists()  # of a run that was killed
    assert not (folder / LOCK).exists()  # it is free again


def test_a_command_that_fails_leaves_no_empty_folder(tmp_path):
    (tmp_path / "scan.h5").write_bytes(b"nothing")
    assert CliRunner().invoke(app, ["refine", str(tmp_path / "scan.h5"), "-o", str(tmp_path / "run")]).exit_code != 0
    assert not (tmp_path / "run").exists()


def test_only_files_are_replaced_and_links_stay(tmp_path):
    target, link, pipe = tmp_path / "target.txt", tmp_path / "link.txt", tmp_path / "pipe"
    target.write_text("old")
    link.symlink_to(target)
    replace_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, Path(os.devnull)):
        with pytest.raises(BadFile, match="no file that could be replaced"):
            replace_text(path, "new")
    assert pipe.is_fifo()
    with replaced(tmp_path / ("n" * 255)) as partial:  # the longest name that there is
        partial.touch()


def test_what_a_killed_process_left_goes_after_a_day(tmp_path):
    new, old, other = (tmp_path / f".{name}.abc.partial" for name in ("scan[1].h5", "scan[1].h5.x", "scan2.h5"))
    for folder in (new, old, other):
        folder.mkdir()
        (folder / "scan[1].h5").touch()
    for folder in (old, other):
        os.utime(folder, (0, time.time() - DEAD_AFTER_S - 60))
    replace_text(tmp_path / "scan[1].h5", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["scan[1].h5", new.name, other.name])


def test_a_disk_that_is_full_is_one_line(small_scan, tmp_path):
    """A limit of the size of files, as a full disk raises OSError; what was there stays, nothing partial is left."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "from ptycho.cli.app import main; main()"
    )
    (tmp_path / "results").mkdir()
    write_scan(small_scan, tmp_path / "source.h5")
    for name in ("scan.npz", "scan.h5", "scan.cxi", "scan.ptyd"):
        path = tmp_path / "results" / name
        path.write_text("old")
        words = [sys.executable, "-c", code, "convert", str(tmp_path / "source.h5"), str(path)]
        # Python would leave compiled modules cut short, for all others to fail with.
        environment = os.environ | dict(PYTHONDONTWRITEBYTECODE="1")
        ended = subprocess.run(words, capture_output=True, text=True, env=environment)
        assert ended.returncode == 1, (ended.returncode, ended.stderr)
        assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr
        assert path.read_text() == "old"
        assert [file.name for file in path.parent.iterdir()] == [name]
        path.unlink()


@pytest.mark.slow
def test_a_training_on_a_full_disk_is_one_line(small_scan, tmp_path):
    """Keras writes its weights by HDF5, which crashes in closing a file that it could not write."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "from ptycho.cli.app import main; main()"
    )
    write_scan(small_scan, tmp_path / "scan.h5")
    small = "--epochs 1 --set training.total_frames=100 --set model.stages=1 --set model.width=4 --set model.gridsize=2"
    words = ["train", str(tmp_path / "scan.h5"), "-o", str(tmp_path / "run"), *small.split()]
    environment = os.environ | dict(PYTHONDONTWRITEBYTECODE="1", TF_CPP_MIN_LOG_LEVEL="3")
    ended = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment)
    assert ended.returncode == 1, (ended.returncode, ended.stderr)
    assert "File too large" in ended.stderr and "Traceback" not in ended.stderr, ended.stderr
    assert not list((tmp_path / "run").rglob("*.h5"))


def test_sigterm_ends_as_ctrl_c_does(tmp_path):
    """What is open is closed: here the folder of a partial file."""
    code = (
        "import os, signal\n"
        "from ptycho.cli import app\n"
        "from ptycho.io import replaced\n"
        "def command():\n"
        f"    with replaced({str(tmp_path / 'file')!r}):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        signal.pause()\n"
        "app.app = command\n"
        "app.main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], timeout=50)
    assert ended.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
