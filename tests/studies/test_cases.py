"""Arms are values: what changes their result changes their hash, and nothing else does."""

from dataclasses import replace

import pytest

from ptycho.config import SimulationConfig
from ptycho.studies.cases import Case, Study, checked
from ptycho.studies.cost import cost_of, plan
from ptycho.studies.dose_response import DoseResponse
from ptycho.studies.sensitivity import QUICK, STUDIES

CASE = Case(name="a", simulation=SimulationConfig(N=24, step_px=4.0), train_frames=64, test_frames=49)


@pytest.mark.parametrize(
    "change",
    [
        dict(seed=1),
        dict(train_frames=65),
        dict(own_object=True),
        dict(start="pretrained"),
        dict(refine=None),
        dict(refine=dict(epochs=3)),
        dict(training=dict(mae_weight=1.0)),
        dict(model=dict(gridsize=3)),
        dict(model=dict(precision="mixed_bfloat16")),
        dict(simulation=replace(CASE.simulation, photons=7.0)),
        dict(probe_error=dict(blur_px=1.0)),
    ],
)
def test_whatever_matters_changes_hash_and_folder(change):
    other = replace(CASE, **change)
    assert other.hash != CASE.hash
    assert other.folder != CASE.folder


def test_names_labels_and_spelled_out_defaults_do_not():
    assert replace(CASE, name="b", labels=dict(dose=3)).hash == CASE.hash
    assert replace(CASE, model=dict(gridsize=6), training=dict(nll_weight=1.0)).hash == CASE.hash
    assert Case.from_dict(CASE.to_dict()) == CASE


def test_a_file_counts_by_its_content(tmp_path):
    path, copy = tmp_path / "scan", tmp_path / "copy"
    path.write_bytes(bytes(3 * 2**20))
    copy.write_bytes(path.read_bytes())
    cases = [Case(name="a", file=str(name)) for name in (path, copy)]
    assert cases[0].hash == cases[1].hash
    copy.write_bytes(bytes(3 * 2**20 - 1) + b"1")
    assert cases[0].hash != cases[1].hash


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (dict(file="nowhere", simulation=None), "a file that exists"),
        (dict(simulation=None), "a simulation or a file"),
        (dict(model=dict(stagges=3)), "no setting 'stagges'"),
        (dict(training=dict(thinning=2)), "thinning"),
        (dict(refine=dict(method="magic")), "method"),
        (dict(start="empty", refine=None), "refine"),
        (dict(name="a/b"), "slashes"),
        (dict(probe_error=dict(bent=1.0)), "probe_error"),
    ],
)
def test_mistakes_are_found_before_anything_runs(wrong, said):
    with pytest.raises(ValueError, match=said):
        replace(CASE, **wrong)


def test_a_study_has_arms_with_names_of_their_own():
    with pytest.raises(ValueError, match="names of their own: a"):
        checked([CASE, replace(CASE, seed=1)])
    with pytest.raises(ValueError, match="no arms"):
        checked([])


def test_the_further_studies_can_be_planned_and_are_small():
    for name, make in STUDIES.items():
        study = make(QUICK)
        assert study.name == name
        assert 8 <= len(checked(study.cases)) <= 16


def test_the_plan_says_what_each_arm_takes_and_all_together():
    study = Study("s", "a study", (CASE, replace(CASE, name="b", training=dict(epochs=50))), None)
    titles, rows = plan(study)
    assert [row[0] for row in rows] == ["a", "b", "2 arms"]
    assert all(len(row) == len(titles) for row in rows)
    more = (
        replace(CASE, training=dict(epochs=2000)),
        replace(CASE, train_frames=2000),
        replace(CASE, model=dict(stages=32)),
    )
    assert all(cost_of(case).seconds > cost_of(CASE).seconds for case in (more[0], more[2]))
    assert cost_of(more[1]).memory_mb > cost_of(CASE).memory_mb


def test_the_default_study_is_the_one_that_was_asked_for():
    cases = checked(DoseResponse().cases())
    networks = [case for case in cases if case.start == "trained"]
    assert len(networks) == 7 * 2 * 3
    assert len(cases) - len(networks) == 7 * 3  # without a network
    assert {case.simulation.photons for case in cases} == {10.0**k for k in range(3, 10)}
    assert {(case.N, case.model["gridsize"], case.train_frames, case.test_frames) for case in networks} == {
        (64, 2, 2000, 512)
    }
