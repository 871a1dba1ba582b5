"""Frames one by one: any order, no frame kept longer than needed, tiles that agree with one another."""

import itertools

import numpy as np
import pytest

from ptycho.config import ModelConfig
from ptycho.network.build import build_model
from ptycho.reconstruction import Stream
from ptycho.reconstruction.predict import predict
from tests.helpers import normal, to_numpy

KINDS = [dict(architecture="consensus"), dict(architecture="single")]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["architecture"])
TILE = 60


def network(scan, kind):
    """A network that does something: its last layers are random."""
    model = build_model(ModelConfig(N=scan.N, stages=1, width=4, **kind), scan.probe)
    rng = np.random.default_rng(0)
    for net in model.nets:
        net.head.kernel.assign(0.5 * normal(rng, *net.head.kernel.shape))
    return model


def fill(stream, scan, order):
    pieces = [piece for frame in order for piece in stream.add(int(frame), scan.counts[frame])]
    return pieces + stream.finish()


@every_kind
def test_the_order_of_arrival_does_not_matter(small_scan, kind):
    """But for the order of sums, in float32."""
    model = network(small_scan, kind)
    first, second = (Stream(model, small_scan.positions, tile_frames=TILE) for _ in range(2))
    pieces = fill(first, small_scan, range(len(small_scan)))
    other = fill(second, small_scan, np.random.default_rng(1).permutation(len(small_scan)))
    assert len(pieces) == len(other) > 1
    lit = first.mosaic.coverage > 0.05
    np.testing.assert_allclose(second.mosaic.coverage, first.mosaic.coverage, atol=1e-4)
    scale = np.abs(first.mosaic.object).max()
    np.testing.assert_allclose(second.mosaic.object[lit], first.mosaic.object[lit], atol=1e-4 * scale)
    assert np.abs(first.mosaic.object - 1)[lit].max() > 0.05
    assert (first.held, second.held) == (0, 0)


