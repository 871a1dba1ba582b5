"""Arms on the workers of a Dask cluster: the rows of a serial run, whatever happens to a worker."""

import threading
import time
from dataclasses import replace

import pytest

from ptycho.studies.cases import Study
from ptycho.studies.runner import run_study
from tests.helpers import kill_worker_of
from tests.studies.test_runner import SMALL, assert_same

distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install 'ptycho[distributed]'")

CASES = tuple(replace(SMALL, name=f"case-{seed}", seed=seed, training=dict(epochs=2)) for seed in range(2))


def kill_one_in_mid_arm(cluster, folder, killed: list) -> None:
    """Wait for the first case that has left an epoch, and kill the process that works on it."""
    while not killed:
        for history in folder.glob("*/network/checkpoint/history.json"):
            case = history.parents[2]
            task = cluster.scheduler.tasks.get(case.name)
            if task and task.processing_on and not (case / "row.json").exists():
                kill_worker_of(cluster, task)
                killed.append(case.name)
                return
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # sockets of the process that was killed
@pytest.mark.filterwarnings("ignore:::distributed")  # a busy machine is slow to answer
def test_three_workers_one_of_them_killed_give_the_rows_of_a_serial_run(tmp_path):
    study = Study("s", "two arms", CASES, lambda folder, rows: (rows, []))
    serial = run_study(study, tmp_path / "serial")
    killed: list[str] = []
    options = dict(n_workers=3, threads_per_worker=1, processes=True, dashboard_address=":0")
    with distributed.LocalCluster(**options) as cluster:
        arguments = (cluster, tmp_path / "dask", killed)
        killer = threading.Thread(target=kill_one_in_mid_arm, args=arguments, daemon=True)
        killer.start()
        results = run_study(study, tmp_path / "dask", scheduler=cluster.scheduler_address)
    assert len(killed) == 1
    assert results.failures == serial.failures == []
    for row, other in zip(results.rows, serial.rows, strict=True):
        assert_same(row, other)
