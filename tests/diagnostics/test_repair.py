"""What is planted wrong and repaired is right again, as the doctor sees it and pixel by pixel."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from ptycho.cli.app import app
from ptycho.data.scan import Scan
from ptycho.diagnostics.checks import examine
from ptycho.diagnostics.orientation import turned
from ptycho.diagnostics.pixels import gaps
from ptycho.diagnostics.repair import moved, repaired
from ptycho.formats import read_scan, write_scan
from ptycho.formats._container import ReadOptions
from tests.formats.faults import FAULTS, healthy

REPAIRABLE = (
    "amplitudes",
    "corner",
    "off centre",
    "saturated",
    "dead pixel",
    "hot pixel",
    "gap",
    "shutter closed",
    "gain",
)


def planted(fault: str, seed: int) -> Scan:
    return FAULTS[fault][1](healthy(seed), np.random.default_rng(seed))


@pytest.mark.parametrize("fault", REPAIRABLE)
def test_what_is_repaired_passes(fault: str) -> None:
    scan = repaired(planted(fault, len(fault)))
    bad = [check.name for check in examine(scan, orientation=False) if check.verdict != "pass"]
    assert not bad, bad
    assert len(scan.notes) == 1, scan.notes


def test_frames_come_back_as_they_were() -> None:
    """Where nothing is lost by the fault, and all but what is masked where something is."""
    for fault in ("amplitudes", "corner"):
        np.testing.assert_array_equal(repaired(planted(fault, 1)).counts, healthy(1).counts)
    for fault in ("dead pixel", "hot pixel", "gap", "saturated"):
        scan = repaired(planted(fault, 1))
        np.testing.assert_array_equal(scan.counts[:, scan.mask], healthy(1).counts[:, scan.mask])
        wrong = (planted(fault, 1).counts != healthy(1).counts).any(axis=0)
        assert not (wrong & scan.mask).any()
    scan, wrong = repaired(planted("off centre", 1)), planted("off centre", 1)
    np.testing.assert_array_equal(scan.counts[:, scan.mask], np.roll(wrong.counts, (-3, 2), axis=(1, 2))[:, scan.mask])
    assert (~scan.mask).sum() == 32 * 32 - 29 * 30  # three rows and two columns came from beyond the edges


@pytest.mark.parametrize("code", [1, 4, 5])
def test_frames_are_turned_back(code: int) -> None:
    scan = repaired(replace(healthy(code), counts=turned(healthy(code).counts, code)))
    np.testing.assert_array_equal(scan.counts, healthy(code).counts)


def test_a_sound_scan_is_left_alone() -> None:
    scan = healthy(2)
    assert repaired(scan) is scan


@pytest.mark.parametrize(("y", "x"), [(3, -2), (0, 5), (-4, 0)])
def test_frames_move_towards_larger_indices_and_lose_what_leaves(y: int, x: int) -> None:
    frames = np.arange(1, 2 * 64 + 1).reshape(2, 8, 8)
    found = moved(frames, y, x)
    for row, column in np.ndindex(8, 8):
        there = 0 <= row - y < 8 and 0 <= column - x < 8
        np.testing.assert_array_equal(found[:, row, column], frames[:, row - y, column - x] if there else 0)


def test_gaps_are_lines_between_lit_ones() -> None:
    counts = np.full((3, 24, 24), 5, np.uint16)
    counts[:, 7:9], counts[:, :, 15] = 0, 0
    counts[:, :2] = 0  # beyond the light
    counts[:, 12, 3:20] = 0  # not the whole line
    scan = replace(healthy(0), counts=np.pad(counts, ((0, 61), (0, 8), (0, 8))))
    assert [lines.tolist() for lines in gaps(scan)] == [[7, 8], [15]]
    mask = np.ones((32, 32), bool)
    mask[7:9] = False
    assert [lines.tolist() for lines in gaps(replace(scan, mask=mask))] == [[], [15]]
    dim = replace(scan, counts=scan.counts // 5 * (np.arange(64) == 0)[:, None, None])
    assert [lines.tolist() for lines in gaps(dim)] == [[7, 8], []]  # 23 counts beside them, 19 beside the column


def test_convert_mends_a_file_larger_than_memory_and_says_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ptycho import formats
    from ptycho.cli import app as cli

    assert cli
    scan = planted("corner", 4)
    write_scan(scan, tmp_path / "a.h5")
    small = lambda given, **allowed: replace(ReadOptions.of(given, **allowed), in_memory_bytes=0)
    monkeypatch.setattr(formats, "ReadOptions", SimpleNamespace(of=small))
    result = CliRunner().invoke(app, ["convert", str(tmp_path / "a.h5"), str(tmp_path / "b.h5"), "--mend"])
    assert result.exit_code == 0 and "moved to the centre" in " ".join(result.output.split())
    np.testing.assert_array_equal(read_scan(tmp_path / "b.h5").counts, healthy(4).counts)
