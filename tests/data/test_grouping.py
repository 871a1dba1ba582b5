"""Groups: against brute force, and what must hold for any scan."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho.data.grouping import group_extent, neighbour_groups, withheld_groups


def scattered(frames: int, seed: int = 0) -> np.ndarray:
    """Positions without equal distances, on a field that is not square."""
    return np.random.default_rng(seed).uniform(0, 1, (frames, 2)) * (90, 200)


def grid(rows: int, columns: int, step: float = 1.0) -> np.ndarray:
    return np.stack(np.mgrid[:rows, :columns], -1).reshape(-1, 2) * step


def distances(positions: np.ndarray) -> np.ndarray:
    return np.linalg.norm(positions[:, None] - positions[None], axis=-1)


def test_default_groups_are_the_exact_nearest_frames_in_order() -> None:
    positions = scattered(120)
    groups = neighbour_groups(positions, 9, np.random.default_rng(1))
    assert groups.shape == (120, 9)
    assert groups.dtype == np.int64
    assert sorted(groups[:, 0]) == list(range(120))
    np.testing.assert_array_equal(groups, np.argsort(distances(positions), axis=1)[groups[:, 0], :9])


def test_groups_do_not_depend_on_the_order_of_the_frames() -> None:
    positions = scattered(80)
    order = np.random.default_rng(5).permutation(80)
    one = neighbour_groups(positions, 4, np.random.default_rng(1))
    other = order[neighbour_groups(positions[order], 4, np.random.default_rng(2))]
    assert sorted(map(tuple, one)) == sorted(map(tuple, other))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_groups_of_any_size(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([1, 4, 9, 16]), "size")
    frames = data.draw(st.integers(size, 300), "frames")
    groups = data.draw(st.none() | st.integers(1, 3 * frames), "groups")
    neighbours = data.draw(st.none() | st.integers(size, min(frames, 3 * size)), "neighbours")
    seed = data.draw(st.integers(0, 2**32 - 1), "seed")
    positions = scattered(frames, seed)

    def draw() -> np.ndarray:
        rng = np.random.default_rng(seed)
        return neighbour_groups(positions, size, rng, groups=groups, neighbours=neighbours)

    result = draw()
    count = frames if groups is None else groups
    pool = neighbours or min(frames, 2 * size if count > frames else size)
    assert result.shape == (count, size)
    assert (np.diff(np.sort(result, axis=1), axis=1) > 0).all()  # no frame twice
    seeds = np.bincount(result[:, 0], minlength=frames)
    assert seeds.min() >= count // frames
    assert seeds.max() <= -(-count // frames)
    rank = np.argsort(np.argsort(distances(positions), axis=1), axis=1)
    assert (rank[result[:, :1], result] < pool).all()  # members are among the nearest
    np.testing.assert_array_equal(result, draw())


@pytest.mark.parametrize("size", [4, 9])
def test_more_groups_than_frames_are_all_different(size: int) -> None:
    frames = 50
    groups = neighbour_groups(scattered(frames), size, np.random.default_rng(0), groups=6 * frames)
    assert len({frozenset(g) for g in groups.tolist()}) == 6 * frames


def test_more_groups_than_there_are_sets_repeat_but_come() -> None:
    groups = neighbour_groups(scattered(5), 1, np.random.default_rng(0), groups=12)
    assert np.bincount(groups[:, 0]).min() == 2


def test_frames_at_equal_positions_stay_distinct() -> None:
    """Twenty frames on one spot: the tree alone would often leave out the seed."""
    groups = neighbour_groups(np.zeros((20, 2)), 4, np.random.default_rng(0))
    assert sorted(groups[:, 0]) == list(range(20))
    assert all(len(set(g)) == 4 for g in groups.tolist())


@pytest.mark.parametrize(
    ("frames", "size", "options", "message"),
    [
        (3, 4, {}, "3 frames cannot fill a group of 4"),
        (30, 4, {"neighbours": 3}, "neighbours is 3"),
        (30, 4, {"neighbours": 31}, "there are 30 frames"),
        (30, 4, {"groups": 0}, "groups is 0"),
        (30, 0, {}, "group size is 0"),
    ],
)
def test_groups_that_cannot_be_filled(frames: int, size: int, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        neighbour_groups(scattered(frames), size, np.random.default_rng(0), **options)


def test_extent_is_the_largest_spread_along_an_axis() -> None:
    positions = np.array([[0.0, 0.0], [1.0, 7.5], [4.0, 2.0], [9.0, 3.0]])
    assert group_extent(positions, np.array([[0, 1], [2, 3]])) == 7.5
    assert group_extent(positions, np.array([[0, 2], [2, 3]])) == 5.0
    assert group_extent(positions, np.array([[1], [3]])) == 0.0
    assert group_extent(positions, np.empty((0, 4), np.int64)) == 0.0


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([1, 2, 4, 9, 16]),
    st.integers(16, 400),
    st.floats(0.001, 0.99),
    st.integers(0, 2**32 - 1),
)
def test_withheld_and_training_frames_are_a_partition(size: int, frames: int, fraction: float, seed: int) -> None:
    groups, training = withheld_groups(scattered(frames, seed), size, fraction, np.random.default_rng(seed))
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
    groups, _ = withheld_groups(positions, 9, 0.06, np.random.default_rng(3))
    assert len(groups) == 8
    assert group_extent(positions, groups) <= 5.4
    centres = positions[groups].mean(axis=1)
    quadrants = 2 * (centres[:, 0] > 14.5) + (centres[:, 1] > 19.5)
    assert np.bincount(quadrants, minlength=4).tolist() == [2, 2, 2, 2]


def test_withheld_groups_follow_the_generator() -> None:
    positions = scattered(200)
    first, again, other = (withheld_groups(positions, 4, 0.1, np.random.default_rng(s))[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_fraction_of_zero_withholds_nothing() -> None:
    groups, training = withheld_groups(scattered(60), 4, 0.0, np.random.default_rng(0))
    assert groups.shape == (0, 4)
    np.testing.assert_array_equal(training, np.arange(60))


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_that_is_none(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction is"):
        withheld_groups(scattered(60), 4, fraction, np.random.default_rng(0))
