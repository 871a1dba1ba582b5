"""What docs/extending.md says has to be touched, followed for real."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from ptycho import formats, read_scan, write_scan
from ptycho.cli.options import configured, run_config
from ptycho.config import SECTIONS, RunConfig
from ptycho.data.scan import Scan
from ptycho.formats import Access, BadFile, Format, ReadOptions, convert
from ptycho.typed import Config
from tests.formats.scans import assert_same, recognised, scan_of


def test_a_file_format_is_one_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text: a first line ``frames N``, then y, x and the N * N counts of a frame per line."""

    def first_line(path: Path) -> bytes:
        with path.open("rb") as file:
            return file.readline(100)

    def recognises(path: Path) -> bool:
        return first_line(path).startswith(b"frames ")

    def read(path: Path, options: ReadOptions) -> Scan:
        N = int(first_line(path).split()[1])
        rows = np.loadtxt(path, skiprows=1, ndmin=2)
        if rows.shape[1] != 2 + N * N:
            raise BadFile(f"{path} has rows of {rows.shape[1]} numbers; expected y, x and {N * N} counts")
        counts = rows[:, 2:].astype(np.uint16).reshape(-1, N, N)
        note = "The file holds no probe: a flat one was taken."
        return Scan(counts=counts, positions=rows[:, :2], probe=np.ones((N, N)), probe_known=False, notes=(note,))

    def write(scan: Scan, path: Path) -> None:
        rows = np.concatenate([scan.positions, scan.counts.reshape(len(scan), -1)], axis=1)
        np.savetxt(path, rows, fmt="%.17g", header=f"frames {scan.N}", comments="")

    text = Format(
        name="text",
        suffixes=(".frames",),
        needs="a first line 'frames N'",
        scans=Access(recognises, read, write),
        lacks=("probe", "mask", "object", "beam", "pixel_size_m", "notes"),
    )
    scan = scan_of()
    with pytest.raises(ValueError, match=r"named like 'a\.frames'"):
        write_scan(scan, tmp_path / "a.frames")
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, text))

    path = write_scan(scan, tmp_path / "a.frames")
    assert recognised(path) == ["text"]
    assert_same(read_scan(path), scan, text.lacks)
    notes = convert(path, tmp_path / "b.h5")
    assert any("a flat one" in note for note in notes)
    lost = convert(tmp_path / "b.h5", tmp_path / "c.dat", "text")
    assert "Files of text have no place for the probe and the notes: lost." in lost
    assert_same(read_scan(tmp_path / "c.dat"), replace(scan, probe_known=False), text.lacks)

    path.write_text("frames 16\n1 2 3\n")
    with pytest.raises(BadFile, match=r"a\.frames has rows of 3 numbers"):
        read_scan(path)
    (tmp_path / "d.dat").write_text("something else")
    with pytest.raises(BadFile, match=r"text \(a first line 'frames N'\)"):
        read_scan(tmp_path / "d.dat")


@dataclass(frozen=True, kw_only=True)
class Damped(Config):
    """Settings of a refinement, after somebody has added one."""

    damping: float = 0.5
    """Fraction of each step that is taken. More is faster."""


def test_a_setting_is_one_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SECTIONS, "refine", Damped)
    (tmp_path / "run.toml").write_text("[refine]\ndamping = 1\n")
    assert RunConfig.from_toml(tmp_path / "run.toml").make(Damped) == Damped(damping=1.0)
    with pytest.raises(ValueError, match=r"Damped\.damping is 'all'; expected a number"):
        run_config(None, ["refine.damping=all"])
    called, commands = [], typer.Typer()
    commands.command()(configured("refine")(lambda run: called.append(run)))
    shown = CliRunner().invoke(commands, ["--help"], env={"COLUMNS": "200"}).output
    assert "--damping" in shown and "Fraction of each step that is taken." in shown and "More" not in shown
    assert CliRunner().invoke(commands, ["--damping", "0.25"]).exit_code == 0
    assert called[0].make(Damped).damping == 0.25
