"""``mmedge.load(..., runtime="native")``: answers as of Python's pipeline, refusals by name."""

from __future__ import annotations

import gc
import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import run_python
from case_files import CASES, read_tensors
from run_python import BUNDLES
from shared import zoo_bundle
from typer.testing import CliRunner

import mmedge
from mmedge import native_pipeline
from mmedge.cli.app import build_app
from mmedge.errors import (
    BackendError,
    BundleError,
    InputError,
    MMEdgeError,
    NoVariantError,
    SignatureError,
)
from mmedge.execution.denoise import DenoiseStep
from mmedge.execution.verify import verify
from mmedge.native.runtime import NativePipeline


@pytest.fixture
def both():
    """Loads a bundle of the conformance cases in Python and in libmmedge."""
    opened = []

    def load(name, **options):
        for runtime in ("python", "native"):
            pipe = mmedge.load(
                BUNDLES / f"{name}.mmedge", threads=1, kernels=False, runtime=runtime, **options
            )
            opened.append(pipe)
        return opened[-2:]

    yield load
    for pipe in opened:
        pipe.close()


def test_calls_of_the_cases_are_answered_alike():
    assert run_python.check_calls(runtime="native") == []


def test_loops_of_the_cases_are_run_alike():
    assert run_python.check_loops(runtime="native") == []


def alike(one, other):
    assert list(one) == list(other)
    for name, value in one.items():
        if isinstance(value, np.ndarray):
            assert value.dtype == other[name].dtype, name
            assert value.tobytes() == other[name].tobytes(), name
            assert value.shape == other[name].shape, name
        else:
            assert value == other[name], name


def test_what_a_pipeline_says_of_itself_is_the_same(both):
    python, native = both("both", plan="cut")
    assert isinstance(native, mmedge.Pipeline)
    for name in ("plan", "why_plan", "threads", "variant", "decisions", "large_pages"):
        assert getattr(native, name) == getattr(python, name), name
    assert native.bundle.digest == python.bundle.digest
    assert repr(native) == repr(python)
    assert native.schedule.concurrent is False
    native.use_plan("cut")


def example(pipe, number=0):
    return dict(pipe.bundle.samples()[number].inputs)


def test_a_call_by_keywords_of_arrays_in_any_layout(both):
    python, native = both("tiny")
    inputs = example(python)
    alike(native(**inputs), python(**inputs))
    odd = {name: np.asfortranarray(np.repeat(v, 2, -1))[..., ::2] for name, v in inputs.items()}
    assert not all(array.flags.c_contiguous for array in odd.values())
    alike(native.run(odd), python.run(inputs))
    alike(native.run(inputs, cached=False), python.run(inputs, cached=False))
    outputs = native.run(inputs)
    kept = {name: array.copy() for name, array in outputs.items()}
    native.run({name: np.ones_like(array) for name, array in inputs.items()})
    alike(outputs, kept)  # copies


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1.0], "DLPack"),
        (None, "leave out what is absent"),
        (np.ma.masked_array([1.0], [True]), "mask"),
        (np.zeros(3, ">f4"), ">f4"),
        (np.zeros((1,) * 9, np.float32), "rank"),
        (np.zeros(2, object), "object"),
    ],
)
def test_what_is_no_input_is_refused_as_in_python(both, value, words):
    python, native = both("tiny")
    name = next(iter(example(python)))
    errors = []
    for pipe in (python, native):
        with pytest.raises(InputError, match=name) as caught:
            pipe.run(example(python) | {name: value})
        errors.append(str(caught.value))
    assert words in errors[1]


