"""Single calls: inputs, and the outputs or the error."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from case_files import Tensors, write

import mmedge
from mmedge.errors import MMEdgeError

__all__ = ["write_calls"]


@dataclass(frozen=True)
class Call:
    """A call: its arrays and texts by input, its state's name, and options of a load."""

    name: str
    arrays: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    plan: str | None = None
    state: str | None = None
    allow_non_finite: bool = False


def random_image(seed: int, batch: int = 1) -> np.ndarray:
    """Of the bundles that take [batch, 2, 2, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (batch, 2, 2, 3), np.uint8)


def numbers(*shape: int, start: float = 0.0) -> np.ndarray:
    """Ascending by 0.5."""
    count = int(np.prod(shape))
    return (start + 0.5 * np.arange(count, dtype=np.float32)).reshape(shape)


def tiny_calls() -> list[Call]:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (3, 4, 4, 3), np.uint8)
    text = rng.integers(0, 9, (3, 5))
    one = image[:1]
    return [
        Call("one row", {"image": one, "text": text[:1]}),
        Call("three rows, inputs in another order", {"text": text, "image": image}),
        Call("zeros stand in", {"image": image}),
        Call("unknown input", {"image": one, "picture": one}),
        Call("unknown input comes before a wrong dtype", {"picture": one, "image": text[:1]}),
        Call("no input at all"),
        Call("required input missing", {"text": text[:1]}),
        Call("wrong dtype", {"image": one.astype(np.float32)}),
        Call("wrong rank", {"image": one[0]}),
        Call("wrong fixed size", {"image": one[:, :3]}),
        Call("two batches", {"image": one, "text": text}),
        Call("batch of no rows", {"image": one[:0]}),
        Call("batch above its limit", {"image": np.repeat(one, 5, 0)}),
        Call("text for what takes none", {"image": one}, {"text": "hello"}),
    ]


def sums_calls() -> list[Call]:
    image = random_image(3, 2)
    ids = np.array([[2, 3, 0, 0, 0, 1]], np.int64)
    mask = np.array([[True, True, False, False, False, True]])
    one = {"image": image[:1]}
    return [
        Call("all inputs", {
            "image": image, "ids": np.repeat(ids, 2, 0), "mask": np.repeat(mask, 2, 0),
            "pcm": numbers(2, 4), "state": numbers(2, 2, start=-1),
        }),
        Call("zeros and a token stand in, in the smallest sizes", one),
        Call("a token is repeated along the batch", {"image": np.repeat(image, 3, 0)[:5]}),
        Call("a text under the modality's name", one, {"text": "red ball"}),
        Call("a text under the name of its ids", one, {"ids": "ball red green"}),
        Call("a text of one row beside two", {"image": image}, {"text": "red"}),
        Call("ids by themselves and by a text", {**one, "ids": ids}, {"text": "red"}),
        Call("a modality in part", {**one, "ids": ids}),
        Call("text without tokens", one, {"text": "   "}),
        Call("text too long", one, {"text": "red ball red ball red ball red"}),
        Call("dynamic size below its limit", {**one, "pcm": numbers(1, 1)}),
        Call("dynamic size above its limit", {**one, "pcm": numbers(1, 11)}),
        Call("NaN", {**one, "pcm": np.array([[1, np.nan, 2]], np.float32)}),
        Call("infinity", {**one, "pcm": np.array([[1, -np.inf, 2]], np.float32)}),
        Call("NaN that is allowed", {**one, "pcm": np.array([[1, np.nan]], np.float32)},
             allow_non_finite=True),
        Call("mask of another dtype", {**one, "ids": ids, "mask": mask.astype(np.uint8)}),
    ]  # fmt: skip


def both_calls() -> list[Call]:
    image, pcm = random_image(4, 2), numbers(2, 5, start=-2)
    values = {"image": image, "pcm": pcm, "state": numbers(2, 2)}
    return [
        Call("cut", values, plan="cut"),
        Call("whole", values, plan="whole"),
        Call("the default plan", values),
        Call("cut, stand-ins", {"image": image}, plan="cut"),
        Call("whole, stand-ins", {"image": image}, plan="whole"),
        Call("cut, a required modality missing", {"pcm": pcm}, plan="cut"),
    ]


def sizes_calls() -> list[Call]:
    return [
        Call("all", {"a": numbers(4), "b": numbers(3, 6), "c": numbers(6)}),
        Call("completed sizes are the smallest that keep the constraints", {"a": numbers(4)}),
        Call("an empty input", {"a": numbers(0)}),
        Call("b gives the size of c", {"a": numbers(2), "b": numbers(2, 3)}),
        Call("c gives a size of b", {"a": numbers(6), "c": numbers(9)}),
        Call("large", {"a": numbers(40)}),
        Call("no multiple", {"a": numbers(3)}),
        Call("above the limit", {"a": numbers(42)}),
        Call("b is too short for a", {"a": numbers(8), "b": numbers(3, 6)}),
        Call("the second constraint", {"a": numbers(0), "b": numbers(1, 6)}),
        Call("two sizes of one dimension", {"a": numbers(0), "b": numbers(3, 6), "c": numbers(9)}),
        Call("a size of b that is no multiple", {"a": numbers(2), "b": numbers(2, 7)}),
    ]


def floats_calls() -> list[Call]:
    def call(name: str, value: float, where: str, **options: bool) -> Call:
        arrays = {key: numbers(1, 4) for key in ("plain", "gaps", "mask")}
        arrays[where][0, 3] = value
        return Call(name, arrays, **options)

    nan, inf = float("nan"), float("inf")
    return [
        call("finite", 2.5, "plain"),
        call("NaN where no golden sample has it", nan, "plain"),
        call("NaN where a golden sample has it", nan, "gaps"),
        call("infinity where golden samples have only NaN", inf, "gaps"),
        call("infinity where a golden sample has minus infinity", inf, "mask"),
        call("NaN where golden samples have only infinity", nan, "mask"),
        call("NaN that is passed on", nan, "plain", allow_non_finite=True),
        call("the largest number, whose square is infinite", 3e38, "plain"),
    ]


def state_calls() -> list[Call]:
    def call(name: str, number: float, state: str | None, batch: int = 1) -> Call:
        value = np.full((batch, 4), number, np.float32)
        return Call(name, {"x": value, "gain": value + 1}, state=state)

    return [
        call("without a state", 1.5, None),
        call("a new state", 1.5, "a"),
        call("the state of the call before", -2, "a"),
        call("another new state", 4, "b", 2),
        call("the first state again", 0.25, "a"),
        call("another batch", 4, "a", 2),
        call("the state is as it was", 1, "a"),
        Call("gain stands in", {"x": np.ones((1, 4), np.float32)}, state="a"),
        call("the second state again", 3, "b", 2),
        call("a state near the largest number", 3e38, "c"),
    ]


def nan_state_calls() -> list[Call]:
    def call(name: str, number: float) -> Call:
        value = np.full((1, 4), number, np.float32)
        return Call(name, {"x": value}, state="n", allow_non_finite=True)

    return [
        call("a number", 2),
        call("NaN, which the state would be", float("nan")),
        call("the state before is kept", 3),
    ]


def attention_calls() -> list[Call]:
    def call(name: str, seed: int, batch: int, left: int, right: int) -> Call:
        rng = np.random.default_rng(seed)
        sizes = (left, right)
        arrays = {"q": rng.normal(size=(batch, 2, 3, 4))}
        for letter in "kv":
            for i, size in enumerate(sizes):
                arrays[f"{letter}{i}"] = rng.normal(size=(batch, 2, size, 4))
        for i, size in enumerate(sizes):
            arrays[f"bias{i}"] = rng.normal(size=(batch, 1, 3, size))
        return Call(name, {key: value.astype(np.float32) for key, value in arrays.items()})

    return [call("one row", 1, 1, 5, 3), call("three rows", 2, 3, 64, 1)]


#: By bundle, its calls.
CALLS = {
    "attention": attention_calls,
    "both": both_calls,
    "floats": floats_calls,
    "fusion-state": lambda: [*state_calls(), *nan_state_calls()],
    "sizes": sizes_calls,
    "state": state_calls,
    "sums": sums_calls,
    "tiny": tiny_calls,
}


def write_calls(folder: Path, bundles: Path) -> None:
    """Write a file for each bundle to ``folder``."""
    for bundle, make in CALLS.items():
        tensors, rows, pipes, states = Tensors(), [], {}, {}
        for number, call in enumerate(make()):
            row: dict[str, Any] = {"name": call.name}
            row["inputs"] = tensors.put_all(f"{number}.in", call.arrays)
            row["order"] = [*call.arrays, *call.texts]
            row["texts"] = call.texts
            row["plan"], row["state"] = call.plan, call.state
            row["allow_non_finite"] = call.allow_non_finite
            key = call.plan, call.allow_non_finite
            if key not in pipes:
                path = bundles / f"{bundle}.mmedge"
                pipes[key] = mmedge.load(
                    path, plan=call.plan, threads=1, kernels=False, precision="fp32",
                    allow_non_finite=call.allow_non_finite,
                )  # fmt: skip
            pipe = pipes[key]
            options = {}
            if call.state is not None:
                options["state"] = states.setdefault((key, call.state), pipe.state())
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                try:
                    outputs = pipe.run({**call.arrays, **call.texts}, **options)
                except MMEdgeError as error:
                    row["error"], row["message"] = type(error).__name__, str(error)
                else:
                    row["outputs"] = tensors.put_all(f"{number}.out", outputs)
            rows.append(row)
        for pipe in pipes.values():
            pipe.close()
        content = {"bundle": bundle, "variant": pipe.variant.id, "cases": rows}
        write(folder / f"{bundle}.json", content, tensors)
