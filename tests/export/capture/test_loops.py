"""Networks with loops: what is exported generates what torch generates, in plain ONNX Runtime."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import loop_networks as networks
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from shared import once
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from typer.testing import CliRunner

import mmedge
from mmedge.bundle import Bundle
from mmedge.cli.app import build_app
from mmedge_export import Generate, Input, Model, StateInput, export
from mmedge_export.capture.token_steps import TokenStep, _Steps
from mmedge_export.proof import generate, loop_parts


def exported(name: str, tmp_path_factory) -> Bundle:
    def make(folder):
        export(getattr(networks, name)(), folder / "net").close()

    return Bundle.open(once(tmp_path_factory, f"loop-{name}", make) / "net")


class PlainLoop:
    """A bundle's graphs in ONNX Runtime, and nothing of mmedge's runtime."""

    def __init__(self, bundle: Bundle) -> None:
        self.manifest = bundle.manifest
        self.loop = self.manifest.loop
        self.first = bundle.first_states()
        self.sessions = {
            stage.name: ort.InferenceSession(
                str(bundle.path / stage.graph), providers=["CPUExecutionProvider"]
            )
            for stage in self.manifest.stages
        }

    def run(self, stage: str, tensors: dict) -> dict:
        session = self.sessions[stage]
        names = [value.name for value in session.get_outputs()]
        feeds = {value.name: tensors[value.name] for value in session.get_inputs()}
        return dict(zip(names, session.run(names, feeds), strict=True))

    def constants(self, inputs: dict) -> dict:
        tensors = dict(inputs)
        for stage in self.manifest.in_order() if self.manifest.outputs else ():
            tensors |= self.run(stage.name, tensors)
        return tensors

    def generate(self, inputs: dict) -> np.ndarray:
        loop, tensors = self.loop, self.constants(inputs)
        specs = {spec.name: spec for stage in self.manifest.loop_stages() for spec in stage.inputs}
        batch = len(next(iter(inputs.values())))
        for state in self.manifest.states:
            if state.initial == "output":
                tensors[state.input] = tensors[state.source]
            else:
                shape = [
                    size if isinstance(size, int) else batch if size == "batch" else 0
                    for size in specs[state.input].shape
                ]
                tensors[state.input] = np.zeros(shape, np.float32)
        tokens = np.tile(np.array(loop.start, np.int64), (batch, 1))
        if loop.token in inputs:
            tokens = np.concatenate([tokens, inputs[loop.token]], 1)
        rank, place, chosen = len(specs[loop.token].shape), 0, []
        ended = np.zeros(batch, bool)
        while True:
            pieces = [tokens] if rank == 2 else [tokens[:, i] for i in range(tokens.shape[1])]
            for piece in pieces:
                tensors[loop.token] = piece
                if loop.position is not None:
                    line = np.arange(place, place + piece.shape[1])
                    tensors[loop.position] = np.tile(line, (batch, 1))
                outputs = self.run(loop.stage, tensors)
                tensors |= {state.input: outputs[state.output] for state in self.manifest.states}
                place += piece.shape[1] if rank == 2 else 1
            logits = outputs[loop.logits]
            best = (logits[:, -1] if logits.ndim == 3 else logits).argmax(-1)
            ended |= np.isin(best, loop.stop)
            best[ended] = loop.stop[0]
            if ended.all():
                break
            chosen.append(best)
            if len(chosen) == loop.limit:
                break
            tokens = best[:, None]
        return np.stack(chosen, 1) if chosen else np.zeros((batch, 0), np.int64)


@pytest.mark.parametrize("name", ["captions", "prefixed", "spoken", "continued", "hinted"])
def test_the_graphs_generate_what_the_bundle_says(name, tmp_path_factory):
    with exported(name, tmp_path_factory) as bundle:
        plain = PlainLoop(bundle)
        samples = bundle.samples()
        assert len(samples) >= 3
        for sample in samples:
            assert np.array_equal(plain.generate(sample.inputs), sample.loop["tokens"])
        # Runs that are all alike would show nothing.
        assert len({sample.loop["tokens"].tobytes() for sample in samples}) > 1


def test_golden_tokens_are_those_that_torch_generates(tmp_path_factory):
    with exported("captions", tmp_path_factory) as bundle:
        samples = bundle.samples()
    model = networks.captions()
    encoder, step, loop = model.module, model.loop.step, model.loop
    for sample in samples:
        inputs = {name: torch.from_numpy(value.copy()) for name, value in sample.inputs.items()}
        with torch.no_grad():
            constants = encoder(**inputs)
            batch = len(inputs["image"])
            sequence = torch.full((batch, 1), loop.start[0])
            for _ in range(loop.limit):
                # All of it anew each time: no cache, no state.
                empty = torch.zeros(batch, networks.HEADS, 0, networks.WIDTH // networks.HEADS)
                logits = step(sequence, empty, empty, **constants)["logits"][:, -1]
                sequence = torch.cat([sequence, logits.argmax(-1)[:, None]], 1)
        for row, tokens in zip(sequence[:, 1:].numpy(), sample.loop["tokens"], strict=True):
            stops = np.flatnonzero(row == loop.stop[0])
            count = stops[0] if len(stops) else len(row)
            assert np.array_equal(row[:count], tokens[:count])
            assert (tokens[count:] == loop.stop[0]).all()
        assert sample.loop["logits"].shape[1] <= sample.loop["tokens"].shape[1] + 1


def test_encoders_and_step_are_stages_and_only_the_step_has_states(tmp_path_factory):
    with exported("captions", tmp_path_factory) as bundle:
        manifest = bundle.manifest
    assert [(stage.name, stage.modality) for stage in manifest.stages] == [
        ("image", "image"),
        ("audio", "audio"),
        ("step", None),
    ]
    (plan,) = manifest.plans
    assert plan.name == "cut"
    assert {state.stage for state in manifest.states} == {"step"}
    past = manifest.dimensions["past"]
    assert (past.min, past.max) == (0, 12)  # one token to begin with, eleven that are fed again
    assert manifest.dimensions["new"].opt == 1
    assert not manifest.not_checked


def test_a_state_may_begin_as_what_the_module_gives(tmp_path_factory):
    with exported("prefixed", tmp_path_factory) as bundle:
        manifest = bundle.manifest
    assert [(s.input, s.initial, s.source, s.axis) for s in manifest.states] == [
        ("past_k", "output", "initial.past_k", 2),
        ("past_v", "output", "initial.past_v", 2),
    ]
    assert manifest.stages[0].modality == "image"
    with exported("spoken", tmp_path_factory) as bundle:
        (state,) = bundle.manifest.states
    assert (state.initial, state.source, state.axis) == ("output", "initial.h", None)


def test_a_text_alone_needs_no_other_stage(tmp_path_factory):
    with exported("continued", tmp_path_factory) as bundle:
        manifest = bundle.manifest
        assert [stage.name for stage in manifest.stages] == ["step"]
        assert manifest.outputs == ()
        assert list(manifest.inputs()) == ["input_ids"]
        assert manifest.dimensions["past"].max == 16 + 9 - 1


def test_a_table_that_module_and_step_share_is_stored_once(tmp_path_factory):
    with exported("hinted", tmp_path_factory) as bundle:
        table = networks.hinted().loop.step.embed.weight.detach().numpy().tobytes()
        content = b"".join(
            bytes(bundle.read(name)) for name in bundle.manifest.files if name.startswith("onnx/")
        )
        places = {
            stage.name: {
                entry.value
                for tensor in onnx.load(
                    bundle.path / stage.graph, load_external_data=False
                ).graph.initializer
                for entry in tensor.external_data
                if entry.key == "location"
            }
            for stage in bundle.manifest.stages
        }
    assert content.count(table) == 1
    assert places["step"] == {"step.onnx.data", "model.onnx.data"}


@pytest.mark.parametrize("name", ["captions", "spoken"])
def test_the_runtime_generates_the_golden_tokens(name, tmp_path_factory):
    with exported(name, tmp_path_factory) as bundle:
        samples, path = bundle.samples(), bundle.path
    with mmedge.load(path) as pipe:
        for sample in samples:
            assert np.array_equal(pipe.run(sample.inputs)["tokens"], sample.loop["tokens"])


def test_inspect_shows_the_loop_and_its_states(tmp_path_factory):
    with exported("captions", tmp_path_factory) as bundle:
        path = str(bundle.path)
    result = CliRunner().invoke(build_app(), ["inspect", path], env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    assert "cut into 2 encoders and 1 stage of a loop" in result.output
    assert "step takes input_ids, gives logits; at most 12 tokens; the best token" in result.output
    assert "grows along past; begins as empty" in result.output
    report = json.loads(CliRunner().invoke(build_app(), ["inspect", path, "--json"]).stdout)
    assert [stage["name"] for stage in report["flow"]["stages"]] == ["image", "audio", "step"]
    assert report["manifest"]["loops"][0]["kind"] == "generate"


def test_export_tells_the_loop_and_its_states(tmp_path):
    source = f"{networks.__file__}:continued"
    words = ["export", source, "-o", str(tmp_path / "net"), "--json"]
    report = json.loads(CliRunner().invoke(build_app(), words).stdout)
    assert report["loops"][0]["stop"] == [2]
    assert [state["input"] for state in report["states"]] == ["past_k", "past_v"]
    assert report["outputs"] == []


@pytest.mark.parametrize(
    "options",
    [
        {"token_shape": ("batch", 1)},
        {"token_dtype": "int32", "temperature": 0.8, "top_k": 5},
        {"suppress": [19], "suppress_first": [4], "stop": []},
        {"limit": 2},
    ],
)
def test_a_loop_may_be_said_in_other_ways(options, tmp_path):
    with export(networks.captions(**options), tmp_path / "net", samples_limit=2) as bundle:
        manifest, samples = bundle.manifest, bundle.samples()
        tokens = [sample.loop["tokens"] for sample in samples]
    specs = {spec.name: spec for spec in manifest.stages[-1].inputs}
    assert specs["input_ids"].dtype == options.get("token_dtype", "int64")
    assert all(len(each) <= options.get("limit", 12) for each in tokens[0])
    for token in options.get("suppress", ()):
        assert all(token not in each for each in tokens)
    lines = " ".join(manifest.not_checked)
    assert ("drawn at temperature 0.8" in lines) == ("temperature" in options)
    assert "loop: no run began with the 1 samples after the golden ones" in lines
    with mmedge.load(tmp_path / "net") as pipe:
        for sample in samples:
            got = pipe.run(sample.inputs, temperature=0)["tokens"]
            assert np.array_equal(got, sample.loop["tokens"])


def test_a_loop_runs_without_an_optional_modality(tmp_path):
    model = networks.captions()
    inputs = {**model.inputs, "audio": replace(model.inputs["audio"], required=False)}
    with export(replace(model, inputs=inputs), tmp_path / "net") as bundle:
        samples = bundle.samples()
    assert len(samples) == 4  # three, and the example without sound
    with mmedge.load(tmp_path / "net") as pipe:
        tokens = pipe.run({"image": samples[3].inputs["image"]})["tokens"]
    assert np.array_equal(tokens, samples[3].loop["tokens"])


class Sum(torch.nn.Module):
    """Adds up scores of what it saw; its state begins as zeros, or as an array."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(networks.WORDS, networks.WORDS)

    def forward(self, token, place, seen, bias):
        after = seen + self.embed(token[:, 0])
        return {"logits": 3 * after + place * 0 + bias, "seen_next": after}


