"""The doctor's table: right on real scans as they come, and on 221 scans with one planted fault each, or none."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ptycho.cli import app
from ptycho.data.beam import Beam
from ptycho.data.checks import Check, centre_offset, examine
from ptycho.data.doctor import describe
from ptycho.data.formats import read_scan, write_scan
from ptycho.data.orientation import NAMES, turned
from ptycho.data.scan import Scan
from tests.data.scans import expected, truth

SEEDS = 13
CHECKS = 14


def healthy(seed: int, N: int = 32) -> Scan:
    """A disc out of focus over a sample, jittered raster of 64 positions, 1e4 to 1e6 photons."""
    rng = np.random.default_rng(seed)
    photons = 10 ** rng.uniform(4, 6)
    y, x = np.indices((N, N)) - N // 2
    squared = (y**2 + x**2) / rng.uniform(6.0, 8.0) ** 2
    probe = np.exp(-(squared**2) + 1j * np.pi * rng.uniform(-1.5, 1.5) * squared)
    probe = probe * np.sqrt(photons / (np.abs(probe) ** 2).sum())
    grid = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), -1).reshape(-1, 2) * rng.uniform(2.5, 4)
    positions = np.rint(grid + rng.uniform(-1, 1, grid.shape)) + N // 2 + 1
    sample = np.roll(truth(80, 70), rng.integers(0, 40, 2), axis=(0, 1))
    counts = rng.poisson(expected(sample, positions, probe[None]))
    return Scan(counts=counts.astype(np.uint32), positions=positions, probe=probe)


def changed(scan: Scan, change: Callable[[np.ndarray], Any]) -> Scan:
    counts = scan.counts.astype(np.int64)
    found = change(counts)
    return replace(scan, counts=counts if found is None else found)


def brightest(scan: Scan, rank: int = 0) -> tuple[int, int]:
    mean = scan.counts.mean(axis=0)
    y, x = np.unravel_index(np.argsort(mean, axis=None)[-1 - rank], mean.shape)
    return int(y), int(x)


def hot(scan: Scan, rng: np.random.Generator) -> Scan:
    y, x = rng.integers(0, 8, 2)
    return changed(scan, lambda counts: counts.__setitem__((slice(None), y, x), int(scan.counts.max()) * 2))


def dead(scan: Scan, rng: np.random.Generator) -> Scan:
    y, x = brightest(scan, int(rng.integers(0, 9)))
    return changed(scan, lambda counts: counts.__setitem__((slice(None), y, x), 0))


def dimmed(share: float) -> Callable[[Scan, np.random.Generator], Scan]:
    def fault(scan: Scan, rng: np.random.Generator) -> Scan:
        frame = int(rng.integers(0, len(scan)))
        return changed(scan, lambda counts: counts.__setitem__(frame, rng.binomial(counts[frame], share)))

    return fault


def brighter(scan: Scan, rng: np.random.Generator) -> Scan:
    frame = int(rng.integers(0, len(scan)))
    return changed(scan, lambda counts: counts.__setitem__(frame, counts[frame] * 5))


FAULTS: dict[str, tuple[str, Callable[[Scan, np.random.Generator], Scan]]] = {
    "amplitudes": ("values", lambda s, _: changed(s, lambda c: np.sqrt(c))),
    "normalised": ("values", lambda s, _: changed(s, lambda c: c / 37.7)),
    "corner": ("zero frequency", lambda s, _: changed(s, lambda c: np.fft.ifftshift(c, axes=(1, 2)))),
    "off centre": ("zero frequency", lambda s, r: changed(s, lambda c: np.roll(c, (3, -2), axis=(1, 2)))),
    "saturated": ("saturation", lambda s, _: changed(s, lambda c: np.minimum(c, int(c.max() * 0.3)))),
    "dead pixel": ("dead pixels", dead),
    "hot pixel": ("hot pixels", hot),
    "shutter closed": ("empty frames", dimmed(0.03)),
    "flash": ("outlier frames", brighter),
    "metres": ("extent of positions|overlap", lambda s, _: replace(s, positions=s.positions * 1e-2)),
    "nanometres": ("overlap", lambda s, _: replace(s, positions=s.positions * 30)),
    "one motor": ("extent of positions", lambda s, _: replace(s, positions=s.positions * [1, 0])),
    "stuck motor": (
        "repeated positions",
        lambda s, _: replace(s, positions=np.where(np.arange(len(s))[:, None] < 40, s.positions, s.positions[40])),
    ),
    "gain": ("probe power", lambda s, _: changed(s, lambda c: c * 3)),
    "background": ("pattern in its frame", lambda s, r: changed(s, lambda c: c + r.poisson(c.mean(), c.shape))),
    "large probe": ("probe in its window", lambda s, _: replace(s, probe=np.full_like(s.probe, 1), probe_known=False)),
}


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
    assert failed["name"] == "zero frequency" and "centred" in failed["remedy"]


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


@pytest.mark.parametrize("name", ["siemens-star-small.npz.bz2", "cryo_rotavirus_A_48x48_bin2.npz", "sim64_test.npz"])
def test_real_scans_pass_as_they_come(name: str, data_folder: Path) -> None:
    checks = examine(read_scan(data_folder / name))
    assert len(checks) == CHECKS and bad(checks) == set(), [check for check in checks if check.verdict != "pass"]
