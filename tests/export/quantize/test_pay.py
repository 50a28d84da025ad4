"""What a search does before nodes are put back, and after: a stage that is no faster goes back."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mmedge_export.quantize.accuracy_gate import Verdict
from mmedge_export.quantize.plan_search import PlanSearch

ACCEPTED = Verdict(ok=True, error=0.1, worst=0.2)


def stage(name, plan, why):
    return SimpleNamespace(stage=SimpleNamespace(name=name), plan=plan, why=why)


def made(*, attempts=1, again=True, faster=False, others=None):
    """A search of two stages, of which ``a`` had nodes put back; what its parts would do."""
    search = PlanSearch.__new__(PlanSearch)
    search._goal, search._budget = "speed", 5
    search._works = [
        stage("a", {"m": "static", "n": "float"}, {"n": "the metric needs it"}),
        stage("b", {"k": "dynamic"}, {}),
    ]
    search._speed, search._whole_calls, search._changed = {}, [None], set()
    search._network = lambda plans: SimpleNamespace(stage_runs=lambda call: {"a": [], "b": []})
    kept = {"m": "static", "n": "float"} if faster else {"m": "float", "n": "float"}
    found = {"plan": kept, "words": "timed", "others": others}
    search._checkpoint = SimpleNamespace(recall=lambda key, find, keep: found)
    search.others = None
    search._gate = SimpleNamespace(attempts=attempts)
    search.judged = []

    def judged(plans):
        search.judged.append(plans)
        return Verdict(ok=again, error=0.0, worst=0.0)

    search._evaluate = judged
    return search


def test_a_stage_that_is_no_faster_goes_back():
    search = made()
    verdict = search._check_speed(ACCEPTED)
    assert verdict.error == 0.0  # the new one
    assert search._works[0].plan == {"m": "float", "n": "float"}
    assert search._works[0].why == {"m": "the rest is no faster", "n": "the metric needs it"}
    assert search.judged == [{"a": {"m": "float", "n": "float"}, "b": {"k": "dynamic"}}]


def test_beside_other_processes_it_says_that_it_could_not_judge():
    search = made(others=0.4)
    search._check_speed(ACCEPTED)
    assert search._works[0].why["m"] == "could not be judged"
    assert search.others == 0.4


@pytest.mark.parametrize("options", [{"attempts": 5}, {"again": False}])
def test_what_was_accepted_stays_where_that_cannot_be_judged_or_fails(options):
    search = made(**options)
    assert search._check_speed(ACCEPTED) is ACCEPTED
    assert search._works[0].plan == {"m": "static", "n": "float"}
    assert search._works[0].why == {"n": "the metric needs it"}
    assert len(search.judged) == (0 if "attempts" in options else 1)


def test_a_stage_that_is_still_faster_is_not_judged_again():
    search = made(faster=True)
    assert search._check_speed(ACCEPTED) is ACCEPTED
    assert search.judged == []


def test_nothing_may_be_left():
    search = made()
    search._works.pop()
    assert search._check_speed(ACCEPTED) is None


def coarse(goal="speed", dynamic=2.0):
    """A search whose two stages share scales; it passes once they do not."""
    search = made()
    search._goal, search.told = goal, []
    search._tell = search.told.append
    search._works = [
        stage("a", {"m": "dynamic_tensor", "n": "static"}, {}),
        stage("b", {"k": "dynamic"}, {}),
    ]
    speed = {"dynamic_tensor": 2.1, "dynamic": dynamic}
    for work in search._works:
        work.speed = dict.fromkeys(work.plan, speed)
    return search


def test_weights_get_a_scale_for_each_channel_before_any_is_put_back():
    search = coarse()
    failed = Verdict(ok=False, error=0.5, worst=0.6)
    assert search._refined(failed).ok
    assert search.judged == [{"a": {"m": "dynamic", "n": "static"}, "b": {"k": "dynamic"}}]
    assert search._works[0].plan == {"m": "dynamic", "n": "static"}
    # What was not timed with these forms is timed before it is taken.
    search._check_speed(ACCEPTED)
    assert search._works[0].plan == {"m": "float", "n": "float"}


@pytest.mark.parametrize(
    ("goal", "dynamic", "tried"), [("speed", 0.9, 0), ("speed", 1.1, 1), ("size", 0.9, 1)]
)
def test_only_where_that_is_faster_than_float32(goal, dynamic, tried):
    search = coarse(goal, dynamic)
    search._refined(Verdict(ok=False, error=0.5, worst=0.6))
    assert len(search.judged) == tried


def test_the_budget_bounds_that_too():
    search = coarse()
    search._gate.attempts = search._budget
    failed = Verdict(ok=False, error=0.5, worst=0.6)
    assert search._refined(failed) is failed
    assert search._works[0].plan["m"] == "dynamic_tensor"
