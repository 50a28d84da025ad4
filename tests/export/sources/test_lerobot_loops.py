"""Policies of LeRobot that denoise their actions: schedules, actions of an episode, streams."""

from __future__ import annotations

import sys
from math import prod
from types import SimpleNamespace

import lerobot_policies as policies
import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer

import mmedge
from mmedge.errors import ExportError
from mmedge.stream import SimulatedClock, Window
from mmedge_export import export
from mmedge_export.sources.loader import load_source

STEPS = 52
CLIP = 1.0
TASKS = ("pick up the red cube", "put it down")


def run_schedule(rows, predictions, x, noise):
    """docs/reference/bundle.md, "Loop": what a runtime does with a table."""
    for (_, a, p, q, r, s, u, _, c), prediction, z in zip(rows, predictions, noise, strict=True):
        m = prediction(a * x)
        e = np.clip(p * x + q * m, -CLIP, CLIP)
        x = r * e + s * x + u * m + c * z
    return x


@pytest.mark.parametrize("steps", [20, 4])
@pytest.mark.parametrize("name", ["DDPM", "DDIM"])
def test_the_table_is_the_scheduler_of_the_policy(name, steps, tmp_path, monkeypatch):
    policy, *_ = policies.diffusion(
        tmp_path / "policy", noise_scheduler_type=name, num_inference_steps=steps
    )
    loop = load_source(f"lerobot:{tmp_path / 'policy'}").model.loop
    assert loop.clip == CLIP
    rng = np.random.default_rng(4)
    noise = rng.standard_normal((steps, 2, 8, 5))
    predictions = [lambda x, w=w: np.sin(w * x) for w in rng.uniform(0.5, 2, steps)]
    x = rng.standard_normal((2, 8, 5))
    scheduler = policy.diffusion.noise_scheduler
    scheduler.set_timesteps(steps)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    module = sys.modules[type(scheduler).__module__]
    draws = iter(torch.from_numpy(noise))
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: next(draws))
    expected = torch.from_numpy(x)
    for time, prediction in zip(scheduler.timesteps, predictions, strict=True):
        made = torch.from_numpy(prediction(expected.numpy()))
        expected = scheduler.step(made, time, expected).prev_sample
    result = run_schedule(loop.schedule.rows, predictions, x, noise)
    np.testing.assert_allclose(result, expected.numpy(), rtol=0, atol=1e-5)


def bundled(save, folder):
    """A policy, its processors, and the path of its bundle."""
    policy, before, behind = save(folder / "policy")
    path = folder / "policy.mmedge"
    export(f"lerobot:{folder / 'policy'}", path).close()
    return SimpleNamespace(path=path, policy=policy, before=before, behind=behind)


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory):
    return bundled(policies.diffusion, tmp_path_factory.mktemp("diffusion"))


@pytest.fixture(scope="module")
def smolvla(tmp_path_factory):
    return bundled(policies.smolvla, tmp_path_factory.mktemp("smolvla"))


