"""ONNX files with states: decoders by the usual names, and whatever the user names."""

from __future__ import annotations

import json
import re

import loop_networks as networks
import numpy as np
import onnx
import pytest
import torch
from shared import once
from typer.testing import CliRunner

import mmedge
from mmedge.bundle import Bundle
from mmedge.cli.app import build_app
from mmedge_export import Generate, Input, Model, StateInput, export
from mmedge_export.noise import quiet
from mmedge_export.sources.onnx_loop import find_states


def save(tmp_path_factory, name: str, make) -> str:
    def build(folder):
        module, values, outputs, dynamic = make()
        names = {size for axes in dynamic.values() for size in axes.values()}
        sizes = {name: torch.export.Dim(name) for name in names}
        shapes = tuple(
            {axis: sizes[size] for axis, size in dynamic.get(key, {}).items()} for key in values
        )
        with quiet():
            program = torch.onnx.export(
                module.eval(),
                tuple(values.values()),
                dynamic_shapes=shapes,
                input_names=list(values),
                output_names=outputs,
                dynamo=True,
                verbose=False,
            )
        onnx.save(program.model_proto, folder / "net.onnx")

    return str(once(tmp_path_factory, f"onnx-{name}", build) / "net.onnx")


def writer():
    torch.manual_seed(2)
    ids = torch.randint(3, networks.WORDS, (2, 3))
    past = torch.randn(2, networks.HEADS, 5, networks.WIDTH // networks.HEADS)
    rows = {0: "batch", 1: "new"}
    return (
        networks.Writer(),
        {
            "input_ids": ids,
            "position_ids": torch.arange(5, 8).repeat(2, 1),
            "past_key_values.0.key": past,
            "past_key_values.0.value": past.flip(2),
        },
        ["logits", "present.0.key", "present.0.value"],
        {
            "input_ids": rows,
            "position_ids": rows,
            "past_key_values.0.key": {0: "batch", 2: "past"},
            "past_key_values.0.value": {0: "batch", 2: "past"},
        },
    )


def detector():
    torch.manual_seed(7)
    width = networks.WIDTH
    return (
        networks.Voice(),
        {
            "input": torch.randn(2, 16),
            "window": torch.randn(2, 8),
            "state_h": torch.randn(2, width),
            "state_c": torch.randn(2, width),
        },
        ["output", "window_out", "state_h_out", "state_c_out"],
        {name: {0: "batch"} for name in ("input", "window", "state_h", "state_c")},
    )


def run(*words: str):
    return CliRunner().invoke(build_app(), ["export", *words])


def test_states_have_usual_names():
    inputs = ["ids", "past_k0", "past.1.v", "past_key_values.3.key", "past_lonely"]
    outputs = ["logits", "present_k0", "present.1.v", "present.3.key"]
    assert find_states(inputs, outputs) == {
        "past_k0": "present_k0",
        "past.1.v": "present.1.v",
        "past_key_values.3.key": "present.3.key",
    }


def test_a_decoder_generates_what_it_generates_in_torch(tmp_path_factory, tmp_path):
    file = save(tmp_path_factory, "writer", writer)
    result = run(
        file, "-o", str(tmp_path / "net"), "--token", "input_ids", "--position", "position_ids",
        "--stop", "2", "--limit", "9", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["stages"] == ["step"]
    with Bundle.open(tmp_path / "net") as bundle:
        manifest, samples = bundle.manifest, bundle.samples()
    assert [(s.input, s.output, s.axis, s.initial) for s in manifest.states] == [
        ("past_key_values.0.key", "present.0.key", 2, "empty"),
        ("past_key_values.0.value", "present.0.value", 2, "empty"),
    ]
    assert manifest.loop.stop == (2,)
    module = writer()[0].eval()
    for sample in samples:
        sequence = torch.from_numpy(sample.inputs["input_ids"].copy())
        before = sequence.shape[1]
        empty = torch.zeros(len(sequence), networks.HEADS, 0, networks.WIDTH // networks.HEADS)
        for _ in range(sample.loop["tokens"].shape[1]):
            places = torch.arange(sequence.shape[1]).repeat(len(sequence), 1)
            with torch.no_grad():
                logits = module(sequence, places, empty, empty)[0][:, -1]
            sequence = torch.cat([sequence, logits.argmax(-1)[:, None]], 1)
        for row, tokens in zip(sequence[:, before:], sample.loop["tokens"], strict=True):
            stops = np.flatnonzero(tokens == 2)
            count = stops[0] if len(stops) else len(tokens)
            assert np.array_equal(row[:count], tokens[:count])


def test_a_detector_has_the_states_that_are_named(tmp_path_factory, tmp_path):
    file = save(tmp_path_factory, "detector", detector)
    states = ["window=window_out", "state_h=state_h_out", "state_c=state_c_out"]
    words = [word for state in states for word in ("--state", state)]
    result = run(file, "-o", str(tmp_path / "net"), *words)
    assert result.exit_code == 0, result.output
    with Bundle.open(tmp_path / "net") as bundle:
        manifest, samples = bundle.manifest, bundle.samples()
    assert list(manifest.inputs()) == ["input"]
    assert manifest.outputs == ("output",)
    assert [(s.stage, s.input, s.axis, s.initial) for s in manifest.states] == [
        ("model", "window", None, "zeros"),
        ("model", "state_h", None, "zeros"),
        ("model", "state_c", None, "zeros"),
    ]
    assert manifest.stages[0].modality == "input"
    assert samples[0].step.keys() == {"window", "state_h", "state_c"}


def branch(by_size: bool):
    """h_new = h / 2 + x at a rate of 16000, or for fewer than 4 rows; else the first row of x."""
    x, h = (onnx.helper.make_tensor_value_info(n, 1, ["b", 4]) for n in ("x", "h"))
    rate = onnx.helper.make_tensor_value_info("rate", 7, [])
    outputs = [onnx.helper.make_tensor_value_info(n, 1, [None, None]) for n in ("y", "h_new")]

    def graph(name, nodes):
        result = onnx.helper.make_tensor_value_info(name, 1, None)
        return onnx.helper.make_graph(nodes, name, [], [result])

    node = onnx.helper.make_node
    condition = [node("Equal", ["rate", "wide"], ["condition"])]
    if by_size:
        condition = [
            node("Shape", ["x"], ["rows"], start=0, end=1),
            node("Mul", ["rows", "rate"], ["sum"]),
            node("Less", ["sum", "many"], ["each"]),
            node("Squeeze", ["each"], ["condition"]),
        ]
    body = [
        *condition,
        node("If", ["condition"], ["h_new"],
            then_branch=graph("kept", [
                node("Mul", ["h", "half"], ["faded"]), node("Add", ["faded", "x"], ["kept"])
            ]),
            else_branch=graph("left", [node("Slice", ["x", "first", "one"], ["left"])])),
        node("Add", ["x", "h_new"], ["y"]),
    ]  # fmt: skip
    weights = {
        "wide": np.array(16000), "half": np.array(0.5, np.float32), "many": np.array(64000),
        "first": np.array([0]), "one": np.array([1]),
    }  # fmt: skip
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    whole = onnx.helper.make_graph(body, "detector", [x, h, rate], outputs, tensors)
    opsets = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(whole, opset_imports=opsets, ir_version=8)


def test_a_state_whose_shape_a_branch_hides_has_that_of_the_one_before(tmp_path):
    onnx.save(branch(by_size=False), tmp_path / "net.onnx")
    np.savez(tmp_path / "example.npz", x=networks.floats(3, 4), rate=np.array(16000))
    words = ["--state", "h=h_new", "--example", str(tmp_path / "example.npz")]
    result = run(str(tmp_path / "net.onnx"), "-o", str(tmp_path / "net"), *words)
    assert result.exit_code == 0, result.output
    with Bundle.open(tmp_path / "net") as bundle:
        specs = {s.name: s for s in bundle.manifest.stages[0].outputs}
        assert specs["h_new"].shape == ("b", 4)
        assert not any(name.startswith("h_new") for name in bundle.manifest.dimensions)
    with mmedge.load(tmp_path / "net") as pipe:
        state, rate = pipe.state(), np.array(16000)
        ones = np.ones((2, 4), np.float32)
        got = [float(pipe(x=ones, rate=rate, state=state)["y"][0, 0]) for _ in range(3)]
    assert got == [2.0, 2.5, 2.75]


def test_a_state_that_is_smaller_at_other_sizes_is_refused(tmp_path):
    onnx.save(branch(by_size=True), tmp_path / "net.onnx")
    np.savez(tmp_path / "example.npz", x=networks.floats(3, 4), rate=np.array(16000))
    words = ["--state", "h=h_new", "--example", str(tmp_path / "example.npz")]
    result = run(str(tmp_path / "net.onnx"), "-o", str(tmp_path / "net"), *words)
    assert result.exit_code
    assert re.search(
        r"state 'h': a run takes float32 \[\d+, 4\] and gives 'h_new' as float32 \[1, 4\]",
        str(result.exception),
    )


def test_an_example_need_not_hold_the_states(tmp_path_factory, tmp_path):
    file = save(tmp_path_factory, "detector", detector)
    np.savez(tmp_path / "example.npz", input=networks.floats(3, 16))
    states = ["window=window_out", "state_h=state_h_out", "state_c=state_c_out"]
    words = [word for state in states for word in ("--state", state)]
    result = run(
        file, "-o", str(tmp_path / "net"), "--example", str(tmp_path / "example.npz"), *words
    )
    assert result.exit_code == 0, result.output
    with Bundle.open(tmp_path / "net") as bundle:
        assert bundle.samples()[0].inputs["input"].shape == (3, 16)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--state", "memory=window_out"], "no input 'memory'; its inputs are input, window"),
        (["--state", "window=memory"], "no output 'memory'"),
        (["--state", "window=state_h_out"], "has 8 along axis 1, but output 'state_h_out' has 32"),
        (["--state", "window=output"], "input 'window' has 8 along axis 1, but output 'output'"),
        (["--start", "1"], "--start: needs --token"),
        (["--token", "input", "--stop", "end"], "expected token ids such as 1,2, got 'end'"),
        (["--state", "window"], "expected NAME=VALUE"),
    ],
)
def test_what_is_no_state_is_refused(words, message, tmp_path_factory, tmp_path):
    file = save(tmp_path_factory, "detector", detector)
    result = run(file, "-o", str(tmp_path / "net"), *words)
    assert result.exit_code != 0
    output = f"{result.output} {result.exception}"
    assert message in " ".join(output.replace("│", " ").split())


def test_outputs_that_nobody_takes_are_refused(tmp_path_factory, tmp_path):
    file = save(tmp_path_factory, "detector", detector)
    words = ["--token", "input", "--logits", "output", "--state", "window=window_out"]
    result = run(file, "-o", str(tmp_path / "net"), *words)
    assert "output state_h_out, state_c_out is neither 'output' nor a state" in str(
        result.exception
    )


def test_an_encoder_and_a_decoder_may_both_be_files(tmp_path_factory, tmp_path):
    def build(folder):
        export(networks.hinted(), folder / "net").close()

    torch_bundle = once(tmp_path_factory, "loop-hinted", build) / "net"
    with Bundle.open(torch_bundle) as bundle:
        samples = bundle.samples()
    state = {
        f"past_{name}": StateInput(f"present_{name}", initial=f"initial.past_{name}")
        for name in "kv"
    }
    model = Model(
        torch_bundle / "onnx/model.onnx",
        {"hint": Input(samples[0].inputs["hint"], dynamic={0: "batch", 1: "hints"})},
        ["initial.past_k", "initial.past_v"],
        samples=[(sample.inputs, None) for sample in samples],
        loop=Generate(
            torch_bundle / "onnx/step.onnx",
            state=state,
            start=[1],
            stop=[2],
            limit=6,
            position="position_ids",
        ),
    )
    with export(model, tmp_path / "net") as bundle:
        assert bundle.manifest.variants[0].metrics == {}  # files are their own reference
        assert [s.source for s in bundle.manifest.states] == ["initial.past_k", "initial.past_v"]
        for sample, golden in zip(bundle.samples(), samples, strict=True):
            assert np.array_equal(sample.loop["tokens"], golden.loop["tokens"])


def with_mask(file: str, folder) -> str:
    """The decoder with a mask of what came before and is new; anything but ones shows."""
    model = onnx.load(file)
    graph = model.graph
    graph.input.append(onnx.helper.make_tensor_value_info("attention_mask", 7, ["batch", "total"]))
    logits = next(value for value in graph.output if value.name == "logits")
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name == "logits":
                node.output[index] = "plain"
    helper = onnx.helper
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([1], np.int64), "one"))
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([2], np.int64), "two"))
    graph.node.extend(
        [
            helper.make_node("Cast", ["attention_mask"], ["mask_floats"], to=1),
            helper.make_node("ReduceMean", ["mask_floats"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["plain", "mean"], ["weighted"]),
            helper.make_node("Shape", ["attention_mask"], ["mask_shape"]),
            helper.make_node("Gather", ["mask_shape", "one"], ["mask_size"]),
            helper.make_node("Shape", ["present.0.key"], ["present_shape"]),
            helper.make_node("Gather", ["present_shape", "two"], ["seen"]),
            helper.make_node("Equal", ["mask_size", "seen"], ["right"]),
            helper.make_node("Cast", ["right"], ["right_float"], to=1),
            helper.make_node("Mul", ["weighted", "right_float"], [logits.name]),
        ]
    )
    onnx.save(model, folder / "masked.onnx")
    return str(folder / "masked.onnx")


def test_a_mask_of_what_came_before_is_ones(tmp_path_factory, tmp_path):
    file = with_mask(save(tmp_path_factory, "writer", writer), tmp_path)
    words = ["--token", "input_ids", "--position", "position_ids", "--stop", "2", "--limit", "9"]
    result = run(file, "-o", str(tmp_path / "net"), *words)
    assert result.exit_code == 0, f"{result.output} {result.exception}"
    with Bundle.open(tmp_path / "net") as bundle:
        manifest, samples = bundle.manifest, bundle.samples()
    assert manifest.name == "masked"
    assert list(manifest.inputs()) == ["input_ids"]
    assert "input 'attention_mask' is ones" in " ".join(manifest.cut.remarks)
    plain = tmp_path / "plain"
    run(save(tmp_path_factory, "writer", writer), "-o", str(plain), *words)
    with Bundle.open(plain) as bundle:
        for sample, golden in zip(samples, bundle.samples(), strict=True):
            assert np.array_equal(sample.inputs["input_ids"], golden.inputs["input_ids"])
            assert np.array_equal(sample.loop["tokens"], golden.loop["tokens"])
            assert np.array_equal(sample.loop["logits"], golden.loop["logits"])
