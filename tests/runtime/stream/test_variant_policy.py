"""The policy that chooses a variant: what holds whatever the load does."""

from __future__ import annotations

from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmedge.errors import InputError
from mmedge.stream import Ceiling
from mmedge.stream.variant_policy import MOST_DOUBLINGS, PolicyOptions, VariantPolicy

OPTIONS = PolicyOptions(risk=0.9, margin=0.6, dwell=1.0, hold=5.0)
HEAT = Ceiling("heat", lambda: None, above=85.0, below=75.0)

LOADS = st.tuples(
    st.sampled_from([0.05, 0.3, 0.3, 1.0, 7.0]),  # seconds until then
    st.one_of(st.none(), st.sampled_from([0.2, 0.59, 0.61, 0.89, 0.91, 1.0, 3.0])),
    st.one_of(st.none(), st.sampled_from([20.0, 74.0, 76.0, 84.0, 86.0, 110.0])),
)


def make(levels=3, options=OPTIONS):
    return VariantPolicy(levels, [HEAT], options, has_deadline=True)


def step(policy, now, share, heat):
    """Look, and switch at once if so decided; the decision."""
    decision = policy.look(now, share, {"heat": heat})
    if decision is not None:
        policy.switch(decision.level, now)
    return decision


@given(st.lists(LOADS, max_size=80), st.integers(2, 4))
def test_never_faster_than_the_dwell_and_never_above_a_limit_for_longer(loads, levels):
    policy, now, last = make(levels), 0.0, None
    for wait, share, heat in loads:
        now += wait
        before = policy.level
        decision = step(policy, now, share, heat)
        too_much = (share is not None and share > 0.9) or (heat is not None and heat > 85.0)
        if decision is not None:
            # One step at a time, and never sooner than the dwell after the one before.
            assert abs(decision.level - before) == 1
            assert decision.reason
            assert last is None or now - last >= OPTIONS.dwell
            last = now
            if decision.level < before:
                # Only what is known to be calm: within the margin, and cool.
                assert share is not None
                assert share <= 0.6
                assert heat is not None
                assert heat < 75.0
        # What is too much never lasts at a look beyond the dwell, unless nothing is cheaper.
        if too_much and decision is None:
            assert before == levels - 1 or now - last < OPTIONS.dwell
        assert 0 <= policy.level < levels
        assert OPTIONS.hold <= policy.hold <= OPTIONS.hold * 2**MOST_DOUBLINGS


@given(st.lists(LOADS, max_size=60), LOADS, LOADS)
def test_more_load_never_chooses_a_better_variant(loads, one, two):
    policy, now = make(), 0.0
    for wait, share, heat in loads:
        now += wait
        step(policy, now, share, heat)
    now += one[0]

    def level(share, heat):
        decision = deepcopy(policy).look(now, share, {"heat": heat})
        return policy.level if decision is None else decision.level

    pairs = [(a, b) for a, b in zip(one[1:], two[1:], strict=True) if a is not None is not b]
    if len(pairs) == 2:
        low, high = ([pick(pair) for pair in pairs] for pick in (min, max))
        assert level(*low) <= level(*high)
    # What is not known never lets a better one in.
    assert level(None, one[2]) >= policy.level
    assert level(one[1], None) >= policy.level


def test_a_failed_probe_doubles_the_hold_and_one_that_lasts_ends_that():
    policy = make(2)
    assert step(policy, 0.0, 1.2, 20.0).level == 1
    now, holds = 0.0, []
    for _ in range(8):
        begin = now
        while policy.level == 1:
            now += 0.5
            step(policy, now, 0.3, 20.0)
        holds.append(now - begin)
        while policy.level == 0:
            now += 0.5
            step(policy, now, 1.2, 20.0)
    # The calm is seen at the first look after a switch.
    assert holds[:7] == [0.5 + 5.0 * 2**n for n in range(7)]
    assert holds[7] == holds[6]  # no more than 64 times
    while policy.level == 1:
        now += 0.5
        step(policy, now, 0.3, 20.0)
    step(policy, now + 321.0, 0.3, 20.0)
    assert policy.hold == 5.0


def test_the_figures_and_the_reason_of_a_decision():
    policy = make()
    decision = policy.look(0.0, 0.95, {"heat": 91.5})
    assert decision.reason == (
        "95 % of results take up to 0.95 of the deadline, 0.9 is allowed; heat is 91.5, 85 is "
        "allowed"
    )
    assert decision.figures == {"share": 0.95, "heat": 91.5}
    policy.switch(1, 0.0)
    assert policy.look(0.5, 3.0, {"heat": 20.0}) is None
    assert policy.look(1.0, 3.0, {"heat": 20.0}).level == 2
    policy.fail(1.0)
    assert policy.look(1.5, 3.0, {"heat": 20.0}) is None
    policy.look(2.0, 0.3, {"heat": 20.0})
    decision = policy.look(7.0, 0.3, {"heat": 20.0})
    assert (decision.level, decision.reason) == (0, "calm for 5 s")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"risk": 0.5, "margin": 0.6}, "0 < margin < risk <= 1"),
        ({"risk": 1.5}, "0 < margin < risk <= 1"),
        ({"dwell": 20.0}, "0 <= dwell <= hold"),
        ({"hold": float("inf")}, "0 <= dwell <= hold"),
    ],
)
def test_options_that_cannot_be_meant(options, words):
    with pytest.raises(InputError, match=words):
        PolicyOptions(**options)


def test_a_ceiling_needs_room_between_its_limits():
    with pytest.raises(InputError, match="below must be less than above, got 80 and 80"):
        Ceiling("heat", lambda: None, above=80.0, below=80.0)
