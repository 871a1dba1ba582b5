"""What every command asks of a scan before it computes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ptycho.config import RefineConfig
from ptycho.data.scan import Scan
from ptycho.formats import write_scan
from ptycho.pipelines.open import examined_scan
from ptycho.refinement.refine import refine


def test_a_stray_position_is_named_before_memory_is_taken_even_by_force(small_scan: Scan, tmp_path: Path) -> None:
    positions = small_scan.positions.copy()
    positions[7] = 1e6
    write_scan(replace(small_scan, positions=positions, object=None), tmp_path / "a.h5", "hdf5")
    with pytest.raises(ValueError, match=r"the object would take .* stray one"):
        examined_scan(tmp_path / "a.h5", lambda text: None, force=True)


def test_a_stage_far_from_its_zero_changes_nothing(small_scan: Scan) -> None:
    """Beyond the 2^31 that a 32-bit integer holds; whole pixels, so that the sum is exact."""
    near = replace(small_scan, positions=np.round(small_scan.positions), object=None)
    far = replace(near, positions=near.positions + 2.0**33)
    config = RefineConfig(epochs=2)
    one, other = refine(near, config).result, refine(far, config).result
    np.testing.assert_array_equal(one.object, other.object)
    np.testing.assert_array_equal(one.origin_px + 2**33, other.origin_px)


def test_positions_that_numbers_do_not_hold_are_refused(small_scan: Scan) -> None:
    with pytest.raises(ValueError, match=r"reach 1e\+15 pixels from 0, where numbers are 0.12 apart"):
        replace(small_scan, positions=small_scan.positions + 1e15, object=None)