def test_states_go_on_are_copied_and_belong_to_one_pipeline(both):
    python, native = both("state")
    inputs = example(python)
    states = python.state(), native.state()
    for _ in range(3):
        alike(native.run(inputs, state=states[1]), python.run(inputs, state=states[0]))
    assert states[0].position == states[1].position == 3
    copies = states[0].copy(), states[1].copy()
    alike(native(**inputs, state=copies[1]), python(**inputs, state=copies[0]))
    assert states[1].position == 3 < copies[1].position
    states[1].reset()
    alike(native.run(inputs, state=states[1]), python.run(inputs, state=python.state()))
    with pytest.raises(InputError, match="another pipeline"):
        native.run(inputs, state=states[0])
    with pytest.raises(InputError, match="another pipeline"):
        python.run(inputs, state=states[1])
    for what in ("choices", "nbytes"):
        with pytest.raises(InputError, match="libmmedge does not count"):
            getattr(states[1], what)
    with pytest.raises(InputError, match="libmmedge does not give the tensors"):
        states[1].tensors()


def prompt(*tokens):
    return {"tokens": np.array([tokens])}


def test_steps_of_a_loop_are_those_of_python(both):
    python, native = both("decoder")
    inputs = example(python)
    runs = [
        pipe.iterate(inputs, seed=3, temperature=0.8, cached=False) for pipe in (python, native)
    ]
    steps = [list(run) for run in runs]
    assert len(steps[0]) == len(steps[1]) > 1
    for one, other in zip(*steps, strict=True):
        assert one.index == other.index
        assert one.text == other.text
        for name in ("tokens", "active", "scores"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
            assert getattr(one, name).dtype == getattr(other, name).dtype
    assert runs[0].finish == runs[1].finish
    alike(runs[1].result(), runs[0].result())
    alike(native.run(inputs, limit=2), python.run(inputs, limit=2))


def test_latents_have_their_shape(both):
    python, native = both("painter")
    inputs = {"condition": np.ones((2, 3), np.float32)}
    runs = [pipe.iterate(inputs, seed=4) for pipe in (python, native)]
    for one, other in zip(*runs, strict=True):
        assert isinstance(other, DenoiseStep)
        assert (one.index, one.latent.shape) == (other.index, other.latent.shape)
        assert np.array_equal(one.latent, other.latent)
    assert runs[0].finish == runs[1].finish == "schedule"
    alike(runs[1].result(), runs[0].result())


def prompted():
    tensors = read_tensors(CASES / "loops" / "prompted.json")
    return {"image": tensors["1.in.image"], "tokens": tensors["1.in.tokens"]}


def test_a_loop_that_is_left_leaves_its_state_where_python_does(both):
    python, native = both("prompted")
    inputs = prompted()
    taken = []
    for pipe in (python, native):
        state = pipe.state()
        with pipe.iterate(inputs, state=state, limit=4) as steps:
            next(steps)
            next(steps)
            with pytest.raises(InputError, match="in use"):
                pipe.run(inputs, state=state)
            with pytest.raises(InputError, match="in use"):
                state.reset()
        assert steps.finish == "cancel"
        result = steps.result()
        position = state.position
        # Dropped without a word: the state stays as it was, and is free again.
        steps = pipe.iterate(inputs, state=state, limit=4)
        next(steps)
        del steps
        gc.collect()
        assert state.position == position
        more = pipe.run(inputs, state=state, limit=2)
        taken.append((result, position, more, state.position))
    alike(taken[0][0], taken[1][0])
    assert taken[0][1] == taken[1][1]
    alike(taken[0][2], taken[1][2])
    assert taken[0][3] == taken[1][3]


def test_a_state_grows_with_the_calls_that_take_it(both):
    python, native = both("prompted")
    inputs = prompted()
    states = python.state(), native.state()
    for count in (1, 2, 4):
        longer = inputs | {"tokens": np.full((2, count), 2)}
        expected = python.run(longer, state=states[0], limit=1)
        alike(native.run(longer, state=states[1], limit=1), expected)
    assert states[0].position == states[1].position


def test_threads_have_handles_of_their_own(both):
    python, native = both("both", plan="cut")
    inputs = [example(python, number % python.bundle.manifest.samples) for number in range(8)]
    expected = [python.run(each) for each in inputs]
    barrier = threading.Barrier(4)

    def work(offset):
        barrier.wait()
        return [native.run(inputs[(offset + i) % 8]) for i in range(40)]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(4)))
    for offset, rows in enumerate(results):
        for i, row in enumerate(rows):
            alike(row, expected[(offset + i) % 8])


