"""Streams that wait for partners, forget what is withdrawn, and end episodes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from stream_checks import balanced, echo_stream, fetch, full, rows

import mmedge
from mmedge.errors import InputError
from mmedge.stream import Exact, Hold, Interpolate, Latest, Window


def stereo(open_echo, policy, lags, required=True):
    """Left and right at 20 Hz, the right one arriving later by ``lags``; the results."""
    pipe = open_echo(left=({"l": 4}, {}), right=({"r": 4}, {"required": required}))
    with echo_stream(pipe, trigger="left", align={"right": policy}) as (s, clock):
        results = []
        for k, lag in enumerate(lags):
            clock.advance_to(1000 + k / 20)
            t = clock()
            s.push("left", full(k))
            clock.advance(lag)
            s.push("right", full(k), t=t + 0.001)
            results += fetch(s)
        clock.advance(1.0)
        return results + fetch(s)


def test_partners_are_waited_for_until_they_come(open_echo):
    lags = [0.0, 0.01, 0.02, 0.005, 0.03]
    assert [r.outputs is None for r in stereo(open_echo, Exact(5), lags)] == [True] * 5
    results = stereo(open_echo, Exact(5, wait_ms=25), lags)
    assert [r.latency for r in results] == pytest.approx([0.0, 0.01, 0.02, 0.005, 0.025])
    for k, r in enumerate(results[:4]):
        assert r.outputs["l_used"][0, 0] == r.outputs["r_used"][0, 0] == k
        assert r.ages["right"] == pytest.approx(-0.001)
    assert results[4].reason.startswith("required modality 'right' is absent: too_old: no sample")


def test_a_wait_ends_where_nothing_can_come_or_the_deadline_is_at_risk(open_echo):
    results = stereo(open_echo, Exact(0.5, wait_ms=1000), [0.01] * 3)
    assert [r.latency for r in results] == pytest.approx([0.01] * 3)
    pipe = open_echo(left=({"l": 4}, {}), right=({"r": 4}, {"required": False}))
    align = {"right": Exact(5, wait_ms=1000)}
    with echo_stream(pipe, trigger="left", align=align, deadline_ms=40) as (s, _):
        s.push("left", full(1))
        r = s.result(1.0)
        assert (r.met, r.latency) == (True, pytest.approx(0.038))
        assert r.absent["right"] == "no sample yet"


def test_live_interpolation_waits_for_the_sample_after_the_trigger(open_echo):
    pipe = open_echo(camera=({"image": 4}, {}), state=({"x": 4}, {"rate_hz": 100.0}))
    for wait, at, ends in ((0, 3, 0.0), (20, 3.4, 0.006), (4, 3, 0.004)):
        align = {"state": Interpolate(wait_ms=wait)}
        with echo_stream(pipe, 0.0, trigger="camera", align=align) as (s, clock):
            for k in range(6):
                clock.advance_to(k / 100)
                s.push("state", full(k))
                if k == 3:
                    clock.advance(0.004)
                    s.push("camera", full(1))
            r = s.result(0)
            assert r.outputs["x_used"][0, 0] == pytest.approx(at)
            assert r.latency == pytest.approx(ends)
            assert len(r.samples["state"]) == (2 if wait == 20 else 1)
            assert r.notes.keys() == (set() if wait == 20 else {"state"})


@pytest.mark.parametrize("policy", [Latest(wait_ms=200), Hold(1e6, wait_ms=200)])
@pytest.mark.parametrize(("cost", "used", "latency"), [(0.15, 2, 0.15), (0.3, 1, 0.2)])
def test_a_prompt_that_just_changed_is_waited_for(open_echo, policy, cost, used, latency):
    pipe = open_echo(camera=({"image": 4}, {}), text=({"ids": 4}, {"required": False}))
    costs = {"text": cost}
    with echo_stream(pipe, trigger="camera", costs=costs, align={"text": policy}) as (s, clock):
        s.push("text", full(1))
        clock.advance(1.0)
        s.push("text", full(2))
        s.push("camera", full(1))
        r = s.result(1.0)
        assert r.outputs["ids_used"][0, 0] == used
        assert r.latency == pytest.approx(latency)
        late = {"text": "a newer one was still being encoded after 0.2 s"}
        assert r.notes == ({} if used == 2 else late)
        clock.advance(1.0)
        s.push("camera", full(2))
        r = s.result(1.0)
        assert (r.outputs["ids_used"][0, 0], r.latency, r.notes) == (2, 0.0, {})


def test_only_bounded_waits_can_be_meant():
    for policy in (Latest, Interpolate, lambda **wait: Exact(1, **wait)):
        for wait in (-1, float("nan"), float("inf")):
            with pytest.raises(InputError, match="wait_ms must be"):
                policy(wait_ms=wait)


# Withdrawn instructions, ended episodes.


@pytest.mark.parametrize("costs", [{}, {"text": 0.02}, {"fuse": 0.02}, {"camera": 0.02}])
@pytest.mark.parametrize("pause", [0.0, 0.01, 0.1])
def test_nothing_uses_what_was_forgotten(open_echo, costs, pause):
    """Whether it is encoded, fused, fetched, or waits: no result from then on has it."""
    pipe = open_echo(camera=({"image": 4}, {}), text=({"ids": 4}, {"required": False}))
    with echo_stream(pipe, trigger="camera", costs=costs) as (s, clock):
        s.push("text", full(1))
        s.push("camera", full(1))
        clock.advance(pause)
        s.push("camera", full(2))
        s.forget("text")
        clock.advance(1.0)
        s.push("camera", full(3))
        clock.advance(1.0)
        results = fetch(s)
        assert results[-1].outputs["image_used"][0, 0] == 3
        for r in results:
            assert r.absent == {"text": "forgotten"}
            assert r.outputs["ids_used"][0, 0] == 0
        s.push("text", full(5), t=5.0)  # before all the others, and used at once
        clock.advance(1.0)
        s.push("camera", full(4))
        r = s.result(1.0)
        assert (r.outputs["ids_used"][0, 0], r.absent) == (5, {})
        text = balanced(s).modalities["text"]
        assert text.used + text.dropped.get("forgotten", 0) == 2


def test_repeated_outputs_do_not_use_what_was_forgotten(open_echo):
    pipe = open_echo(camera=({"image": 4}, {}), text=({"ids": 4}, {"required": False}))
    costs = {"fuse": 0.1}
    with echo_stream(pipe, trigger="camera", costs=costs, deadline_ms=50) as (s, clock):
        results = []
        for k in range(7):
            if k < 5:
                s.push("text", full(k))
            else:
                s.forget("text")
            s.push("camera", full(k))
            clock.advance(0.2)
            results += fetch(s)
        # The first runs are late; those that follow repeat what they gave, and say of when.
        assert not all(r.fresh for r in results)
        for before, r in pairwise(results):
            assert r.outputs_t == (r.t if r.fresh else before.outputs_t)
        assert results[5].fresh
        assert "text" not in results[5].samples


def test_forgetting_what_triggers_ends_its_triggers(open_echo):
    pipe = open_echo(camera=({"image": 4}, {}), text=({"ids": 4}, {"required": False}))
    with echo_stream(pipe, trigger="camera", costs={"camera": 0.1}) as (s, clock):
        s.push("camera", full(1))
        s.push("camera", full(2), t=1000.01)
        s.forget("camera")
        clock.advance(1.0)
        assert fetch(s) == []
        h = balanced(s)
        assert h.triggers_closed == 2
        assert h.modalities["camera"].dropped == {"forgotten": 2}
        assert h.modalities["camera"].reason == "forgotten"
    with pytest.raises(InputError, match="unknown modality 'sonar'"):
        s.forget("sonar")
    with pytest.raises(mmedge.errors.BackendError, match="closed"):
        s.forget("camera")


@pytest.mark.parametrize("pause", [0.0, 0.01, 0.03, 0.2])
def test_a_reset_begins_as_a_new_stream(open_echo, pause):
    limits = {"max_age_ms": 200.0, "required": False, "absent": "last"}
    pipe = open_echo(
        camera=({"image": 4}, {}),
        text=({"ids": 4}, {"required": False}),
        state=({"x": 4}, limits),
        mic=({"pcm": "rows"}, {"required": False}),
    )
    costs = {"camera": 0.02, "fuse": 0.02, "text": 0.01}
    align = {"state": Interpolate(), "mic": Window(8, 4)}
    with echo_stream(pipe, trigger="camera", costs=costs, align=align) as (s, clock):
        for k in range(5):
            for name in ("text", "state", "camera"):
                s.push(name, full(k))
            s.push("mic", rows(4 * k, 4))
            clock.advance(0.04)
        clock.advance(pause)
        s.reset()
        before = balanced(s)
        assert all(
            m.reason == "no sample yet" or "filling" in m.reason for m in before.modalities.values()
        )
        clock.advance(1.0)
        assert fetch(s) == []
        s.push("mic", rows(100, 4))
        s.push("camera", full(7), t=3.0)  # the episode has a clock of its own
        r = s.result(1.0)
        assert (r.outputs["image_used"][0, 0], r.fresh, set(r.samples)) == (7, True, {"camera"})
        assert r.outputs["x_used"][0, 0] == 0
        assert r.absent["mic"].startswith("filling (4 of 8 rows); began anew")
        s.reset()
        s.reset()


def test_forgotten_samples_are_not_what_a_frozen_sensor_is_judged_by(open_echo):
    pipe = open_echo(camera=({"image": 4}, {}))
    checks = {"camera": mmedge.stream.Sanity(frozen_after=3)}
    with echo_stream(pipe, trigger="camera", sanity=checks) as (s, clock):
        for _ in range(4):
            for _ in range(2):
                s.push("camera", full(1))
                clock.advance(0.1)
            s.reset()
        assert s.health().modalities["camera"].dropped == {}
