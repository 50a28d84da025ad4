"""A bundle beside the network of transformers that it was made of, on inputs of other sizes.

It is independent of the check that export makes: these inputs export has not seen.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

import mmedge
from mmedge_export.sources.huggingface.examples import main_part
from mmedge_export.sources.huggingface.sensors import parameters_of
from mmedge_export.sources.huggingface.task import text_alone

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mmedge_export.model import Model

__all__ = ["Wrong", "check_bundle", "in_words"]

#: How far values may be from torch's, as a share of the largest; and how far scores of two tokens
#: are apart where either may be chosen.
NEAR, TIE = 1e-4, 1e-4


class _DrawsInOrder(TorchFunctionMode):
    """Sorts what a network draws at random, as its bundle does: only so can both be held together.

    What one call of such a network gives, the next does not.
    """

    has_drawn = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Call ``func``."""
        result = func(*args, **(kwargs or {}))
        if func is not torch.multinomial:
            return result
        self.has_drawn = True
        return result.sort().values


class Wrong(Exception):  # noqa: N818 - a result of a check
    """A bundle was written, and it answers something else than the network."""


def in_words(error: Exception) -> str:
    """An exception with the line that raised it, and the line of mmedge that came to it."""
    frames = traceback.extract_tb(error.__traceback__)
    last = [frames[-1], *(f for f in reversed(frames) if "mmedge" in f.filename)][:2]
    places = [f"{'/'.join(f.filename.split('/')[-2:])}:{f.lineno}" for f in last]
    return f"{type(error).__name__}: {str(error)[:500]} ({', by '.join(dict.fromkeys(places))})"


def check_bundle(network: Any, model: Model, path: Path, held: Mapping[str, Any]) -> str:  # noqa: ANN401
    """Hold a bundle against the network on new inputs; what was compared, in words.

    Raises:
        Wrong: they differ, or nothing could be compared.
    """
    failures: list[str] = []
    with mmedge.load(path) as pipe:
        for growth in (1, 0):
            for part in ("batch and length", "batch"):
                inputs = new_inputs(network, model, growth, lengths=part != "batch")
                try:
                    return compare(network, model, pipe, inputs, held)
                except Wrong:
                    raise
                except Exception as error:  # noqa: BLE001 - other sizes are tried
                    failures.append(in_words(error))
    raise Wrong(f"nothing could be compared: {failures[0]}")


def compare(
    network: Any,  # noqa: ANN401
    model: Model,
    pipe: Any,  # noqa: ANN401
    inputs: Mapping[str, np.ndarray[Any, Any]],
    held: Mapping[str, Any],
) -> str:
    """As :func:`check_bundle`, on some inputs."""
    result = pipe(**inputs)
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    sizes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
    if model.loop is None:
        expected, reference = reference_outputs(network, model, tensors, held)
        worst = 0.0
        for name, value in result.items():
            right = expected[name].numpy()
            if right.shape != value.shape:
                raise Wrong(f"{name} is {value.shape}, torch has {right.shape} ({sizes})")
            special = ~np.isfinite(right)
            if not np.array_equal(value[special], right[special], equal_nan=True):
                raise Wrong(f"{name} has NaN or infinities where torch has not ({sizes})")
            right = np.where(special, 0, right)
            scale = float(np.abs(right).max(initial=0.0)) or 1.0
            off = np.abs(np.where(special, 0, value).astype(np.float64) - right).max(initial=0.0)
            worst = max(worst, float(off) / scale)
            if not off <= NEAR * scale:
                raise Wrong(f"{name} is {off / scale:.2g} of its largest off torch ({sizes})")
        return f"within {worst:.1g} of {reference} at {sizes}"
    seen = compare_tokens(network, model, result, tensors, held)
    return f"{seen} tokens are those of generate() at {sizes}"


def reference_outputs(
    network: Any,  # noqa: ANN401
    model: Model,
    tensors: Mapping[str, torch.Tensor],
    held: Mapping[str, torch.Tensor],
) -> tuple[Mapping[str, torch.Tensor], str]:
    """The network's own answer; where it does not come by its arguments, the model's module's."""
    module: Any = model.module
    options = {"use_cache": False} if "use_cache" in parameters_of(network) else {}
    with torch.no_grad():
        for values in (network_values(network, tensors, held), dict(tensors)):
            try:
                with _DrawsInOrder() as draws:
                    answer = network(**values, **options, return_dict=True)
                words = (
                    "the network, its random draws in order" if draws.has_drawn else "the network"
                )
                answer = main_part(answer)
                return {name: answer[name] for name in model.outputs or ()}, words
            except Exception:  # noqa: BLE001, S112 - it needs what the source gives it
                continue
        return module(**{n: t.clone() for n, t in tensors.items()}), "the source's module"