def same(actions, expected):
    np.testing.assert_allclose(actions, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.further_class
def test_an_episode_of_a_diffusion_policy(diffusion):
    """Step by step, with lerobot's queues on its side, and histories and a queue like it here."""
    rng = np.random.default_rng(5)
    policy = diffusion.policy
    policy.reset()
    shape = (1, policy.config.horizon, policies.ACTION)
    earlier, queue, runs = None, [], 0
    with mmedge.load(diffusion.path) as pipe:
        for _ in range(STEPS):
            values = policies.frames(rng)
            noise = rng.standard_normal(shape).astype(np.float32)
            if not queue:
                history = {
                    name: np.stack([(earlier or values)[name], value], 1)
                    for name, value in values.items()
                }
                queue, runs = list(pipe(**history, noise=noise)["action"][0]), runs + 1
            earlier = values
            observation = diffusion.before(policies.observation(values))
            expected = policy.select_action(observation, noise=torch.from_numpy(noise))
            same(queue.pop(0), diffusion.behind(expected)[0].numpy())
    assert runs == STEPS // policy.config.n_action_steps


@pytest.mark.further_class
def test_a_stream_keeps_the_last_frames_of_two_cameras(diffusion):
    rng = np.random.default_rng(6)
    policy, clock = diffusion.policy, SimulatedClock()
    noise = rng.standard_normal((1, policy.config.horizon, policies.ACTION)).astype(np.float32)
    pushed = {"front": [], "wrist": [], "state": []}
    results = []
    with (
        mmedge.load(diffusion.path, plan="cut") as pipe,
        pipe.stream(
            trigger="front",
            clock=clock,
            align={name: Window(policy.config.n_obs_steps, axis=1) for name in pushed},
            loop_options={"noise": noise},
        ) as stream,
    ):
        for step in range(STEPS):
            values = policies.frames(rng)
            for name in ("wrist", "state", "front"):
                if step % 2 == 0 or name != "wrist":
                    pushed[name].append(values[name])
                    stream.push(name, values[name][:, None], t=clock())
            if step > 0:
                results.append(stream.result(0.0))
            clock.advance(1 / 30)
    used = [
        {name: [sample.seq for sample in samples] for name, samples in result.samples.items()}
        for result in results
        if result.outputs is not None
    ]
    assert len(used) == STEPS - 2  # the first frame of the wrist has none before it
    assert used[9] == {"front": [10, 11], "wrist": [4, 5], "state": [10, 11]}
    batch = policies.observation(
        {
            name: np.stack([np.concatenate([frames[n] for n in row[name]]) for row in used])
            for name, frames in pushed.items()
        }
    )
    batch = diffusion.before(batch)
    batch["observation.images"] = torch.stack([batch[k] for k in policy.config.image_features], -4)
    with torch.no_grad():
        actions = policy.diffusion.generate_actions(
            {k: v for k, v in batch.items() if k in ("observation.state", "observation.images")},
            noise=torch.from_numpy(noise).repeat(len(used), 1, 1),
        )
    outputs = [result.outputs["action"] for result in results if result.outputs is not None]
    same(np.concatenate(outputs), diffusion.behind(actions).numpy())


@pytest.mark.further_class
def test_each_camera_of_a_stacked_batch_has_its_own_encoder(diffusion):
    """The policy runs one network on all pictures; what leaves an encoder are their features."""
    with mmedge.Bundle.open(diffusion.path) as bundle:
        stages = {stage.modality: stage for stage in bundle.manifest.stages}
    config = diffusion.policy.config
    features = config.n_obs_steps * 2 * config.spatial_softmax_num_keypoints
    for camera in policies.CAMERAS:
        (output,) = stages[camera].outputs
        batch, *sizes = output.shape
        assert (batch, prod(sizes)) == ("batch", features)


def test_a_task_becomes_the_tokens_of_the_policy(tmp_path):
    _, before, _ = policies.smolvla(tmp_path / "policy")
    source_model = load_source(f"lerobot:{tmp_path / 'policy'}")
    task = source_model.model.inputs["task"]
    tokenizer = Tokenizer.from_file(str(task.tokenizer))
    texts = ["pick up the cube", "put it down\n", "pick up\n\n", " ", "the red cube " * 5]
    frame = policies.observation(policies.frames(np.random.default_rng(1), 1))
    for text in texts:
        made = before({**frame, "task": text})
        ids = made["observation.language.tokens"][0].tolist()
        encoding = tokenizer.encode(text)
        assert len(encoding.ids) == task.shape()[1]
        assert encoding.ids[: sum(encoding.attention_mask)] == ids, repr(text)


def unreachable(name, file):
    raise OSError(f"no network for {file} of {name}")


def test_a_language_network_that_is_not_at_hand(tmp_path, monkeypatch):
    monkeypatch.setattr(transformers.utils, "cached_file", unreachable)
    policies.smolvla(tmp_path / "policy")
    (tmp_path / "policy" / "vlm" / "tokenizer.json").unlink()
    source_model = load_source(f"lerobot:{tmp_path / 'policy'}")
    assert source_model.model.inputs["task"].tokenizer is None
    assert any("the task goes in as token ids" in remark for remark in source_model.remarks)
    (tmp_path / "policy" / "vlm" / "config.json").unlink()
    with pytest.raises(ExportError, match="download config.json and tokenizer.json of it into"):
        load_source(f"lerobot:{tmp_path / 'policy'}")


def policy_batch(bundle, values, tasks):
    """What SmolVLA takes of values and tasks."""
    made = bundle.before({**policies.observation(values), "task": tasks})
    return {name: value for name, value in made.items() if name.startswith("observation.")}


@pytest.mark.further_class
def test_an_episode_of_smolvla(smolvla):
    """Step by step, with lerobot's queue on its side and one here; the task changes on the way."""
    rng = np.random.default_rng(5)
    policy, queue = smolvla.policy, []
    policy.reset()
    shape = (1, policy.config.chunk_size, policy.config.max_action_dim)
    with mmedge.load(smolvla.path) as pipe:
        for step in range(STEPS):
            values, task = policies.frames(rng), TASKS[step > STEPS // 2]
            noise = rng.standard_normal(shape).astype(np.float32)
            if not queue:
                chunk = pipe(**values, task=task, noise=noise)["action"][0]
                queue = list(chunk[: policy.config.n_action_steps])
            batch = policy_batch(smolvla, values, [task])
            expected = policy.select_action(batch, noise=torch.from_numpy(noise))
            same(queue.pop(0), smolvla.behind(expected)[0].numpy())


@pytest.mark.further_class
def test_a_stream_of_smolvla_encodes_each_camera_and_the_task_by_itself(smolvla):
    rng = np.random.default_rng(6)
    policy, clock = smolvla.policy, SimulatedClock()
    shape = (1, policy.config.chunk_size, policy.config.max_action_dim)
    noise = rng.standard_normal(shape).astype(np.float32)
    pushed = {"front": [], "wrist": [], "state": []}
    results = []
    with (
        mmedge.load(smolvla.path, plan="cut") as pipe,
        pipe.stream(trigger="front", clock=clock, loop_options={"noise": noise}) as stream,
    ):
        stream.push("task", TASKS[0], t=0.0)
        for step in range(STEPS):
            values = policies.frames(rng)
            for name in ("wrist", "state", "front"):
                if step % 2 == 0 or name != "wrist":
                    pushed[name].append(values[name])
                    stream.push(name, values[name], t=clock())
            results.append(stream.result(0.0))
            clock.advance(1 / 30)
        encodes = {name: each.encodes for name, each in stream.health().modalities.items()}
    assert encodes == {"front": STEPS, "wrist": STEPS // 2, "state": STEPS, "task": 1}
    used = [{name: result.samples[name][0].seq for name in pushed} for result in results]
    values = {
        name: np.concatenate([frames[row[name]] for row in used]) for name, frames in pushed.items()
    }
    batch = policy_batch(smolvla, values, [TASKS[0]] * STEPS)
    actions = policy.predict_action_chunk(batch, torch.from_numpy(noise).repeat(STEPS, 1, 1))
    outputs = np.concatenate([result.outputs["action"] for result in results])
    same(outputs, smolvla.behind(actions).numpy())
