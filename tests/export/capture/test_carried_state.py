"""Networks with state and no loop: whose the state is, and samples that follow each other."""

from __future__ import annotations

from itertools import pairwise

import loop_networks as networks
import numpy as np
import onnxruntime as ort
import pytest
import torch
from shared import once

from mmedge.bundle import Bundle
from mmedge.errors import ExportError
from mmedge_export import Input, Model, StateInput, export


def exported(name: str, tmp_path_factory) -> Bundle:
    def make(folder):
        export(getattr(networks, name)(), folder / "net").close()

    return Bundle.open(once(tmp_path_factory, f"state-{name}", make) / "net")


def run_plan(bundle: Bundle, plan: str, tensors: dict) -> dict:
    """The stages of a plan in plain ONNX Runtime."""
    tensors = dict(tensors)
    for stage in bundle.manifest.in_order(plan):
        session = ort.InferenceSession(str(bundle.path / stage.graph))
        feeds = {spec.name: tensors[spec.name] for spec in stage.inputs}
        names = [spec.name for spec in stage.outputs]
        tensors |= dict(zip(names, session.run(names, feeds), strict=True))
    return tensors


def test_a_state_that_follows_from_all_sensors_belongs_to_the_fusion_stage(tmp_path_factory):
    with exported("policy", tmp_path_factory) as bundle:
        manifest = bundle.manifest
    assert {(s.stage, s.input, s.output) for s in manifest.states} == {
        ("fusion", "h", "h_new"),
        ("model", "h", "h_new"),
    }
    assert "h" not in manifest.inputs()
    assert manifest.outputs == ("action",)


def test_a_state_of_one_sensor_belongs_to_its_encoder(tmp_path_factory):
    with exported("tracked", tmp_path_factory) as bundle:
        manifest = bundle.manifest
    stages = {stage.name: stage.modality for stage in manifest.stages}
    assert {(s.stage, stages[s.stage]) for s in manifest.states} == {
        ("imu", "imu"),
        ("model", None),
    }


def test_the_one_stage_of_one_sensor_is_its_encoder(tmp_path_factory):
    with exported("voice", tmp_path_factory) as bundle:
        manifest = bundle.manifest
        (stage,) = manifest.stages
        assert stage.modality == "chunk"
        assert [(s.input, s.initial) for s in manifest.states] == [
            ("window", "zeros"),
            ("h", "zeros"),
            ("c", "stored"),
        ]
        assert (bundle.first_states()["c"] == 1).all()


@pytest.mark.parametrize("name", ["policy", "tracked"])
def test_both_plans_follow_torch_with_the_state_carried(name, tmp_path_factory):
    model = getattr(networks, name)()
    with exported(name, tmp_path_factory) as bundle:
        width = model.state["h"].shape[1]
        expected = torch.zeros(1, width)
        got = {plan: np.zeros((1, width), np.float32) for plan in ("cut", "whole")}
        for _ in range(6):
            inputs = {"image": networks.floats(1, 300), "imu": networks.floats(1, 6)}
            with torch.no_grad():
                tensors = {key: torch.from_numpy(value) for key, value in inputs.items()}
                result = model.module(**tensors, h=expected)
            values = (
                dict(zip(["action", "h_new"], result, strict=True)) if name == "policy" else result
            )
            expected = values["h_new"]
            for plan, h in got.items():
                outputs = run_plan(bundle, plan, {**inputs, "h": h})
                for key, value in values.items():
                    assert np.allclose(outputs[key], value, atol=1e-5)
                got[plan] = outputs["h_new"]


def test_golden_samples_follow_each_other(tmp_path_factory):
    with exported("policy", tmp_path_factory) as bundle:
        samples = bundle.samples()
    # Of the samples given the first three have one row; the fourth has two, and begins anew.
    assert (samples[0].step["h"] == 0).all()
    for before, after in pairwise(samples[:3]):
        assert np.array_equal(before.outputs["h_new"], after.step["h"])
    assert samples[3].step["h"].shape == (2, networks.WIDTH)
    assert (samples[3].step["h"] == 0).all()
    assert "h" not in samples[0].inputs


class Halved(networks.Policy):
    def forward(self, image, imu, h):
        action, h = super().forward(image, imu, h)
        return action, h[:, ::2]


class Window(torch.nn.Module):
    """A state that grows without end."""

    def forward(self, x, past):
        seen = torch.cat([past, x[:, None]], 1)
        return seen.mean(1), seen


def test_a_state_may_grow(tmp_path):
    model = Model(
        Window(),
        {"x": Input(networks.floats(2, 4), dynamic={0: "batch"})},
        ["mean"],
        state={"past": StateInput("seen", ("batch", "past", 4), grows="past")},
        dims={"past": (0, 50)},
    )
    with export(model, tmp_path / "net") as bundle:
        (state,) = bundle.manifest.states
        assert (state.axis, state.initial) == (1, "empty")
        limits = bundle.manifest.dimensions["past"]
        assert (limits.min, limits.max) == (0, 50)


def wrong(**options):
    state = {"h": StateInput("h_new", ("batch", networks.WIDTH), **options)}
    return networks.policy(state=state)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: networks.policy(state={"h": StateInput("h_new", ("b", 32))}),
            "its shape names 'b'",
        ),
        (lambda: networks.policy(state={"h": StateInput("h_new", ("batch", 31))}), "fails in"),
        (lambda: wrong(initial=np.ones((3, 32), np.float32)), r"begins as an array \[3, 32\]"),
        (
            lambda: Model(
                Halved(),
                {"image": Input(networks.floats(1, 300)), "imu": Input(networks.floats(1, 6))},
                ["action"],
                state={"h": StateInput("h_new", (1, 32))},
            ),
            r"state 'h': a run takes float32 \[1, 32\] and gives 'h_new' as float32 \[1, 16\]",
        ),
    ],
)
def test_states_that_do_not_fit_are_refused(make, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        export(make(), tmp_path / "net")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StateInput("h"), "no shape"),
        (lambda: StateInput("h", (1, 4), initial="empty"), "no dimension grows"),
        (lambda: StateInput("h", (1, "t"), grows="t", initial="zeros"), "zeros would count"),
        (lambda: StateInput("h", (1, 4), grows="t"), "must be one axis of its shape"),
        (lambda: StateInput("h", (1, 0)), "sizes from 1 on"),
        (lambda: StateInput("h", (1,) * 9), "rank 9"),
        (lambda: StateInput("h", (1, 4), dtype="float8"), "dtype 'float8'"),
        (lambda: StateInput("h", (1, 4), initial=np.zeros((1, 4))), "initial is float64"),
        (lambda: StateInput("a b", (1, 4)), "expected the name of an output"),
        (lambda: networks.policy(state={"h": "h_new"}), "expected a StateInput, got str"),
        (lambda: networks.policy(state={"imu": StateInput("h", (1,))}), "no input or output has"),
        (lambda: wrong(initial="action"), "without a loop a state begins"),
    ],
)
def test_what_cannot_be_a_state_is_refused_at_once(make, message):
    with pytest.raises(ExportError, match=message):
        make()
