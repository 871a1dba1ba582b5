"""Scans played to a stream: every frame arrives, whatever the order, and the report's numbers add up."""

import json
import threading

import numpy as np
import pytest
from typer.testing import CliRunner

from ptycho.cli.app import app
from ptycho.config import ModelConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.network.build import build_model
from ptycho.network.files import save_model
from ptycho.reconstruction import Stream
from ptycho.reconstruction.replay import replay
from ptycho.simulation.probes import make_probe
from tests.helpers import EPS, normal

KINDS = ["consensus", "single"]


def network(architecture, probe):
    """A network that does something: its last layers are random."""
    model = build_model(ModelConfig(N=probe.shape[-1], architecture=architecture, stages=1, width=4), probe)
    rng = np.random.default_rng(0)
    for net in model.nets:
        net.head.weights[0].assign(0.3 * normal(rng, *net.head.weights[0].shape))
    return model


@pytest.fixture(scope="module")
def models(small_scan):
    return {kind: network(kind, small_scan.probe) for kind in KINDS}


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert {t for t in threading.enumerate() if t.name.startswith("replay")} <= before


@pytest.mark.parametrize("kind", KINDS)
def test_all_frames_arrive_and_their_order_does_not_matter(kind, models, small_scan):
    objects = []
    for order, seed in [("scan", 0), ("random", 1), ("random", 2)]:
        stream = Stream(models[kind], small_scan.positions, tile_frames=48)
        played = replay(stream, enumerate(small_scan.counts), order=order, seed=seed)
        assert (played.sent, played.used, played.dropped) == (len(small_scan), len(small_scan), 0)
        assert stream.held == 0
        assert played.most_held == stream.most_held <= len(small_scan)
        objects.append(stream.mosaic.object)
    assert np.abs(objects[0] - 1).max() > 0.05
    # A pixel is a sum of light times object, over a sum of light, of the K frames on it. Summed in two orders, each of
    # the two sums differs by K roundings at most.
    overlap = np.abs(stream.integer[:, None] - stream.integer).max(axis=-1) < small_scan.N
    bound = 2 * overlap.sum(axis=1).max() * EPS * np.abs(objects[0]).max()
    assert bound < 1e-4
    for other in objects[1:]:
        assert np.abs(other - objects[0]).max() <= bound


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_of_the_report_add_up(kind, models, small_scan):
    stream = Stream(models[kind], small_scan.positions, tile_frames=48)
    played = replay(stream, enumerate(small_scan.counts))
    assert 0 <= played.latency_median_ms <= played.latency_p95_ms <= played.latency_max_ms <= 1e3 * played.seconds
    assert played.rate == pytest.approx(played.sent / played.seconds)
    assert played.late_ms == 0
    assert 0 <= played.blocked_s <= played.seconds
    assert played.most_waiting <= 1
    assert played.warm_up_s > 0


def test_frames_do_not_come_sooner_than_their_rate(models, small_scan):
    stream = Stream(models["single"], small_scan.positions, tile_frames=16)
    played = replay(stream, enumerate(small_scan.counts), rate=500.0)
    assert played.seconds >= (len(small_scan) - 1) / 500.0
    assert played.rate_asked == 500.0
    assert played.late_ms >= 0


def test_a_full_queue_makes_the_producer_wait_and_drops_nothing(models, small_scan):
    stream = Stream(models["single"], small_scan.positions, tile_frames=16)
    played = replay(stream, enumerate(small_scan.counts), rate=1e6, in_flight=3)
    assert played.used == len(small_scan)
    assert played.most_waiting <= 3
    assert played.late_ms > 0
    assert played.blocked_s > 0


@pytest.mark.parametrize("kind", KINDS)
def test_frames_that_are_not_finite_are_the_only_ones_dropped(kind, models, small_scan):
    counts = small_scan.counts.astype("float32")
    counts[[5, 77], 3, 3] = np.nan
    stream = Stream(models[kind], small_scan.positions, tile_frames=48)
    played = replay(stream, enumerate(counts))
    assert (played.used, played.dropped) == (len(small_scan) - 2, 2)
    assert stream.dropped == [5, 77]


def test_no_usable_frame_is_an_error(models, small_scan):
    for frames in ([], [(0, np.full((small_scan.N, small_scan.N), np.nan))]):
        with pytest.raises(ValueError, match="none of the"):
            replay(Stream(models["single"], small_scan.positions), frames)


def test_an_exception_of_the_frames_reaches_the_caller(models, small_scan):
    def frames():
        yield from enumerate(small_scan.counts[:10])
        raise OSError("the detector is gone")

    stream = Stream(models["single"], small_scan.positions)
    with pytest.raises(OSError, match="the detector is gone"):
        replay(stream, frames())
    assert stream.arrived.sum() == 10


@pytest.mark.parametrize("rate", [None, 1e-3])
def test_the_producer_ends_when_a_frame_is_refused(rate, models, small_scan):
    """Whether it waits for room in the queue or, for the next quarter of an hour, for its time to come."""
    stream, frames = Stream(models["single"], small_scan.positions), ((1000, f) for f in small_scan.counts)
    with pytest.raises(ValueError, match="frame 1000 is not one of"):
        replay(stream, frames, rate=rate, in_flight=3)


def test_an_exception_of_the_snapshot_reaches_the_caller(models, small_scan):
    def snapshot(stream):
        raise RuntimeError("no space left")

    with pytest.raises(RuntimeError, match="no space left"):
        stream = Stream(models["single"], small_scan.positions, tile_frames=16)
        replay(stream, enumerate(small_scan.counts), snapshot=snapshot)


