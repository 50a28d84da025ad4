"""A policy of LeRobot by the commands of its page: actions of an episode, and in a stream."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import lerobot_policies as policies
import numpy as np
import pytest
from typer.testing import CliRunner

import mmedge
from mmedge.cli.app import build_app
from mmedge.stream import SimulatedClock

PAGE = Path(__file__).resolve().parents[3] / "docs" / "howto" / "lerobot.md"
STEPS = 60


def run_commands(heading):
    """The commands below a heading of the page, in this process: see lerobot_policies."""
    section = PAGE.read_text().partition(f"# {heading}\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"^```\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    commands = [line for line in block.splitlines() if line.startswith("mmedge ")]
    for line in commands:
        result = CliRunner().invoke(build_app(), shlex.split(line, comments=True)[1:])
        assert result.exit_code == 0, f"{line}: {result.output}"
    return len(commands)


@pytest.fixture(scope="module")
def act(tmp_path_factory):
    """A policy in the folder that the page names, and the bundle that its commands make."""
    folder = tmp_path_factory.mktemp("act")
    policy, before, behind = policies.act(folder / "pretrained_model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run_commands("Export a LeRobot policy") == 3
    return SimpleNamespace(
        folder=folder, path=folder / "policy.mmedge", policy=policy, before=before, behind=behind
    )


def chunk(act, values):
    """What lerobot answers to values of sensors."""
    return act.behind(act.policy.predict_action_chunk(act.before(policies.observation(values))))


def same(actions, expected):
    np.testing.assert_allclose(actions, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_actions_of_an_episode(act):
    """Frame by frame, with lerobot's queue of actions on its side and one like it here."""
    rng = np.random.default_rng(5)
    act.policy.reset()
    queue = []
    with mmedge.load(act.path) as pipe:
        for _ in range(STEPS):
            values = policies.frames(rng)
            if not queue:
                queue = list(pipe(**values)["action"][0, : act.policy.config.n_action_steps])
            expected = act.policy.select_action(act.before(policies.observation(values)))
            same(queue.pop(0), act.behind(expected)[0].numpy())


def test_two_cameras_at_their_own_rates(act):
    """Each result of a stream is torch's on the samples that the stream says it used."""
    rng = np.random.default_rng(6)
    clock = SimulatedClock()
    pushed = {"front": [], "wrist": [], "state": []}
    counts = {"front": 1, "wrist": 2, "state": 1}
    results = []
    with (
        mmedge.load(act.path, plan="cut") as pipe,
        pipe.stream(trigger="front", clock=clock) as stream,
    ):
        for step in range(STEPS):
            values = policies.frames(rng)
            for name in ("wrist", "state", "front"):
                if step % counts[name] == 0:
                    pushed[name].append(values[name])
                    stream.push(name, values[name], t=clock())
            results.append(stream.result(0.0))
            clock.advance(1 / 30)
        health = stream.health()
    assert [len(frames) for frames in pushed.values()] == [STEPS, STEPS // 2, STEPS]
    assert health.modalities["wrist"].encodes == STEPS // 2
    used = [{name: result.samples[name][0].seq for name in pushed} for result in results]
    assert used[41] == {"front": 41, "wrist": 20, "state": 41}
    batch = {
        name: np.concatenate([frames[row[name]] for row in used]) for name, frames in pushed.items()
    }
    same(
        np.concatenate([result.outputs["action"] for result in results]), chunk(act, batch).numpy()
    )


def test_each_camera_has_its_own_encoder_and_rate(act):
    with mmedge.Bundle.open(act.path) as bundle:
        manifest = bundle.manifest
    encoders = {stage.modality for stage in manifest.stages if stage.modality is not None}
    assert encoders >= set(policies.CAMERAS)
    assert {m.name: m.rate_hz for m in manifest.modalities} == {
        "front": 30, "wrist": 15, "state": 30,
    }  # fmt: skip
    assert any("4 of them before it runs" in remark for remark in manifest.cut.remarks)


@pytest.mark.further_class
def test_a_factory_of_the_same_policy(act, monkeypatch):
    monkeypatch.chdir(act.folder)
    assert run_commands("Change what mmedge says of it") == 2
    values = policies.frames(np.random.default_rng(7), 2)
    with mmedge.load("edited.mmedge") as pipe:
        same(pipe(**values)["action"], chunk(act, values).numpy())
