"""Random schedules on a simulated clock: what must hold whatever the sensors do."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from stream_checks import check_account
from stream_schedules import NAMES, Run, play, schedules
from streaming import COLUMNS, LIMITS, TOKEN, inputs, make_streaming

import mmedge
from mmedge.stream import Exact, Interpolate, Latest

#: Float seconds of a limit that an age may be above it by rounding.
SLACK = 1.1e-6


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    path = make_streaming(tmp_path_factory.mktemp("streaming") / "streaming")
    with mmedge.load(path, threads=1) as pipe:
        yield pipe


def limit_of(schedule, name):
    policy = schedule.align.get(name, Latest())
    own = getattr(policy, "max_age_ms", None)
    return LIMITS[name] if own is None else own / 1000


def check_result(pipe, schedule, run, result, last):
    # Counted from the stamp, or from the arrival of one that was ahead.
    assert 0 <= result.latency <= max(result.made - result.t, result.latency * (result.t > 1000))
    assert (result.met is None) == (schedule.deadline is None)
    assert not (result.met and not result.fresh)
    assert set(result.ages) == set(NAMES)
    if not result.fresh:
        assert result.reason
        if result.outputs is not None:
            assert result.outputs is last.outputs
            assert result.samples == last.samples
            assert result.outputs_t == last.t
            check_ages(schedule, result)
        return last
    assert result.reason == ""
    assert result.outputs_t == result.t
    # Each modality was used or says why not; what is both is an older value that stood in.
    assert set(result.samples) | set(result.absent) == set(NAMES)
    for name in set(result.samples) & set(result.absent) - {"odom"}:
        assert result.absent[name].startswith("encoder_error: ValueError: "), result.absent
    check_ages(schedule, result)
    check_failures(schedule, run, result)
    values = {}
    for name, used in result.samples.items():
        for sample in used:
            t, made = run.pushed[name][sample.seq]
            assert t == sample.t
            assert name == "text" or np.isfinite(made).all()
        policy, limit = schedule.align.get(name, Latest()), limit_of(schedule, name)
        if name == "voice":
            values["pcm"] = check_window(policy, limit, run.pushed[name], result)
            continue
        assert result.ages[name] == result.t - used[0].t
        if name not in result.absent:
            # Neither too old nor too new: its oldest sample, and its newest.
            for sample in used:
                assert limit is None or abs(result.t - sample.t) <= limit + SLACK
        exact = isinstance(policy, Exact) and schedule.trigger not in (name, "any")
        if exact and name not in result.absent:
            assert abs(result.ages[name]) <= policy.tolerance_ms / 1000 + SLACK
        between = isinstance(policy, Interpolate) and schedule.trigger not in (name, "any")
        if between and name not in result.absent and used[0].t != result.t:
            assert len(used) == 2 or name in result.notes
        if name in result.absent and len(used) == 2:
            return result  # a mixture of another time, which nothing tells
        values.update(recompute(name, run, used, result.t))
    for name in set(NAMES) - set(result.samples):
        assert result.ages[name] is None
    expected = pipe.run(values)
    for key, array in result.outputs.items():
        assert array.tobytes() == expected[key].tobytes()
    if "state" in result.absent:
        assert result.outputs["out"][0, COLUMNS["state"]].tolist() == TOKEN[0].tolist()
    return result


def check_ages(schedule, result):
    """Nothing speaks for a modality beyond its limit without a word; never for a required one."""
    assert "camera" not in result.absent
    for name, age in result.ages.items():
        limit = limit_of(schedule, name)
        if age is not None and limit is not None and name not in result.absent:
            assert age <= limit + SLACK, name


def check_failures(schedule, run, result):
    """A value from before a failed encoding is never used without a word."""
    for name, failures in run.pipe.failed.items():
        policy = schedule.align.get(name, Latest())
        if not failures or name in result.absent or schedule.trigger in (name, "any"):
            continue
        if isinstance(policy, Exact | Interpolate) or policy.wait_ms:
            continue  # encoded again, or chosen when the trigger came and waited for
        numbers = [number_of(name, value) for _, value in run.pushed[name]]
        used = result.samples[name][0].seq
        seen = result.made - schedule.costs["fuse"] - 1e-9
        for number, at in failures:
            assert at >= seen or numbers.index(number) <= used, name


def number_of(name, made):
    return int((made["ids"] if name == "text" else made).reshape(-1)[0])


def check_window(policy, limit, pushed, result):
    """A window is of rows that came one after the other, and no older than it says; its rows."""
    first, last = result.outputs["out"][0, COLUMNS["voice"]].astype(int).tolist()
    assert last - first == policy.length - 1
    used = result.samples["voice"]
    chunks = [pushed[sample.seq][1][0] for sample in used]
    # None was dropped between them: rows are numbered as they are pushed.
    assert (np.diff(np.concatenate(chunks)) == 1).all()
    assert first in chunks[0]
    assert last in chunks[-1]
    oldest, newest = used[0].t, used[-1].t
    for (before, rows_before), (after, rows) in pairwise(zip(used, chunks, strict=True)):
        if policy.rate_hz is None:
            assert after.t - before.t <= 1.0 + SLACK
            continue
        allowed = 0.5 * min(len(rows), len(rows_before)) / policy.rate_hz
        if policy.max_gap_ms is not None:
            allowed = policy.max_gap_ms / 1000
        assert after.t - before.t - len(rows) / policy.rate_hz <= allowed + SLACK
    if policy.rate_hz is not None:
        # Rows of chunks that come faster than their rate overlap in time.
        ends = [(int(rows[-1]), sample.t) for rows, sample in zip(chunks, used, strict=True)]
        starts = [max(first, int(rows[0])) for rows in chunks]
        oldest = min(
            t - (end - n) / policy.rate_hz for n, (end, t) in zip(starts, ends, strict=True)
        )
        newest = max(t - max(0, end - last) / policy.rate_hz for end, t in ends)
    assert abs(result.ages["voice"] - (result.t - oldest)) < SLACK
    if "voice" not in result.absent and limit is not None:
        assert -limit - SLACK <= result.t - newest <= result.t - oldest <= limit + SLACK
    return np.arange(first, last + 1, dtype=np.float32)[None]


def recompute(name, run, used, t):
    made = [run.pushed[name][sample.seq][1] for sample in used]
    if len(used) == 1:
        return inputs(name, made[0])
    before, after = used
    assert before.t < t < after.t
    weight = (t - before.t) / (after.t - before.t)
    a, b = (m.astype(np.float64) for m in made)
    return inputs(name, (a + (b - a) * weight).astype(np.float32))


@given(schedule=schedules())
def test_any_schedule_is_accounted_for_and_computes_what_it_says(pipe, schedule):
    lasts = {"last": None, "done": 0}

    def check(run):
        check_account(run.fetch())
        if run.stream.health().results_dropped:
            # A repeated result may repeat one that was never fetched.
            lasts["lost"] = True
        for result in run.results[lasts["done"] :]:
            if lasts.get("lost") and not result.fresh:
                continue
            lasts["last"] = check_result(pipe, schedule, run, result, lasts["last"])
        lasts["done"] = len(run.results)

    play(pipe, schedule, check)


@given(schedule=schedules())
def test_the_same_schedule_gives_the_same_bits(pipe, schedule):
    first, second = (play(pipe, schedule, Run.fetch) for _ in range(2))
    assert first.stream.health() == second.stream.health()
    assert [plain(r) for r in first.results] == [plain(r) for r in second.results]


def plain(result):
    outputs = result.outputs and {k: v.tobytes() for k, v in result.outputs.items()}
    rest = {f: getattr(result, f) for f in result.__slots__ if f != "outputs"}
    return outputs, rest
