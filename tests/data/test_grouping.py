"""Groups: against brute force, and what must hold for any scan."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho.data.grouping import blocks, group_extents, held_out_groups


def scattered(frames: int, seed: int = 0) -> np.ndarray:
    """Positions without equal distances, on a field that is not square."""
    return np.random.default_rng(seed).uniform(0, 1, (frames, 2)) * (90, 200)


def grid(rows: int, columns: int, step: float = 1.0) -> np.ndarray:
    return np.stack(np.mgrid[:rows, :columns], -1).reshape(-1, 2) * step


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_blocks_of_any_size(data: st.DataObject) -> None:
    """One for each frame, of different frames that no other lies among: they are the nearest to a point."""
    size = data.draw(st.sampled_from([1, 4, 9, 36]), "size")
    positions = scattered(data.draw(st.integers(size, 300), "frames"), data.draw(st.integers(0, 2**32 - 1), "seed"))
    groups = blocks(positions, size)
    assert groups.shape == (len(positions), size)
    assert groups.dtype == np.int64
    assert (np.diff(np.sort(groups, axis=1), axis=1) > 0).all()  # no frame twice
    for group in groups:
        low, high = positions[group].min(axis=0), positions[group].max(axis=0)
        inside = ((positions >= low) & (positions <= high)).all(axis=1)
        assert inside.sum() == size
    np.testing.assert_array_equal(groups, blocks(positions, size))


def test_blocks_of_a_grid_are_squares_with_their_frame_at_its_border_too() -> None:
    positions = grid(12, 15, 3.0)
    groups = blocks(positions, 25)
    np.testing.assert_array_equal(np.ptp(positions[groups], axis=1), 4 * 3.0)
    assert (groups == np.arange(len(positions))[:, None]).any(axis=1).all()


def test_blocks_do_not_depend_on_the_order_of_the_frames() -> None:
    positions = scattered(80)
    order = np.random.default_rng(5).permutation(80)
    one, other = blocks(positions, 4), order[blocks(positions[order], 4)]
    np.testing.assert_array_equal(np.sort(one[order], axis=1), np.sort(other, axis=1))


def test_blocks_of_all_frames_or_of_one_line_or_one_place() -> None:
    positions = scattered(12)
    assert (np.sort(blocks(positions, 12), axis=1) == np.arange(12)).all()
    line = blocks(grid(1, 20), 4)
    assert np.ptp(line, axis=1).max() <= 4  # neighbours along it, but for ties
    assert all(len(set(g)) == 4 for g in blocks(np.zeros((20, 2)), 4).tolist())


@pytest.mark.parametrize(("frames", "size", "message"), [(3, 4, "3 frames cannot fill"), (30, 0, "group size is 0")])
def test_blocks_that_cannot_be_filled(frames: int, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        blocks(scattered(frames), size)
    with pytest.raises(ValueError, match=message):
        held_out_groups(scattered(frames), size, 0.1, np.random.default_rng(0))


def test_extents_are_the_larger_spread_along_an_axis() -> None:
    positions = np.array([[0.0, 0.0], [1.0, 7.5], [4.0, 2.0], [9.0, 3.0]])
    np.testing.assert_array_equal(group_extents(positions, np.array([[0, 1], [2, 3]])), [7.5, 5.0])
    np.testing.assert_array_equal(group_extents(positions, np.array([[1], [3]])), [0.0, 0.0])
    assert group_extents(positions, np.empty((0, 4), np.int64)).shape == (0,)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([1, 2, 4, 9, 16]),
    st.integers(16, 400),
    st.floats(0.001, 0.99),
    st.integers(0, 2**32 - 1),
)
def test_withheld_and_training_frames_are_a_partition(size: int, frames: int, fraction: float, seed: int) -> None:
    groups, training = held_out_groups(scattered(frames, seed), size, fraction, np.random.default_rng(seed))
    assert sorted([*groups.ravel(), *training]) == list(range(frames))  # also: no overlap among groups
    if frames < 3 * size:
        assert groups.shape == (0, size)
    else:
        assert len(groups) >= 1
        assert len(training) >= size
        wanted = min(max(fraction * frames, size), frames - size)
        assert abs(groups.size - wanted) < size


def test_withheld_groups_are_compact_and_spread_over_the_scan() -> None:
    """Nine frames fill a disc of radius 1.7 steps.

    At a corner of its cell they fill a quarter of a disc, of radius 3.4; a grid adds a step at each end.
    """
    positions = grid(30, 40)
    groups, _ = held_out_groups(positions, 9, 0.06, np.random.default_rng(3))
    assert len(groups) == 8
    assert group_extents(positions, groups).max() <= 5.4
    centres = positions[groups].mean(axis=1)
    quadrants = 2 * (centres[:, 0] > 14.5) + (centres[:, 1] > 19.5)
    assert np.bincount(quadrants, minlength=4).tolist() == [2, 2, 2, 2]


def test_withheld_groups_follow_the_generator() -> None:
    positions = scattered(200)
    first, again, other = (held_out_groups(positions, 4, 0.1, np.random.default_rng(s))[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_fraction_of_zero_withholds_nothing() -> None:
    groups, training = held_out_groups(scattered(60), 4, 0.0, np.random.default_rng(0))
    assert groups.shape == (0, 4)
    np.testing.assert_array_equal(training, np.arange(60))


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_that_is_none(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction is"):
        held_out_groups(scattered(60), 4, fraction, np.random.default_rng(0))
