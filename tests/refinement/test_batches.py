"""Batches take each frame once, and spread over the scan."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho.refinement.batches import Members, batches

HOW = pytest.mark.parametrize("how", ["compact", "random"])


def points(count=120, seed=0):
    return np.random.default_rng(seed).uniform(0, 60, (count, 2))


@given(
    total=st.integers(1, 90), size=st.integers(1, 100), how=st.sampled_from(["compact", "random"]), seed=st.integers(0)
)
def test_each_frame_once_in_batches_of_one_size(total, size, how, seed):
    rng = np.random.default_rng(seed)
    frames = np.sort(rng.permutation(120)[:total])
    found = batches(points(), frames, size, how, rng)
    assert len({len(part.frames) for part in found}) == 1
    assert len(found) == -(-total // size)
    assert len(found[0].frames) <= size
    taken = np.concatenate([part.frames[part.present > 0] for part in found])
    assert np.array_equal(np.sort(taken), frames)
    assert all(np.isin(part.frames, frames).all() for part in found)


@HOW
def test_the_same_draws_give_the_same_batches(how):
    first, again, other = (
        batches(points(), np.arange(120), 16, how, np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    for one, two in zip(first, again, strict=True):
        assert np.array_equal(one.frames, two.frames)
        assert np.array_equal(one.present, two.present)
    assert any(not np.array_equal(one.frames, two.frames) for one, two in zip(first, other, strict=True))


def test_compact_batches_overlap_less_than_random_ones():
    """Distance of a frame to the nearest other of its batch: 12 frames on 60 x 60 pixels could have 17."""
    x = points()

    def distance(how):
        nearest = []
        for part in batches(x, np.arange(120), 12, how, np.random.default_rng(1)):
            apart = np.linalg.norm(x[part.frames][:, None] - x[part.frames], axis=-1)
            nearest += list((apart + 1e9 * np.eye(12)).min(axis=1))
        return np.mean(nearest)

    # Random ones: 1 / 2 sqrt(area a frame) = 8.7, a little more at the border.
    assert distance("random") < 11 < distance("compact")


def test_filled_up_frames_are_not_present():
    part = Members(np.array([4, 2]), np.ones(2, "float32")).filled(5)
    assert part.frames.tolist() == [4, 2, 2, 2, 2]
    assert part.present.tolist() == [1, 1, 0, 0, 0]
    assert part.present.dtype == np.float32
