"""A scan spread over the workers of a Dask cluster: the object of one process, whatever happens to a worker."""

import shutil
import threading
import time

import numpy as np
import pytest
from typer.testing import CliRunner

from ptycho.cli.app import app
from ptycho.config import ModelConfig
from ptycho.data.reconstruction import Reconstruction
from ptycho.formats import read_scan, write_scan
from ptycho.formats._container import ReadOptions
from ptycho.network.build import build_model
from ptycho.network.files import save_model
from ptycho.reconstruction import Stream, predict_on, reconstruct
from ptycho.simulation.simulate import simulate
from tests.helpers import kill_worker_of, normal

distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install 'ptycho[distributed]'")

KINDS = [dict(architecture="consensus"), dict(architecture="single")]
TILE = 60
NEAR = 1e-5
"""Of the largest amplitude: shares are sums in float32 (6e-8) of up to a hundred terms, in another order."""


@pytest.fixture(scope="module")
def path(small_scan, tmp_path_factory):
    path = tmp_path_factory.mktemp("spread") / "scan.h5"
    write_scan(small_scan, path)
    return path


@pytest.fixture(scope="module")
def scan(path):
    return read_scan(path, options=ReadOptions(in_memory_bytes=0))


@pytest.fixture(scope="module")
def cluster():
    options = dict(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0")
    with distributed.LocalCluster(**options) as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    with distributed.Client(cluster) as client:
        yield client


def network(scan, **kind):
    """A network that does something: its last layers are random."""
    model = build_model(ModelConfig(N=scan.N, stages=1, width=4, **kind), scan.probe)
    rng = np.random.default_rng(0)
    for net in model.nets:
        net.head.kernel.assign(0.5 * normal(rng, *net.head.kernel.shape))
    return model


def assert_same(found: Reconstruction, wanted: Reconstruction) -> None:
    """The same object to `NEAR`, of the same frames."""
    assert np.abs(wanted.object - 1)[wanted.coverage > 1].max() > 0.05
    # A pixel that the coverage just counts as lit, or just not, may come out either way.
    lit = wanted.coverage > 2e-3
    scale = np.abs(wanted.object).max()
    assert np.abs(found.object - wanted.object)[lit].max() < NEAR * scale
    assert np.abs(found.coverage - wanted.coverage)[lit].max() < NEAR * wanted.coverage.max()
    for name in ("positions_px", "probe", "used_frames"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert (found.used, found.dropped) == (wanted.used, wanted.dropped)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["architecture"])
def test_the_shares_of_the_parts_add_up_in_any_order(scan, kind):
    """Without a cluster: streams for the pieces, as the workers have them; frames that are no numbers among them."""
    model = network(scan, **kind)
    integer, sum_of_parts = (Stream(model, scan.positions, tile_frames=TILE, symmetries=2) for _ in range(2))
    counts = scan.counts[:].astype("float32")
    counts[[7, 80], 3, 4] = np.nan
    for frames in integer.order():
        for frame in frames:
            integer.add(int(frame), counts[frame])
    integer.finish()
    pieces = list(sum_of_parts.pieces())
    assert len(pieces) > 2
    for frames, layout in pieces[::-1]:
        part = Stream(model, scan.positions[frames], symmetries=2, layout=layout)
        for number, frame in enumerate(frames):
            part.add(number, counts[frame])
        part.finish()
        sum_of_parts.take(frames, part.contribution)
    assert sorted(integer.dropped) == sorted(sum_of_parts.dropped) == [7, 80]
    assert sum_of_parts.arrived.all()
    lit = integer.mosaic.coverage > 2e-3
    for name in ("total", "illumination"):
        found, wanted = (getattr(stream.mosaic, name) for stream in (sum_of_parts, integer))
        assert np.abs(found - wanted).max() < NEAR * np.abs(wanted).max()
    assert np.abs(sum_of_parts.spread - integer.spread)[lit].max() < NEAR * integer.spread.max()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:::distributed")  # a busy machine is slow to answer
def test_workers_give_the_object_of_one_process(client, scan):
    held_out = scan.held_out_mask(10)
    said = []
    for kind in KINDS:
        model = network(scan, **kind)
        ways = dict(held_out=held_out, tile_frames=TILE, progress=lambda *what: said.append(what))
        spread = reconstruct(model, scan, client=client, **ways)
        assert_same(spread, reconstruct(model, scan, **ways))
        # Whichever worker is the first, to the last bit
        np.testing.assert_array_equal(spread.object, reconstruct(model, scan, client=client, **ways).object)
    assert said[-1][:3] == ("predicting", (~held_out).sum(), (~held_out).sum())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:::distributed")
def test_the_command_leaves_the_same_image(cluster, scan, path, tmp_path):
    save_model(network(scan), tmp_path / "run" / "model.keras")
    images = []
    for name, where in (("serial", []), ("dask", ["--scheduler", cluster.scheduler_address])):
        command = ["reconstruct", str(path), "-o", str(tmp_path / name), "--model", str(tmp_path / "run")]
        command += ["--no-refine", "--force", "--tile-frames", str(TILE), *where]
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        images.append(Reconstruction.load(tmp_path / name / "reconstruction.h5"))
    assert_same(images[1], images[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:::distributed")
def test_what_workers_cannot_do_is_said(client, scan, small_scan, tmp_path):
    for in_memory in (small_scan, small_scan.subset([*range(64)])):
        with pytest.raises(ValueError, match="not read in pieces: `ptycho convert` it"):
            predict_on(client, network(scan), in_memory)
    with pytest.raises(ValueError, match="a phase of their own"):
        predict_on(client, build_model(ModelConfig(N=24, stages=1, architecture="cnn"), scan.probe), scan)
    shutil.copy(scan.counts.files[0], tmp_path / "gone.h5")
    gone = read_scan(tmp_path / "gone.h5", options=ReadOptions(in_memory_bytes=0))
    (tmp_path / "gone.h5").unlink()
    with pytest.raises(ValueError, match=r"does not see .*gone.h5: .* at the same path"):
        predict_on(client, network(scan), gone)


def kill_one_in_mid_part(cluster, done: list, killed: list) -> None:
    """Once a part is done, kill the process that works on another."""
    while not killed:
        for task in list(cluster.scheduler.tasks.values()):
            if done and task.processing_on and task.key.startswith("_contribution"):
                kill_worker_of(cluster, task)
                killed.append(task.key)
                return
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # sockets of the process that was killed
@pytest.mark.filterwarnings("ignore:::distributed")
def test_a_worker_killed_in_the_middle_changes_nothing(cluster, client, tmp_path):
    """Its part, and the network where nobody else has it, are made again: more frames than the fixture, so that there
    is a middle."""
    from ptycho.config import SimulationConfig

    write_scan(simulate(SimulationConfig(N=24, positions=1600, step_px=4.0, seed=3)), tmp_path / "scan.h5")
    scan = read_scan(tmp_path / "scan.h5", options=ReadOptions(in_memory_bytes=0))
    model = network(scan)
    wanted = reconstruct(model, scan, tile_frames=200)
    done: list = []
    killed: list = []
    killer = threading.Thread(target=kill_one_in_mid_part, args=(cluster, done, killed), daemon=True)
    killer.start()
    progress = lambda what, count, total, note: done.append(count)
    found = reconstruct(model, scan, tile_frames=200, client=client, progress=progress)
    assert len(killed) == 1
    assert_same(found, wanted)