def network_values(
    network: Any,  # noqa: ANN401
    tensors: Mapping[str, torch.Tensor],
    held: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """What the network takes for a bundle's inputs: with what the bundle has as a constant."""
    values: dict[str, torch.Tensor] = {}
    rows = next(iter(tensors.values())).shape[0]
    for name, value in tensors.items():
        # A bundle's rows may be one after another to the network.
        is_flat = name in held and held[name].ndim == value.ndim - 1
        values[name] = value.flatten(0, 1) if is_flat else value.clone()
        # Or side by side, in one strip.
        is_strip = value.ndim == 4 and name in held and held[name].shape[:1] == (1,)
        if is_strip and held[name].shape[-1] > value.shape[-1]:
            strip = value.movedim(0, 2)
            values[name] = strip.reshape(1, *strip.shape[:2], -1)
    main = held.get("input_ids", next(iter(held.values()), None))
    for name, value in held.items():
        if name in values or name not in parameters_of(network) or main is None:
            continue
        count = max(value.shape[0] // main.shape[0], 1)
        is_of_tokens = "input_ids" in tensors and value.shape == main.shape
        more = tensors["input_ids"].shape[1] - value.shape[1] if is_of_tokens else 0
        values[name] = value[:count].repeat(rows, *[1] * (value.ndim - 1))
        if more:  # of tokens: none of the further ones stands for anything
            fill = torch.ones if bool((value == 1).all()) else torch.zeros
            further = fill((rows, max(more, 0)), dtype=value.dtype)
            values[name] = torch.cat([values[name], further], 1)[:, : value.shape[1] + more]
    return values


def compare_tokens(
    network: Any,  # noqa: ANN401
    model: Model,
    result: Mapping[str, np.ndarray[Any, Any]],
    tensors: Mapping[str, torch.Tensor],
    held: Mapping[str, Any],
) -> int:
    """How many tokens were compared with those of ``generate()``.

    Raises:
        Wrong: one differs.
    """
    loop: Any = model.loop
    rows = result["tokens"].shape[0]
    prompt = loop.token in model.inputs
    with torch.no_grad():
        answer = network.generate(
            **network_values(network, tensors, held),
            **text_alone(network),
            do_sample=False,
            num_beams=1,
            max_new_tokens=loop.limit + len(loop.start),
            output_logits=True,
            return_dict_in_generate=True,
        )
    sequences, scores = answer.sequences, getattr(answer, "logits", None)
    begin = tensors[loop.token].shape[1] if prompt else len(loop.start)
    begin = begin if sequences.shape[1] > begin or not prompt else 0
    if not prompt and sequences[0, :begin].tolist() != list(loop.start):
        begin = 0  # a generate() that gives what it chose alone
    seen = 0
    for row in range(rows):
        length = int(result["lengths"][row])
        ours = result["tokens"][row, :length].tolist()
        for at, theirs in enumerate(sequences[row, begin:].tolist()):
            if at >= len(ours):
                if theirs not in loop.stop and len(ours) < loop.limit:
                    raise Wrong(f"row {row} ends after {at} tokens, generate() goes on: {theirs}")
                break
            seen += 1
            if theirs == ours[at]:
                continue
            step = None if scores is None else scores[at][row].float()
            if step is not None and float(step[theirs] - step[ours[at]]) <= TIE * float(
                step.abs().max()
            ):
                break  # a tie
            raise Wrong(f"token {at} of row {row} is {ours[at]}, generate() chooses {theirs}")
    return seen


def new_inputs(
    network: Any,  # noqa: ANN401
    model: Model,
    growth: int,
    *,
    lengths: bool,
) -> dict[str, np.ndarray[Any, Any]]:
    """Values of other sizes for the inputs of a model."""
    rng = np.random.default_rng(5)
    special = special_tokens(network.config)
    inputs: dict[str, np.ndarray[Any, Any]] = {}
    for name, entry in model.inputs.items():
        example = np.asarray(entry.example)
        shape = list(example.shape)
        for axis, dimension in dict(entry.dynamic or {}).items():
            if axis == 0 or lengths:
                shape[axis] = other_size(model, str(dimension), shape[axis], growth)
        inputs[name] = new_values(example, shape, rng, special, name)
    return inputs


def other_size(model: Model, dimension: str, size: int, growth: int) -> int:
    """A size near that of the example, within the limits."""
    least, most = (model.dims or {}).get(dimension, (1, None))[:2]
    for other in (size + growth, size - growth):
        if least <= other and (most is None or other <= most):
            return other
    return size


def new_values(
    example: np.ndarray[Any, Any],
    shape: list[int],
    rng: np.random.Generator,
    special: set[int],
    name: str,
) -> np.ndarray[Any, Any]:
    """Values such as the example's; tokens with a meaning stay where they are."""
    rows = example[[row % len(example) for row in range(shape[0])]]
    cut = rows[tuple(slice(size) for size in shape)]
    if np.issubdtype(example.dtype, np.floating):
        spread = float(example.std()) or 1.0
        noise = rng.standard_normal(shape) * spread + float(example.mean())
        return (np.abs(noise) if (example >= 0).all() else noise).astype(example.dtype)
    pads = [(0, size - have) for size, have in zip(shape, cut.shape, strict=True)]
    values = np.pad(cut, pads, mode="edge")
    if not name.endswith("input_ids"):
        return values
    text = example[~np.isin(example, list(special))]
    words = rng.choice(text if text.size else np.arange(3, 9), size=shape).astype(example.dtype)
    keep = np.pad(np.isin(cut, list(special)), pads, constant_values=False)
    return np.where(keep, values, words)


def special_tokens(config: Any) -> set[int]:  # noqa: ANN401
    """Ids that a configuration gives a meaning."""
    found: set[int] = set()
    for name, value in vars(config).items():
        if hasattr(value, "to_diff_dict"):
            found |= special_tokens(value)
        elif name.endswith(("token_id", "token_index", "token_ids", "_id")):
            values = value if isinstance(value, (list, tuple)) else [value]
            found |= {each for each in values if type(each) is int}
    return found