@pytest.mark.parametrize("initial", ["zeros", np.full((1, networks.WORDS), 0.5, np.float32)])
def test_a_state_of_one_size_begins_as_said(initial, tmp_path):
    torch.manual_seed(9)
    rows = ("batch", networks.WORDS)
    model = Model(
        torch.nn.Linear(3, networks.WORDS),
        {"input": Input(networks.floats(2, 3), dynamic={0: "batch"})},
        ["bias"],
        loop=Generate(
            Sum().eval(),
            token="token",
            state={"seen": StateInput("seen_next", rows, initial=initial)},
            start=[1],
            stop=[2],
            limit=6,
            token_shape=("batch", 1),
            position="place",
            position_shape=(),
        ),
    )
    with export(model, tmp_path / "net") as bundle:
        (state,) = bundle.manifest.states
        samples = bundle.samples()
        assert state.initial == ("zeros" if isinstance(initial, str) else "stored")
    with mmedge.load(tmp_path / "net") as pipe:
        for sample in samples:
            assert np.array_equal(pipe.run(sample.inputs)["tokens"], sample.loop["tokens"])


def test_of_a_long_run_some_steps_are_kept():
    steps = _Steps(["past"], limit=4000, first=3)
    for number in range(1, 101):
        feeds = {"past": np.zeros(number, np.int8), "token": np.zeros(10**6, np.int8)}
        steps.add(TokenStep(number, feeds, {}))
    assert steps.count == 100
    assert set(steps.kept) >= {0, 1, 2}
    assert sum(each.feeds["past"].nbytes for each in steps.kept.values()) <= 4000
    assert 20 < len(steps.kept) < 100
    # They lie evenly, to the end.
    later = [number for number in steps.kept if number >= 3]
    assert len({b - a for a, b in pairwise(later)}) == 1
    assert later[-1] > 90