def test_steps_may_be_collected_while_a_handle_is_made(both, monkeypatch):
    _, native = both("decoder")
    inputs = example(native)
    clone = NativePipeline.clone

    def collect_and_clone(handle):
        gc.collect()
        return clone(handle)

    gc.disable()
    try:
        steps = native.iterate(inputs)
        next(steps)
        circle = [steps]
        circle.append(circle)
        del steps, circle
        monkeypatch.setattr(NativePipeline, "clone", collect_and_clone)
        assert native.run(inputs)
    finally:
        gc.enable()


def test_a_closed_pipeline_and_a_dropped_one(both):
    _, native = both("decoder")
    inputs = example(native)
    steps = native.iterate(inputs)
    next(steps)
    native.close()
    native.close()
    for use in (lambda: native.run(inputs), lambda: next(steps), lambda: native.use_plan("whole")):
        with pytest.raises(BackendError, match="is closed; load the bundle again"):
            use()
    # Steps keep what they need.
    steps = mmedge.load(BUNDLES / "decoder.mmedge", threads=1, runtime="native").iterate(inputs)
    gc.collect()
    assert list(steps)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_told_to_load_it_itself(both):
    _, native = both("tiny")
    inputs = example(native)
    native.run(inputs)
    child = os.fork()
    if not child:  # pragma: no cover - of another process
        code = 1
        try:
            native.run(inputs)
        except BackendError as error:
            code = 0 if "do so in the child" in str(error) else 2
        native.close()
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    native.run(inputs)


@pytest.mark.parametrize("name", ["both", "decoder", "painter", "state"])
def test_a_verification_says_the_same(both, name):
    python, native = both(name)
    one, other = verify(python), verify(native)
    assert one.check() is other.check() is None
    assert [(r.stage, r.output, r.where) for r in one.rows] == [
        (r.stage, r.output, r.where) for r in other.rows
    ]
    for row, twin in zip(one.rows, other.rows, strict=True):
        for field in ("max_abs", "max_rel", "limit_used", "scale"):
            assert getattr(row, field) == pytest.approx(getattr(twin, field), rel=1e-9), row
    assert {**one.to_dict(), "rows": 0} == {**other.to_dict(), "rows": 0}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cache_bytes": 1000}, "limit the feature cache by bytes"),
        ({"concurrent": True}, "concurrent"),
        ({"run_timeout_s": 1.0}, "run_timeout_s"),
        ({"large_pages": True}, "large_pages"),
        ({"isolate": True}, "isolate"),
    ],
)
def test_an_option_of_loading_that_it_lacks_is_refused_by_name(options, words):
    with pytest.raises(
        InputError, match=r"libmmedge does not .* leave runtime=\"native\" out"
    ) as e:
        mmedge.load(BUNDLES / "tiny.mmedge", runtime="native", **options)
    assert words in str(e.value)


def test_what_asks_for_nothing_is_taken():
    mmedge.load(
        BUNDLES / "tiny.mmedge", runtime="native", cache_bytes=0, concurrent=False,
        large_pages=False, device="cpu", precision="fp32", backend="ort", spin=True,
    ).close()  # fmt: skip
    with pytest.raises(ValueError, match="runtime must be"):
        mmedge.load(BUNDLES / "tiny.mmedge", runtime="c++")
    with pytest.raises(ValueError, match="threads"):
        mmedge.load(BUNDLES / "tiny.mmedge", runtime="native", threads=0)
    with pytest.raises(NoVariantError, match="openvino"):
        mmedge.load(BUNDLES / "tiny.mmedge", runtime="native", backend="openvino")


