"""Tiles: they cover a scan within the limit, their windows add up to one, pieces go where they belong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho.reconstruction.tiles import COVERED, Mosaic, Piece, Tile, cut, reach, window
from tests.helpers import complex_normal


def scattered(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (frames, 2)) * (150, 260) - (40, 90)


def side_of(tiles: list[Tile], axis: int, extent: float) -> float:
    """Of the grid that tiles with frames are of: the least distance of borders, of which two neighbours are there."""
    borders = sorted({side[axis] for tile in tiles for side in (tile.low, tile.high)} - {-np.inf, np.inf})
    return extent / (len(borders) + 1) if len(borders) < 2 else np.diff(borders).min()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 400), st.integers(1, 200), st.floats(0, 40), st.integers(0, 2**32 - 1))
def test_tiles_cover_the_scan(frames: int, limit: int, margin: float, seed: int) -> None:
    """Each frame is in the tile it lies in, and in every tile within the margin; the limit holds where it can."""
    positions = scattered(frames, seed)
    tiles = cut(positions, margin, limit)
    owners = np.zeros(frames, int)
    for tile in tiles:
        low, high = np.array(tile.low), np.array(tile.high)
        owners += ((positions >= low) & (positions < high)).all(axis=1)
        near = ((positions >= low - margin) & (positions < high + margin)).all(axis=1)
        np.testing.assert_array_equal(tile.frames, np.flatnonzero(near))
    np.testing.assert_array_equal(owners, 1)
    if max(len(tile.frames) for tile in tiles) > limit:  # then none is wide enough to be divided
        sides = np.array([side_of(tiles, k, extent) for k, extent in enumerate(np.ptp(positions, axis=0))])
        assert sides.min() < 2 * margin or np.prod(np.ptp(positions, axis=0) / sides) > frames - 0.5


def test_the_limit_holds_where_tiles_are_wider_than_their_margins() -> None:
    positions = scattered(2000)
    for limit in (2000, 700, 300):
        tiles = cut(positions, 5.0, limit)
        assert max(len(tile.frames) for tile in tiles) <= limit
        assert len(tiles) >= 2000 / limit
    assert len(cut(positions, 5.0, 2000)) == 1


def test_many_crowded_frames_are_cut_in_a_moment() -> None:
    """Of pairs of frames that nothing can part there are as many tiles as frames at most, not as many as pixels."""
    positions = np.repeat(scattered(5000), 2, axis=0)
    tiles = cut(positions, 0.01, 1)
    assert 1000 < len(tiles) <= len(positions)
    assert sum(len(tile.frames) for tile in tiles) >= len(positions)


def test_frames_in_one_place_are_one_tile_whatever_the_limit() -> None:
    tiles = cut(np.zeros((30, 2)), 8.0, 4)
    assert [len(tile.frames) for tile in tiles] == [30]


@pytest.mark.parametrize("ramp", [1.0, 4.0])
@pytest.mark.parametrize("limit", [900, 200, 60])
def test_windows_add_up_to_one(ramp: float, limit: int) -> None:
    """In every pixel of the scan, also where four tiles meet; tiles are wider than their ramps."""
    positions = scattered(900)
    tiles = cut(positions, 4.0, limit)
    assert (len(tiles) > 1) == (limit < 900)
    origin, shape = np.array([-60, -110]), (200, 300)
    total = sum(window(tile, origin, shape, ramp) for tile in tiles)
    np.testing.assert_allclose(total, 1, atol=1e-6)
    # One pixel of another origin is the same pixel of the scan.
    part = window(tiles[0], origin + [7, 9], (50, 60), ramp)
    np.testing.assert_array_equal(part, window(tiles[0], origin, shape, ramp)[7:57, 9:69])


@pytest.mark.parametrize("n", [32, 33])
def test_reach_holds_most_of_the_light(n: int) -> None:
    from ptycho.simulation.probes import make_probe

    probe = make_probe(n, photons=1e4, modes=2)
    light = (np.abs(probe) ** 2).sum(axis=0)
    radius = reach(probe)
    y, x = np.abs(np.mgrid[:n, :n] - n // 2)
    within = lambda r: light[np.maximum(y, x) <= r].sum() / light.sum()
    assert within(radius) >= 0.99 > within(radius - 2)


def test_a_mosaic_is_the_mean_of_its_pieces_weighted_with_light() -> None:
    """In any order; what a piece has outside the object is left out, and what is dark is 0."""
    rng = np.random.default_rng(0)
    positions = np.array([[10.2, 20.0], [30.7, 47.9]])
    corners = [(-3, 4), (8, 30), (25, 50), (200, 0), (6, 17)]
    pieces = [
        Piece(complex_normal(rng, 14, 19), rng.uniform(0.1, 1, (14, 19)).astype("float32"), origin, np.array([0]))
        for origin in corners
    ]
    wide, light = np.zeros((300, 300), complex), np.zeros((300, 300))
    mosaic, other = Mosaic(positions, 8), Mosaic(positions, 8)
    np.testing.assert_array_equal(mosaic.origin, [6, 16])
    assert mosaic.shape == (29, 36)
    for piece in pieces:
        mosaic.add(piece)
        y, x = np.array(piece.origin) + 20
        wide[y : y + 14, x : x + 19] += piece.values * piece.weight
        light[y : y + 14, x : x + 19] += piece.weight
    for piece in pieces[::-1]:
        other.add(piece)
    here = np.s_[26 : 26 + 29, 36 : 36 + 36]
    lit = light[here] > COVERED
    assert lit.any() and not lit.all()
    np.testing.assert_allclose(mosaic.object[lit], wide[here][lit] / light[here][lit], rtol=1e-5)
    np.testing.assert_allclose(mosaic.coverage, light[here], rtol=1e-6)
    np.testing.assert_array_equal(mosaic.object[~lit], 0)
    np.testing.assert_allclose(other.object, mosaic.object, atol=1e-5)