def test_steps_that_were_not_compared_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "_FORCED_BYTES", 1)
    monkeypatch.setattr(loop_parts, "_LARGE", 1)
    monkeypatch.setattr(generate, "_FEW", 0)
    with export(networks.continued(), tmp_path / "net") as bundle:
        lines = " ".join(bundle.manifest.not_checked)
        samples = bundle.samples()
    assert "steps of golden runs" in lines
    assert "the tokens of all of them were" in lines
    assert "at another batch size" in lines
    # A large step makes fewer runs.
    assert "loop: more than 2 made-up runs: a step has" in lines
    assert len(samples) == 2


def test_what_the_module_makes_may_stay_one_stage(tmp_path):
    with export(networks.captions(), tmp_path / "net", split=False) as bundle:
        manifest, samples = bundle.manifest, bundle.samples()
    assert [(stage.name, stage.modality) for stage in manifest.stages] == [
        ("model", None),
        ("step", None),
    ]
    with mmedge.load(tmp_path / "net") as pipe:
        for sample in samples:
            assert np.array_equal(pipe.run(sample.inputs)["tokens"], sample.loop["tokens"])


def test_a_text_is_continued_with_its_own_tokenizer(tmp_path):
    tokens = Tokenizer(WordLevel({f"w{i}": i for i in range(networks.WORDS)}, unk_token="w0"))
    tokens.pre_tokenizer = Whitespace()
    tokens.save(str(tmp_path / "tokenizer.json"))
    model = networks.continued()
    text = replace(model.inputs["input_ids"], tokenizer=tmp_path / "tokenizer.json")
    with export(replace(model, inputs={"input_ids": text}), tmp_path / "net") as bundle:
        manifest = bundle.manifest
        assert manifest.loop.tokenizer == manifest.modalities[0].tokenizer.file
    with mmedge.load(tmp_path / "net") as pipe:
        by_text = pipe.run({"text": "w5 w7 w9"})
        by_ids = pipe.run({"input_ids": np.array([[5, 7, 9]])})
        assert np.array_equal(by_text["tokens"], by_ids["tokens"])
        assert by_text["text"] == [" ".join(f"w{token}" for token in by_ids["tokens"][0])]
