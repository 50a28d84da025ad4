"""The robot example: its recording, its network and figures, and the program that replays it."""

from __future__ import annotations

import json
import sys
from itertools import pairwise

import multirate_robot
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from robot import expert, recording

import mmedge
from mmedge.execution.verify import verify


@pytest.fixture(scope="module")
def drive():
    return recording.Recording().replay()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    from mmedge_export import export

    path = tmp_path_factory.mktemp("robot") / "robot.mmedge"
    export("robot.network:factory", path, split=True).close()
    return path


@pytest.fixture(scope="module")
def results(bundle, drive):
    with mmedge.load(bundle) as pipe:
        return multirate_robot.replay(pipe, drive)


def test_the_replayed_sensors_keep_their_rates(drive):
    assert drive.camera_t[-1] >= 10
    for t, hz, values in (
        (drive.camera_t, 30, drive.frame),
        (drive.lidar_t, 10, drive.lidar),
        (drive.state_t, 100, drive.state),
    ):
        assert len(t) == len(values)
        np.testing.assert_allclose(np.diff(t), 1 / hz, atol=1e-9)
    assert drive.frame.shape[1:] == (recording.SIZE, recording.SIZE, 3)
    assert drive.lidar.shape[1:] == (expert.RAYS,)
    assert 0 < drive.lidar.min() <= drive.lidar.max() <= 8
    assert len(drive.instructions()) == len(drive.text_t) >= 1
    assert drive.text_t[0] == 0
    assert set(drive.manoeuvre) == set(range(len(expert.MANOEUVRES)))
    assert recording.PATH.stat().st_size < 10e6


def test_no_two_parts_of_the_recording_share_a_scan(drive):
    shots = {part: recording.Recording().shots(part) for part in ("train", "test")}
    scans = {part: {scan.tobytes() for scan in found.lidar} for part, found in shots.items()}
    scans["replay"] = {scan.tobytes() for scan in drive.lidar}
    assert not scans["train"] & scans["test"]
    assert not scans["replay"] & (scans["train"] | scans["test"])
    for found in shots.values():
        assert len(found.t) == len(found.frame) == len(found.manoeuvre)
        assert found.kinds.shape == found.manoeuvre.shape


