"""The grid of an object: what its frames cover, and never more than memory holds."""

import numpy as np
import pytest

from ptycho.physics import grid
from ptycho.physics.grid import ObjectGrid

SPREAD = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])
"""Positions (y, x) in pixels of three frames that overlap."""


@pytest.mark.parametrize("N", [16, 17])
def test_every_frame_lies_on_it_and_no_pixel_is_left_over(N):
    around = ObjectGrid.around(SPREAD, N)
    first, _ = around.frames(SPREAD)
    assert around.shape == (N + 8, N + 8)
    np.testing.assert_array_equal(first.min(axis=0), 0)
    np.testing.assert_array_equal(first.max(axis=0) + N, around.shape)


def test_positions_in_a_wrong_unit_make_no_canvas():
    """Nanometres for pixels: 100 000 pixels on a side would be 480 GB, of which three frames cover next to nothing."""
    with pytest.raises(ValueError, match=r"the object would take .* GB. Check the unit of the positions"):
        ObjectGrid.around(SPREAD * 12_500, 16)


def test_a_stray_position_makes_no_canvas():
    """It would fit into memory, but one frame far away covers none of it."""
    stray = np.concatenate([SPREAD, [[6e3, 6e3]]])
    with pytest.raises(ValueError, match="for a stray one"):
        ObjectGrid.around(stray, 16)
    assert ObjectGrid.around(stray / 10, 16).shape == (616, 616)  # small, however sparse


def test_a_canvas_larger_than_memory_is_refused_however_well_it_is_covered(monkeypatch):
    """Six complex arrays of 24 x 24 pixels are 27 648 bytes."""
    monkeypatch.setattr(grid, "memory_bytes", lambda: 27_648)
    assert ObjectGrid.around(SPREAD, 16).shape == (24, 24)
    monkeypatch.setattr(grid, "memory_bytes", lambda: 27_647)
    with pytest.raises(ValueError, match=r"the object would take 2\.76e-05 GB"):
        ObjectGrid.around(SPREAD, 16)


def test_sides_are_rounded_up_to_multiples():
    grid = ObjectGrid((-3, 5), (33, 48), 24)
    assert grid.rounded_up() == ObjectGrid((-3, 5), (48, 48), 24)
    assert grid.rounded_up(1) == grid
