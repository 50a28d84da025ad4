"""First tokens that are not run again: when, and what comes of it, beside Python's.

Scores of tokens that are run in pieces differ by rounding from those of tokens run at once.
So equal bits show that both runtimes reused the same.
"""

from __future__ import annotations

import numpy as np
import pytest
from cache_graphs import WORDS, Decoder
from loop_bundles import Captioner, Completer, Graph, Speller, variant
from native_loops import Both

from mmedge.bundle import Bundle
from mmedge.loop_spec import GenerateLoop, StateSpec
from mmedge.spec import Dimension, Manifest, Modality, Stage, TensorSpec
from mmedge_export.targets.onnxruntime.in_place import add_in_place

pytestmark = pytest.mark.native_build


def prompts(rng, count, *, rows=1, words=WORDS, most=12):
    """Token arrays of which many begin as others do."""
    known = [rng.integers(1, words, (rows, most)) for _ in range(3)]
    made = []
    for _ in range(count):
        tokens = known[rng.integers(len(known))][:, : rng.integers(1, most + 1)]
        more = rng.integers(1, words, (rows, int(rng.integers(0, 5))))
        made.append(np.concatenate((tokens, more), 1))
        if rng.random() < 0.3:
            known.append(np.concatenate((made[-1], rng.integers(1, words, (rows, 3))), 1))
    return made


@pytest.mark.parametrize("name", ["ort-fp32-cpu", "ort-fp32-cpu-in_place"])
@pytest.mark.parametrize(
    "form", [Decoder(), Decoder(prefix=3), Decoder(sizes=True, layers=1)], ids=str
)
def test_prompts_that_begin_as_earlier_ones(form, name, tmp_path):
    rng = np.random.default_rng(4)
    bundle, _ = add_in_place(Bundle.open(form.write(tmp_path / "b")), print)
    bundle.close()
    with Both(tmp_path / "b", name, cached=True) as both:
        for turn, tokens in enumerate(prompts(rng, 40)):
            options = {"limit": int(rng.integers(1, 6)), "seed": turn, "temperature": turn % 2}
            if rng.random() < 0.15:
                options["deadline_ms"] = 0
            kept = f"new {turn}" if rng.random() < 0.4 else None
            steps = int(rng.integers(0, 3)) if rng.random() < 0.4 else None
            both.call({"tokens": tokens}, state=kept, steps=steps, **options)
            if kept is not None:  # what was reused is in the State, and is not the cache's
                for _ in range(2):
                    both.call({"tokens": tokens[:, :2]}, state=kept, limit=3)
        for rows in (2, 3):
            for tokens in prompts(rng, 8, rows=rows):
                both.call({"tokens": tokens}, limit=4, stop=())
        info = both.python.cache_info()["step"]
        assert info.hits > 20
        assert info.misses > 5


def test_another_image_is_another_beginning(tmp_path):
    rng = np.random.default_rng(5)
    Captioner().write(tmp_path / "b", prompt=True, new=4).close()
    images = [rng.normal(size=(1, 4, 6)).astype(np.float32) for _ in range(3)]
    with Both(tmp_path / "b", cached=True) as both:
        for tokens in prompts(rng, 40, words=11, most=9):
            image = images[rng.integers(3)]
            both.cached = rng.random() < 0.8
            both.call({"image": image, "tokens": tokens}, limit=3, stop=())
            if rng.random() < 0.2:
                image += 1  # in its place
        both.call({"image": images[0]}, limit=3)
        both.call({"image": images[0]}, limit=3)
        assert both.python.cache_info()["step"].hits > 5


def test_an_engine_with_memory_of_ours_reuses_the_same(tmp_path):
    pytest.importorskip("openvino")
    rng = np.random.default_rng(11)
    Captioner().write(tmp_path / "b", prompt=True, new=4, backend="openvino").close()
    images = [rng.normal(size=(1, 4, 6)).astype(np.float32) for _ in range(2)]
    with Both(tmp_path / "b", "openvino-fp32-cpu", cached=True, unverified=True) as both:
        for turn, tokens in enumerate(prompts(rng, 20, words=11, most=9)):
            both.call(
                {"image": images[turn % 2], "tokens": tokens},
                limit=3, stop=(), state=None if turn % 3 else f"new {turn}",
                steps=None if turn % 4 else 1,
            )  # fmt: skip
        assert both.python.cache_info()["step"].hits > 5


