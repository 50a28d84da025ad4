"""What a gate does before nodes are put back, and after: a stage that is no faster goes back."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mmedge_export.quantize.accuracy_gate import Verdict
from mmedge_export.quantize.plan_search import PlanSearch

ACCEPTED = Verdict(ok=True, error=0.1, worst=0.2)


def stage(name, plan, why):
    return SimpleNamespace(stage=SimpleNamespace(name=name), plan=plan, why=why)


def made(*, attempts=1, again=True, faster=False, others=None):
    """A gate of two stages, of which ``a`` had nodes put back; what its parts would do."""
    gate = PlanSearch.__new__(PlanSearch)
    gate._goal, gate._budget = "speed", 5
    gate._works = [
        stage("a", {"m": "static", "n": "float"}, {"n": "the metric needs it"}),
        stage("b", {"k": "dynamic"}, {}),
    ]
    gate._speed, gate._task, gate._changed = {}, SimpleNamespace(samples=[({}, 0)]), set()
    gate._network = lambda plans: SimpleNamespace(tensors=lambda inputs: {})
    kept = {"m": "static", "n": "float"} if faster else {"m": "float", "n": "float"}
    found = {"plan": kept, "words": "timed", "others": others}
    gate._journal = SimpleNamespace(recall=lambda key, find, keep: found)
    gate.others = None
    gate._judge = SimpleNamespace(attempts=attempts)
    gate.judged = []

    def judged(plans):
        gate.judged.append(plans)
        return Verdict(ok=again, error=0.0, worst=0.0)

    gate._judged = judged
    return gate


def test_a_stage_that_is_no_faster_goes_back():
    gate = made()
    verdict = gate._pay(ACCEPTED)
    assert verdict.error == 0.0  # the new one
    assert gate._works[0].plan == {"m": "float", "n": "float"}
    assert gate._works[0].why == {"m": "the rest is no faster", "n": "the metric needs it"}
    assert gate.judged == [{"a": {"m": "float", "n": "float"}, "b": {"k": "dynamic"}}]


def test_beside_other_processes_it_says_that_it_could_not_judge():
    gate = made(others=0.4)
    gate._pay(ACCEPTED)
    assert gate._works[0].why["m"] == "could not be judged"
    assert gate.others == 0.4


@pytest.mark.parametrize("options", [{"attempts": 5}, {"again": False}])
def test_what_was_accepted_stays_where_that_cannot_be_judged_or_fails(options):
    gate = made(**options)
    assert gate._pay(ACCEPTED) is ACCEPTED
    assert gate._works[0].plan == {"m": "static", "n": "float"}
    assert gate._works[0].why == {"n": "the metric needs it"}
    assert len(gate.judged) == (0 if "attempts" in options else 1)


def test_a_stage_that_is_still_faster_is_not_judged_again():
    gate = made(faster=True)
    assert gate._pay(ACCEPTED) is ACCEPTED
    assert gate.judged == []


def test_nothing_may_be_left():
    gate = made()
    gate._works.pop()
    assert gate._pay(ACCEPTED) is None


def coarse(goal="speed", dynamic=2.0):
    """A gate whose two stages share scales; it passes once they do not."""
    gate = made()
    gate._goal, gate.told = goal, []
    gate._tell = gate.told.append
    gate._works = [
        stage("a", {"m": "dynamic_tensor", "n": "static"}, {}),
        stage("b", {"k": "dynamic"}, {}),
    ]
    speed = {"dynamic_tensor": 2.1, "dynamic": dynamic}
    for work in gate._works:
        work.speed = dict.fromkeys(work.plan, speed)
    return gate


def test_weights_get_a_scale_for_each_channel_before_any_is_put_back():
    gate = coarse()
    failed = Verdict(ok=False, error=0.5, worst=0.6)
    assert gate._refined(failed).ok
    assert gate.judged == [{"a": {"m": "dynamic", "n": "static"}, "b": {"k": "dynamic"}}]
    assert gate._works[0].plan == {"m": "dynamic", "n": "static"}
    # What was not timed with these forms is timed before it is taken.
    gate._pay(ACCEPTED)
    assert gate._works[0].plan == {"m": "float", "n": "float"}


@pytest.mark.parametrize(
    ("goal", "dynamic", "tried"), [("speed", 0.9, 0), ("speed", 1.1, 1), ("size", 0.9, 1)]
)
def test_only_where_that_is_faster_than_float32(goal, dynamic, tried):
    gate = coarse(goal, dynamic)
    gate._refined(Verdict(ok=False, error=0.5, worst=0.6))
    assert len(gate.judged) == tried


def test_the_budget_bounds_that_too():
    gate = coarse()
    gate._judge.attempts = gate._budget
    failed = Verdict(ok=False, error=0.5, worst=0.6)
    assert gate._refined(failed) is failed
    assert gate._works[0].plan["m"] == "dynamic_tensor"