def test_an_open_bundle_stays_the_callers(tmp_path):
    with mmedge.Bundle.open(BUNDLES / "tiny.mmedge") as bundle:
        with mmedge.load(bundle, threads=1, runtime="native") as native:
            inputs = example(native)
            native.run(inputs)
        assert bundle.samples()
    path = tmp_path / "one.mmedge"
    path.write_bytes((BUNDLES / "tiny.mmedge").read_bytes())
    with mmedge.Bundle.open(path) as bundle:
        path.unlink()
        path.write_bytes((BUNDLES / "sums.mmedge").read_bytes())
        with pytest.raises(MMEdgeError, match="changed since it was opened"):
            mmedge.load(bundle, runtime="native")


def test_libmmedge_checks_who_signed_it(monkeypatch, tmp_path):
    content = json.loads((CASES / "signatures" / "signatures.json").read_text())
    pems = {name: content["keys"][name].encode() for name in "abc"}
    path = CASES / "signatures" / "signed.mmedge"
    # No signature is verified in Python.
    monkeypatch.setattr("mmedge.bundle.signature.verify", None)

    def load(name, **options):
        return mmedge.load(path, threads=1, runtime="native", trusted_keys=[name], **options)

    (tmp_path / "b.pub").write_bytes(pems["b"])
    for key, name in ((pems["a"], "a"), (tmp_path / "b.pub", "b")):
        with load(key, lowest_version=7) as pipe:
            signature = pipe.bundle.signature
            assert signature.verified_by == (content["key_ids"][name],)
            assert signature.key_ids == (content["key_ids"]["a"], content["key_ids"]["b"])
            assert signature.release == mmedge.Bundle.open(path).signature.release
            assert pipe.bundle.trusted.lowest_version == 7
            pipe.run(example(pipe))
    for key, options in ((pems["c"], {}), (pems["a"], {"lowest_version": 8}), (b"none", {})):
        with pytest.raises(SignatureError):
            load(key, **options)
    with pytest.raises(ValueError, match="lowest_version"):
        mmedge.load(path, runtime="native", lowest_version=1)
    with mmedge.load(path, threads=1, runtime="native") as pipe:
        assert pipe.bundle.signature.verified_by == ()


def test_python_parses_no_manifest_that_took_the_place_of_the_signed_one(monkeypatch, tmp_path):
    content = json.loads((CASES / "signatures" / "signatures.json").read_text())
    path = shutil.copytree(CASES / "signatures" / "signed", tmp_path / "b")
    with mmedge.Bundle.open(BUNDLES / "sums.mmedge") as other:
        other.copy(tmp_path / "other").close()
    open_checked, parsed = native_pipeline.open_checked, []

    def replaced(*arguments, **options):
        path.rename(tmp_path / "signed")
        (tmp_path / "other").rename(path)
        return open_checked(*arguments, **options)

    monkeypatch.setattr(native_pipeline, "open_checked", replaced)
    monkeypatch.setattr("mmedge.bundle.load.manifest_from_json", parsed.append)
    trusted = [content["keys"]["a"].encode()]
    with pytest.raises(BundleError, match="changed since it was verified"):
        mmedge.load(path, threads=1, runtime="native", trusted_keys=trusted)
    assert not parsed


def test_keys_of_an_open_bundle_hold_in_libmmedge(tmp_path):
    content = json.loads((CASES / "signatures" / "signatures.json").read_text())
    path = shutil.copytree(CASES / "signatures" / "signed", tmp_path / "b")
    trusted = [content["keys"]["a"].encode()]
    with mmedge.Bundle.open(path, trusted_keys=trusted) as bundle:
        with mmedge.load(bundle, threads=1, runtime="native") as pipe:
            pipe.run(example(pipe))
        (path / "manifest.sig").unlink()
        with pytest.raises(SignatureError, match="not signed"):
            mmedge.load(bundle, threads=1, runtime="native")