def test_the_expert_swerves_for_what_is_ahead_and_not_for_its_goal():
    free = np.full(expert.RAYS, 5.0)
    goal = expert.Goal(distance=2.0, bearing=0.0, visible=True)
    assert expert.decide(goal, free, 0.0) == expert.STRAIGHT
    blocked = free.copy()
    blocked[expert.RAYS // 2 - 4 : expert.RAYS // 2 + 24] = 0.5  # rays count to the left
    assert expert.decide(goal, blocked, 0.0) == expert.SWERVE_RIGHT
    near = expert.Goal(distance=0.9, bearing=0.0, visible=True)
    ahead = free.copy()
    ahead[expert.RAYS // 2 - 4 : expert.RAYS // 2 + 5] = 0.65
    assert expert.decide(near, ahead, 0.0) == expert.STRAIGHT
    hidden = expert.Goal(distance=2.0, bearing=0.0, visible=False)
    assert expert.decide(hidden, free, -1.0) == expert.SPIN_RIGHT
    assert expert.decide(hidden, free, 1.0) == expert.SPIN_LEFT


@given(
    scan=arrays(np.int64, expert.RAYS, elements=st.integers(1, 64)),
    distance=st.floats(0.1, 6),
    bearing=st.floats(-0.9, 0.9),
    visible=st.booleans(),
    gyro=st.sampled_from((-1.6, -0.5, 0.5, 1.6)),
)
def test_the_expert_does_in_a_mirror_what_training_takes_for_it(
    scan, distance, bearing, visible, gyro
):
    from robot.train import MIRRORED, mirror

    ranges = scan / 8  # exact, so that sums do not depend on their order
    state = torch.tensor([[1.0, 2.0, gyro, 0.5, 0.25]])
    frame = torch.zeros(1, 2, 2, 3)
    right = expert.decide(expert.Goal(distance, bearing, visible), ranges, gyro)
    moment = frame, torch.from_numpy(ranges[None]), state, torch.tensor([right])
    _, scans, states, rights = mirror(*moment)
    found = expert.decide(
        expert.Goal(distance, -bearing, visible), scans[0].numpy(), float(states[0, 2])
    )
    assert found == rights.item() == MIRRORED[right]
    for one, other in zip(mirror(*mirror(*moment)), moment, strict=True):
        assert torch.equal(one, other)


def test_the_shipped_figures_are_those_of_the_shipped_weights():
    from robot import evaluate, network, train

    stated = json.loads(train.RESULT.read_text(encoding="utf-8"))["held out"]
    source = recording.Recording()
    found = evaluate.evaluate(
        network.load_pilot(), source.shots("test"), majority=train.majority(source.shots("train"))
    )
    for case, figures in found.items():
        if isinstance(figures, dict):
            assert figures == pytest.approx(stated[case], abs=1e-3), case
    whole = found["all inputs"]
    guess = found["always spin left"]
    for name in evaluate.INPUTS:
        without = found[f"without {name}"]
        assert without["balanced accuracy"] < whole["balanced accuracy"] - 0.03, name
        assert without["balanced accuracy"] > guess["balanced accuracy"], name
    assert whole["accuracy"] > guess["accuracy"] + 0.2


def test_the_bundle_has_the_contract_and_verifies(bundle):
    with mmedge.load(bundle) as pipe:
        modalities = {one.name: one for one in pipe.bundle.manifest.modalities}
        report = verify(pipe)
    assert {name: one.rate_hz for name, one in modalities.items()} == {
        "camera": 30, "lidar": 10, "state": 100, "text": None,
    }  # fmt: skip
    assert {name: one.max_age_ms for name, one in modalities.items()} == {
        "camera": 100, "lidar": 300, "state": 50, "text": None,
    }  # fmt: skip
    assert [name for name, one in modalities.items() if not one.required] == ["lidar"]
    assert report.ok


def test_every_frame_gets_a_result_whatever_the_lidar_does(results, drive):
    found, health = results
    assert [result.t for result in found] == pytest.approx(drive.camera_t.tolist())
    assert all(result.fresh and result.outputs is not None for result in found)
    for result in found:
        assert result.ages["camera"] == 0
        assert 0 <= result.ages["state"] < 1 / 100
        assert result.ages["text"] >= 0
    assert health.results == health.triggers == len(drive.camera_t)
    assert health.stale == health.empty == health.deadline_misses == 0
    for name in ("camera", "lidar"):  # each encoder at its sensor's rate
        one = health.modalities[name]
        assert one.encodes + one.encodes_skipped == one.pushed
        assert one.encodes > 0.9 * one.pushed
    for one in health.modalities.values():
        assert one.pushed == one.used + sum(one.dropped.values()) + one.pending


def test_the_lidar_is_absent_exactly_while_it_is_dead_too_old_or_recovering(results, drive):
    dead, alive = multirate_robot.DEAD_S
    spoken = [float(t) for t in drive.lidar_t if not dead <= t < alive]
    last = max(t for t in spoken if t < dead)
    first, second, third = [t for t in spoken if t >= alive][:3]
    for result in results[0]:
        if last + 0.3 + 1e-6 < result.t < third - 1e-6:
            why = result.absent["lidar"]
            assert why.startswith("recovering" if result.t > first - 1e-6 else "too_old"), result.t
            assert result.ages["lidar"] is None
        else:
            assert not result.absent, result.t
            assert 0 <= result.ages["lidar"] <= 0.3 + 1e-6
    assert third - first == pytest.approx(0.2)
    assert first < second < third


def test_the_lidar_matters_while_it_is_dead(bundle, drive, results):
    with mmedge.load(bundle) as pipe:
        spoken, _ = multirate_robot.replay(pipe, drive, dead=(0.0, 0.0))
    assert not any(result.absent for result in spoken)
    start, stop = multirate_robot.DEAD_S

    def share(found):
        verdicts = multirate_robot.judge(drive, found)
        return np.mean([one.right for one in verdicts if one.swerve and start <= one.t < stop])

    assert share(spoken) > share(results[0])


def test_what_is_pushed_comes_in_order_with_the_camera_last_of_its_time(drive):
    found = multirate_robot.events(drive)
    for one, other in pairwise(found):
        assert one.t <= other.t
        if one.t == other.t:
            assert one.modality != "camera"
    start, stop = multirate_robot.DEAD_S
    assert not [e for e in found if e.modality == "lidar" and start <= e.t < stop]


def test_the_program_prints_its_timeline(bundle, capsys):
    assert multirate_robot.main(["--bundle", str(bundle)]) == 0
    out = capsys.readouterr().out
    assert "absent: too_old" in out
    assert "absent: recovering (1 of 3)" in out
    assert "back in use" in out
    assert "600 results of 600 frames" in out
    assert "pybullet" not in sys.modules
