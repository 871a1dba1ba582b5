"""The doctor's table: right on real scans as they come, and on 241 scans with one planted fault each, or none."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ptycho.cli.app import app
from ptycho.data.beam import Beam
from ptycho.diagnostics.checks import Check, centre_offset, examine
from ptycho.diagnostics.describe import describe
from ptycho.diagnostics.orientation import NAMES, turned
from ptycho.formats import read_scan, write_scan
from tests.formats.faults import FAULTS, healthy

SEEDS = 13
CHECKS = 16


def bad(checks: list[Check]) -> set[str]:
    return {check.name for check in checks if check.verdict != "pass"}


@pytest.mark.parametrize("code", range(1, 8))
def test_frames_that_lie_otherwise_than_the_positions_are_found(code: int) -> None:
    """Turned by each code; the doctor names the code that turns them back."""
    back = {5: 6, 6: 5}.get(code, code)
    scan = healthy(code)
    wrong = replace(scan, counts=turned(scan.counts, code))
    np.testing.assert_array_equal(turned(wrong.counts, back), scan.counts)
    (check,) = (check for check in examine(wrong) if check.name == "orientation of frames")
    assert check.verdict == "fail" and f"frames {NAMES[back]} fit" in check.remedy


@pytest.mark.parametrize("fault", FAULTS)
def test_every_planted_fault_is_found(fault: str) -> None:
    """By the check that is there for it, in all of 13 scans; every finding names a remedy."""
    names, plant = FAULTS[fault]
    found: Counter[str] = Counter()
    for seed in range(SEEDS):
        checks = examine(plant(healthy(seed), np.random.default_rng(seed)), orientation=False)
        assert all(check.remedy for check in checks if check.verdict != "pass")
        found.update(bad(checks))
        found["right"] += bool(bad(checks) & set(names.split("|")))
    assert found["right"] == SEEDS, found


def test_no_clean_scan_fails_or_warns() -> None:
    found = Counter(name for seed in range(SEEDS) for name in bad(examine(healthy(seed), seed < 3)))
    assert not found, found


def test_the_command_prints_a_table_or_json_and_exits_by_the_verdict(tmp_path: Path) -> None:
    clean = write_scan(healthy(0), tmp_path / "clean.npz")
    faulty = write_scan(FAULTS["corner"][1](healthy(0), np.random.default_rng(0)), tmp_path / "corner.npz")
    result = CliRunner().invoke(app, ["doctor", str(clean)])
    assert result.exit_code == 0 and result.output.count("pass") == CHECKS
    result = CliRunner().invoke(app, ["doctor", str(faulty), "--json"])
    said = json.loads(result.output)
    assert result.exit_code == 1 and said["file"] == str(faulty)
    (failed,) = (check for check in said["checks"] if check["verdict"] == "fail")
    assert failed["name"] == "zero frequency" and "--mend" in failed["remedy"]
    assert failed["finding"] == failed["found"]  # the former name of the key


def test_info_tells_the_beam_that_is_known() -> None:
    scan = replace(healthy(0), beam=Beam(energy_eV=3e5, particle="electron"))
    assert ("beam", "electrons of 300 keV, wavelength 1.969 pm") in describe(scan)
    assert "beam" not in dict(describe(healthy(0)))


@pytest.mark.parametrize("N", [31, 32])
def test_the_offset_of_the_centre_is_measured(N: int) -> None:
    y, x = np.indices((N, N)) - N // 2
    mean = 1e4 * np.exp(-((y - 1.3) ** 2 + (x + 2.6) ** 2) / 20)
    # The parabola through an autoconvolution of width 2 sqrt(20) is off by a few thousandths of a pixel.
    assert centre_offset(mean, np.ones((N, N), bool)) == pytest.approx((1.3, -2.6), abs=0.02)


def test_gaps_do_not_move_the_centre() -> None:
    """Beyond what is taken for off it; seen without the gap they are within 0.4 pixels."""
    for seed in range(SEEDS):
        checks = examine(FAULTS["gap"][1](healthy(seed), np.random.default_rng(seed)), orientation=False)
        assert "zero frequency" not in bad(checks)


def test_the_side_bands_find_that_a_measured_scan_is_turned(data_folder: Path) -> None:
    """By 5 degrees; turned so, a fit predicts held-out frames better (docs/decisions/015-electrons.md)."""
    checks = examine(read_scan(data_folder / "cryo_rotavirus_A_48x48_bin2.npz"))
    assert len(checks) == CHECKS and bad(checks) == {"orientation of frames"}
    (check,) = (check for check in checks if check.verdict != "pass")
    assert "positions turned by 5." in check.finding and "told by the beams" in check.remedy


@pytest.mark.parametrize("name", ["siemens-star-small.npz.bz2", "sim64_test.npz"])
def test_real_scans_pass_as_they_come(name: str, data_folder: Path) -> None:
    checks = examine(read_scan(data_folder / name))
    assert len(checks) == CHECKS and bad(checks) == set(), [check for check in checks if check.verdict != "pass"]
