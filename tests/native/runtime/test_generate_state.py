"""The loop ``generate`` without its stage in C++ beside mmedge/execution/generate.py.

Both are given the same scores. What each run of the stage takes, what is chosen, how it ends, and
what is left for the next call are the same, over random loops, prompts, options and states.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from probe_cases import number, numbers, run_cases, tensor

from mmedge.errors import BackendError, BundleError, InputError
from mmedge.execution import generate
from mmedge.execution.generate import GenerateRun, Prefix, TokenLoop
from mmedge.execution.generate_options import read_options
from mmedge.execution.state import State
from mmedge.loop_spec import GenerateLoop, StateSpec
from mmedge.spec import (
    DTYPES,
    Dimension,
    Manifest,
    Modality,
    Stage,
    TensorSpec,
    Tolerance,
    Variant,
)

pytestmark = pytest.mark.native_build

WORDS = 7
CODES = {BundleError: 1, InputError: 2, BackendError: 4}
MOST_FIRST, MOST_ROWS = 64, 4


def pick(rng: np.random.Generator, *values: Any) -> Any:
    return values[rng.integers(len(values))]


def tokens_of(rng: np.random.Generator, most: int) -> tuple[int, ...]:
    return tuple(rng.integers(0, WORDS, rng.integers(0, most + 1)).tolist())


def manifest_of(rng: np.random.Generator) -> Manifest:
    rows = pick(rng, "batch", "batch", 2)
    shape = pick(rng, (rows,), (rows, "new"), (rows, "new"), (rows, "new"), (rows, 1))
    if rng.random() < 0.02:
        shape = (rows, 3)  # refused
    token = TensorSpec("tokens", pick(rng, "int32", "int64"), shape)
    inputs, states = [token], []
    words = WORDS if rng.random() < 0.8 else "words"
    logits = (rows, words) if rng.random() < 0.5 else (*shape, words)
    if len(shape) == 1:
        logits = (rows, words)
    outputs = [TensorSpec("logits", pick(rng, "float16", "float32", "float64"), logits)]
    has_position = rng.random() < 0.6
    if has_position:
        position = pick(rng, shape, shape[1:], ())
        inputs.append(TensorSpec("position", pick(rng, "int32", "int64"), position))
    if rng.random() < 0.5:
        inputs.append(TensorSpec("memory", "float32", (rows, 2)))
    if rng.random() < 0.7:
        inputs.append(TensorSpec("past", "float32", (rows, "past")))
        outputs.append(TensorSpec("present", "float32", (rows, "total")))
        states.append(StateSpec("step", "past", "present", 1, "empty"))
    if rng.random() < 0.3:
        inputs.append(TensorSpec("cell", "float32", (rows, 2)))
        outputs.append(TensorSpec("next_cell", "float32", (rows, 2)))
        states.append(StateSpec("step", "cell", "next_cell", None, "zeros"))
    most = pick(rng, None, None, 4, 9, 14)
    loop = GenerateLoop(
        "generate", "step", "tokens", "logits", int(rng.integers(1, 9)),
        "position" if has_position else None, tokens_of(rng, 2), tokens_of(rng, 2),
        tokens_of(rng, 2), tokens_of(rng, 2), pick(rng, 0.0, 0.0, 1.0), int(pick(rng, 0, 3)),
        pick(rng, 1.0, 0.8), None, bool(rng.random() < 0.2),
    )  # fmt: skip
    output = TensorSpec(pick(rng, "features", "features", "features", "text"), "float32", (1,))
    return Manifest(
        name="writer",
        modalities=(Modality("prompt", ("tokens",)),),
        stages=(Stage("step", "s.onnx", tuple(inputs), tuple(outputs)),),
        outputs=(output.name,) if rng.random() < 0.1 else ("features",),
        variants=(Variant("ort", "fp32", "cpu", {}, Tolerance(0, 0)),),
        files={},
        dimensions={
            "batch": Dimension(1, int(rng.integers(1, 3)), MOST_ROWS),
            "new": Dimension(int(rng.integers(0, 2)), 3, pick(rng, None, 1, 2, 5), 1),
            "past": Dimension(0, 1, None if most is None else most - 1),
            "total": Dimension(1, 2, most),
            "words": Dimension(1, 5, 20),
        },
        states=tuple(states),
        loops=(loop,),
    )


class FakeSession:
    """A stage that gives random scores, and remembers what it took and gave."""

    def __init__(self, rng: np.random.Generator, manifest: Manifest, rows: int) -> None:
        self._rng, self._rows = rng, rows
        (self._logits, *_) = manifest.stages[0].outputs
        self.taken: list[str] = []
        self.scores: list[np.ndarray] = []
        self._words = WORDS if self._logits.shape[-1] == WORDS else int(rng.integers(7, 12))

    def make_scores(self, new: int, *, rank: int) -> np.ndarray:
        shape = (self._rows, self._words) if rank == 2 else (self._rows, new, self._words)
        scores = np.asarray(self._rng.integers(-3, 4, shape) * 0.7)
        scores[self._rng.random(shape) < 0.01] = self._rng.choice([50.0, -np.inf, np.inf, np.nan])
        self.scores.append(scores.astype(DTYPES[self._logits.dtype]))
        return self.scores[-1]

    def run(self, feeds):
        tokens = feeds["tokens"]
        new = tokens.shape[1] if tokens.ndim == 2 else 1
        self.taken.append(
            "".join(text_of(n, feeds[n]) for n in ("tokens", "position") if n in feeds)
        )
        outputs = {"logits": self.make_scores(new, rank=len(self._logits.shape))}
        if "past" in feeds:
            rows, size = feeds["past"].shape
            outputs["present"] = np.zeros((rows, size + new), np.float32)
        if "cell" in feeds:
            outputs["next_cell"] = feeds["cell"]
        return outputs


def text_of(name: str, array: np.ndarray) -> str:
    sizes = "".join(f" {size}" for size in array.shape)
    return f" {name} {array.dtype}{sizes} :" + words_of(array)


def words_of(array: np.ndarray) -> str:
    return "".join(f" {value}" for value in np.ravel(array).tolist())


def call_of(rng: np.random.Generator, manifest: Manifest) -> dict[str, Any]:
    """What one call is given; most often something that fits."""
    stage, dimensions = manifest.stages[0], manifest.dimensions
    names = {spec.name for spec in stage.inputs}
    rows = stage.inputs[0].shape[0]
    batch = rows if isinstance(rows, int) else int(rng.integers(1, MOST_ROWS + 1))
    call: dict[str, Any] = {"memory": None, "prompt": None, "size": 0, "pending": None}
    call["taken"] = call["choices"] = 0
    if "memory" in names:
        call["memory"] = np.zeros((batch, 2), np.float32)
    elif rng.random() < 0.2 and isinstance(rows, str):
        batch = dimensions["batch"].opt
    if rng.random() < 0.8:
        others = call["memory"] is not None or isinstance(rows, int)  # that say how many rows
        shape = (batch + (others and rng.random() < 0.03), int(rng.integers(0, 12)))
        prompt = rng.integers(-1 if rng.random() < 0.03 else 0, WORDS, shape)
        if rng.random() < 0.1 and shape[1]:
            prompt = prompt[:, :1].reshape(-1)
        call["prompt"] = prompt.astype(DTYPES[stage.inputs[0].dtype])
        if rng.random() < 0.03 and prompt.ndim == 2:
            call["prompt"] = np.zeros((len(prompt), 0), call["prompt"].dtype)
    elif call["memory"] is None and isinstance(rows, str):
        batch = dimensions["batch"].opt
    if rng.random() < 0.3:
        call["taken"], call["choices"] = int(rng.integers(0, 6)), int(rng.integers(0, 4))
        most = dimensions["past"].max
        if call["taken"]:
            call["size"] = int(rng.integers(0, (6 if most is None else min(most, 6)) + 1))
        pending = (batch + (rng.random() < 0.05), int(rng.integers(0, 4)))
        call["pending"] = rng.integers(0, WORDS, pending) if rng.random() < 0.8 else None
    elif rng.random() < 0.3 and call["prompt"] is not None and call["prompt"].ndim == 2:
        first = np.tile(np.array(manifest.loop.start, np.int64), (len(call["prompt"]), 1))
        first = np.concatenate((first, call["prompt"]), 1)
        prefix = np.concatenate((first, first), 1)[:, : rng.integers(1, first.shape[1] + 4)]
        if rng.random() < 0.4:
            prefix = np.array(first)
        elif rng.random() < 0.4 and prefix.size:
            prefix = prefix.copy()
            prefix.flat[rng.integers(prefix.size)] ^= 1
        call["prefix"] = prefix
    call["batch"] = batch
    call["options"] = options_of(rng, batch)
    call["deadline"] = pick(rng, np.inf, np.inf, np.inf, *map(float, range(5)))
    call["cancel"] = int(rng.integers(0, 4)) if rng.random() < 0.2 else -1
    return call


def options_of(rng: np.random.Generator, batch: int) -> dict[str, Any]:
    options: dict[str, Any] = {"seed": int(rng.integers(0, 2**64, dtype=np.uint64))}
    for name, good, bad in (
        ("limit", (1, 2, 3), (0, 2**20)),
        ("temperature", (0.0, 0.5, 1.0, 100.0), (-0.1, 100.5, np.nan, np.inf)),
        ("top_k", (0, 1, 3, 10), (-1,)),
        ("top_p", (1.0, 0.9, 0.01), (0.0, 1.5, np.nan, -1.0)),
    ):
        if rng.random() < 0.25:
            options[name] = pick(rng, *(bad if rng.random() < 0.1 else good))
    if rng.random() < 0.3:
        options["stop"] = [*tokens_of(rng, 3), *([WORDS + 2**32] if rng.random() < 0.05 else [])]
    if rng.random() < 0.15:
        shape = (batch + (rng.random() < 0.1), int(rng.integers(0, 4)))
        options["forced"] = rng.integers(-1 if rng.random() < 0.05 else 0, WORDS, shape)
    return options


def expected_of(
    rng: np.random.Generator, loop: TokenLoop, manifest: Manifest, call: dict[str, Any]
) -> tuple[str, list[np.ndarray]]:
    """The lines of one call, and the scores that it was given."""
    session = FakeSession(rng, manifest, call["batch"])
    loop.session = session  # type: ignore[assignment]
    generate.monotonic = lambda: float(len(session.taken))
    tensors = {} if call["prompt"] is None else {"tokens": call["prompt"]}
    if call["memory"] is not None:
        tensors["memory"] = call["memory"]
    state, lines, done = State(None), [], 0
    arrays = {
        "past": np.zeros((call["batch"], call["size"]), np.float32),
        "cell": np.zeros((call["batch"], 2), np.float32),
    }
    state.replace(arrays, call["taken"], call["choices"], call["pending"])
    loop.cache = None  # of the fake there is one prefix at most
    try:
        options = read_options(loop.loop, loop.most, call["options"], call["deadline"])
        run = GenerateRun(loop, tensors, options, state=state, key="constants")
        if "prefix" in call and not loop.loop.whole_prompt:
            size = call["prefix"].shape[1]
            states = {**arrays, "past": np.zeros((call["batch"], size), np.float32)}
            states = {state.input: states[state.input] for state in manifest.states}
            kept = FakeSession(rng, manifest, call["batch"])
            prefix = Prefix("constants", call["prefix"], states, np.zeros(0))
            common = run._common(prefix)
            lines.append(f"common {common}")
            if common:
                scores = kept.make_scores(1, rank=2)
                prefix = Prefix("constants", call["prefix"], states, scores)
                loop.cache = SimpleNamespace(best=lambda *_: prefix, put=lambda *_: None)
                if common == run._tokens.shape[1]:
                    session.scores = kept.scores
        elif "prefix" in call:
            lines.append("common 0")
        while run.index != call["cancel"]:
            try:
                is_step = run.advance()
            finally:
                lines += lines_of(session.taken[done:], run)
                done = len(session.taken)
            if not is_step:
                break
            tokens = "".join(
                f" {token}{'+' if length is None else ''}{'!' if length == run.index - 1 else ''}"
                for token, length in zip(run._chosen[-1], run._lengths, strict=True)
            )
            lines.append(f"step{tokens} {run.finish or ''}")
    except (InputError, BackendError) as error:
        lines.append(f"error {CODES[type(error)]} {error}")
        return "\n".join(lines), session.scores
    run.cancel()
    result = run.result()
    run.leave_state({})
    ends = "".join(f" {n} {f}" for n, f in zip(result["lengths"], result["finish"], strict=True))
    pending = state.pending
    lines.append(
        f"end {run.finish}{ends} :{words_of(result['tokens'])} : {state.position} {state.choices} "
        f"{pending.shape[1]} :{words_of(pending)}"
    )
    return "\n".join(lines), session.scores


def lines_of(taken: list[str], run: GenerateRun) -> list[str]:
    """The runs of one step. Only the last one's scores count, if it came to the last token."""
    last = len(taken) - 1
    return [f"run {int(i == last and run._has_begun)}{text}" for i, text in enumerate(taken)]


