"""Caches that libmmedge writes in place, and those that grow, beside Python: to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from cache_graphs import WORDS, Decoder
from loop_bundles import Captioner, Completer, Speller
from native_builds import ROOT
from native_loops import Both

from mmedge.bundle import Bundle
from mmedge.errors import InputError
from mmedge.native.runtime import NativeBundle, NativePipeline
from mmedge_export.targets.onnxruntime.in_place import add_in_place

pytestmark = pytest.mark.native_build

IN_PLACE = "ort-fp32-cpu-in_place"
GROWING = "ort-fp32-cpu"
BUNDLES = ROOT / "conformance" / "cases" / "bundles"

FORMS = {
    "positions": Decoder(),
    "positions of sizes": Decoder(sizes=True),
    "no limit": Decoder(most=None, layers=1),
    "few places": Decoder(most=30, rotary="none"),
    "stored beginning": Decoder(prefix=3, rotary="turned"),
    "single tokens": Decoder(single=True, prefix=2, layers=1),
}


def written(form, folder, **loop) -> str:
    """A bundle with both variants."""
    path = form.write(folder / "b", **loop)
    bundle, variants = add_in_place(Bundle.open(path), print)
    bundle.close()
    assert [variant.id for variant in variants] == [IN_PLACE]
    return path


def prompt(rng, form, batch):
    count = 1 if form.single else int(rng.integers(1, 9))
    return {"tokens": rng.integers(1, WORDS, (batch, count))}


@pytest.mark.parametrize("variant", [GROWING, IN_PLACE])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_random_calls_give_what_python_gives(form, variant, tmp_path):
    rng = np.random.default_rng(len(str(form)))
    names = ["a", "b", "c", None, None]
    with Both(written(form, tmp_path, limit=40), variant) as both:
        for _ in range(24):
            options = {"limit": int(rng.integers(1, 41)), "seed": int(rng.integers(0, 99))}
            options["temperature"] = float(rng.integers(0, 3)) / 2
            if rng.random() < 0.3:
                options["stop"] = rng.integers(0, WORDS, 2).tolist()
            if rng.random() < 0.2:
                options["deadline_ms"] = 0
            name = names[rng.integers(len(names))]
            held = None if name is None else both.state(name)[0].pending
            rows = int(rng.integers(1, 4)) if held is None or rng.random() < 0.1 else len(held)
            steps = int(rng.integers(0, 5)) if rng.random() < 0.3 else None
            both.call(prompt(rng, form, rows), state=name, steps=steps, **options)
            if rng.random() < 0.3:
                both.copy(names[rng.integers(3)], names[rng.integers(3)])
            elif rng.random() < 0.1:
                both.reset(names[rng.integers(3)])


def test_a_state_outlives_the_largest_cache_of_a_call_and_is_cut_at_what_its_states_take(tmp_path):
    form = Decoder(most=700, layers=1)
    with Both(written(form, tmp_path, limit=600, stop=()), IN_PLACE) as both:
        # Buffers of 512 places beyond the first tokens are full, and move.
        tokens = {"tokens": np.arange(1, 5)[None]}
        for limit in (600, 40, 64):
            assert both.call(tokens, state="a", limit=limit) is None
        assert both.call({"tokens": np.full((1, 64), 3)}, state="a") is InputError
        assert both.call(tokens, state="b", limit=9) is None
        both.copy("a", "c")
        both.reset("a")
        for name in "abc":
            both.call(tokens, state=name, limit=5)
        both.call({"tokens": np.ones((4, 2), np.int64)}, limit=560)  # more rows than before
        both.call(tokens, limit=3)


def test_rows_of_several_tokens_behind_a_past_are_run_one_by_one(tmp_path):
    rng = np.random.default_rng(0)
    for form in (Decoder(), Decoder(sizes=True)):
        with Both(written(form, tmp_path / str(form.sizes)), IN_PLACE) as both:
            for count in (3, 1, 7, 2):
                tokens = {"tokens": rng.integers(1, WORDS, (3, count))}
                assert both.call(tokens, state="rows", limit=4, stop=()) is None


@pytest.mark.parametrize(
    ("network", "inputs"),
    [
        (Captioner(), {"image": (3, 4, 6)}),
        (Completer(), {"tokens": (2, 3)}),
        (Speller(), {"sound": (2, 4, 5)}),
    ],
    ids=["captioner", "completer", "speller"],
)
def test_loops_without_such_a_variant_are_as_before(network, inputs, tmp_path):
    rng = np.random.default_rng(8)
    network.write(tmp_path / "b").close()
    with Both(tmp_path / "b") as both:
        for turn in range(12):
            values = {
                name: rng.integers(1, 11, shape) if name == "tokens"
                else rng.normal(size=shape).astype(np.float32)
                for name, shape in inputs.items()
            }  # fmt: skip
            name = [None, "a", "b"][turn % 3]
            both.call(values, state=name, temperature=1.0, seed=turn, limit=1 + turn)


def test_the_samples_of_both_variants_verify(tmp_path):
    path = written(Decoder(prefix=3), tmp_path, limit=9)
    for variant in (GROWING, IN_PLACE):
        with NativeBundle(path) as bundle:
            pipe = NativePipeline(bundle, variant=variant, threads=1)  # it is verified here, too
        with pipe:
            rows = pipe.verify()
            assert {row.output for row in rows} >= {"logits", "present_k0", "present_v1", "tokens"}
            assert all(row.passes for row in rows)


def test_the_choice_between_both_is_that_of_python():
    import mmedge

    with NativeBundle(BUNDLES / "decoder.mmedge") as bundle:
        for variant in (None, GROWING, IN_PLACE):
            python = mmedge.load(BUNDLES / "decoder.mmedge", variant, threads=1)
            with python, NativePipeline(bundle, variant=variant, threads=1) as pipe:
                assert pipe.decisions() == python.decisions
                assert pipe.choice()["variant"] == python.variant.id