@pytest.mark.parametrize(
    ("what", "use"),
    [
        ("attention", lambda pipe: pipe.attention),
        ("cache_info", lambda pipe: pipe.cache_info()),
        ("timed", lambda pipe: pipe.timed({})),
        ("stream", lambda pipe: pipe.stream(trigger="any")),
        ("run_stage", lambda pipe: pipe.run_stage("x", {})),
        ("start_loop", lambda pipe: pipe.start_loop({})),
        ("use_plan", lambda pipe: pipe.use_plan("whole")),
        ("State with tensors", lambda pipe: pipe.state({})),
    ],
)
def test_what_it_does_not_do_is_refused_by_name(both, what, use):
    _, native = both("both", plan="cut")
    with pytest.raises(InputError, match="libmmedge does not") as caught:
        use(native)
    assert what in str(caught.value)
    assert 'leave runtime="native" out' in str(caught.value)


def test_steps_that_nobody_looked_at_have_no_text(both):
    """As in Python; and each run begins its text anew."""
    runs = []
    for pipe in both("completer"):
        for _ in range(2):
            with pipe.iterate(prompt(3, 5, 7), seed=3, limit=6, cached=False) as steps:
                steps.advance()
                pieces = [step.text for step in steps]
                runs.append((pieces, steps.result()["text"]))
    assert runs[0] == runs[1] == runs[2] == runs[3]


def test_a_text_that_no_modality_takes_is_refused_as_in_python(both):
    for pipe in both("both"):
        for name in (*pipe.bundle.manifest.inputs(), "nothing"):
            with pytest.raises(InputError, match=name):
                pipe.run({name: "a text"})
    for pipe in both("sums"):
        name = next(m.name for m in pipe.bundle.manifest.modalities if m.tokenizer)
        ids = next(m.tokenizer.ids for m in pipe.bundle.manifest.modalities if m.tokenizer)
        with pytest.raises(InputError, match="given twice"):
            pipe.run({name: "red ball", ids: np.ones((1, 2), np.int64)})


def test_options_that_no_structure_holds_are_refused_as_in_python(both):
    for pipe in both("decoder"):
        for options in (
            {"seed": 2**64}, {"seed": True}, {"limit": 2**64 + 1}, {"limit": 1.5}, {"top_k": "3"},
            {"temperature": float("nan")}, {"top_p": -0.1}, {"stop": [2**64]}, {"noise": 1},
            {"forced": np.zeros((1, 2))}, {"forced": [1, 2]}, {"deadline_ms": float("inf")},
        ):  # fmt: skip
            with pytest.raises(InputError):
                pipe.run(example(pipe), **options)


def test_the_command_line_runs_and_verifies_with_it(tmp_path):
    path = BUNDLES / "tiny.mmedge"
    with mmedge.load(path) as pipe:
        inputs = example(pipe)
    words = []
    for name, array in inputs.items():
        np.save(tmp_path / f"{name}.npy", array)
        words += ["--input", f"{name}={tmp_path / f'{name}.npy'}"]
    shown = []
    for runtime in ("python", "native"):
        for command in (["run", path, *words], ["verify", path]):
            options = ["--json", "--runtime", runtime]
            done = CliRunner().invoke(build_app(), [*map(str, command), *options])
            assert done.exit_code == 0, done.output
            shown.append(json.loads(done.stdout))
    assert shown[0] == shown[2]
    assert shown[3]["ok"]


@pytest.mark.native_build
def test_a_zoo_network_with_absent_modalities(tmp_path_factory):
    path = zoo_bundle(tmp_path_factory, "vqa-attention")
    rng = np.random.default_rng(0)
    inputs = {
        "image": rng.integers(0, 256, (1, 64, 64, 3), dtype=np.uint8),
        "audio": rng.uniform(-1, 1, (1, 2000)).astype(np.float32),
    }
    with (
        mmedge.load(path, threads=1) as python,
        mmedge.load(path, threads=1, runtime="native") as native,
    ):
        assert len(python.bundle.manifest.in_order(python.plan)) == 4
        alike(native.run(inputs), python.run(inputs))
        alike(*(pipe.run({"image": inputs["image"]}) for pipe in (native, python)))
        for pipe in (native, python):
            with pytest.raises(InputError, match="image"):
                pipe.run({"audio": inputs["audio"]})
