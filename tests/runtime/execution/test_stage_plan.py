"""The one executor: order, what passes between stages, and what does not."""

from __future__ import annotations

import pytest

from mmedge.execution.plan import StagePlan
from mmedge.spec import Stage, TensorSpec


def stage(name, inputs, outputs, modality=None) -> Stage:
    specs = [tuple(TensorSpec(n, "float32", (1,)) for n in names) for names in (inputs, outputs)]
    return Stage(name, f"onnx/{name}.onnx", *specs, modality)


STAGES = (
    stage("see", ["image"], ["seen"], "camera"),
    stage("look", ["image", "seen"], ["depth"], "camera"),
    stage("scan", ["points"], ["ranges"], "lidar"),
    stage("fuse", ["depth", "ranges", "pose"], ["y"]),
    stage("act", ["y", "depth"], ["u"]),
)

INPUTS = {"image": 1.0, "points": 2.0, "pose": 3.0}


@pytest.fixture
def plan():
    """Each stage yields the sum of what it takes, and refuses anything else."""

    def run(one):
        def compute(feeds):
            assert list(feeds) == [spec.name for spec in one.inputs]
            return {spec.name: sum(feeds.values()) for spec in one.outputs}

        return compute

    return StagePlan(STAGES, {one.name: run(one) for one in STAGES}, ["u", "seen"])


def test_a_call_runs_every_stage_in_order_and_gives_the_outputs_alone(plan):
    order = []
    outputs = plan.run(INPUTS, after=lambda one, feeds, made: order.append((one.name, made)))
    assert outputs == {"u": 9.0, "seen": 1.0}
    assert list(outputs) == ["u", "seen"]
    assert order == [
        ("see", {"seen": 1.0}), ("look", {"depth": 2.0}), ("scan", {"ranges": 2.0}),
        ("fuse", {"y": 7.0}), ("act", {"u": 9.0}),
    ]  # fmt: skip
    assert INPUTS == {"image": 1.0, "points": 2.0, "pose": 3.0}


def test_parts_of_a_call_make_the_same(plan):
    assert {name: [s.name for s in stages] for name, stages in plan.encoders.items()} == {
        "camera": ["see", "look"],
        "lidar": ["scan"],
    }
    assert [one.name for one in plan.fusion] == ["fuse", "act"]
    tensors = dict(INPUTS)
    for stages in (*plan.encoders.values(), plan.fusion):
        plan.advance(tensors, stages)
    assert tensors == INPUTS | {"seen": 1.0, "depth": 2.0, "ranges": 2.0, "y": 7.0, "u": 9.0}


def test_alone_nothing_passes_on(plan):
    golden = INPUTS | {"seen": 10.0, "depth": 20.0, "ranges": 30.0, "y": 40.0, "u": 50.0}
    made = {one.name: outputs for one, outputs in plan.alone(golden)}
    assert made == {
        "see": {"seen": 1.0}, "look": {"depth": 11.0}, "scan": {"ranges": 2.0},
        "fuse": {"y": 53.0}, "act": {"u": 60.0},
    }  # fmt: skip
    assert plan.run_stage("act", golden) == {"u": 60.0}


def test_what_a_stage_raises_ends_the_call(plan):
    def fail(feeds):
        raise RuntimeError("stop")

    seen = []
    plan._runs["scan"] = fail
    with pytest.raises(RuntimeError, match="stop"):
        plan.run(INPUTS, after=lambda one, *_: seen.append(one.name))
    assert seen == ["see", "look"]
