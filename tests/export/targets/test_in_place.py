"""Loops that write keys and values in place give what loops give whose states grow."""

from __future__ import annotations

import json
from dataclasses import replace
from threading import Thread

import numpy as np
import onnx
import pytest
from cache_graphs import MISFITS, WORDS, Decoder
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_bundles import Filter, Speller
from loop_networks import captions, prefixed
from typer.testing import CliRunner

import mmedge
from mmedge.backends.onnxruntime.in_place import InPlaceStepper
from mmedge.bundle import Bundle
from mmedge.cli.app import build_app
from mmedge.errors import BackendError, NoVariantError
from mmedge.execution.verify import verify
from mmedge.spec import Device
from mmedge_export import export
from mmedge_export.targets.onnxruntime.in_place import (
    NotInPlaceError,
    add_in_place,
    in_place_variant,
)
from mmedge_export.targets.variants import base_variant

IN_PLACE = "ort-fp32-cpu-in_place"

#: Ways to write a decoder.
FORMS = {
    "halves": Decoder(),
    "places": Decoder(rotary="none"),
    "turned": Decoder(rotary="turned"),
    "interleaved": Decoder(rotary="interleaved"),
    "folded queries": Decoder(spread="fold"),
    "chosen mask": Decoder(mask="where"),
    "guarded softmax": Decoder(mask="guarded"),
    "positions of sizes": Decoder(sizes=True),
    "as many heads": Decoder(key_heads=4),
    "one head of keys": Decoder(heads=3, key_heads=1),
    "small heads": Decoder(size=8),
    "no limit": Decoder(most=None),
    "stored beginning": Decoder(prefix=3),
    "stored beginning with places": Decoder(prefix=3, rotary="none"),
    "single tokens": Decoder(single=True),
    "single tokens after a stored beginning": Decoder(single=True, prefix=2),
}


def added(path, told=None) -> str:
    """The bundle at ``path`` with what was added."""
    bundle, variants = add_in_place(Bundle.open(path), (told if told is not None else []).append)
    bundle.close()
    assert [variant.id for variant in variants] == [IN_PLACE]
    return path


def operators(path) -> list[str]:
    with Bundle.open(path) as bundle:
        variant = next(v for v in bundle.manifest.variants if v.id == IN_PLACE)
        return [n.op_type for n in onnx.load(bundle.file(variant.files["step"])).graph.node]