def bytes_of_manifest(manifest: Manifest) -> bytes:
    def specs(specs: tuple[TensorSpec, ...]) -> str:
        texts = [f"{s.name} {s.dtype} {len(s.shape)} {' '.join(map(str, s.shape))}" for s in specs]
        return " ".join([str(len(specs)), *texts])

    sizes = manifest.dimensions
    limits = [
        f"{name} {d.min} {d.opt} {-1 if d.max is None else d.max} {d.multiple}"
        for name, d in sizes.items()
    ]
    stage, loop = manifest.stages[0], manifest.loop
    states = [f"{s.input} {s.output} {-1 if s.axis is None else s.axis}" for s in manifest.states]
    lists = " ".join(map(numbers, (loop.start, loop.stop, loop.suppress, loop.suppress_first)))
    return (
        f"{len(limits)} {' '.join(limits)} {specs(stage.inputs)} {specs(stage.outputs)} "
        f"{len(states)} {' '.join(states)} {numbers(manifest.outputs)} {loop.limit} "
        f"{int(loop.position is not None)} {lists} {number(loop.temperature)} {loop.top_k} "
        f"{number(loop.top_p)} {int(loop.whole_prompt)} {MOST_ROWS} {MOST_FIRST} 20"
    ).encode()


def bytes_of_call(call: dict[str, Any], scores: list[np.ndarray], growing: int) -> bytes:
    def rows(array: np.ndarray | None) -> str:
        if array is None:
            return "-"
        return f"+ {array.shape[0]} {array.shape[1]}{words_of(array)}"

    def option(name: str) -> str:
        value = call["options"].get(name)
        return "-" if value is None else str(value)

    batch = "-" if call["memory"] is None else str(len(call["memory"]))
    prompt = b"0" if call["prompt"] is None else b"1" + tensor(call["prompt"])
    stop = call["options"].get("stop")
    options = (option(name) for name in ("temperature", "top_k", "top_p", "seed"))
    words = (
        "",
        numbers([call["size"]] * growing),
        str(call["taken"]),
        str(call["choices"]),
        rows(call["pending"]),
        rows(call.get("prefix")),
        rows(call["options"].get("forced")),
        option("limit"),
        "-" if stop is None else "+ " + numbers(stop),
        *options,
        number(call["deadline"]),
        str(call["cancel"]),
        str(len(scores)),
    )
    return f" {batch} ".encode() + prompt + " ".join(words).encode() + b"".join(map(tensor, scores))