def counter(path, **loop) -> None:
    """A loop whose scores depend on how many runs there were: its state counts them."""
    tokens = TensorSpec("tokens", "int64", ("batch", "new"))
    runs, after = (TensorSpec(name, "float32", ("batch", 1, 1)) for name in ("runs", "after"))
    logits = TensorSpec("logits", "float32", ("batch", "new", 11))
    g = Graph()
    g("Add", "runs", np.float32(1), name="after")
    weight = np.random.default_rng(0).normal(size=(11, 11)).astype(np.float32)
    g("Mul", g("Gather", weight, "tokens"), g("Cos", "after"), name="logits")
    files = {"step": "onnx/step.onnx"}
    manifest = Manifest(
        name="counter",
        modalities=(Modality("text", ("tokens",)),),
        stages=(Stage("step", files["step"], (tokens, runs), (logits, after)),),
        outputs=(),
        variants=(variant(files),),
        files={},
        dimensions={"batch": Dimension(1, 1, 8), "new": Dimension(1, 1, 3)},
        states=(StateSpec("step", "runs", "after"),),
        loops=(
            GenerateLoop(**{
                "kind": "generate", "stage": "step", "token": "tokens", "logits": "logits",
                "limit": 5, **loop,
            }),
        ),
    )  # fmt: skip
    Bundle.write(path, manifest, {files["step"]: g.bytes((tokens, runs), (logits, after))}).close()


@pytest.mark.parametrize("loop", [{}, {"start": (1, 2)}, {"whole_prompt": True}], ids=str)
def test_the_number_of_runs_is_that_of_python(loop, tmp_path):
    rng = np.random.default_rng(6)
    counter(tmp_path / "b", **loop)
    most = 1 if loop.get("whole_prompt") else 7
    with Both(tmp_path / "b", cached=True) as both:
        for tokens in prompts(rng, 60, words=11, most=most):
            both.call({"tokens": tokens}, limit=3, steps=rng.choice([None, 1]))


def test_a_handle_forgets_what_a_call_left(tmp_path):
    counter(tmp_path / "b")
    short, longer = ({"tokens": np.arange(1, count)[None]} for count in (5, 7))
    with Both(tmp_path / "b") as both:
        python, native = both.python, both.native
        fresh = python.run(longer, cached=False)["tokens"]
        python.run(short)
        reused = python.run(longer)["tokens"]
        assert reused.tolist() != fresh.tolist()  # it took another number of runs
        native.run(short)
        native.forget()
        assert native.run(longer)["tokens"].tolist() == fresh.tolist()
        native.run(short)
        assert native.run(longer)["tokens"].tolist() == reused.tolist()


def test_the_least_recently_used_beginning_goes_first(tmp_path):
    rng = np.random.default_rng(7)
    counter(tmp_path / "b")
    with Both(tmp_path / "b", cached=True) as both:
        all_tokens = [rng.integers(1, 11, (1, 6)) for _ in range(80)]
        for place in [*range(80), *range(79, -1, -1), *rng.integers(0, 80, 60)]:
            both.call({"tokens": all_tokens[place]}, limit=2)
        assert both.python.cache_info()["step"].evictions > 30


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path):
    Completer(words=2**18).write(tmp_path / "b", most=40).close()
    rows = 8
    rng = np.random.default_rng(9)
    with Both(tmp_path / "b", cached=True) as both:
        both.native.reserve(rows, 8)
        for count in (6, 3, 7):  # scores of 8 rows have 8 MiB
            tokens = rng.integers(1, 99, (rows, 1)).repeat(count, 1)
            for _ in range(3):
                both.call({"tokens": tokens}, limit=1)
                tokens[0, -1] += 1


def test_a_state_that_does_not_grow(tmp_path):
    rng = np.random.default_rng(10)
    Speller().write(tmp_path / "b").close()
    sounds = [rng.normal(size=(2, 4, 5)).astype(np.float32) for _ in range(2)]
    with Both(tmp_path / "b", cached=True) as both:
        for turn in range(12):
            both.call({"sound": sounds[turn % 2]}, limit=4, state="a" if turn % 3 else None)