def both(path, **options):
    """A pipeline of each form."""
    return [mmedge.load(path, name, **options) for name in ("ort-fp32-cpu", IN_PLACE)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return added(Decoder().write(tmp_path_factory.mktemp("decoder") / "b"))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same_tokens(form, tmp_path):
    path = added(form.write(tmp_path / "b"))
    names = operators(path)
    assert names.count("GroupQueryAttention") == form.layers
    assert "Softmax" not in names
    with Bundle.open(path) as opened:
        open_questions = opened.manifest.open_questions(*opened.manifest.variants)
    assert ["looked at up to 32768" in line for line in open_questions] == [True] * (not form.most)
    turns = form.rotary != "none" and form.size % 16 == 0 and form.most is not None
    assert ("Cos" in names) == (form.rotary != "none" and not turns)
    growing, in_place = both(path)
    with growing, in_place:
        assert verify(in_place).ok
        rng = np.random.default_rng(1)
        for batch, length in ((1, 1), (1, 9), (3, 4), (2, 1)):
            tokens = rng.integers(1, WORDS, (batch, length))
            expected, got = (pipe(tokens=tokens, limit=12) for pipe in (growing, in_place))
            assert got["tokens"].tolist() == expected["tokens"].tolist()
            assert got["finish"] == expected["finish"]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_heads_lengths_and_chunks(data, tmp_path_factory):
    key_heads = data.draw(st.sampled_from([1, 2, 3]))
    form = Decoder(
        heads=key_heads * data.draw(st.sampled_from([1, 2, 3])),
        key_heads=key_heads,
        size=data.draw(st.sampled_from([8, 16, 32])),
        layers=data.draw(st.sampled_from([1, 2])),
        rotary=data.draw(st.sampled_from(["none", "half", "turned", "interleaved"])),
        spread=data.draw(st.sampled_from(["repeat", "fold"])),
        mask=data.draw(st.sampled_from(["add", "where", "guarded"])),
        sizes=data.draw(st.booleans()),
        prefix=data.draw(st.sampled_from([0, 0, 5])),
        seed=data.draw(st.integers(0, 9)),
    )
    path = added(form.write(tmp_path_factory.mktemp("any") / "b"))
    batch = data.draw(st.integers(1, 3))
    chunks = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    growing, in_place = both(path)
    with growing, in_place:
        results = []
        for pipe in (growing, in_place):
            state = pipe.state()
            rng = np.random.default_rng(form.seed)
            results.append(
                [
                    pipe(
                        tokens=rng.integers(1, WORDS, (batch, chunk)), limit=3, stop=(), state=state
                    )["tokens"].tolist()
                    for chunk in chunks
                ]
            )
            results.append(state.tensors())
        assert results[0] == results[2]
        for name, array in results[1].items():
            np.testing.assert_allclose(results[3][name], array, atol=1e-4)


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_the_operator_cannot_compute_grows_on_with_a_reason(misfit, tmp_path):
    path, told = Decoder(misfit=misfit).write(tmp_path / "b"), []
    with Bundle.open(path) as opened:
        same, variants = add_in_place(opened, told.append)
        assert same is opened
        assert not variants
    (line,) = told
    assert line.startswith("ort-fp32-cpu: its keys and values grow: ")
    assert MISFITS[misfit] in line


def test_other_bundles_say_why(tmp_path):
    for network, words in ((Speller(), "no state of stage 'step' grows"), (Filter(), "no loop")):
        opened = network.write(tmp_path / type(network).__name__)
        with opened, pytest.raises(NotInPlaceError, match=words):
            in_place_variant(opened, opened.manifest.variants[0])
    opened = Bundle.open(Decoder(size=4).write(tmp_path / "small"))
    with opened, pytest.raises(NotInPlaceError, match=r"have 4 elements; .* multiples of 8"):
        in_place_variant(opened, opened.manifest.variants[0])


@pytest.mark.parametrize("make", [captions, prefixed])
def test_an_exported_network_has_it_and_gives_torchs_tokens(make, tmp_path):
    told = []
    with export(make(), tmp_path / "b", progress=told.append) as opened:
        assert IN_PLACE in [variant.id for variant in opened.manifest.variants]
        # Without a measurement the graphs that were held against the network run.
        with mmedge.load(opened) as pipe:
            assert pipe.variant.id == "ort-fp32-cpu"
        with mmedge.load(opened, IN_PLACE) as pipe:
            assert verify(pipe).ok  # golden samples are torch's
    assert any(line.startswith(f"{IN_PLACE}: its loop writes") for line in told)


def test_a_damaged_graph_fails(bundle, tmp_path):
    with Bundle.open(bundle) as opened:
        copy = opened.copy(tmp_path / "bad")
    variant = next(v for v in copy.manifest.variants if v.id == IN_PLACE)
    model = onnx.load(copy.file(variant.files["step"]))
    node = next(n for n in model.graph.node if n.op_type == "GroupQueryAttention")
    attribute = next(a for a in node.attribute if a.name == "scale")
    attribute.f *= 1.5
    file = "onnx/damaged.onnx"
    bad = replace(variant, files={"step": file})
    copy.with_variant(bad, {file: model.SerializeToString()}).close()
    with mmedge.load(tmp_path / "bad", IN_PLACE, allow_unverified=True) as pipe:
        assert not verify(pipe).ok
    with pytest.raises(mmedge.MMEdgeError, match="golden"):
        mmedge.load(tmp_path / "bad", IN_PLACE)(tokens=np.array([[1]]))


def test_a_graph_that_differs_is_not_added(bundle, monkeypatch):
    from mmedge_export.targets.onnxruntime import in_place

    def spoiled(*arguments, **options):
        model = original(*arguments, **options)
        for node in model.graph:
            if node.op_type == "GroupQueryAttention":
                node.attributes["scale"] = type(node.attributes["scale"])(
                    "scale", node.attributes["scale"].type, 1.0
                )
        return model

    original = in_place.in_place_graph
    monkeypatch.setattr(in_place, "in_place_graph", spoiled)
    words = "with buffers, output .* is another than without"
    with Bundle.open(bundle) as opened, pytest.raises(NotInPlaceError, match=words):
        in_place_variant(opened, opened.manifest.variants[0])


def test_a_long_run_moves_its_buffers(tmp_path, monkeypatch):
    from mmedge.backends.onnxruntime import in_place

    monkeypatch.setattr(in_place, "ROOM", 4)
    monkeypatch.setattr(in_place.InPlaceCache.__init__, "__kwdefaults__", {"room": 4})
    path = added(Decoder(most=150).write(tmp_path / "b", limit=1000))
    moves = []
    move = InPlaceStepper._move
    monkeypatch.setattr(
        InPlaceStepper, "_move", lambda self, total: (moves.append(total), move(self, total))[1]
    )
    growing, in_place_pipe = both(path, allow_unverified=True)
    with growing, in_place_pipe:
        options = {"tokens": np.array([[3, 4, 5]]), "stop": ()}
        expected, got = growing(**options), in_place_pipe(**options)
    assert got["tokens"].tolist() == expected["tokens"].tolist()
    assert got["tokens"].shape[1] == 149  # as far as the dimension goes
    assert moves == [3, 8, 16, 32, 64, 128]


def test_what_a_buffer_holds_beyond_its_length_means_nothing(bundle, monkeypatch):
    def filled(shape, dtype):
        return np.full(shape, np.nan, dtype)

    from mmedge.backends.onnxruntime import in_place

    monkeypatch.setattr(in_place.np, "empty", filled)
    growing, in_place_pipe = both(bundle)
    with growing, in_place_pipe:
        tokens = np.array([[5, 6, 7], [1, 2, 3]])
        expected, got = growing(tokens=tokens), in_place_pipe(tokens=tokens)
        assert got["tokens"].tolist() == expected["tokens"].tolist()


def test_a_beginning_that_was_there_before_is_not_run_again(bundle, monkeypatch):
    counts = []
    hold = InPlaceStepper.hold

    def counted(stepper, tensors):
        if "tokens" in tensors:
            counts.append(tensors["tokens"].shape[1])
        hold(stepper, tensors)

    monkeypatch.setattr(InPlaceStepper, "hold", counted)
    growing, in_place = both(bundle)
    with growing, in_place:
        for prompt in ([3, 4, 5, 6], [3, 4, 5, 6, 7, 8], [3, 4, 9]):
            tokens = np.array([prompt])
            expected = growing(tokens=tokens, stop=())["tokens"].tolist()
            counts.clear()
            assert in_place(tokens=tokens, stop=())["tokens"].tolist() == expected
            # Of the prompt, what no call before has run; then the token of each step.
            assert counts == {4: [4, 1], 6: [2, 1], 3: [1, 1]}[len(prompt)]
        assert in_place.cache_info()["step"].hits == 2


def test_rows_stop_at_their_own_step_and_forced_tokens_are_taken(bundle):
    growing, in_place = both(bundle)
    with growing, in_place:
        tokens = np.array([[3, 4], [9, 1], [2, 2]])
        plain = growing(tokens=tokens, stop=(), limit=8)["tokens"]
        stop = (int(plain[0, 2]), int(plain[1, 5]))
        for options in ({"stop": stop}, {"stop": (), "forced": plain[:, ::-1].copy()}):
            expected, got = (p(tokens=tokens, limit=8, **options) for p in (growing, in_place))
            assert got["tokens"].tolist() == expected["tokens"].tolist()
            assert got["lengths"].tolist() == expected["lengths"].tolist()


def test_steps_keep_their_scores_and_states_are_copies(bundle):
    with mmedge.load(bundle, IN_PLACE) as pipe:
        state = pipe.state()
        steps = []
        for step in pipe.iterate({"tokens": np.array([[3, 4]])}, stop=(), state=state):
            steps.append((step.scores, step.scores.copy()))
        assert all((scores == copy).all() for scores, copy in steps)
        before = state.copy()
        tensors = before.tensors()
        pipe(tokens=np.array([[7]]), stop=(), state=state)
        assert all((tensors[name] == array).all() for name, array in before.tensors().items())
        assert state.position > before.position


def test_threads_share_no_buffer(bundle):
    with mmedge.load(bundle, IN_PLACE) as pipe:

        def generate(i):
            tokens = np.array([[i + 1, i + 2]])
            return pipe.run({"tokens": tokens}, stop=(), cached=False)["tokens"].tolist()

        expected = [generate(i) for i in range(8)]
        got = [None] * 8

        def work(i):
            for _ in range(10):
                got[i] = generate(i)

        threads = [Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert got == expected


def test_a_run_that_takes_too_long_is_ended(bundle):
    pipe = mmedge.load(bundle, IN_PLACE, run_timeout_s=1e-9, allow_unverified=True)
    with pipe, pytest.raises(BackendError, match="run_timeout_s"):
        for _ in range(100):  # a run may be over before it is looked at
            pipe.run({"tokens": np.array([list(range(1, 20))] * 3)}, cached=False)


def test_a_closed_session_is_told(bundle):
    pipe = mmedge.load(bundle, IN_PLACE)
    steps = pipe.iterate({"tokens": np.array([[3]])}, stop=())
    next(iter(steps))
    pipe.close()
    with pytest.raises(mmedge.MMEdgeError):
        list(steps)


def test_it_runs_on_the_cpu_alone(bundle):
    with Bundle.open(bundle) as opened:
        (first, second) = opened.manifest.variants
        assert base_variant(opened, "ort") == first
    device = Device("here", ("ort",), ("cpu", "cuda"), {}, {}, 2, 1 << 30)
    assert second.reject_reason(device) is None
    reason = replace(second, target="cuda").reject_reason(device)
    assert reason == (
        "this version of mmedge writes to a cache in place with ONNX Runtime on the CPU alone, "
        "not with ort on cuda"
    )


def test_a_file_that_grows_is_refused_as_one_in_place(bundle, tmp_path):
    with Bundle.open(bundle) as opened:
        copy = opened.copy(tmp_path / "bad")
    first, second = copy.manifest.variants
    copy.with_variant(replace(second, files=first.files), {}).close()
    with pytest.raises((BackendError, NoVariantError), match="cache.last"):
        mmedge.load(tmp_path / "bad", IN_PLACE)


def test_it_goes_with_the_weights_that_it_reads(bundle, tmp_path):
    with Bundle.open(bundle) as opened:
        copy = opened.copy(tmp_path / "b")
    first, second = copy.manifest.variants
    graph = copy.file(first.files["step"])
    other = replace(first, precision="int8", files={"step": "onnx/other.onnx"})
    model = onnx.load(graph)
    weight = next(t for t in model.graph.initializer if np.prod(t.dims) > 100)
    data = {"onnx/other.onnx.data": weight.raw_data}
    onnx.external_data_helper.set_external_data(weight, "other.onnx.data")
    weight.ClearField("raw_data")
    data["onnx/other.onnx"] = model.SerializeToString()
    copy = copy.with_variant(other, data)
    held = replace(second, precision="int8", files={"step": "onnx/held.onnx"})
    copy = copy.with_variant(held, {"onnx/held.onnx": data["onnx/other.onnx"]})
    # The same again but for what was measured: it stays.
    copy = copy.with_variant(replace(other, metrics={"latency_ms": 1.0}), {})
    assert held in copy.manifest.variants
    data["onnx/other.onnx.data"] = bytes(len(data["onnx/other.onnx.data"]))
    copy = copy.with_variant(other, data)
    assert [v.id for v in copy.manifest.variants] == [first.id, second.id, other.id]
    assert "onnx/held.onnx" not in copy.manifest.files
    copy.close()


def test_the_command_line_adds_and_measures_it(tmp_path):
    path = Decoder().write(tmp_path / "b")
    result = CliRunner().invoke(build_app(), ["build", path, "--backend", "ort", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["variants"] == [IN_PLACE]
    assert set(document["measured"]) == {"ort-fp32-cpu", IN_PLACE}
    with mmedge.load(path) as pipe:
        times = {name: one["latency_ms"] for name, one in document["measured"].items()}
        assert pipe.variant.id == min(times, key=times.get)
    refused = Decoder(misfit="window").write(tmp_path / "w")
    result = CliRunner().invoke(build_app(), ["build", refused, "--backend", "ort"])
    assert result.exit_code == 1
    assert "is not causal" in result.output
    assert "no variant was added" in str(result.exception)
