"""The search for nodes to put back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmedge_export.quantize.back_off import NEGLIGIBLE, BudgetError, back_off, offenders

NODES = [f"n{i}" for i in range(12)]


@given(st.permutations(NODES), st.sets(st.sampled_from(NODES), min_size=1))
def test_what_it_finds_passes_and_every_node_of_it_is_needed(ranked, harmful):
    asked = []

    def passes(back):
        asked.append(back)
        return harmful <= back

    back = back_off(ranked, passes, budget=100)
    assert back == harmful
    assert back in asked
    assert len(asked) <= 100


@given(st.permutations(NODES), st.integers(1, 12))
def test_a_good_ranking_takes_few_evaluations(ranked, count):
    harmful = set(ranked[:count])
    asked = []

    def passes(back):
        asked.append(back)
        return harmful <= back

    assert back_off(ranked, passes, budget=100) == harmful
    # Doubling and halving take twice the logarithm; then each node but the last is tried.
    assert len(asked) <= 8 + count


def test_nothing_helps():
    assert back_off(NODES, lambda back: False, budget=100) is None
    assert back_off([], lambda back: True, budget=100) is None


def test_the_budget_is_kept_and_what_passed_within_it_is_returned():
    asked = []

    def passes(back):
        asked.append(back)
        return len(back) >= 5

    with pytest.raises(BudgetError):
        back_off(NODES, passes, budget=2)
    assert len(asked) == 2
    for budget in range(4, 12):
        asked.clear()
        back = back_off(NODES, passes, budget=budget)
        assert len(asked) <= budget
        assert len(back) >= 5


@given(st.dictionaries(st.sampled_from(NODES), st.floats(0, 1e3), min_size=1))
def test_offenders_hold_nearly_all_of_the_error(errors):
    found = offenders(errors)
    left = sum(errors[name] ** 2 for name in errors.keys() - set(found))
    total = sum(value**2 for value in errors.values())
    assert found
    assert left <= NEGLIGIBLE * total * (1 + 1e-9) + 1e-12
    assert [errors[name] for name in found] == sorted((errors[n] for n in found), reverse=True)