def test_snapshots_see_the_object_grow(models, small_scan):
    lit = []
    stream = Stream(models["single"], small_scan.positions, tile_frames=16)
    replay(stream, enumerate(small_scan.counts), snapshot=lambda s: lit.append((s.mosaic.coverage > 0).sum()))
    assert len(lit) == 9
    assert lit == sorted(lit)
    assert lit[0] < lit[-1]


@pytest.mark.parametrize("options", [dict(rate=0), dict(rate=-1), dict(rate=float("nan")), dict(order="spiral")])
def test_bad_options_are_refused(options, models, small_scan):
    with pytest.raises(ValueError, match="expected"):
        replay(Stream(models["single"], small_scan.positions), enumerate(small_scan.counts), **options)


def test_few_frames_of_a_long_scan_are_held():
    """A raster scan with tiles: a frame is done when the scan is past the last tile that the frame reaches."""
    step, rows, columns, side = 3.0, 40, 4, 16
    positions = step * np.stack(np.mgrid[:rows, :columns], -1).reshape(-1, 2)
    probe = make_probe(side)
    counts = np.random.default_rng(0).poisson(10.0, (len(positions), side, side)).astype("float32")
    stream = Stream(network("consensus", probe), positions, tile_frames=1)  # the smallest tiles that there are
    played = replay(stream, enumerate(counts))
    # It reaches tiles up to `margin` away; such a tile needs frames up to its own height and `margin` further.
    inner = [tile for tile in stream._tiles if np.isfinite([*tile.low, *tile.high])[[0, 2]].all()]
    height = inner[0].high[0] - inner[0].low[0]
    margin = max(np.max(tile.low[0] - positions[tile.frames, 0]) for tile in inner) + step
    bound = columns * (np.ceil((height + 2 * margin) / step) + 1)
    assert bound < len(positions) / 2
    assert played.most_held <= bound
    assert played.used == len(positions)


@pytest.mark.parametrize("kind", KINDS)
def test_warming_up_changes_nothing(kind, models, small_scan):
    stream = Stream(models[kind], small_scan.positions, tile_frames=48, symmetries=2)
    stream.warm_up()
    assert stream.held == 0
    assert not stream.arrived.any()
    assert not stream.mosaic.illumination.any()


def test_pieces_name_their_frames(models, small_scan):
    for kind in KINDS:
        stream = Stream(models[kind], small_scan.positions, tile_frames=48)
        pieces = [p for k, frame in enumerate(small_scan.counts) for p in stream.add(k, frame)] + stream.finish()
        named = np.concatenate([piece.frames for piece in pieces])
        assert set(named) == set(range(len(small_scan)))
        if kind == "single":
            assert len(named) == len(small_scan)
            assert all(tuple(stream.integer[p.frames[0]] - small_scan.N // 2) == p.origin for p in pieces)


def test_flush_and_max_wait(models, small_scan):
    stream = Stream(models["single"], small_scan.positions, tile_frames=16)
    assert stream.flush() == []
    assert stream.add(3, small_scan.counts[3]) == []
    assert stream.patience is None
    assert [p.frames.tolist() for p in stream.flush()] == [[3]]
    assert stream.held == 0
    eager = Stream(models["single"], small_scan.positions, tile_frames=16, max_wait=0.0)
    assert eager.patience is None
    assert len(eager.add(3, small_scan.counts[3])) == 1
    together = Stream(models["consensus"], small_scan.positions, tile_frames=48)
    together.add(3, small_scan.counts[3])
    assert together.flush() == []
    assert together.held == 1
    with pytest.raises(ValueError, match="max_wait"):
        Stream(models["consensus"], small_scan.positions, max_wait=1.0)
    with pytest.raises(ValueError, match="tile_frames"):
        Stream(models["single"], small_scan.positions, tile_frames=0)


def test_a_frame_does_not_wait_for_a_batch_that_does_not_fill(models, small_scan):
    """The second frame is sent only when the first is in the object: without a flush in idle time, never."""
    seen = threading.Event()

    def frames():
        yield 0, small_scan.counts[0]
        assert seen.wait(60)
        yield 1, small_scan.counts[1]

    stream = Stream(models["single"], small_scan.positions, tile_frames=16, max_wait=0.01)
    played = replay(stream, frames(), snapshot=lambda _: seen.set())
    assert played.used == 2


@pytest.mark.parametrize(("kind", "size"), [("consensus", 512), ("single", 64)])
def test_the_command(kind, size, models, small_scan, tmp_path):
    from ptycho.formats import write_scan

    write_scan(small_scan, tmp_path / "scan.h5")
    save_model(models[kind], tmp_path / "run" / "model.keras")
    out = tmp_path / "out"
    arguments = [str(tmp_path / "scan.h5"), "--model", str(tmp_path / "run"), "-o", str(out)]
    said = CliRunner().invoke(
        app, ["stream", *arguments, "--order", "random", "--rate", "2000"], catch_exceptions=False
    )
    assert said.exit_code == 0
    assert "latency median / 95 % / max" in said.output
    assert "flat object" in said.output
    names = {"reconstruction.h5", "object.png", "stream.json", "scores.json", "config.json"}
    assert {p.name for p in out.iterdir()} == names
    progress = json.loads((out / "stream.json").read_text())
    assert (progress["sent"], progress["used"], progress["dropped"]) == (144, 144, 0)
    assert (progress["tile_frames"], progress["order"], progress["rate_asked"]) == (size, "random", 2000)
    result = Reconstruction.load(out / "reconstruction.h5")
    assert result.used == 144
    assert result.object.shape == result.coverage.shape


def test_the_patches_of_a_cnn_are_not_streamed(small_scan, tmp_path):
    from ptycho.pipelines.stream import stream_run

    save_model(network("cnn", small_scan.probe), tmp_path / "model.keras")
    with pytest.raises(ValueError, match="phase of their own"):
        stream_run(small_scan, tmp_path / "out", tmp_path)