@pytest.mark.parametrize("seed", range(4))
def test_the_bookkeeping_is_that_of_python(probe, seed, monkeypatch):
    monkeypatch.setattr(generate, "monotonic", generate.monotonic)
    rng = np.random.default_rng(seed)
    cases, expected = [], []
    for _ in range(150):
        manifest = manifest_of(rng)
        case, texts, runs = bytes_of_manifest(manifest), [], []
        bundle = SimpleNamespace(manifest=manifest, path="b.mmedge", first_states=dict)
        try:
            loop = TokenLoop(bundle, {"step": None}, None, "prefix")
        except BundleError as error:
            texts.append(f"refused 1 {error}")
        else:
            for _ in range(3):
                call = call_of(rng, manifest)
                text, scores = expected_of(rng, loop, manifest, call)
                texts.append(text)
                runs.append(bytes_of_call(call, scores, len(loop.growth)))
        cases.append(case + f" {len(runs)}".encode() + b"".join(runs))
        expected += "\n".join(texts).split("\n")
    written = run_cases(probe("generate_probe"), cases).decode().splitlines()
    figures = r"( to \S+)?, got .*"
    for line, other in zip(written, expected, strict=False):
        # Numbers of messages are written as each language writes them.
        assert re.sub(figures, "", line) == re.sub(figures, "", other)
    assert len(written) == len(expected)
    seen = " ".join(line.split(" ")[0] + line.split(" ")[1] for line in written)
    for word in ("endstop", "endlimit", "enddeadline", "endcancel", "error2", "error4", "refused1"):
        assert word in seen, word
