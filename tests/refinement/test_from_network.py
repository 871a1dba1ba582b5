"""The search for the weight of a prior."""

import pytest

from ptycho.refinement.from_network import best_weight


@pytest.mark.parametrize("trials", [1, 2, 4, 9])
@pytest.mark.parametrize("minimum", [-2, 0, 1])
def test_the_weight_of_least_misfit_is_found_in_so_many_trials(trials, minimum):
    tried = {}

    def misfit(weight):
        return tried.setdefault(weight, (weight - 3.0**minimum) ** 2)

    weight = best_weight(misfit, 1.0, trials=trials)
    assert len(tried) <= trials
    assert tried[weight] == min(tried.values())
    if trials == 9:
        assert weight == pytest.approx(3.0**minimum)