def test_one_tile_is_the_network_on_one_group_of_all_frames(small_scan):
    model = network(small_scan, KINDS[0])
    stream = predict(model, small_scan)
    integer = np.floor(small_scan.positions + 0.5).astype(int)
    origin = integer.min(axis=0) - small_scan.N // 2
    side = 8 * -(-int(np.ptp(integer, axis=0).max() + small_scan.N) // 8)
    inputs = dict(
        counts=small_scan.counts[None].astype("float32"),
        mask=small_scan.mask[None].astype("float32"),
        positions=(integer - origin)[None].astype("int32"),
        subpixel=(small_scan.positions - integer)[None].astype("float32"),
        canvas=np.zeros((1, side, side), "float32"),
    )
    out = model(inputs)
    h, w = stream.mosaic.shape
    lit = stream.mosaic.coverage > 0
    expected = to_numpy(out["canvas"])[0, :h, :w]
    np.testing.assert_allclose(stream.mosaic.object[lit], expected[lit], atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(stream.mosaic.coverage[lit], to_numpy(out["coverage"])[0, :h, :w][lit], atol=1e-4)


def test_tiles_agree_with_one_tile(small_scan):
    """Each tile has its own pooling grid, and ends where others go on: not the same network, but nearly.

    What a random network changes is the yardstick: tiles differ by less than half of it on average where a tile
    with another's frames would differ by all of it.
    """
    model = network(small_scan, KINDS[0])
    one, tiles = predict(model, small_scan), predict(model, small_scan, tile_frames=TILE)
    lit = one.mosaic.coverage > 1
    change = np.abs(one.mosaic.object - 1)[lit].mean()
    apart = np.abs(tiles.mosaic.object - one.mosaic.object)[lit].mean()
    assert 0 < apart < 0.5 * change
    np.testing.assert_array_equal(tiles.mosaic.coverage > 0.01, one.mosaic.coverage > 0.01)


def test_few_frames_are_held_in_the_order_of_the_tiles(small_scan):
    """Two rows of tiles at most: those that wait for the next row, and that row."""
    positions = 4.0 * np.stack(np.mgrid[:60, :20], axis=-1).reshape(-1, 2)
    stream = Stream(network(small_scan, KINDS[0]), positions, tile_frames=250)
    rows = sorted({tile.low[0] for tile in stream._tiles})
    assert len(rows) >= 3
    in_row = [set().union(*(t.frames.tolist() for t in stream._tiles if t.low[0] == low)) for low in rows]
    limit = max(len(a | b) for a, b in itertools.pairwise(in_row))
    assert limit < len(positions)
    most = 0
    for frames in stream.order():
        for frame in frames:
            stream.add(int(frame), small_scan.counts[frame % 100])
            most = max(most, stream.held)
    assert 0 < most <= limit
    assert stream.held == 0
    assert stream.arrived.all()


@every_kind
def test_the_order_names_every_frame_once(small_scan, kind):
    stream = Stream(network(small_scan, kind), small_scan.positions, tile_frames=40)
    order = np.concatenate(list(stream.order()))
    np.testing.assert_array_equal(np.sort(order), np.arange(len(small_scan)))


@every_kind
def test_frames_that_do_not_belong_are_refused(small_scan, kind):
    stream = Stream(network(small_scan, kind), small_scan.positions)
    stream.add(3, small_scan.counts[3])
    with pytest.raises(ValueError, match="frame 3 has come already"):
        stream.add(3, small_scan.counts[3])
    for unknown in (-1, len(small_scan)):
        with pytest.raises(ValueError, match=f"frame {unknown} is not one of"):
            stream.add(unknown, small_scan.counts[0])
    with pytest.raises(ValueError, match=r"frame 4 has shape \(23, 24\)"):
        stream.add(4, small_scan.counts[4][1:])
    assert stream.held == 1
    assert stream.arrived.sum() == 1


def test_what_does_not_fit_the_model_is_refused(small_scan):
    model = network(small_scan, KINDS[0])
    for positions in (np.zeros((0, 2)), np.zeros(4), np.zeros((4, 3))):
        with pytest.raises(ValueError, match="positions have shape"):
            Stream(model, positions)
    with pytest.raises(ValueError, match="mask has shape"):
        Stream(model, small_scan.positions, mask=np.ones((3, 3)))
    for symmetries in (0, 17):
        with pytest.raises(ValueError, match=f"symmetries is {symmetries}"):
            Stream(model, small_scan.positions, symmetries=symmetries)


@every_kind
def test_frames_that_are_no_numbers_are_dropped_and_counted(small_scan, kind):
    """The object is that of the others, as if it had never been announced that they come."""
    model = network(small_scan, kind)
    bad = [5, 77]
    stream, without = (Stream(model, small_scan.positions, tile_frames=TILE) for _ in range(2))
    for frame in range(len(small_scan)):
        counts = small_scan.counts[frame].astype("float32")
        if frame in bad:
            counts[2, 3] = np.nan
        else:
            without.add(frame, counts)
        stream.add(frame, counts)
    stream.finish(), without.finish()
    assert (stream.dropped, without.dropped) == (bad, [])
    assert stream.held == 0
    assert np.isfinite(stream.mosaic.object).all()
    np.testing.assert_allclose(stream.mosaic.coverage, without.mosaic.coverage, atol=1e-4)
    lit = stream.mosaic.coverage > 0.05
    np.testing.assert_allclose(stream.mosaic.object[lit], without.mosaic.object[lit], atol=1e-3)


@every_kind
def test_frames_may_come_in_a_buffer_that_is_filled_anew(small_scan, kind):
    """As those of a detector's ring buffer: the stream keeps copies."""
    model = network(small_scan, kind)
    ring, still = (Stream(model, small_scan.positions, tile_frames=TILE) for _ in range(2))
    buffer = np.empty_like(small_scan.counts[0])
    for frame, counts in enumerate(small_scan.counts):
        buffer[:] = counts
        ring.add(frame, buffer)
        buffer[:] = 7
        still.add(frame, counts)
    ring.finish(), still.finish()
    np.testing.assert_array_equal(ring.mosaic.object, still.mosaic.object)


@every_kind
def test_counts_below_zero_are_dropped_but_under_the_mask(small_scan, kind):
    mask = np.ones((24, 24), bool)
    mask[2, 3] = False
    stream = Stream(network(small_scan, kind), small_scan.positions, mask=mask)
    marked, negative = small_scan.counts[0].astype("int32"), small_scan.counts[1].astype("int32")
    marked[2, 3], negative[4, 4] = -1, -1
    unknown = small_scan.counts[2].astype("float32")
    unknown[2, 3] = np.nan
    stream.add(0, marked), stream.add(1, negative), stream.add(2, unknown)
    assert (stream.held, stream.dropped) == (2, [1])
    stream.finish()
    assert np.isfinite(stream.mosaic.object).all()


@every_kind
def test_where_the_network_fails_no_frame_is_lost(small_scan, kind, monkeypatch):
    model = network(small_scan, kind)
    failing, sound = (Stream(model, small_scan.positions, tile_frames=TILE) for _ in range(2))
    name = "_predict_tile" if kind["architecture"] == "consensus" else "_predict_batch"
    works, calls = getattr(failing, name), itertools.count()

    def sometimes(*args):
        if next(calls) % 3 == 0:
            raise MemoryError
        return works(*args)

    monkeypatch.setattr(failing, name, sometimes)
    errors = 0
    for frame, counts in enumerate(small_scan.counts):
        try:
            failing.add(frame, counts)
        except MemoryError:
            errors += 1
        sound.add(frame, counts)
    assert errors > 0
    monkeypatch.setattr(failing, name, works)
    failing.finish(), sound.finish()
    assert (failing.held, failing.dropped) == (0, [])
    np.testing.assert_allclose(failing.mosaic.coverage, sound.mosaic.coverage, rtol=1e-5, atol=1e-5)


@every_kind
def test_a_scan_that_breaks_off_is_finished_with_what_there_is(small_scan, kind):
    stream = Stream(network(small_scan, kind), small_scan.positions, tile_frames=TILE)
    order = np.concatenate(list(stream.order()))[:50]
    for frame in order:
        stream.add(int(frame), small_scan.counts[frame])
    assert stream.held > 0
    assert stream.finish()
    assert stream.held == 0
    assert stream.finish() == []
    lit = stream.mosaic.coverage > 0.5
    integer = np.floor(small_scan.positions + 0.5).astype(int) - stream.mosaic.origin
    arrived = np.isin(np.arange(len(small_scan)), order)
    assert all(lit[tuple(at)] for at in integer[arrived])
    assert not all(lit[tuple(at)] for at in integer[~arrived])


@every_kind
def test_several_views_tell_how_far_they_disagree(small_scan, kind):
    model = network(small_scan, kind)
    one, several = predict(model, small_scan), predict(model, small_scan, symmetries=3)
    lit = one.mosaic.coverage > 0.5
    np.testing.assert_array_equal(one.spread, 0)
    assert several.spread[lit].min() > 0
    np.testing.assert_allclose(several.mosaic.coverage, one.mosaic.coverage, atol=1e-4)
    assert np.abs(several.mosaic.object - one.mosaic.object)[lit].max() > 1e-3
    # A mean of three, one of which is the plain one: no farther from it than their spread, times the root of 2.
    near = np.abs(several.mosaic.object - one.mosaic.object) <= np.sqrt(2) * several.spread + 1e-3
    assert near[lit].all()
